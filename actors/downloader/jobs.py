"""What is to be downloaded next: jobs, what the log says is done, and the decision. Pure.

The log is the only memory of progress: a position holds what is covered, and how far the refetch that is under way
has come. `plan` compares that with what is wanted.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Sequence

import attrs
import msgspec

from actors.market.coverage import IntervalSet
from runtime.clock import NS_PER_DAY, NS_PER_HOUR, NS_PER_MINUTE, format_ns
from runtime.log.frame import POSITION_BYTES_MAX
from runtime.settings import EARLIEST_NS, LATEST_NS

NOTHING = IntervalSet()
JOB_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
LISTS_BYTES_MAX = POSITION_BYTES_MAX - 208
"""Of `covered`, `confirmed` and `quarantined`; the rest holds a job id of 64 bytes, two times and JSON around them."""
QUARANTINED_MAX = 3
"""Of one feed at a time, remembered in its position; a further one waits until the log has room for it."""
WORK_NS_MAX = 31 * NS_PER_DAY
"""Of one piece of history work: a backfill that was asked for meanwhile waits no longer than this takes."""
NOTED_NS_MAX = 366 * NS_PER_DAY
"""Of one refusal: what lies behind is named by the job's error alone, not by a `missing` record for each day."""
NOTED_BYTES_MAX = 200
"""Of a position: what is said already. What must be left out is said once more."""


def floor_minute(ns: int) -> int:
    """The start of the minute that holds `ns`."""
    return ns - ns % NS_PER_MINUTE


