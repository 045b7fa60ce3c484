"""From groups to what a sink applies: slices, steps, and rows of one kind as columns. Pure."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import attrs
import numpy as np
import pyarrow as pa

from actors.bridge.refused import NOTHING, Without
from actors.market.coverage import Coverage, coverage_records
from actors.market.schema import SCHEMAS, decode
from runtime.errors import InvariantViolation
from runtime.log.types import Frame, Group

TICK_KINDS = ("quotes", "trades")
NS_PER_MINUTE = 60_000_000_000
SEQ_GROUP_SHIFT = 20
SEQ_GROUPS_MAX = 1 << (31 - SEQ_GROUP_SHIFT)


@attrs.frozen(kw_only=True)
class CoverageRow:
    """One coverage record where it stands in the log."""

    record: Coverage
    log_id: str
    stamp_ns: int
    partition: int
    offset: int


@attrs.frozen(kw_only=True)
class Part:
    """One data frame with what its rows inherit from its group."""

    frame: Frame
    log_id: str
    stamp_ns: int
    without: frozenset[int] = NOTHING
    """Numbers of its rows that are dead letters."""


@attrs.define(kw_only=True)
class Step:
    """What may be applied together: first the deletes of all slices, then all rows, then all coverage.

    Within a step no slice overlaps anything that came before it in the same step, so the order inside does not matter.
    """

    slices: list[CoverageRow] = attrs.field(factory=list)
    parts: list[Part] = attrs.field(factory=list)
    coverage: list[CoverageRow] = attrs.field(factory=list)
    _touched: dict[str, _Intervals] = attrs.field(factory=dict)

    def clashes(self, slices: Iterable[CoverageRow]) -> bool:
        """True when one of `slices` overlaps a slice or a row that this step already holds."""
        return any(self._of(s.record.kind).overlaps(s.record) for s in slices)

    def add(self, slices: list[CoverageRow], parts: list[Part], coverage: list[CoverageRow]) -> None:
        """Take one group's content; the caller has checked `clashes`."""
        for row in slices:
            self._of(row.record.kind).add(row.record.symbol, row.record.from_ns, row.record.to_ns)
        sliced = {row.record.kind for row in slices}
        for part in parts:
            if part.frame.kind not in sliced and part.frame.rows:
                # Which symbols are inside is not known without decoding, so live rows stand for all of them.
                times = (part.frame.event_time_ns_min, part.frame.event_time_ns_max + 1)
                self._of(part.frame.kind).add_any(*times)
        self.slices += slices
        self.parts += parts
        self.coverage += coverage

    def _of(self, kind: str) -> _Intervals:
        return self._touched.setdefault(kind, _Intervals())


class _Intervals:
    """Disjoint sorted intervals per symbol, and the hull of those of every symbol."""

    def __init__(self) -> None:
        self._by_symbol: dict[str, list[tuple[int, int]]] = {}
        self._any: tuple[int, int] | None = None

    def add(self, symbol: str, start: int, end: int) -> None:
        bisect.insort(self._by_symbol.setdefault(symbol, []), (start, end))

    def add_any(self, start: int, end: int) -> None:
        low, high = self._any or (start, end)
        self._any = (min(low, start), max(high, end))

    def overlaps(self, record: Coverage) -> bool:
        if self._any and self._any[0] < record.to_ns and record.from_ns < self._any[1]:
            return True
        held = self._by_symbol.get(record.symbol, [])
        at = bisect.bisect_left(held, (record.to_ns, record.to_ns))
        return at > 0 and held[at - 1][1] > record.from_ns


class FrameHead(Protocol):
    """What a frame says of itself without its body (`runtime.log.types.Frame`, `runtime.log.frame.FrameHeader`)."""

    @property
    def rows(self) -> int: ...
    @property
    def event_time_ns_max(self) -> int: ...


PASSING = "passing heartbeats"
"""What the ledger counts heartbeats under that no sink keeps."""


def counted_as(kind: str, frame: FrameHead) -> str:
    """The kind of a frame, or PASSING.

    Of a session's heartbeats sinks keep those that end a minute; the next one of its minute says all that the others
    say (docs/live.md). The header tells: one record, and `to` (its highest time) is no whole minute.
    """
    inside_a_minute = frame.rows == 1 and frame.event_time_ns_max % NS_PER_MINUTE != 0
    return PASSING if kind == "coverage" and inside_a_minute else kind


def is_passing(frame: Frame) -> bool:
    """True for a heartbeat that no sink keeps."""
    return counted_as(frame.kind, frame) == PASSING


