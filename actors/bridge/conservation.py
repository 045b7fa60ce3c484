"""The conservation ledger of one sink (DESIGN P2): what the log accepted against what is really there.

accepted = stored + replaced + dead-lettered + dropped + pending + unaccounted - duplicated
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import attrs

from actors.bridge.isolation import SENT_AGAIN_KINDS
from actors.bridge.port import KindTotals, SinkFactory, SinkTotals, Unaudited, VerifyResult
from actors.bridge.refused import Refused
from actors.bridge.rows import PASSING
from runtime.actor import Seams
from runtime.log.dead_letters import DROPPED, REPLAY, STORED, Entry

RowCounts = Mapping[tuple[int, str], int]
"""(partition, kind) -> rows, as `LogFiles.row_counts(…, named=counted_as)` gives them (runtime/log/tools.py)."""
ALL_FROM_NS = -2_208_988_800 * 1_000_000_000
"""1900: where ClickHouse's DateTime64 begins."""
ALL_TO_NS = 1 << 62


@attrs.frozen(kw_only=True)
class LedgerLine:
    """One kind in one sink, in rows."""

    kind: str
    accepted: int
    """In the log, this sink's or not yet."""
    stored: int
    """There now, counted by looking."""
    replaced: int
    """Deleted by later slices; of coverage: heartbeats of which the next one says all they say."""
    dead_lettered: int
    """Refused by this sink and put aside."""
    pending: int
    """Above the sink's marks: not sent yet."""
    before: int
    """Not from this log, but put there by others that filled the same database (`--adopt`)."""
    unaccounted: int
    """Below the marks and nowhere: lost."""
    duplicated: int
    """There more often than accepted."""
    dropped: int = 0
    """Dead letters that an operator gave up."""


@attrs.frozen(kw_only=True)
class LedgerReport:
    """The answer of `pipeline verify` for one sink."""

    sink: str
    log_id: str
    lines: tuple[LedgerLine, ...]
    problems: tuple[str, ...]
    """Each names what and where; from the ledger and from the audit of slices."""
    rows_audited: int = 0
    unaudited: tuple[Unaudited, ...] = ()
    """Rows that are counted in the ledger and compared with no checksum: no problem, but never silent."""

    @property
    def ok(self) -> bool:
        """Nothing is unaccounted, duplicated or different."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """Plain data, `ok` included."""
        return {"ok": self.ok, **attrs.asdict(self)}


@attrs.frozen(kw_only=True)
class Aside:
    """Dead letters of one kind in one sink, below its marks."""

    kept: int = 0
    sent_again: int = 0
    """Of these, those that are being sent again: perhaps they are there by now."""
    dropped: int = 0


def aside(entries: Iterable[Entry], log_id: str, marks: Mapping[int, int]) -> dict[str, Aside]:
    """By kind. Pure."""
    found: dict[str, Aside] = {}
    for entry in entries:
        letter, state = entry.letter, entry.state
        if letter.log_id != log_id or letter.offset >= marks.get(letter.partition, 0) or state == STORED:
            continue
        old = found.get(letter.kind, Aside())
        found[letter.kind] = Aside(
            kept=old.kept + (state != DROPPED),
            sent_again=old.sent_again + (state == REPLAY and letter.kind in SENT_AGAIN_KINDS),
            dropped=old.dropped + (state == DROPPED),
        )
    return found


def ledger(  # noqa: PLR0913 (the books of four parties)
    *,
    sink: str,
    log_id: str,
    accepted: RowCounts,
    below: RowCounts,
    totals: SinkTotals,
    audit: VerifyResult,
    letters: Mapping[str, Aside] = {},
) -> LedgerReport:
    """Balance the books. `accepted`: rows in the log; `below`: those below `totals.marks`, as are `letters`."""
    lines = tuple(
        _line(kind, accepted, below, found, letters.get(kind, Aside())) for kind, found in sorted(totals.kinds.items())
    )
    problems = [
        f"{line.kind}: {count} rows {what}"
        for line in lines
        for what, count in (("unaccounted", line.unaccounted), ("duplicated", line.duplicated))
        if count
    ]
    problems += [f"{m.what}: {m.rows_found} rows, expected {m.rows_expected}" for m in audit.mismatches]
    return LedgerReport(
        sink=sink,
        log_id=log_id,
        lines=lines,
        problems=tuple(problems),
        rows_audited=audit.rows_checked,
        unaudited=audit.unaudited,
    )


def _line(kind: str, accepted: RowCounts, below: RowCounts, found: KindTotals, letters: Aside) -> LedgerLine:
    passing = _of_kind(below, PASSING) if kind == "coverage" else 0
    total = _of_kind(accepted, kind) + (_of_kind(accepted, PASSING) if kind == "coverage" else 0)
    sent = _of_kind(below, kind) + passing
    replaced = found.replaced + passing
    should = sent + found.before - replaced - letters.kept - letters.dropped  # must be there now, each once
    back = max(0, min(letters.sent_again, found.stored - found.duplicated - should))
    should += back
    return LedgerLine(
        kind=kind,
        accepted=total,
        stored=found.stored,
        replaced=replaced,
        dead_lettered=letters.kept - back,
        pending=total - sent,
        before=found.before,
        unaccounted=max(0, should - (found.stored - found.duplicated)),
        duplicated=max(0, found.duplicated, found.stored - should),
        dropped=letters.dropped,
    )


def _of_kind(counts: RowCounts, kind: str) -> int:
    return sum(rows for (_, k), rows in counts.items() if k == kind)


async def verify_sink(  # noqa: PLR0913 (the same)
    factory: SinkFactory,
    seams: Seams,
    *,
    log_id: str,
    marks: Mapping[int, int],
    row_counts: Callable[[Mapping[int, int] | None], RowCounts],
    letters: Callable[[], Sequence[Entry]] = tuple,
    span_ns: tuple[int, int] = (ALL_FROM_NS, ALL_TO_NS),
) -> LedgerReport:
    """Count the sink, count the log below the sink's marks, audit the slices in `span_ns`, balance.

    `marks`: committed offsets of the cursor `bridge.<sink>`, read before this call. `row_counts` and `letters` (those
    of this sink): blocking, run in a worker thread. Works beside a running pipeline: marks are looked at first, and
    only ever grow.

    Raises: RetryableSinkError (the sink is down), ConfigError (it holds another log's data).
    """
    async with factory(seams) as sink:
        await sink.open(log_id)
        totals = await sink.totals(log_id, dict(marks))
        # After the marks: a letter is durable before its sink's mark moves past it.
        entries = await seams.offload(letters)
        audit = await sink.audit(*span_ns, Refused.of(entries))
        if audit.mismatches and (newer := await seams.offload(letters)) != entries:
            audit = await sink.audit(*span_ns, Refused.of(newer))
    below = await seams.offload(lambda: row_counts(totals.marks))
    accepted = await seams.offload(lambda: row_counts(None))
    return ledger(
        sink=factory.sink_name,
        log_id=log_id,
        accepted=accepted,
        below=below,
        totals=totals,
        audit=audit,
        letters=aside(entries, log_id, totals.marks),
    )