def ceil_minute(ns: int) -> int:
    """`ns`, or the start of the next minute."""
    return -(-ns // NS_PER_MINUTE) * NS_PER_MINUTE


class BackfillJob(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Asked for once, by a person; lies in DATA_DIR/jobs/ID.json until the log says it is done."""

    id: str
    symbols: tuple[str, ...]
    kinds: tuple[str, ...]
    from_ns: int
    to_ns: int
    refetch: bool = False
    """Also what is covered already."""
    rebuild: bool = False
    """A refetch because candles were lost: they are put out once more, though the rows are the same."""

    def __post_init__(self) -> None:
        if not JOB_ID.fullmatch(self.id):
            raise ValueError(f"job id {self.id!r}: 1 to 64 letters, digits, '-' or '_'")
        if not self.symbols or not self.kinds:
            raise ValueError(f"job {self.id}: names no {'kind' if self.symbols else 'symbol'}")
        if not (EARLIEST_NS <= self.from_ns < LATEST_NS and EARLIEST_NS <= self.to_ns < LATEST_NS):
            raise ValueError(f"job {self.id}: not in the years 1970 to 2199")
        if self.from_ns >= self.to_ns:
            raise ValueError(f"job {self.id}: from {format_ns(self.from_ns)} is not before to {format_ns(self.to_ns)}")

    def to_json(self) -> bytes:
        """The content of its file."""
        return msgspec.json.encode(self)

    @classmethod
    def from_json(cls, text: bytes) -> BackfillJob:
        """The inverse of `to_json`. Raises: ValueError saying what is wrong."""
        try:
            return msgspec.json.decode(text, type=cls)
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise ValueError(f"not a backfill job: {exc}") from exc

    def wanted(self, settled_to_ns: int) -> Wanted:
        """The same for each of its (symbol, kind). `settled_to_ns`: exclusive end of what can be asked for by now.

        A refetch takes whole UTC hours, so that its slices have the borders of those that they replace; of the hour
        that runs, what is there. Other jobs end where they were asked to.
        """
        from_ns, to_ns = floor_minute(self.from_ns), ceil_minute(self.to_ns)
        if self.refetch:
            from_ns -= from_ns % NS_PER_HOUR
            to_ns = max(to_ns, min(-(-to_ns // NS_PER_HOUR) * NS_PER_HOUR, settled_to_ns))
        return Wanted(job=self.id, from_ns=from_ns, to_ns=to_ns, refetch=self.refetch, rebuild=self.rebuild)


@attrs.frozen(kw_only=True)
class CancelJob:
    """Somebody thought better of a backfill. What is fetched of it stays."""

    id: str


@attrs.frozen(kw_only=True)
class HistoryJob:
    """Standing: one (symbol, kind) of the configuration. Whole minutes: both ends are cut down to them."""

    symbol: str
    kind: str
    from_ns: int
    to_ns: int | None
    """Exclusive; None = follow the clock, or with live on: the seam."""
    relative: bool = False
    """`from_ns` is a distance back from now, by our wall clock: another clock of the market moves it."""

    def wanted(self) -> Wanted:
        """As `plan` takes it."""
        to_ns = None if self.to_ns is None else floor_minute(self.to_ns)
        return Wanted(job="", from_ns=floor_minute(self.from_ns), to_ns=to_ns, refetch=False)


@attrs.frozen(kw_only=True)
class Wanted:
    """One job, for one (symbol, kind); whole minutes."""

    job: str
    """Empty: the standing history."""
    from_ns: int
    to_ns: int | None
    refetch: bool
    rebuild: bool = False
    quiet: bool = False
    """True: housekeeping behind live (gaps, confirmations), not shown as a job."""


class Quarantined(msgspec.Struct, frozen=True, array_like=True):
    """A slice with fewer rows than live had; a second answer that is equal decides (docs/live.md)."""

    from_ns: int
    to_ns: int
    rows: int
    checksum: int


class _PositionJson(msgspec.Struct, kw_only=True):
    covered: list[tuple[int, int]] = []
    confirmed: list[tuple[int, int]] | bool = []
    quarantined: list[Quarantined] = []
    job: str = ""
    job_done_to: int = 0
    told: int = 0
    noted: list[tuple[int, int]] = []
    noted_for: int = 0


@attrs.frozen(kw_only=True)
class Position:
    """What the log remembers for the producer `history/SYMBOL/KIND`."""

    covered: IntervalSet = attrs.field(factory=IntervalSet)
    """Durable, needs no download."""
    job: str = ""
    """The newest refetch job, and up to where it is done."""
    job_done_to: int = 0
    noted: IntervalSet = attrs.field(factory=IntervalSet)
    """Said to be missing, all for one reason: is not said again at the next start."""
    noted_for: int = 0
    """Checksum of that reason."""
    confirmed: IntervalSet = attrs.field(factory=IntervalSet)
    """Fetched when it was settled, and not replaced since by what was not: final. Part of `covered`."""
    quarantined: tuple[Quarantined, ...] = ()
    told_ns: int = 0
    """Our wall clock when the end of `covered` was asked for, behind a live stream; else 0."""

    @property
    def end_ns(self) -> int:
        """Of what is covered; 0: nothing is."""
        return max((to_ns for _, to_ns in self.covered), default=0)

    def after_slice(self, from_ns: int, to_ns: int, wanted: Wanted, *, confirms: bool = False) -> Position:
        """What it becomes with the slice [from_ns, to_ns) of `wanted`: belongs into the same append.

        `confirms`: its hour was settled when it was asked for. If not, nothing of it is confirmed any more: its rows
        take the place of final ones (the vendor's clock was put back, or we were wrong about it).
        """
        covered = self.covered.add(from_ns, to_ns)
        here = IntervalSet([(from_ns, to_ns)])
        confirmed = IntervalSet([part for interval in self.confirmed for part in here.missing(*interval)])
        after = attrs.evolve(self, covered=covered, confirmed=confirmed)
        if confirms:
            waiting = tuple(q for q in self.quarantined if q.to_ns <= from_ns or to_ns <= q.from_ns)
            after = attrs.evolve(after, confirmed=self.confirmed.add(from_ns, to_ns), quarantined=waiting)
        return attrs.evolve(after, job=wanted.job, job_done_to=to_ns) if wanted.refetch else after

    def with_quarantined(self, piece: Quarantined) -> Position:
        """With `piece` in place of whatever it overlaps."""
        others = [q for q in self.quarantined if q.to_ns <= piece.from_ns or piece.to_ns <= q.from_ns]
        return attrs.evolve(self, quarantined=(*others, piece)[-QUARANTINED_MAX:])

    def with_covered(self, intervals: IntervalSet) -> Position:
        """With minutes that past live sessions hold."""
        return attrs.evolve(self, covered=IntervalSet([*self.covered, *intervals]))

    def after_note(self, intervals: Sequence[tuple[int, int]], reason: str) -> Position:
        """What it becomes with `missing` records of these intervals: belongs into the same append."""
        before = self._noted(reason)
        return attrs.evolve(self, noted=IntervalSet([*before, *intervals]), noted_for=_checksum(reason))

    def unsaid(self, intervals: Sequence[tuple[int, int]], reason: str) -> list[tuple[int, int]]:
        """Of what was refused for `reason`, what the log does not say yet; none crosses the end of a UTC day."""
        said = self._noted(reason)
        new = [gap for start, end in first_of(intervals, NOTED_NS_MAX) for gap in said.missing(start, end)]
        return list(spans(new, NS_PER_DAY))

    def _noted(self, reason: str) -> IntervalSet:
        return self.noted if self.noted_for == _checksum(reason) else IntervalSet()

    def to_bytes(self) -> bytes:
        """JSON of at most POSITION_BYTES_MAX; what must be left out costs a refetch, never a hole."""
        noted = ""
        if self.noted:
            noted = f'"noted":{self.noted.to_json(bytes_max=NOTED_BYTES_MAX)},"noted_for":{self.noted_for},'
        quarantined = msgspec.json.encode(self.quarantined).decode()
        left = LISTS_BYTES_MAX - len(noted) - len(quarantined)
        if self.covered and self.confirmed == self.covered:
            covered, confirmed = self.covered.to_json(bytes_max=left), "true"
        else:
            confirmed = self.confirmed.to_json(bytes_max=left // 3)
            covered = self.covered.to_json(bytes_max=left - len(confirmed))
        told = {"told": self.told_ns} if self.told_ns else {}
        rest = msgspec.json.encode({"job": self.job, "job_done_to": self.job_done_to, **told}).decode()[1:]
        return f'{{"covered":{covered},"confirmed":{confirmed},"quarantined":{quarantined},{noted}{rest}'.encode()

    @classmethod
    def from_bytes(cls, text: bytes) -> Position:
        """The inverse; empty bytes are a new producer."""
        if not text:
            return cls()
        found = msgspec.json.decode(text, type=_PositionJson)
        covered = IntervalSet(found.covered)
        confirmed = found.confirmed
        return cls(
            covered=covered,
            confirmed=(covered if confirmed else IntervalSet())
            if isinstance(confirmed, bool)
            else IntervalSet(confirmed),
            quarantined=tuple(found.quarantined),
            job=found.job,
            job_done_to=found.job_done_to,
            told_ns=found.told,
            noted=IntervalSet(found.noted),
            noted_for=found.noted_for,
        )


def _checksum(reason: str) -> int:
    return zlib.crc32(reason.encode())


@attrs.frozen(kw_only=True)
class Work:
    """What one (symbol, kind) does next, in time order."""

    wanted: Wanted
    intervals: tuple[tuple[int, int], ...]


def missing(
    position: Position, wanted: Wanted, available_to_ns: int, live: IntervalSet = NOTHING
) -> list[tuple[int, int]]:
    """What of `wanted` is to be fetched and exists by now. Nothing is asked before it is over: P4.

    `live`: minutes that the stream has; they are there as well.
    """
    to_ns = available_to_ns if wanted.to_ns is None else min(wanted.to_ns, available_to_ns)
    if wanted.refetch:
        at_ns = position.job_done_to if position.job == wanted.job else wanted.from_ns
        return [(at_ns, to_ns)] if at_ns < to_ns else []
    return IntervalSet([*position.covered, *live]).missing(wanted.from_ns, to_ns)


def is_done(position: Position, wanted: Wanted, live: IntervalSet = NOTHING) -> bool:
    """True when nothing of it will ever be left to do."""
    return wanted.to_ns is not None and not missing(position, wanted, wanted.to_ns, live)


def plan(
    position: Position, wanted: Sequence[Wanted], available_to_ns: int, live: IntervalSet = NOTHING
) -> Work | None:
    """The next work. A refetch that was begun comes first (its progress is the only one remembered), then the jobs
    that a person waits for, oldest first, then the standing history, in pieces.

    Two refetches of what is not over yet would begin anew in turn, for ever: the second waits until it can be finished.
    """
    begun = any(w.refetch and w.job == position.job for w in wanted)
    order = sorted(wanted, key=lambda w: (not (w.refetch and w.job == position.job), not w.job))
    for candidate in order:
        if begun and candidate.refetch and candidate.job != position.job and _ends_after(candidate, available_to_ns):
            continue
        intervals = missing(position, candidate, available_to_ns, live)
        if intervals:
            limit = None if candidate.job else WORK_NS_MAX
            return Work(wanted=candidate, intervals=tuple(first_of(intervals, limit)))
    return None


def _ends_after(wanted: Wanted, available_to_ns: int) -> bool:
    return wanted.to_ns is None or wanted.to_ns > available_to_ns


def first_of(intervals: Sequence[tuple[int, int]], ns_max: int | None) -> Iterator[tuple[int, int]]:
    """The first `ns_max` of them."""
    left = ns_max
    for start, end in intervals:
        if left is None:
            yield start, end
        elif left > 0:
            yield start, min(end, start + left)
            left -= end - start


def spans(intervals: Sequence[tuple[int, int]], span_ns: int) -> Iterator[tuple[int, int]]:
    """The intervals cut at multiples of `span_ns`: what one page chain asks for."""
    for start, end in intervals:
        at = start
        while at < end:
            cut = min((at // span_ns + 1) * span_ns, end)
            yield at, cut
            at = cut
