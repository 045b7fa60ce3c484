"""The database behind the in-memory sinks: an immutable state, what can be done to it, and the readers' views. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import attrs
import pyarrow as pa
import pyarrow.compute as pc

from actors.bridge.rows import CoverageRow, Part, Step, rows_of
from actors.market.coverage import Coverage
from actors.market.flags import Flag
from actors.market.schema import SCHEMAS, content_checksum

Row = dict[str, Any]
CANDLE_KEY = ("symbol", "timeframe", "basis", "ts_ns", "origin", "source", "revision")
_IDENTITY = {"accepted_at": pa.int64(), "seq": pa.int32(), "log_partition": pa.int32(), "log_offset": pa.int64()}


@attrs.frozen
class Block:
    """Rows that arrived together; [low, high] are their times, so that most need not be looked at."""

    table: pa.Table
    low: int
    high: int

    @classmethod
    def of(cls, table: pa.Table) -> Block:
        """Measure it."""
        span = pc.min_max(table["ts_ns"]).as_py()
        return cls(table, span["min"], span["max"]) if table.num_rows else cls(table, 0, -1)

    def inside(self, symbol: str, from_ns: int, to_ns: int) -> pa.ChunkedArray | None:
        """A mask of the rows of `symbol` in [from_ns, to_ns); None: there is none."""
        if self.high < from_ns or self.low >= to_ns:
            return None
        times = self.table["ts_ns"]
        in_time = pc.and_(pc.greater_equal(times, from_ns), pc.less(times, to_ns))
        return pc.and_(pc.equal(self.table["symbol"], symbol), in_time)


@attrs.frozen(kw_only=True)
class State:
    """Everything stored; a change is a new state."""

    marks: dict[str, dict[int, int]] = attrs.field(factory=dict)
    """Per log."""
    ticks: dict[str, tuple[Block, ...]] = attrs.field(factory=dict)
    candles: tuple[pa.Table, ...] = ()
    coverage: tuple[CoverageRow, ...] = ()
    replaced: dict[str, int] = attrs.field(factory=dict)
    confirmed: dict[str, dict[int, int]] = attrs.field(factory=dict)
    """Per log what was read back, of a database without marks."""


@attrs.define(kw_only=True)
class Faults:
    """What goes wrong next; each `times_…` counts down."""

    down: bool = False
    """No connection, and those that are open break at their next call."""
    times_answer_lost: int = 0
    """The write is applied and then the connection breaks."""
    times_crash_in_write: int = 0
    """The connection breaks in mid-write: a transaction leaves nothing, a keyed sink what was inserted so far."""
    poison_symbol: str = ""
    """Rows of this symbol are refused."""
    poison_times: frozenset[int] = frozenset()
    """Rows of these times (ts_ns) are refused."""


@attrs.define(kw_only=True)
class MemoryDatabase:
    """What survives a connection. `state` is replaced as a whole, so a reader sees all of a change or nothing."""

    keeps_marks: bool
    log_ids: list[str] = attrs.field(factory=list)
    state: State = attrs.field(factory=State)
    faults: Faults = attrs.field(factory=Faults)

    def ticks(self, kind: str) -> pa.Table:
        """`v_quotes` or `v_trades`: every stored tick, ordered by (ts_ns, accepted_at, seq)."""
        tables = [_no_rows(kind), *(block.table for block in self.state.ticks.get(kind, ()))]
        order = [("ts_ns", "ascending"), ("accepted_at", "ascending"), ("seq", "ascending")]
        return pa.concat_tables(tables).sort_by(order)

    def candles_latest(self) -> list[Row]:
        """One row per (symbol, timeframe, basis, ts_ns): own ticks first, newest revision, not gone."""
        best: dict[tuple[Any, ...], Row] = {}
        for table in self.state.candles:
            for row in table.to_pylist():
                key = tuple(row[name] for name in CANDLE_KEY[:4])
                if key not in best or _rank(row) > _rank(best[key]):
                    best[key] = row
        return [row for _, row in sorted(best.items()) if not row["flags"] & Flag.GONE]

    def coverage(self) -> list[CoverageRow]:
        """Every coverage record once, in the order of their revisions."""
        return sorted(set(self.state.coverage), key=lambda row: row.stamp_ns)


def _rank(row: Row) -> tuple[bool, int, str]:
    return row["origin"] == "ticks", row["revision"], row["source"]


def delete_slices(state: State, step: Step) -> tuple[State, int]:
    """The state without the rows that the step's slices replace, and how many those are."""
    deleted = 0
    for row in step.slices:
        r = row.record
        old = state.ticks.get(r.kind, ())
        kept = tuple(_without(block, r) for block in old)
        gone = sum(b.table.num_rows for b in old) - sum(b.table.num_rows for b in kept)
        deleted += gone
        replaced = state.replaced | {r.kind: state.replaced.get(r.kind, 0) + gone}
        state = attrs.evolve(state, ticks=state.ticks | {r.kind: kept}, replaced=replaced)
    return state, deleted


