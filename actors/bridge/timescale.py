"""The sink for TimescaleDB and plain PostgreSQL: one transaction per batch holds rows, coverage and marks.

The only importer of asyncpg. The driver lives in a trio-asyncio loop of its own per connection attempt and is crossed
once per call; a call that does not answer in its time ends the connection (`terminate`), never the waiting for it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from typing import Any, TypeVar

import asyncpg
import attrs
import numpy as np
import trio
import trio_asyncio

from actors.bridge import pgschema, pgverify
from actors.bridge.pgerrors import translated
from actors.bridge.pgwrite import Copy, Decoded, PlannedStep, decode_batch, instant, plan_steps
from actors.bridge.port import KindTotals, Sink, SinkBatch, SinkTotals, VerifyResult, WriteResult
from actors.bridge.rows import TICK_KINDS, CoverageRow
from runtime.actor import Seams
from runtime.errors import ConfigError, HoldfastError, RetryableSinkError
from runtime.log.types import Group

T = TypeVar("T")

_CHUNK_BYTES = 256 * 1024
_DEADLINE_SLACK_S = 2.0
"""Our deadline behind the driver's own time-out: the driver may report first, with a better message."""


@attrs.frozen(kw_only=True)
class TimescaleSettings:
    """Where and how patiently."""

    name: str = "timescale"
    dsn: str = attrs.field(repr=False)
    """Any libpq URL; several hosts allowed. May hold a password, so it is never shown."""
    stores: frozenset[str] = frozenset({"quotes", "trades", "coverage"})
    adopt: bool = False
    """Take over a database that holds another log's data (`pipeline run --adopt`)."""
    connect_timeout_s: float = 5.0
    call_timeout_s: float = 30.0
    """Longest wait for one statement or one batch."""
    count_timeout_s: float = 600.0
    """The same for `totals` and `audit`, which look at every row."""
    lock_timeout_s: float = 10.0


@attrs.frozen(kw_only=True)
class Timescale:
    """Makes one `TimescaleSink` per connection attempt."""

    settings: TimescaleSettings

    @property
    def sink_name(self) -> str:
        """The sink's name."""
        return self.settings.name

    @property
    def stores(self) -> frozenset[str]:
        """Kinds it keeps."""
        return self.settings.stores

    def __call__(self, seams: Seams) -> AbstractAsyncContextManager[Sink]:
        """An unopened sink inside its own event loop."""
        return _connector(self.settings, seams)


@asynccontextmanager
async def _connector(settings: TimescaleSettings, seams: Seams) -> AsyncIterator[Sink]:
    failure: HoldfastError | None = None
    async with trio_asyncio.open_loop() as loop:
        sink = TimescaleSink(settings, seams, loop)
        try:
            yield sink
        except HoldfastError as exc:
            failure = exc  # raised below, outside the loop's nurseries, which would wrap it in a group
        finally:
            with trio.CancelScope(shield=True):
                await sink.close()
    if failure is not None:
        raise failure


