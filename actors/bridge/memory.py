"""Both kinds of sink in memory: with marks of its own and transactions, or keyed and without. Passes the contract.

`MemoryDatabase` is what survives a connection; `MemorySink` is one connection. Faults are set on the database.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import attrs
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import trio

from actors.bridge.chrows import compare, expected
from actors.bridge.pgverify import below_marks, slices_of
from actors.bridge.port import KindTotals, Mismatch, Sink, SinkBatch, SinkTotals, VerifyResult, WriteResult
from actors.bridge.rows import TICK_KINDS, CoverageRow, Part, Step, coverage_of, rows_of, steps
from actors.market.flags import Flag
from actors.market.schema import content_checksum
from runtime.actor import Seams
from runtime.errors import ConfigError, PermanentSinkError, RetryableSinkError
from runtime.log.types import Group

Table = pa.Table


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


@attrs.define(kw_only=True)
class MemoryDatabase:
    """What is stored. Every change is one assignment to `state`, so a reader sees all of it or nothing."""

    keeps_marks: bool
    log_ids: list[str] = attrs.field(factory=list)
    state: _State = attrs.field(factory=lambda: _State())
    faults: Faults = attrs.field(factory=Faults)

    # --- the views

    def ticks(self, kind: str) -> Table:
        """`v_quotes` or `v_trades`: every stored tick, ordered by (ts_ns, accepted_at, seq)."""
        tables = [table for table in self.state.ticks.get(kind, ()) if table.num_rows]
        if not tables:
            return pa.table({})
        order = [("ts_ns", "ascending"), ("accepted_at", "ascending"), ("seq", "ascending")]
        return pa.concat_tables(tables, promote_options="permissive").sort_by(order)

    def candles_latest(self) -> list[dict[str, object]]:
        """One row per (symbol, timeframe, basis, ts_ns): own ticks first, then the newest revision; gone ones hidden."""
        best: dict[tuple[object, ...], dict[str, object]] = {}
        for table in self.state.candles:
            for row in table.to_pylist():
                key = (row["symbol"], row["timeframe"], row["basis"], row["ts_ns"])
                if key not in best or _rank(row) > _rank(best[key]):
                    best[key] = row
        return [row for _, row in sorted(best.items()) if not int(str(row["flags"])) & Flag.GONE]

    def coverage(self) -> list[CoverageRow]:
        """Every coverage record once, in the order of their revisions."""
        unique = {(row.log_id, row.partition, row.offset, row.record): row for row in self.state.coverage}
        return sorted(unique.values(), key=lambda row: row.stamp_ns)


@attrs.frozen(kw_only=True)
class _State:
    marks: dict[int, int] = attrs.field(factory=dict)
    ticks: dict[str, tuple[Table, ...]] = attrs.field(factory=dict)
    candles: tuple[Table, ...] = ()
    coverage: tuple[CoverageRow, ...] = ()
    replaced: dict[str, int] = attrs.field(factory=dict)


def _rank(row: dict[str, object]) -> tuple[bool, int, str]:
    return row["origin"] == "ticks", int(str(row["revision"])), str(row["source"])


@attrs.frozen(kw_only=True)
class Memory:
    """Makes one `MemorySink` per connection attempt."""

    database: MemoryDatabase
    sink_name: str = "memory"
    stores: frozenset[str] = frozenset({"quotes", "trades", "coverage"})
    adopt: bool = False

    def __call__(self, seams: Seams) -> AbstractAsyncContextManager[Sink]:
        """An unopened sink."""
        del seams
        return self._connector()

    @asynccontextmanager
    async def _connector(self) -> AsyncIterator[Sink]:
        yield MemorySink(self)


class MemorySink:
    """One connection."""

    def __init__(self, settings: Memory) -> None:
        self.name = settings.sink_name
        self.stores = settings.stores
        self._settings = settings
        self._db = settings.database
        self._broken = False
        self._log_id = ""

    async def open(self, log_id: str) -> dict[int, int] | None:
        """As the port says, for a database with marks or without."""
        await self._arrive()
        self._log_id = log_id
        known = self._db.log_ids
        if known and log_id not in known and not self._settings.adopt:
            raise ConfigError(
                f"sink {self.name}: holds the data of another log ({known[-1]}), ours is {log_id}: pipeline run --adopt"
            )
        met = log_id in known
        if self._db.keeps_marks:
            if not met:
                known.append(log_id)
            return dict(self._db.state.marks)
        return None if met else {}

    async def prepare(self, batch: SinkBatch) -> None:
        """Nothing to do ahead."""
        await trio.lowlevel.checkpoint()

    async def write(self, batch: SinkBatch) -> WriteResult:
        """Build the next state, then put it in place at once; a keyed database takes kind after kind."""
        await self._arrive()
        poison = self._db.faults.poison_symbol
        if poison and any(poison in _symbols(group) for group in batch.groups):
            raise PermanentSinkError(f"{self.name}: refuses {poison}")
        result = await (self._write_transaction(batch) if self._db.keeps_marks else self._write_keyed(batch))
        if self._db.faults.times_answer_lost > 0:
            self._db.faults.times_answer_lost -= 1
            self._break("the answer was lost")
        return result

    async def verify(self, groups: tuple[Group, ...]) -> VerifyResult:
        """Marks and content of slices, or counts per frame."""
        await self._arrive()
        if not self._db.keeps_marks:
            return self._verify_keyed(groups)
        lost = below_marks(groups, self._db.state.marks)
        wanted = slices_of(groups, self.stores & frozenset(TICK_KINDS))
        found = [m for w in wanted if (m := self._verify_slice(w.kind, w.symbol, w.from_ns, w.to_ns)) is not None]
        return VerifyResult(rows_checked=sum(w.rows for w in wanted), mismatches=(*lost, *found))

    async def totals(self, log_id: str, marks: dict[int, int]) -> SinkTotals:
        """Counts by looking at every row."""
        await self._arrive()
        state = self._db.state
        kinds = {}
        for kind in sorted(self.stores - {"candles", "coverage"}):
            rows = self._db.ticks(kind)
            unique = (
                rows.select(["accepted_at", "seq"]).group_by(["accepted_at", "seq"]).aggregate([]).num_rows
                if (rows.num_rows)
                else 0
            )
            kinds[kind] = KindTotals(
                stored=rows.num_rows, replaced=state.replaced.get(kind, 0), duplicated=rows.num_rows - unique
            )
        if "candles" in self.stores:
            kinds["candles"] = KindTotals(stored=sum(self._frames(state.candles).values()))
        if "coverage" in self.stores:
            kinds["coverage"] = KindTotals(stored=len(self._db.coverage()))
        return SinkTotals(marks=dict(state.marks) if self._db.keeps_marks else marks, kinds=kinds)

    async def audit(self, from_ns: int, to_ns: int) -> VerifyResult:
        """All slices that overlap [from_ns, to_ns)."""
        await self._arrive()
        spans = {
            (r.kind, r.symbol, r.from_ns, r.to_ns)
            for row in self._db.state.coverage
            if (r := row.record).is_slice and r.kind in self.stores and r.from_ns < to_ns and r.to_ns > from_ns
        }
        found = [m for span in sorted(spans) if (m := self._verify_slice(*span)) is not None]
        return VerifyResult(rows_checked=len(spans), mismatches=tuple(found))

    async def close(self) -> None:
        """Nothing to release."""
        await trio.lowlevel.checkpoint()

    # --- writing

    async def _write_transaction(self, batch: SinkBatch) -> WriteResult:
        state = self._move_marks(self._db.state, batch)
        stored = replaced = 0
        for step in steps(batch.groups, self.stores & frozenset(TICK_KINDS)):
            state, deleted = self._delete(state, step)
            state, added = self._copy(state, step)
            stored += added
            replaced += deleted
        await trio.lowlevel.checkpoint()  # readers look: still the old state
        if self._db.faults.times_crash_in_write > 0:
            self._db.faults.times_crash_in_write -= 1
            self._break("crashed in mid-write, rolled back")
        self._db.state = state
        return WriteResult(rows_stored=stored, rows_replaced=replaced)

    def _move_marks(self, state: _State, batch: SinkBatch) -> _State:
        for partition, (low, _) in batch.marks.items():
            if state.marks.get(partition, 0) != low:
                raise RetryableSinkError(f"{self.name}: somebody else moved the mark of partition {partition}")
        return attrs.evolve(state, marks=state.marks | {p: high for p, (_, high) in batch.marks.items()})

    def _delete(self, state: _State, step: Step) -> tuple[_State, int]:
        deleted = 0
        for row in step.slices:
            r = row.record
            kept = []
            for table in state.ticks.get(r.kind, ()):
                inside = pc.and_(
                    pc.equal(table["symbol"].cast(pa.string()), r.symbol),
                    pc.and_(pc.greater_equal(table["ts_ns"], r.from_ns), pc.less(table["ts_ns"], r.to_ns)),
                )
                left = table.filter(pc.invert(inside))
                deleted += table.num_rows - left.num_rows
                kept.append(left)
                state = attrs.evolve(
                    state,
                    replaced=state.replaced | {r.kind: state.replaced.get(r.kind, 0) + table.num_rows - left.num_rows},
                )
            state = attrs.evolve(state, ticks=state.ticks | {r.kind: tuple(kept)})
        return state, deleted

    def _copy(self, state: _State, step: Step) -> tuple[_State, int]:
        added = 0
        for kind in self.stores & frozenset(TICK_KINDS):
            table = _table(step.parts, kind)
            if table is not None:
                added += table.num_rows
                state = attrs.evolve(state, ticks=state.ticks | {kind: (*state.ticks.get(kind, ()), table)})
        if "coverage" in self.stores:
            state = attrs.evolve(state, coverage=(*state.coverage, *step.coverage))
            added += len(step.coverage)
        return state, added

    async def _write_keyed(self, batch: SinkBatch) -> WriteResult:
        if self._log_id not in self._db.log_ids:
            self._db.log_ids.append(self._log_id)
        candles = _table(_parts(batch.groups), "candles") if "candles" in self.stores else None
        if candles is not None:
            self._db.state = attrs.evolve(self._db.state, candles=(*self._db.state.candles, candles))
        await trio.lowlevel.checkpoint()
        if self._db.faults.times_crash_in_write > 0:
            self._db.faults.times_crash_in_write -= 1
            self._break("crashed in mid-write, candles are in, coverage is not")
        coverage = [row for group in batch.groups for row in coverage_of(group)] if "coverage" in self.stores else []
        self._db.state = attrs.evolve(self._db.state, coverage=(*self._db.state.coverage, *coverage))
        return WriteResult(rows_stored=len(coverage) + (candles.num_rows if candles else 0), rows_replaced=0)

    # --- reading back

    def _verify_keyed(self, groups: tuple[Group, ...]) -> VerifyResult:
        wrong: list[Mismatch] = []
        if "candles" in self.stores:
            found = [(p, o, n) for (p, o), n in self._frames(self._db.state.candles).items()]
            wrong += compare("candles", expected(groups, "candles"), found)
        if "coverage" in self.stores:
            counts: dict[tuple[int, int], int] = {}
            for row in self._db.coverage():
                counts[(row.partition, row.offset)] = counts.get((row.partition, row.offset), 0) + 1
            wrong += compare("coverage", expected(groups, "coverage"), [(p, o, n) for (p, o), n in counts.items()])
        return VerifyResult(rows_checked=len(groups), mismatches=tuple(wrong))

    def _frames(self, tables: Iterable[Table]) -> dict[tuple[int, int], int]:
        """Rows per frame, each key once: what FINAL does."""
        seen: set[tuple[object, ...]] = set()
        counts: dict[tuple[int, int], int] = {}
        for table in tables:
            keys = table.select(["symbol", "timeframe", "basis", "ts_ns", "origin", "source", "revision"])
            for key, p, o in zip(
                zip(*(c.to_pylist() for c in keys.columns), strict=True),
                table["log_partition"].to_pylist(),
                table["log_offset"].to_pylist(),
                strict=True,
            ):
                if key not in seen:
                    seen.add(key)
                    counts[(p, o)] = counts.get((p, o), 0) + 1
        return counts

    def _verify_slice(self, kind: str, symbol: str, from_ns: int, to_ns: int) -> Mismatch | None:
        """Stored rows of the interval against the newest whole-interval record that overlaps it."""
        over = [
            row
            for row in self._db.state.coverage
            if row.record.is_slice
            and (row.record.kind, row.record.symbol) == (kind, symbol)
            and row.record.from_ns < to_ns
            and row.record.to_ns > from_ns
        ]
        newest = max(over, key=lambda row: row.stamp_ns, default=None)
        rows = self._db.ticks(kind)
        if rows.num_rows:
            rows = rows.filter(
                pc.and_(
                    pc.equal(rows["symbol"].cast(pa.string()), symbol),
                    pc.and_(pc.greater_equal(rows["ts_ns"], from_ns), pc.less(rows["ts_ns"], to_ns)),
                )
            )
        if newest is not None and (newest.record.from_ns, newest.record.to_ns) != (from_ns, to_ns):
            return None
        record = newest.record if newest is not None else None
        if record is not None and rows.num_rows == record.rows and _checksum(kind, rows) == record.checksum:
            return None
        what = f"{symbol} {kind} [{from_ns}, {to_ns}): rows or content differ from coverage"
        return Mismatch(
            partition=-1, offset=-1, what=what, rows_expected=record.rows if record else 0, rows_found=rows.num_rows
        )

    # --- faults

    async def _arrive(self) -> None:
        await trio.lowlevel.checkpoint()
        if self._broken or self._db.faults.down:
            self._break("down")

    def _break(self, why: str) -> None:
        self._broken = True
        raise RetryableSinkError(f"{self.name}: {why}")


def _parts(groups: Iterable[Group]) -> list[Part]:
    return [Part(frame=f, log_id=g.log_id, stamp_ns=g.stamp_ns) for g in groups for f in g.frames]


def _table(parts: list[Part], kind: str) -> Table | None:
    rows = rows_of(parts, kind)
    if rows is None:
        return None
    table = rows.table
    columns = {n: _plain(table.column(n)) for n in table.column_names}
    return pa.table(
        columns
        | {
            "accepted_at": rows.accepted_at,
            "seq": rows.seq,
            "log_partition": rows.partition,
            "log_offset": rows.offset,
        }
    )


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column


def _symbols(group: Group) -> Iterator[str]:
    for kind in ("quotes", "trades", "candles"):
        table = _table(_parts([group]), kind)
        if table is not None:
            yield from table["symbol"].unique().to_pylist()


def _checksum(kind: str, rows: Table) -> int:
    if not rows.num_rows:
        return 0
    names = [name for name in rows.column_names if rows[name].type in (pa.int64(), pa.float64())]
    arrays = [rows[name].combine_chunks() for name in names]
    return content_checksum(kind, pa.RecordBatch.from_arrays([np_safe(a) for a in arrays], names=names))


def np_safe(array: pa.Array) -> pa.Array:
    """A plain array: `combine_chunks` of a chunked array may give either."""
    return array if isinstance(array, pa.Array) else pa.array(np.asarray(array))
