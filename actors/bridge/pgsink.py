"""The sink for PostgreSQL: one transaction per batch holds the marks, the deletes, the rows and their coverage."""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

import attrs
import numpy as np
import trio

from actors.bridge import pgopen, pgschema, pgverify
from actors.bridge.pgwrite import Copy, Decoded, PlannedStep, decode_batch, instant, plan_steps
from actors.bridge.port import NOBODY, KindTotals, SinkBatch, SinkTotals, VerifyResult, WriteResult
from actors.bridge.refused import Refused
from actors.bridge.rows import TICK_KINDS, CoverageRow
from runtime.actor import Offload
from runtime.errors import RetryableSinkError
from runtime.log.types import Group

T = TypeVar("T")

_CHUNK_BYTES = 256 * 1024


class Link(Protocol):
    """One connection to the database (`timescale.Connection`)."""

    @property
    def con(self) -> Any:
        """The driver's connection. Raises: RetryableSinkError when there is none."""
        ...

    async def connect(self) -> None: ...
    async def call(self, work: Coroutine[Any, Any, T], timeout_s: float) -> T: ...
    def cut(self) -> None: ...


class PostgresSettings(Protocol):
    """What this file needs of `TimescaleSettings`."""

    @property
    def name(self) -> str: ...
    @property
    def stores(self) -> frozenset[str]: ...
    @property
    def adopt(self) -> bool: ...
    @property
    def call_timeout_s(self) -> float: ...
    @property
    def count_timeout_s(self) -> float: ...


@attrs.frozen(kw_only=True)
class _Prepared:
    batch: SinkBatch
    decoded: Decoded
    steps: tuple[PlannedStep, ...] | None
    """None: a name has no id yet."""


