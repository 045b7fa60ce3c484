"""What a live append becomes: columns in, the frames that may still be appended out. Pure; runs in the buffer's thread.

Validation, the cut at what was replaced, and encoding all happen here, off the Trio thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import attrs
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from actors.downloader.port import Ticks
from actors.market.coverage import Coverage, IntervalSet, coverage_batch
from actors.market.rules import RawText, Validated, validate_quotes, validate_trades
from actors.market.schema import SCHEMAS, encode
from runtime.clock import NS_PER_MINUTE
from runtime.log.types import FrameDraft, Interval, LiveCut


@attrs.frozen(kw_only=True)
class LiveTarget:
    """Whose rows, and where they lie."""

    symbol: str
    kind: str
    source: str
    partition: int
    """The symbol's live partition."""
    rows_max: int
    """Of one frame."""


@attrs.define(kw_only=True, eq=False)
class Tally:
    """What the cuts of one session found; written by the buffer's thread, read when the append was answered."""

    rejected: int = 0
    """Since the end of the last minute that a coverage record told."""
    rejected_total: int = 0


@attrs.define(kw_only=True, eq=False)
class LiveAppend:
    """One append in the making."""

    target: LiveTarget
    ticks: Sequence[Ticks]
    records: tuple[Coverage, ...]
    """Heartbeats; empty: none is due."""
    now_ns: int
    """The market's clock when the rows came."""
    tally: Tally
    counts: list[tuple[int, int]] = attrs.field(factory=list)
    """(start of a minute in ns, rows appended in it)."""

    def cut(self, keep_out: tuple[Interval, ...]) -> LiveCut:
        """See `LiveDraft.cut`."""
        refused: tuple[Interval, ...] = ()
        frames: list[FrameDraft] = []
        if self.ticks:
            rows = self._validated()
            ts_ns = np.asarray(rows.column("ts_ns").to_numpy())
            late = inside(ts_ns, keep_out)
            if late.any():
                refused = tuple(whole_minutes(ts_ns[late]))
                rows = rows.filter(pa.array(~late))
                ts_ns = ts_ns[~late]
            self.counts = per_minute(ts_ns)
            frames += self._frames(self.target.kind, rows) if rows.num_rows else []
        if records := clipped(self.records, keep_out):
            first, *rest = records
            told = attrs.evolve(first, rejected=self.tally.rejected)
            if first.to_ns % NS_PER_MINUTE == 0:
                self.tally.rejected = 0
            frames += self._frames("coverage", coverage_batch([told, *rest]))
        if not frames:  # the position must be written all the same
            nothing = pa.RecordBatch.from_pylist([], schema=SCHEMAS[self.target.kind])
            frames = self._frames(self.target.kind, nothing)
        return LiveCut(frames=tuple(frames), refused=refused)

    def _validated(self) -> pa.RecordBatch:
        validated = validated_rows(self.target, self.ticks, self.now_ns)
        self.tally.rejected += validated.rejected.num_rows
        self.tally.rejected_total += validated.rejected.num_rows
        return validated.rows

    def _frames(self, kind: str, rows: pa.RecordBatch) -> list[FrameDraft]:
        rows_max = self.target.rows_max
        starts = range(0, max(rows.num_rows, 1), rows_max)
        return [
            FrameDraft(
                partition=self.target.partition,
                kind=kind,
                body=part.body,
                rows=part.rows,
                event_time_ns_min=part.event_time_ns_min,
                event_time_ns_max=part.event_time_ns_max,
            )
            for start in starts
            for part in encode(kind, rows.slice(start, rows_max))
        ]


def validated_rows(target: LiveTarget, ticks: Sequence[Ticks], now_ns: int) -> Validated:
    """All of them as one batch, by the rules of UPSTREAM 4."""
    ts_ns = np.concatenate([part.ts_ns for part in ticks])
    columns = [np.concatenate([part.numbers[i] for part in ticks]) for i in range(len(ticks[0].numbers))]
    raw = _raw_of(ticks)
    symbol, source = target.symbol, target.source
    if target.kind == "quotes":
        return validate_quotes(symbol, source, ts_ns, *columns, now_ns=now_ns, raw=raw)
    texts = [[text for part in ticks for text in part.texts[i]] for i in range(len(ticks[0].texts))]
    price, size = columns
    return validate_trades(symbol, source, ts_ns, price, size, *texts, now_ns=now_ns, raw=raw)


def clipped(records: Iterable[Coverage], keep_out: Iterable[Interval]) -> list[Coverage]:
    """What of the heartbeats is not in these intervals: a slice that came first has the last word on its minutes."""
    replaced = IntervalSet(list(keep_out))
    return [
        attrs.evolve(record, from_ns=from_ns, to_ns=to_ns)
        for record in records
        for from_ns, to_ns in replaced.missing(record.from_ns, record.to_ns)
    ]


def inside(ts_ns: npt.NDArray[np.int64], intervals: Iterable[Interval]) -> npt.NDArray[np.bool_]:
    """Which instants lie in one of the intervals."""
    found = np.zeros(len(ts_ns), np.bool_)
    if not len(ts_ns):
        return found
    low, high = int(ts_ns.min()), int(ts_ns.max())
    for from_ns, to_ns in intervals:
        if from_ns <= high and low < to_ns:
            found |= (ts_ns >= from_ns) & (ts_ns < to_ns)
    return found


def whole_minutes(ts_ns: npt.NDArray[np.int64]) -> IntervalSet:
    """The minutes of these instants."""
    starts = np.unique(ts_ns // NS_PER_MINUTE) * NS_PER_MINUTE
    return IntervalSet([(start, start + NS_PER_MINUTE) for start in starts.tolist()])


def per_minute(ts_ns: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """(start of the minute, rows) for each minute that has rows."""
    minutes, rows = np.unique(ts_ns // NS_PER_MINUTE, return_counts=True)
    return list(zip((minutes * NS_PER_MINUTE).tolist(), rows.tolist(), strict=True))


def _raw_of(ticks: Sequence[Ticks]) -> RawText:
    """The vendor's text of rows, by their index in the whole."""
    ends = np.cumsum([len(part.ts_ns) for part in ticks])

    def texts(which: npt.NDArray[np.intp]) -> list[str]:
        parts = np.searchsorted(ends, which, side="right")
        starts = ends - [len(part.ts_ns) for part in ticks]
        return [ticks[p].raw(np.array([i - starts[p]]))[0] for p, i in zip(parts.tolist(), which.tolist(), strict=True)]

    return texts