def add_rows(state: State, step: Step, kinds: frozenset[str]) -> tuple[State, int]:
    """The state with the step's rows and coverage, and how many those are."""
    added = 0
    for kind in sorted(kinds & {"quotes", "trades"}):
        table = table_of(step.parts, kind)
        added += table.num_rows
        if table.num_rows:
            state = attrs.evolve(state, ticks=state.ticks | {kind: (*state.ticks.get(kind, ()), Block.of(table))})
    if "coverage" in kinds:
        state = attrs.evolve(state, coverage=(*state.coverage, *step.coverage))
        added += len(step.coverage)
    return state, added


def table_of(parts: Iterable[Part], kind: str) -> pa.Table:
    """Rows of one kind with their identity, names as plain strings."""
    rows = rows_of(list(parts), kind)
    if rows is None:
        return _no_rows(kind)
    columns = {name: _plain(rows.table.column(name)) for name in rows.table.column_names}
    own = (rows.accepted_at, rows.seq, rows.partition, rows.offset)
    return pa.table(columns | {name: pa.array(values) for name, values in zip(_IDENTITY, own, strict=True)})


def frame_counts(tables: Iterable[pa.Table]) -> Counter[tuple[int, int]]:
    """Candles per (partition, offset), each key once: what FINAL does."""
    places = ("log_partition", "log_offset")
    rows = [table.select([*CANDLE_KEY, *places]) for table in tables]
    if not rows:
        return Counter()
    newest = pa.concat_tables(rows).group_by(list(CANDLE_KEY), use_threads=False)
    kept = newest.aggregate([(name, "last") for name in places])
    return Counter(zip(*(kept.column(f"{name}_last").to_pylist() for name in places), strict=True))


def rows_between(state: State, kind: str, symbol: str, from_ns: int, to_ns: int) -> pa.Table:
    """Rows of `symbol` in [from_ns, to_ns)."""
    blocks = state.ticks.get(kind, ())
    found = [b.table.filter(mask) for b in blocks if (mask := b.inside(symbol, from_ns, to_ns)) is not None]
    return pa.concat_tables([_no_rows(kind), *found])


def newest_slice(
    coverage: Iterable[CoverageRow], kind: str, symbol: str, from_ns: int, to_ns: int
) -> CoverageRow | None:
    """The newest whole-interval record that overlaps [from_ns, to_ns)."""
    over = [
        row
        for row in coverage
        if (r := row.record).is_slice
        and (r.kind, r.symbol) == (kind, symbol)
        and r.from_ns < to_ns
        and r.to_ns > from_ns
    ]
    return max(over, key=lambda row: row.stamp_ns, default=None)


def checksum(kind: str, rows: pa.Table) -> int:
    """`content_checksum` of a table of ticks."""
    names = ("ts_ns", "bid", "ask") if kind == "quotes" else ("ts_ns", "price", "size")
    batches = rows.select(names).combine_chunks().to_batches()
    return content_checksum(kind, batches[0]) if batches else 0


def _without(block: Block, record: Coverage) -> Block:
    mask = block.inside(record.symbol, record.from_ns, record.to_ns)
    return block if mask is None else Block.of(block.table.filter(pc.invert(mask)))


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column


def _no_rows(kind: str) -> pa.Table:
    fields = [pa.field(f.name, pa.string() if pa.types.is_dictionary(f.type) else f.type) for f in SCHEMAS[kind]]
    return pa.schema([*fields, *(pa.field(name, type_) for name, type_ in _IDENTITY.items())]).empty_table()