def coverage_of(group: Group) -> list[CoverageRow]:
    """All coverage records of a group that sinks keep, in order."""
    return [
        CoverageRow(
            record=record,
            log_id=group.log_id,
            stamp_ns=group.stamp_ns,
            partition=frame.partition,
            offset=frame.offset,
        )
        for frame in group.frames
        if frame.kind == "coverage" and not is_passing(frame)
        for record in coverage_records(decode(frame.schema, frame.body))
    ]


def parts_of(groups: Iterable[Group], without: Without) -> Iterator[Part]:
    """Every frame of these groups."""
    for group in groups:
        for frame in group.frames:
            left_out = without.get((frame.partition, frame.offset), NOTHING)
            yield Part(frame=frame, log_id=group.log_id, stamp_ns=group.stamp_ns, without=left_out)


def steps(groups: Sequence[Group], kinds: frozenset[str], without: Without = {}) -> Iterator[Step]:  # noqa: B006
    """Cut the groups of a batch into steps to be applied one after the other; usually it is one.

    `kinds`: the data kinds that the sink replaces by slice; frames of others are left out, coverage stays.
    """
    step = Step()
    for group in groups:
        coverage = coverage_of(group)
        slices = [row for row in coverage if row.record.is_slice and row.record.kind in kinds]
        parts = [part for part in parts_of([group], without) if part.frame.kind in kinds]
        if step.clashes(slices):
            yield step
            step = Step()
        step.add(slices, parts, coverage)
    yield step


@attrs.frozen(kw_only=True)
class Rows:
    """Rows of one kind from several frames, in order, with their identity in the log."""

    kind: str
    table: pa.Table
    """One chunk per column."""
    accepted_at: np.ndarray
    """int64 ns: stamp of the group."""
    seq: np.ndarray
    """int32: group_index << 20 | row index in the frame."""
    partition: np.ndarray
    """int32."""
    offset: np.ndarray
    """int64: offset of the frame."""
    log_id: str

    def __len__(self) -> int:
        return len(self.accepted_at)


def rows_of(parts: Sequence[Part], kind: str) -> Rows | None:
    """Decode and join the frames of `kind`; None when they hold no row. CPU-bound: in a worker thread."""
    chosen = [p for p in parts if p.frame.kind == kind and p.frame.rows and not is_passing(p.frame)]
    if not chosen:
        return None
    batches = [_checked(part) for part in chosen]
    counts = np.array([part.frame.rows for part in chosen])
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    first_seq = np.array([_first_seq(part.frame) for part in chosen], np.int64)
    rows = Rows(
        kind=kind,
        table=pa.Table.from_batches(batches, SCHEMAS[kind]).unify_dictionaries().combine_chunks(),
        accepted_at=np.repeat(np.array([part.stamp_ns for part in chosen], np.int64), counts),
        seq=(np.repeat(first_seq, counts) + within).astype(np.int32),
        partition=np.repeat(np.array([part.frame.partition for part in chosen], np.int32), counts),
        offset=np.repeat(np.array([part.frame.offset for part in chosen], np.int64), counts),
        log_id=chosen[0].log_id,
    )
    if not any(part.without for part in chosen):
        return rows
    keep = np.ones(len(rows), bool)
    for part, start in zip(chosen, np.cumsum(counts) - counts, strict=True):
        keep[start + np.fromiter(part.without, np.int64, len(part.without))] = False
    return _kept(rows, keep) if keep.any() else None


def _kept(rows: Rows, keep: np.ndarray) -> Rows:
    """Only these. Dictionaries shrink with them, for the name of a refused row may be what is wrong with it."""
    table = rows.table.filter(pa.array(keep))
    for i, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            plain = table.column(i).cast(pa.string()).combine_chunks()
            table = table.set_column(i, field, plain.dictionary_encode().cast(field.type))
    return attrs.evolve(
        rows,
        table=table.combine_chunks(),
        **{name: getattr(rows, name)[keep] for name in ("accepted_at", "seq", "partition", "offset")},
    )


def _checked(part: Part) -> pa.RecordBatch:
    batch = decode(part.frame.schema, part.frame.body)
    if batch.num_rows != part.frame.rows:
        raise InvariantViolation(
            f"frame {part.log_id}/{part.frame.partition}/{part.frame.offset} says {part.frame.rows} rows "
            f"and holds {batch.num_rows}"
        )
    return batch


def _first_seq(frame: Frame) -> int:
    if frame.group_index >= SEQ_GROUPS_MAX or frame.rows >= 1 << SEQ_GROUP_SHIFT:
        raise InvariantViolation(f"frame {frame.partition}/{frame.offset} does not fit into seq: {frame.group_index=}")
    return frame.group_index << SEQ_GROUP_SHIFT


def single_array(table: pa.Table, name: str) -> pa.Array:
    """The column as one array (tables here have one chunk; none when empty)."""
    column = table.column(name)
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
