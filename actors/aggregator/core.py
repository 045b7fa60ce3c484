"""From input groups to output frames: the deterministic heart of the aggregator, without any waiting.

Today it knows slices (history). Live rows and live coverage join at `_take`: they get a branch beside the slice's, with
open minutes per symbol and a watermark; days, views and outputs stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import attrs
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from actors.aggregator.day import DayKey
from actors.aggregator.output import candle_batch, frames
from actors.aggregator.store import DayStore
from actors.aggregator.views import View, changes, look
from actors.market.candles import BASES_OF, MINUTES_PER_DAY, NS_PER_MINUTE, TIMEFRAMES, Bars, fold
from actors.market.coverage import Coverage, coverage_records
from actors.market.schema import SCHEMAS, decode
from runtime.log.types import FrameDraft, Group

PRODUCER = "aggregator"
CODE_VERSION = 1
"""Raise it when the same input would give other candles or another state."""


@attrs.frozen(kw_only=True)
class Output:
    """What one input group changed."""

    input_end: int
    """End position of the input group."""
    frames: tuple[FrameDraft, ...]
    rows: int


@attrs.frozen(kw_only=True)
class Applied:
    """How far a list of groups was applied."""

    outputs: list[Output]
    consumed: int
    """Groups; fewer than given when the store became full or a state file is damaged."""
    damaged: bool = False
    """The next group needs a day whose file is damaged: discard the state and replay."""


@attrs.frozen(kw_only=True)
class Core:
    """Applies groups to the days of `store`. Runs in a worker thread; one call at a time."""

    store: DayStore
    timeframes: tuple[str, ...]
    """What is put out; the state is always made of minutes."""
    bases: tuple[str, ...]

    def apply(self, groups: Sequence[Group], *, suppressed_to: int) -> Applied:
        """Apply groups in order. Those that end at or below `suppressed_to` put out nothing: the log has it already."""
        outputs: list[Output] = []
        for consumed, group in enumerate(groups):
            if self.store.full:
                return Applied(outputs=outputs, consumed=consumed)
            if group.producer == PRODUCER:
                continue
            taken = self._take(group, suppressed=group.end_position <= suppressed_to)
            if taken is None:
                return Applied(outputs=outputs, consumed=consumed, damaged=True)
            outputs += taken
        return Applied(outputs=outputs, consumed=len(groups))

    def _take(self, group: Group, *, suppressed: bool) -> list[Output] | None:
        """At most one output; None when a day is damaged (nothing was changed then)."""
        slices = list(_slices(group))
        keys = [key for cover, _ in slices for key, _, _ in _pieces(cover)]
        if any(self.store.get(key) is None for key in keys):
            return None
        drafts: list[FrameDraft] = []
        for cover, partition in slices:
            found = self._replace(cover, _rows(group, cover, alone=len(slices) == 1), suppressed=suppressed)
            if found:
                drafts += frames(candle_batch(cover.symbol, found, revision=group.stamp_ns), partition)
        rows = sum(draft.rows for draft in drafts)
        return [Output(input_end=group.end_position, frames=tuple(drafts), rows=rows)] if drafts else []

    def _replace(self, cover: Coverage, rows: pa.RecordBatch, *, suppressed: bool) -> list[View]:
        bars = fold(cover.kind, rows, step_ns=NS_PER_MINUTE)
        found: list[View] = []
        for key, low, high in _pieces(cover):
            day = self.store.get(key)
            assert day is not None
            inside = [_between(bars[basis], key, low, high) for basis in day.bases]
            before = [] if suppressed else [look(day, timeframe, low, high) for timeframe in self.timeframes]
            day.replace(low, high, cover.source, inside)
            self.store.touched(key)
            for timeframe, old in zip(self.timeframes, before, strict=False):
                found += changes(old, look(day, timeframe, low, high))
        return [view for view in found if view.basis in self.bases]


def _slices(group: Group) -> Iterator[tuple[Coverage, int]]:
    """The slices of a group whose rows make candles, each with its partition."""
    for frame in group.frames:
        if frame.kind == "coverage":
            for cover in coverage_records(decode(frame.schema, frame.body)):
                if cover.is_slice and cover.kind in BASES_OF:
                    yield cover, frame.partition


def _pieces(cover: Coverage) -> Iterator[tuple[DayKey, int, int]]:
    """(day, first minute, end minute) of the whole minutes that a slice covers; slices are made of whole minutes."""
    start, end = -(-cover.from_ns // NS_PER_MINUTE), cover.to_ns // NS_PER_MINUTE
    while start < end:
        day, low = divmod(start, MINUTES_PER_DAY)
        high = min(MINUTES_PER_DAY, low + end - start)
        yield DayKey(cover.symbol, cover.kind, day), low, high
        start += high - low


def _rows(group: Group, cover: Coverage, *, alone: bool) -> pa.RecordBatch:
    """The numbers of a slice's rows: all rows of its kind in the group, unless it holds several slices."""
    parts = []
    for frame in group.frames:
        if frame.kind == cover.kind:
            batch = decode(frame.schema, frame.body)
            if not alone:
                batch = batch.filter(pc.equal(batch.column("symbol").cast(pa.string()), cover.symbol))
            parts.append(batch.select([f.name for f in batch.schema if pa.types.is_primitive(f.type)]))
    if not parts:
        return pa.RecordBatch.from_pylist([], schema=SCHEMAS[cover.kind])
    rows = parts[0] if len(parts) == 1 else pa.concat_batches(parts)
    ts_ns = rows.column("ts_ns").to_numpy()
    inside = (ts_ns >= cover.from_ns) & (ts_ns < cover.to_ns)
    return rows if inside.all() else rows.filter(pa.array(inside))


def _between(bars: Bars, key: DayKey, low: int, high: int) -> Bars:
    """The bars that start in the minutes [low, high) of a day."""
    edges = key.start_ns + np.array([low, high]) * NS_PER_MINUTE
    start, end = np.searchsorted(bars.ts_ns, edges)
    if (start, end) == (0, len(bars)):
        return bars
    return Bars(**{field.name: getattr(bars, field.name)[start:end] for field in attrs.fields(Bars)})


def known_timeframes(names: Sequence[str]) -> tuple[str, ...]:
    """`names` from short to long. Raises: ValueError for unknown ones."""
    unknown = [name for name in names if name not in TIMEFRAMES]
    if unknown:
        raise ValueError(f"unknown timeframes {unknown}; known: {', '.join(TIMEFRAMES)}")
    return tuple(name for name in TIMEFRAMES if name in names)