class PostgresSink:
    """Two connections: one writes, the other reads back at the same time."""

    def __init__(self, *, settings: PostgresSettings, offload: Offload, writer: Link, reader: Link) -> None:
        self.name = settings.name
        self.stores = settings.stores
        self._settings = settings
        self._timeout_s = settings.call_timeout_s
        self._offload = offload
        self._writer = writer
        self._reader = reader
        self._log_id = ""
        self._partitioned: frozenset[str] = frozenset()
        self._ids: dict[str, dict[str, int]] = {"symbols": {}, "sources": {}}
        self._months: set[tuple[str, np.datetime64]] = set()
        self._marked: set[int] = set()
        self._prepared: _Prepared | None = None

    def __repr__(self) -> str:
        return f"<PostgresSink {self.name} for {self._log_id or 'nobody'}>"

    async def open(self, log_id: str) -> dict[int, int] | None:
        """Connect, create what is missing, return the marks of `log_id`."""
        self._log_id = log_id
        await self._writer.connect()
        await self._reader.connect()
        con = self._writer.con
        self._partitioned = await self._write_call(pgopen.prepare_schema(con))
        await self._write_call(pgopen.meet(con, log_id, sink=self.name, adopt=self._settings.adopt))
        marks = dict(await self._write_call(con.fetch(pgschema.MARKS, log_id)))
        self._marked = set(marks)
        return marks

    async def reached(self) -> dict[int, int]:
        """Its own marks."""
        return dict(await self._reader.call(self._reader.con.fetch(pgschema.MARKS, self._log_id), self._timeout_s))

    async def confirmed(self, verified: dict[int, int]) -> dict[int, int]:
        """Its own marks say it all: `open` never answers None."""
        await trio.lowlevel.checkpoint()
        return verified

    async def prepare(self, batch: SinkBatch) -> None:
        """Decode the batch, and build its COPY streams when all names have their ids."""
        self._prepared = await self._prepare(batch)

    async def write(self, batch: SinkBatch) -> WriteResult:
        """One transaction: marks by compare-and-set, deletes, COPY, coverage."""
        ready, self._prepared = self._prepared, None
        if ready is None or ready.batch is not batch:
            ready = await self._prepare(batch)
        await self._ensure(ready.decoded, batch)
        steps = ready.steps if ready.steps is not None else await self._plan(ready.decoded)
        return await self._write_call(self._apply(batch, ready.decoded, steps))

    async def probe(self, batch: SinkBatch) -> None:
        """COPY them and roll back."""
        ready = await self._prepare(batch)
        await self._ensure(ready.decoded, batch)
        steps = ready.steps if ready.steps is not None else await self._plan(ready.decoded)
        await self._write_call(self._try(steps))

    async def verify(self, groups: tuple[Group, ...], refused: Refused = NOBODY) -> VerifyResult:
        """Read the marks back, and every slice's rows against its newest coverage record."""
        found = await self._reader.call(self._reader.con.fetch(pgschema.MARKS, self._log_id), self._timeout_s)
        lost = pgverify.below_marks(groups, dict(found))
        if lost:
            return VerifyResult(rows_checked=0, mismatches=lost)
        if "coverage" not in self.stores:
            return VerifyResult(rows_checked=0, mismatches=())  # nothing there to compare slices with
        wanted = await self._offload(lambda: pgverify.slices_of(groups, self.stores & frozenset(TICK_KINDS)))
        return await self._audit(wanted, self._timeout_s, refused)

    async def totals(self, log_id: str, marks: dict[int, int]) -> SinkTotals:
        """Count in one snapshot with its own marks."""
        return await self._reader.call(self._count(log_id), self._settings.count_timeout_s)

    async def audit(self, from_ns: int, to_ns: int, refused: Refused = NOBODY) -> VerifyResult:
        """All slices that overlap [from_ns, to_ns), rows that stand there twice, and rows that no slice speaks of."""
        results = []
        con, timeout_s = self._reader.con, self._settings.count_timeout_s
        for kind in sorted(self.stores & frozenset(TICK_KINDS)):
            doubles = con.fetchval(pgschema.doubles(kind), instant(from_ns), instant(to_ns), timeout=timeout_s)
            results.append(pgverify.doubled(kind, await self._reader.call(doubles, timeout_s)))
            query = con.fetch(pgschema.SLICES_IN, kind, from_ns, to_ns, timeout=timeout_s)
            found = await self._reader.call(query, timeout_s)
            wanted = [
                pgverify.Wanted(kind=kind, symbol=row["symbol"], from_ns=row["from_ns"], to_ns=row["to_ns"])
                for row in found
            ]
            whole: list[pgverify.Wanted] = []
            results.append(await self._audit(wanted, timeout_s, refused, whole))
            results.append(await self._unaudited(kind, whole, from_ns, to_ns))
        return pgverify.joined(results)

    async def close(self) -> None:
        """Cut both connections."""
        self._writer.cut()
        self._reader.cut()
        await trio.lowlevel.checkpoint()

    # --- getting ready

    async def _write_call(self, work: Coroutine[Any, Any, T]) -> T:
        return await self._writer.call(work, self._timeout_s)

    async def _prepare(self, batch: SinkBatch) -> _Prepared:
        decoded = await self._offload(lambda: decode_batch(batch, self.stores))
        known = decoded.symbols <= self._ids["symbols"].keys() and decoded.sources <= self._ids["sources"].keys()
        return _Prepared(batch=batch, decoded=decoded, steps=await self._plan(decoded) if known else None)

    async def _plan(self, decoded: Decoded) -> tuple[PlannedStep, ...]:
        symbols, sources = dict(self._ids["symbols"]), dict(self._ids["sources"])
        return await self._offload(lambda: plan_steps(decoded, symbols, sources))

    async def _ensure(self, decoded: Decoded, batch: SinkBatch) -> None:
        """Names, month partitions and mark rows, committed on their own before the batch's transaction.

        So a rollback of the batch does not undo them, and their locks are not held while rows are copied.
        """
        con = self._writer.con
        for table, column, wanted in (("symbols", "symbol", decoded.symbols), ("sources", "source", decoded.sources)):
            if missing := sorted(wanted - self._ids[table].keys()):
                self._ids[table].update(await self._write_call(pgopen.name_ids(con, table, column, missing)))
        for kind, month in sorted(decoded.months - self._months):
            if kind in self._partitioned:
                await self._write_call(con.execute(pgschema.month_partition(kind, month)))
            self._months.add((kind, month))
        if fresh := sorted(batch.marks.keys() - self._marked):
            await self._write_call(con.execute(pgschema.FIRST_MARKS, self._log_id, fresh))
            self._marked.update(fresh)

    # --- inside the driver's loop

    async def _apply(self, batch: SinkBatch, decoded: Decoded, steps: Sequence[PlannedStep]) -> WriteResult:
        stored = replaced = 0
        async with self._writer.con.transaction():
            await self._move_marks(batch, decoded)
            for step in steps:
                replaced += await self._delete(step.slices)
                for copy in step.copies:
                    await self._copy(copy)
                    stored += copy.rows
        return WriteResult(rows_stored=stored, rows_replaced=replaced)

    async def _try(self, steps: Sequence[PlannedStep]) -> None:
        transaction = self._writer.con.transaction()
        await transaction.start()
        try:
            for step in steps:
                for copy in step.copies:
                    await self._copy(copy)
            await self._writer.con.execute("set constraints all immediate")
        finally:
            await transaction.rollback()

    async def _move_marks(self, batch: SinkBatch, decoded: Decoded) -> None:
        """First in the transaction: a rival blocks here, on the row, and then finds another mark."""
        moves = sorted(batch.marks.items())
        status = await self._writer.con.execute(
            pgschema.MOVE_MARKS,
            self._log_id,
            [partition for partition, _ in moves],
            [low for _, (low, _) in moves],
            [high for _, (_, high) in moves],
            [decoded.rows.get(partition, 0) for partition, _ in moves],
            *([decoded.ticks.get((kind, partition), 0) for partition, _ in moves] for kind in TICK_KINDS),
        )
        if affected(status) != len(moves):
            raise RetryableSinkError(f"{self.name}: somebody else moved the mark (expected {batch.marks})")

    async def _delete(self, slices: Sequence[CoverageRow]) -> int:
        """Empty the slices' intervals where something may be; count it in the books. Returns rows deleted."""
        total = 0
        con = self._writer.con
        for slice_ in await self._occupied(slices):
            record = slice_.record
            span = (instant(record.from_ns), instant(record.to_ns))
            symbol_id = self._ids["symbols"][record.symbol]
            rows = affected(await con.execute(pgschema.delete_slice(record.kind), symbol_id, *span))
            if rows:
                await con.execute(pgschema.count_replaced(record.kind), self._log_id, slice_.partition, rows)
            total += rows
        return total

    async def _occupied(self, slices: Sequence[CoverageRow]) -> list[CoverageRow]:
        """Slices that meet known coverage or supersede live rows: only there can be something to delete."""
        if not slices or "coverage" not in self.stores:
            return list(slices)
        records = [row.record for row in slices]
        hits = await self._writer.con.fetch(
            pgschema.OVERLAPPED,
            list(range(len(slices))),
            [r.symbol for r in records],
            [r.kind for r in records],
            [r.from_ns for r in records],
            [r.to_ns for r in records],
        )
        chosen = {row["i"] for row in hits} | {i for i, r in enumerate(records) if r.after_offset is not None}
        return [slices[i] for i in sorted(chosen)]

    async def _copy(self, copy: Copy) -> None:
        async def chunks() -> AsyncIterator[memoryview]:
            for piece in copy.pieces:
                for start in range(0, len(piece), _CHUNK_BYTES):
                    yield piece[start : start + _CHUNK_BYTES]

        await self._writer.con.copy_to_table(
            copy.table, schema_name="market", columns=copy.columns, source=chunks(), format="binary"
        )

    # --- looking back

    async def _audit(
        self,
        wanted: list[pgverify.Wanted],
        timeout_s: float,
        refused: Refused,
        whole: list[pgverify.Wanted] | None = None,
    ) -> VerifyResult:
        """`whole` is given those that were compared: the newest record there is their own."""
        results = []
        for part in pgverify.portions(wanted):
            statement = pgschema.audit_slices(part[0].kind)
            query = self._reader.con.fetch(statement, *pgverify.arguments(part), timeout=timeout_s)
            found = await self._reader.call(query, timeout_s)
            results.append(await self._offload(partial(pgverify.compare, part, found, refused)))
            if whole is not None:
                whole += [part[row["i"]] for row in found if pgverify.is_whole(part[row["i"]], row)]
        return pgverify.joined(results)

    async def _unaudited(self, kind: str, audited: list[pgverify.Wanted], from_ns: int, to_ns: int) -> VerifyResult:
        con, timeout_s = self._reader.con, self._settings.count_timeout_s
        known = await self._reader.call(con.fetch(pgschema.SYMBOLS), timeout_s)
        gaps = await self._offload(lambda: pgverify.between([row["symbol"] for row in known], audited, from_ns, to_ns))
        arguments = (
            list(range(len(gaps))),
            [symbol for symbol, _, _ in gaps],
            [instant(low) for _, low, _ in gaps],
            [instant(high) for _, _, high in gaps],
        )
        found = await self._reader.call(con.fetch(pgschema.rows_in(kind), *arguments, timeout=timeout_s), timeout_s)
        return pgverify.unaudited(kind, gaps, found)

    async def _count(self, log_id: str) -> SinkTotals:
        con = self._reader.con
        timeout_s = self._settings.count_timeout_s
        kinds = {}
        async with con.transaction(isolation="repeatable_read", readonly=True):
            marks = dict(await con.fetch(pgschema.MARKS, log_id))
            books = await con.fetchrow(pgschema.BOOKS, log_id)
            for kind in TICK_KINDS:
                if kind in self.stores:
                    stored = await con.fetchval(f"select count(*) from market.{kind}", timeout=timeout_s)
                    kinds[kind] = KindTotals(
                        stored=stored, replaced=books[f"{kind}_replaced"], before=books[f"{kind}_before"]
                    )
            if "coverage" in self.stores:
                stored = await con.fetchval(pgschema.COUNT_COVERAGE, log_id, timeout=timeout_s)
                kinds["coverage"] = KindTotals(stored=stored)
        return SinkTotals(marks=marks, kinds=kinds)


def affected(status: str) -> int:
    """`UPDATE 3` -> 3."""
    return int(status.rsplit(" ", 1)[-1])
