"""A group of the log as what the aggregator does with it: slices that replace, live rows that add. Pure."""

from __future__ import annotations

from collections.abc import Iterator

import attrs
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from actors.aggregator.day import DayKey
from actors.market.candles import BASES_OF, MINUTES_PER_DAY, NS_PER_MINUTE
from actors.market.coverage import Coverage, coverage_records
from actors.market.schema import SCHEMAS, decode
from runtime.log.types import Group

Interval = tuple[DayKey, int, int]
"""A day, and the minutes [low, high) of it."""

_NO_ROWS = {  # not from_pylist: that looks for pandas, and imports it into the process
    kind: pa.RecordBatch.from_arrays([pa.nulls(0, field.type) for field in SCHEMAS[kind]], schema=SCHEMAS[kind])
    for kind in BASES_OF
}


@attrs.frozen(kw_only=True, eq=False)
class SliceInput:
    """The whole content of an interval."""

    cover: Coverage
    partition: int
    rows: pa.RecordBatch
    """Numbers of the rows inside the interval."""

    def pieces(self) -> Iterator[Interval]:
        """The whole minutes that it covers; slices are made of whole minutes."""
        start, end = -(-self.cover.from_ns // NS_PER_MINUTE), self.cover.to_ns // NS_PER_MINUTE
        return _by_day(self.cover.symbol, self.cover.kind, start, end)


@attrs.frozen(kw_only=True, eq=False)
class LiveInput:
    """What a live session said of one symbol and kind: rows as they came, and how far it is contiguous."""

    symbol: str
    kind: str
    partition: int
    rows: pa.RecordBatch
    """Numbers of the rows in order of arrival; may be none."""
    source: str | None
    """Of the rows; None when they have several."""
    beats: tuple[Coverage, ...]

    def touched(self) -> Iterator[Interval]:
        """The minutes that the heartbeats reach into."""
        for beat in self.beats:
            start, end = beat.from_ns // NS_PER_MINUTE, -(-beat.to_ns // NS_PER_MINUTE)
            yield from _by_day(self.symbol, self.kind, start, end)

    def finals(self) -> Iterator[Interval]:
        """The whole minutes that are final because nothing will confirm them."""
        for beat in self.beats:
            if beat.is_final_live:
                start, end = -(-beat.from_ns // NS_PER_MINUTE), beat.to_ns // NS_PER_MINUTE
                yield from _by_day(self.symbol, self.kind, start, end)

    def row_pieces(self) -> list[Interval]:
        """Per day that has rows: from the first minute with one to behind the last."""
        if not self.rows.num_rows:
            return []
        minutes = np.unique(self.rows.column("ts_ns").to_numpy() // NS_PER_MINUTE)
        days, starts = np.unique(minutes // MINUTES_PER_DAY, return_index=True)
        ends = [*starts[1:].tolist(), len(minutes)]
        return [
            (
                DayKey(self.symbol, self.kind, day),
                int(minutes[start]) % MINUTES_PER_DAY,
                int(minutes[end - 1]) % MINUTES_PER_DAY + 1,
            )
            for day, start, end in zip(days.tolist(), starts.tolist(), ends, strict=True)
        ]


def read_group(group: Group) -> list[SliceInput | LiveInput]:
    """The inputs of a group in order.

    Rows beside a coverage record that is neither heartbeat nor slice are not counted: quarantined rows make no candle.
    """
    covers: list[tuple[Coverage, int]] = []
    batches: list[tuple[str, int, pa.RecordBatch]] = []
    for frame in group.frames:
        if frame.kind == "coverage":
            records = coverage_records(decode(frame.schema, frame.body))
            covers += [(cover, frame.partition) for cover in records if cover.kind in BASES_OF]
        elif frame.kind in BASES_OF:
            batches.append((frame.kind, frame.partition, decode(frame.schema, frame.body)))
    slices = [(cover, partition) for cover, partition in covers if cover.is_slice]
    alone = len(slices) == 1 and len(covers) == 1
    inputs: list[SliceInput | LiveInput] = [
        SliceInput(cover=cover, partition=partition, rows=_slice_rows(batches, cover, alone=alone))
        for cover, partition in slices
    ]
    return inputs if alone else [*inputs, *_live(covers, batches)]


def _live(covers: list[tuple[Coverage, int]], batches: list[tuple[str, int, pa.RecordBatch]]) -> list[LiveInput]:
    """Heartbeats and the rows beside them, per symbol and kind."""
    fetched = {(cover.symbol, cover.kind) for cover, _ in covers if not cover.is_heartbeat}
    beats: dict[tuple[str, str], list[Coverage]] = {}
    partitions: dict[tuple[str, str], int] = {}
    parts: dict[tuple[str, str], list[pa.RecordBatch]] = {}
    for cover, partition in covers:
        if cover.is_heartbeat:
            beats.setdefault((cover.symbol, cover.kind), []).append(cover)
            partitions[cover.symbol, cover.kind] = partition
    for kind, partition, batch in batches:
        for symbol in _names(batch, "symbol"):
            parts.setdefault((symbol, kind), []).append(_of_symbol(batch, symbol))
            partitions[symbol, kind] = partition
    return [
        LiveInput(
            symbol=symbol,
            kind=kind,
            partition=partition,
            rows=_joined(kind, parts.get((symbol, kind), [])),
            source=_one_source(parts.get((symbol, kind), [])),
            beats=tuple(beats.get((symbol, kind), ())),
        )
        for (symbol, kind), partition in sorted(partitions.items())
        if (symbol, kind) not in fetched
    ]


def _slice_rows(batches: list[tuple[str, int, pa.RecordBatch]], cover: Coverage, *, alone: bool) -> pa.RecordBatch:
    """The numbers of a slice's rows: all rows of its kind in the group, unless it holds more than this slice."""
    parts = [batch if alone else _of_symbol(batch, cover.symbol) for kind, _, batch in batches if kind == cover.kind]
    rows = _joined(cover.kind, parts)
    ts_ns = rows.column("ts_ns").to_numpy()
    inside = (ts_ns >= cover.from_ns) & (ts_ns < cover.to_ns)
    return rows if inside.all() else rows.filter(pa.array(inside))


def _joined(kind: str, parts: list[pa.RecordBatch]) -> pa.RecordBatch:
    """One batch of the numbers: dictionaries of several frames cannot be joined, and nobody needs them."""
    numbers = [part.select([f.name for f in part.schema if pa.types.is_primitive(f.type)]) for part in parts]
    if not numbers:
        return _NO_ROWS[kind]
    return numbers[0] if len(numbers) == 1 else pa.concat_batches(numbers)


def _of_symbol(batch: pa.RecordBatch, symbol: str) -> pa.RecordBatch:
    return batch if _names(batch, "symbol") == [symbol] else batch.filter(pc.equal(batch.column("symbol"), symbol))


def _names(batch: pa.RecordBatch, column: str) -> list[str]:
    """The different values of a dictionary column that rows use, in order of appearance."""
    names: list[str] = batch.column(column).unique().to_pylist()
    return names


def _one_source(parts: list[pa.RecordBatch]) -> str | None:
    names = {name for part in parts for name in _names(part, "source")}
    return names.pop() if len(names) == 1 else None


def _by_day(symbol: str, kind: str, start: int, end: int) -> Iterator[Interval]:
    """The minutes [start, end), counted from 1970, per day."""
    while start < end:
        day, low = divmod(start, MINUTES_PER_DAY)
        high = min(MINUTES_PER_DAY, low + end - start)
        yield DayKey(symbol, kind, day), low, high
        start += high - low