class TimescaleSink:
    """One connection."""

    def __init__(self, settings: TimescaleSettings, seams: Seams, loop: Any) -> None:
        self.name = settings.name
        self.stores = settings.stores
        self._settings = settings
        self._seams = seams
        self._loop = loop
        self._con: Any = None
        self._log_id = ""
        self._partitioned: frozenset[str] = frozenset()
        self._symbol_ids: dict[str, int] = {}
        self._source_ids: dict[str, int] = {}
        self._months: set[tuple[str, np.datetime64]] = set()
        self._marked: set[int] = set()

    def __repr__(self) -> str:
        return f"<TimescaleSink {self.name} {'open' if self._con is not None else 'closed'}>"

    # --- the port

    async def open(self, log_id: str) -> dict[int, int] | None:
        """Connect, create what is missing, return the marks of `log_id`."""
        self._log_id = log_id
        await self._call(self._connect(), self._settings.connect_timeout_s)
        await self._call(self._prepare_schema(), self._settings.call_timeout_s)
        await self._call(self._meet(log_id), self._settings.call_timeout_s)
        marks = dict(await self._call(self._con.fetch(pgschema.MARKS, log_id), self._settings.call_timeout_s))
        self._marked = set(marks)
        return marks

    async def write(self, batch: SinkBatch) -> WriteResult:
        """One transaction: marks by compare-and-set, deletes, COPY, coverage."""
        decoded = await self._seams.offload(lambda: decode_batch(batch, self.stores))
        await self._ensure(decoded, batch)
        symbols, sources = dict(self._symbol_ids), dict(self._source_ids)
        planned = await self._seams.offload(lambda: plan_steps(decoded, symbols, sources))
        return await self._call(self._apply(batch, decoded, planned), self._settings.call_timeout_s)

    async def verify(self, groups: tuple[Group, ...]) -> VerifyResult:
        """Read the marks back, and every slice's rows against its newest coverage record."""
        marks = dict(await self._call(self._con.fetch(pgschema.MARKS, self._log_id), self._settings.call_timeout_s))
        lost = pgverify.below_marks(groups, marks)
        if lost:
            return VerifyResult(rows_checked=0, mismatches=lost)
        wanted = await self._seams.offload(lambda: pgverify.slices_of(groups, self.stores & frozenset(TICK_KINDS)))
        return await self._audit(wanted, self._settings.call_timeout_s)

    async def totals(self, log_id: str) -> SinkTotals:
        """Count in one snapshot."""
        return await self._call(self._count(log_id), self._settings.count_timeout_s)

    async def audit(self, from_ns: int, to_ns: int) -> VerifyResult:
        """All slices that overlap [from_ns, to_ns)."""
        results = []
        for kind in sorted(self.stores & frozenset(TICK_KINDS)):
            timeout_s = self._settings.count_timeout_s
            found = await self._call(self._con.fetch(pgschema.SLICES_IN, kind, from_ns, to_ns), timeout_s)
            wanted = [pgverify.Wanted(kind=kind, symbol=s, from_ns=a, to_ns=b) for s, _, a, b in found]
            results.append(await self._audit(wanted, timeout_s))
            query = self._con.fetchval(pgschema.doubles(kind), instant(from_ns), instant(to_ns))
            results.append(pgverify.doubled(kind, await self._call(query, timeout_s)))
        return pgverify.joined(results)

    async def close(self) -> None:
        """Cut the connection: everything that matters is committed. Sync inside, so it cannot hang."""
        con, self._con = self._con, None
        if con is not None:
            con.terminate()
        await trio.lowlevel.checkpoint()

    # --- crossing into the driver

    async def _call(self, work: Coroutine[Any, Any, T], timeout_s: float) -> T:
        """Run `work` in the driver's loop; when it does not end in time or we are cancelled, cut the connection.

        Raises: RetryableSinkError for outages and time-outs, PermanentSinkError for refused rows.
        """
        done = trio.Event()
        task = self._loop.create_task(work)
        task.add_done_callback(lambda _: done.set())
        try:
            with trio.move_on_after(timeout_s + _DEADLINE_SLACK_S):
                await done.wait()
        finally:
            if not task.done():
                self._abandon(task)
        if not task.done() or task.cancelled():
            raise RetryableSinkError(f"{self.name}: no answer within {timeout_s:.0f} s")
        with translated(self.name):
            return task.result()  # type: ignore[no-any-return]

    def _abandon(self, task: Any) -> None:
        # Whatever it still raises is retrieved, else it would kill the loop as an error that nobody awaited.
        task.add_done_callback(lambda t: t.cancelled() or t.exception())
        task.cancel()
        if self._con is not None:
            self._con.terminate()

    # --- inside the driver's loop

    async def _connect(self) -> None:
        s = self._settings
        self._con = await asyncpg.connect(
            s.dsn,
            timeout=s.connect_timeout_s,
            command_timeout=s.call_timeout_s,
            target_session_attrs="read-write",
            server_settings={
                "application_name": "holdfast",
                "timezone": "UTC",
                "lock_timeout": f"{s.lock_timeout_s:.0f}s",
                "idle_in_transaction_session_timeout": f"{s.call_timeout_s:.0f}s",
                "client_connection_check_interval": "2s",
                "jit": "off",
            },
        )

    async def _prepare_schema(self) -> None:
        con = self._con
        if await con.fetchval("select to_regclass('market.schema_version')") is None or not await con.fetchval(
            "select exists (select 1 from market.schema_version where version = $1)", pgschema.VERSION
        ):
            await self._create_schema()
        partitioned = "select relname from pg_class where relkind = 'p' and relnamespace = 'market'::regnamespace"
        self._partitioned = frozenset(row["relname"] for row in await con.fetch(partitioned))

    async def _create_schema(self) -> None:
        con = self._con
        hyper = await self._has_timescaledb()
        async with con.transaction():
            await con.execute("select pg_advisory_xact_lock($1)", pgschema.DDL_LOCK)
            await con.execute(pgschema.BASE)
            for kind in TICK_KINDS:
                await con.execute(pgschema.tick_table(kind, partitioned=not hyper))
                if hyper:
                    await con.execute(pgschema.hypertable(kind))
                await con.execute(pgschema.tick_index(kind))
            await con.execute(pgschema.VIEWS)
            await con.execute("insert into market.schema_version values ($1) on conflict do nothing", pgschema.VERSION)
        for optional in (pgschema.READER, pgschema.SEARCH_PATH):
            with suppress(asyncpg.InsufficientPrivilegeError):  # an administrator's work then; the views are there
                await con.execute(optional)

    async def _has_timescaledb(self) -> bool:
        known = "select 1 from pg_available_extensions where name = 'timescaledb'"
        if await self._con.fetchval(known) is None:
            return False
        try:
            await self._con.execute("create extension if not exists timescaledb")
        except asyncpg.PostgresError:
            return False  # not preloaded or not allowed: plain partitions serve as well
        return True

    async def _meet(self, log_id: str) -> None:
        """Be known to the database as the log it holds, or refuse."""
        con = self._con
        async with con.transaction():
            await con.execute("select pg_advisory_xact_lock($1)", pgschema.DDL_LOCK)
            known = [row["log_id"] for row in await con.fetch("select log_id from market.pipeline_log order by since")]
            if log_id in known:
                return
            if known and not self._settings.adopt:
                raise ConfigError(
                    f"sink {self.name}: the database holds the data of another log ({known[-1]}), ours is {log_id}. "
                    "A new data directory makes a new log. To take the database over: pipeline run --adopt"
                )
            counts = (
                [await con.fetchval(f"select count(*) from market.{t}") for t in _COUNTED.values()] if known else []
            )
            await con.execute(
                "insert into market.pipeline_log (log_id, quotes_before, trades_before, coverage_before)"
                " values ($1, $2, $3, $4)",
                log_id,
                *(counts or [0] * len(_COUNTED)),
            )

    async def _ensure(self, decoded: Decoded, batch: SinkBatch) -> None:
        """Names, month partitions and mark rows, committed on their own before the batch's transaction.

        So a rollback of the batch does not undo them, and their locks are not held while rows are copied.
        """
        timeout_s = self._settings.call_timeout_s
        for table, column, ids, wanted in (
            ("symbols", "symbol", self._symbol_ids, decoded.symbols),
            ("sources", "source", self._source_ids, decoded.sources),
        ):
            if missing := sorted(wanted - ids.keys()):
                ids.update(await self._call(self._name_ids(table, column, missing), timeout_s))
        for kind, month in sorted(decoded.months - self._months):
            if kind in self._partitioned:
                await self._call(self._con.execute(pgschema.month_partition(kind, month)), timeout_s)
            self._months.add((kind, month))
        if fresh := sorted(batch.marks.keys() - self._marked):
            await self._call(self._con.execute(pgschema.FIRST_MARKS, self._log_id, fresh), timeout_s)
            self._marked.update(fresh)

    async def _name_ids(self, table: str, column: str, names: list[str]) -> dict[str, int]:
        con = self._con
        # Only new names are tried: an identity is used up by a conflict too, and source ids are int2.
        insert = (
            f"insert into market.{table} ({column}) select n from unnest($1::text[]) n"
            f" where not exists (select 1 from market.{table} t where t.{column} = n) on conflict do nothing"
        )
        await con.execute(insert, names)
        return dict(await con.fetch(f"select {column}, id from market.{table} where {column} = any($1::text[])", names))

    async def _apply(self, batch: SinkBatch, decoded: Decoded, planned: tuple[PlannedStep, ...]) -> WriteResult:
        stored = replaced = 0
        async with self._con.transaction():
            await self._move_marks(batch, decoded)
            for step in planned:
                replaced += await self._delete(step.slices)
                for copy in step.copies:
                    await self._copy(copy)
                    stored += copy.rows
        return WriteResult(rows_stored=stored, rows_replaced=replaced)

    async def _move_marks(self, batch: SinkBatch, decoded: Decoded) -> None:
        """First in the transaction: a rival blocks here, on the row, and then finds another mark."""
        moves = sorted(batch.marks.items())
        status = await self._con.execute(
            pgschema.MOVE_MARKS,
            self._log_id,
            [partition for partition, _ in moves],
            [low for _, (low, _) in moves],
            [high for _, (_, high) in moves],
            [decoded.rows.get(partition, 0) for partition, _ in moves],
        )
        if _affected(status) != len(moves):
            raise RetryableSinkError(f"{self.name}: somebody else moved the mark (expected {batch.marks})")

    async def _delete(self, slices: Any) -> int:
        """Empty the slices' intervals where something may be; count it in the books. Returns rows deleted."""
        total = 0
        for slice_ in await self._occupied(list(slices)):
            record = slice_.record
            status = await self._con.execute(
                pgschema.delete_slice(record.kind),
                self._symbol_ids[record.symbol],
                instant(record.from_ns),
                instant(record.to_ns),
            )
            if rows := _affected(status):
                total += rows
                await self._con.execute(pgschema.count_replaced(record.kind), self._log_id, slice_.partition, rows)
        return total

    async def _occupied(self, slices: list[CoverageRow]) -> list[CoverageRow]:
        """Slices that meet known coverage or supersede live rows: only there can be something to delete."""
        if not slices:
            return []
        records = [row.record for row in slices]
        hits = await self._con.fetch(
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

        await self._con.copy_to_table(
            copy.table, schema_name="market", columns=copy.columns, source=chunks(), format="binary"
        )

    async def _audit(self, wanted: list[pgverify.Wanted], timeout_s: float) -> VerifyResult:
        results = []
        for part in pgverify.portions(wanted):
            found = await self._call(
                self._con.fetch(pgschema.audit_slices(part[0].kind), *pgverify.arguments(part)), timeout_s
            )
            results.append(await self._seams.offload(partial(pgverify.compare, part, found)))
        return pgverify.joined(results)

    async def _count(self, log_id: str) -> SinkTotals:
        con = self._con
        kinds = {}
        async with con.transaction(isolation="repeatable_read", readonly=True):
            marks = dict(await con.fetch(pgschema.MARKS, log_id))
            replaced = await con.fetchrow(
                "select coalesce(sum(quotes_replaced), 0)::int8 as quotes, coalesce(sum(trades_replaced), 0)::int8"
                " as trades, 0::int8 as coverage from market.delivery where log_id = $1",
                log_id,
            )
            before = await con.fetchrow("select * from market.pipeline_log where log_id = $1", log_id)
            for kind, table in _COUNTED.items():
                if kind in self.stores:
                    count = await con.fetchval(f"select count(*) from market.{table}", timeout=None)
                    kinds[kind] = KindTotals(
                        stored=count, replaced=replaced[kind], before=before[f"{kind}_before"] if before else 0
                    )
        return SinkTotals(marks=marks, kinds=kinds)


_COUNTED = {"quotes": "quotes", "trades": "trades", "coverage": "coverage_records"}


def _affected(status: str) -> int:
    """`UPDATE 3` -> 3."""
    return int(status.rsplit(" ", 1)[-1])
