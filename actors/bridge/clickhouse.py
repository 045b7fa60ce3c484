"""The sink for ClickHouse: rows have keys that make a re-send collapse; the mark is the delivery's cursor.

The only importer of clickhouse_connect. The driver blocks, so it runs in a worker thread, one call at a time, with
time-outs of its own that are shorter than ours.
"""

from __future__ import annotations

import contextlib
import urllib.parse
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeVar

import attrs
import clickhouse_connect
import pyarrow as pa
import trio
import urllib3
from clickhouse_connect.driver import exceptions

from actors.bridge import chrows, chschema
from actors.bridge.cherrors import classify
from actors.bridge.chmarks import KEPT, Marks
from actors.bridge.port import NOBODY, KindTotals, Mismatch, Sink, SinkBatch, SinkTotals, VerifyResult, WriteResult
from actors.bridge.refused import Refused
from runtime.actor import Seams
from runtime.clock import format_ns
from runtime.errors import ConfigError, RetryableSinkError, SinkError
from runtime.log.types import Group

T = TypeVar("T")

_DEADLINE_SLACK_S = 5.0
"""Our deadline behind the driver's own; the thread cannot be abandoned, so the driver's is the one that counts."""
_MARK_S = 1.0
"""Store the marks at most this often, and at close."""


@attrs.frozen(kw_only=True)
class ClickHouseSettings:
    """Where and how patiently."""

    name: str = "clickhouse"
    dsn: str = attrs.field(repr=False)
    """`clickhouse://user:password@host:8123/market`, `http://…`, `https://…`. May hold a password: never shown."""
    stores: frozenset[str] = frozenset({"candles", "coverage"})
    adopt: bool = False
    """Take over a database that holds another log's data (`pipeline run --adopt`)."""
    connect_timeout_s: int = 5
    call_timeout_s: int = 20
    """Longest silence of the server within one call."""
    count_timeout_s: int = 600
    """The same for `totals` and `audit`, which look at every row."""


@attrs.frozen(kw_only=True)
class Address:
    """A DSN taken apart."""

    host: str
    port: int
    user: str
    password: str = attrs.field(repr=False)
    secure: bool
    database: str


def parse_dsn(dsn: str) -> Address:
    """Raises: ConfigError naming what is wrong, never the password."""
    url = urllib.parse.urlsplit(dsn)
    if url.scheme not in ("clickhouse", "clickhouses", "http", "https"):
        raise ConfigError(f"ClickHouse dsn: scheme {url.scheme!r} is none of clickhouse, clickhouses, http, https")
    try:
        port = url.port
    except ValueError as exc:
        raise ConfigError("ClickHouse dsn: the port is not a number from 0 to 65535") from exc
    database = url.path.strip("/") or "market"
    if not url.hostname or not database.isidentifier():
        raise ConfigError(f"ClickHouse dsn: needs a host and a database name, has {url.hostname!r} and {database!r}")
    secure = url.scheme in ("clickhouses", "https")
    return Address(
        host=url.hostname,
        port=port or (8443 if secure else 8123),
        user=urllib.parse.unquote(url.username or "default"),
        password=urllib.parse.unquote(url.password or ""),
        secure=secure,
        database=database,
    )


@attrs.frozen(kw_only=True)
class ClickHouse:
    """Makes one `ClickHouseSink` per connection attempt. Raises: ConfigError for a dsn that cannot be read."""

    settings: ClickHouseSettings
    address: Address = attrs.field(init=False)

    @address.default
    def _parsed(self) -> Address:
        return parse_dsn(self.settings.dsn)

    @property
    def sink_name(self) -> str:
        """The sink's name."""
        return self.settings.name

    @property
    def stores(self) -> frozenset[str]:
        """Kinds it keeps."""
        return self.settings.stores

    def __call__(self, seams: Seams) -> AbstractAsyncContextManager[Sink]:
        """An unopened sink."""
        return _connector(self.settings, self.address, seams)


@asynccontextmanager
async def _connector(settings: ClickHouseSettings, address: Address, seams: Seams) -> AsyncIterator[Sink]:
    sink = ClickHouseSink(settings, address, seams)
    try:
        yield sink
    finally:
        with trio.move_on_after(settings.connect_timeout_s, shield=True):
            await sink.close()


class ClickHouseSink:
    """One client of the driver."""

    def __init__(self, settings: ClickHouseSettings, address: Address, seams: Seams) -> None:
        self.name = settings.name
        self.stores = settings.stores
        self._settings = settings
        self._address = address
        self._db = address.database
        self._seams = seams
        self._one_at_a_time = trio.CapacityLimiter(1)
        self._client: Any = None
        self._patient: Any = None
        """A second client for queries that look at every row: the driver's time-out is a client's."""
        self._log_id = ""
        self._known = False
        self._marks = Marks()
        self._unmarked: dict[int, int] = {}
        """Read back, and not in the marks yet."""
        self._marked_at_s = float("-inf")
        self._is_well = False
        self._prepared: tuple[SinkBatch, dict[str, pa.Table]] | None = None

    def __repr__(self) -> str:
        return f"<ClickHouseSink {self.name} for {self._log_id or 'nobody'}>"

    async def open(self, log_id: str) -> dict[int, int] | None:
        """Connect and create what is missing. None: knows this log; {}: does not, whatever a cursor says."""
        self._log_id = log_id
        silence_s = self._settings.call_timeout_s
        self._client = await self._call(lambda: self._connect(silence_s), silence_s)
        await self._call(self._create, self._settings.call_timeout_s)
        query = f"select log_id from {self._db}.pipeline_log group by log_id order by min(since)"
        known = [row[0] for row in await self._query(query)]
        self._known = log_id in known
        self._marks = await self._stored_marks()
        if known and not self._known and not self._settings.adopt:
            raise ConfigError(
                f"sink {self.name}: the database holds the data of another log ({known[-1]}), ours is {log_id}. "
                "A new data directory makes a new log. To take the database over: pipeline run --adopt"
            )
        return None if self._known else {}

    async def reached(self) -> dict[int, int]:
        """From the newest rows of each kind."""
        found: dict[int, int] = {}
        for kind in sorted(self.stores & chschema.TABLES.keys()):
            for partition, offset in await self._query(chschema.reached(self._db, kind), {"log_id": self._log_id}):
                found[int(partition)] = max(int(offset), found.get(int(partition), 0))
        return found

    async def confirmed(self, verified: dict[int, int]) -> dict[int, int]:
        """The marks that stand beside the rows."""
        if not self._marks.number:  # a database from before there were marks
            await self._store_marks({KEPT: 0} | verified)
        return self._marks.at_most(verified)

    async def prepare(self, batch: SinkBatch) -> None:
        """Decode the batch."""
        self._prepared = (batch, await self._seams.offload(lambda: chrows.tables_of(batch, self.stores)))

    async def write(self, batch: SinkBatch) -> WriteResult:
        """One insert, one block, per kind; coverage last, so that it never promises what is not there."""
        if self._prepared is None or self._prepared[0] is not batch:
            await self.prepare(batch)
        prepared, self._prepared = self._prepared, None
        tables = prepared[1] if prepared else {}
        if not self._known:
            # Only now, when the delivery has stored that it begins anew: see `Sink.open`.
            await self._store_marks({KEPT: 0})
            await self._insert("pipeline_log", self._introduction())
            self._known = True
        for kind in ("candles", "coverage"):
            if kind in tables:
                await self._insert(chschema.TABLES[kind], tables[kind])
        return WriteResult(rows_stored=sum(table.num_rows for table in tables.values()), rows_replaced=0)

    async def probe(self, batch: SinkBatch) -> None:
        """Insert them: what is sent again collapses."""
        tables = await self._seams.offload(lambda: chrows.tables_of(batch, self.stores))
        for kind, table in tables.items():
            await self._insert(chschema.TABLES[kind], table)

    async def verify(self, groups: tuple[Group, ...], refused: Refused = NOBODY) -> VerifyResult:
        """Count rows per (log_partition, log_offset), each identity once, against the frames."""
        wrong: list[Mismatch] = []
        checked = 0
        for kind in sorted(self.stores & chschema.TABLES.keys()):
            wanted = chrows.expected(groups, kind, refused)
            if wanted:
                sql = chschema.read_back(self._db, kind, chrows.ranges(wanted))
                wrong += chrows.compare(kind, wanted, await self._query(sql, {"log_id": self._log_id}))
                checked += sum(wanted.values())
        if not wrong:
            self._unmarked |= chrows.next_offsets(groups)
            if self._seams.clock.monotonic_s() - self._marked_at_s >= _MARK_S:
                await self._mark()
        return VerifyResult(rows_checked=checked, mismatches=tuple(wrong))

    async def totals(self, log_id: str, marks: dict[int, int]) -> SinkTotals:
        """Rows of this log below `marks`, and what a reader of the views sees twice."""
        kinds = {}
        for kind in sorted(self.stores & chschema.TABLES.keys()):
            stored = await self._count(chschema.count_below(self._db, kind, marks), {"log_id": log_id})
            doubled = await self._count(chschema.doubles(self._db, kind))
            kinds[kind] = KindTotals(stored=stored, duplicated=doubled)
        return SinkTotals(marks=marks, kinds=kinds)

    async def audit(self, from_ns: int, to_ns: int, refused: Refused = NOBODY) -> VerifyResult:
        """What a reader of the views sees twice in [from_ns, to_ns)."""
        wrong: list[Mismatch] = []
        for kind, column in (("candles", "ts"), ("coverage", "from_ts")):
            if kind in self.stores:
                span = (
                    f"{column} >= fromUnixTimestamp64Nano({int(from_ns)}::Int64, 'UTC')"
                    f" and {column} < fromUnixTimestamp64Nano({int(to_ns)}::Int64, 'UTC')"
                )
                if found := await self._count(chschema.doubles(self._db, kind, span)):
                    what = f"{kind} [{format_ns(from_ns)}, {format_ns(to_ns)}): shown twice"
                    wrong.append(Mismatch(partition=-1, offset=-1, what=what, rows_expected=0, rows_found=found))
        return VerifyResult(rows_checked=0, mismatches=tuple(wrong))

    async def close(self) -> None:
        """Store the last marks, if the server is there, and drop the sockets."""
        clients = [self._client, self._patient]
        if self._unmarked and self._is_well:
            silence_s = self._settings.connect_timeout_s  # a client that gives up before our end is waited for too long
            with contextlib.suppress(SinkError):
                self._client = await self._call(lambda: self._connect(silence_s), silence_s)
                clients.append(self._client)
                await self._mark()
        self._client = self._patient = None
        for client in clients:
            if client is not None:
                await self._seams.offload(client.close)

    # --- marks

    async def _stored_marks(self) -> Marks:
        return Marks.of(await self._query(chschema.MARKS.format(db=self._db), {"log_id": self._log_id}))

    async def _store_marks(self, offsets: dict[int, int]) -> None:
        await self._insert("pipeline_marks", self._marks.rows(self._log_id, offsets))
        self._marks = self._marks.moved(offsets)

    async def _mark(self) -> None:
        """Raises: RetryableSinkError also when the marks are not those that we stored last: begin anew from there."""
        offsets, self._unmarked = self._unmarked, {}
        if await self._stored_marks() != self._marks:
            raise RetryableSinkError(f"{self.name}: another copy of the database was put back, or somebody else writes")
        await self._store_marks(offsets)
        self._marked_at_s = self._seams.clock.monotonic_s()

    # --- in the worker thread

    async def _call(self, work: Callable[[], T], timeout_s: float) -> T:
        """Raises: RetryableSinkError, PermanentSinkError."""

        def translated() -> T:
            try:
                return work()
            except exceptions.Error as exc:
                code = getattr(exc, "code", None)
                kind = classify(code)
                if kind is None or (code is None and not isinstance(exc, exceptions.OperationalError)):
                    raise
                raise kind(f"{self.name}: {exc}") from exc
            except (OSError, urllib3.exceptions.HTTPError) as exc:
                raise RetryableSinkError(f"{self.name}: {type(exc).__name__} {exc}") from exc

        self._is_well = False
        with trio.move_on_after(timeout_s + _DEADLINE_SLACK_S):
            result = await self._seams.offload(translated, limiter=self._one_at_a_time)
            self._is_well = True
            return result
        raise RetryableSinkError(f"{self.name}: no answer within {timeout_s} s")

    def _connect(self, silence_s: int) -> Any:
        a, s = self._address, self._settings
        return clickhouse_connect.get_client(
            host=a.host,
            port=a.port,
            username=a.user,
            password=a.password,
            secure=a.secure,
            compress=False,
            autogenerate_session_id=False,
            query_retries=0,
            connect_timeout=s.connect_timeout_s,
            send_receive_timeout=silence_s,
        )

    def _create(self) -> None:
        client = self._client
        client.command(f"create database if not exists {self._db}")
        tables = "select name, comment from system.tables where database = {db:String}"
        found = dict(client.query(tables, parameters={"db": self._db}).result_rows)
        for statement in chschema.STATEMENTS:
            client.command(statement.format(db=self._db))
        if "pipeline_marks" in found and not found.keys() >= set(chschema.TABLES.values()):
            client.command(chschema.FORGET_MARKS.format(db=self._db))
        for name, statement in chschema.VIEWS.items():
            if found.get(name) != chschema.VERSION:
                client.command(statement.format(db=self._db))

    def _introduction(self) -> pa.Table:
        now = pa.array([self._seams.clock.wall_ns() // 1_000_000]).cast(pa.timestamp("ms", "UTC"))
        return pa.table({"log_id": [self._log_id], "since": now})

    async def _insert(self, table: str, rows: pa.Table) -> None:
        def work() -> None:
            self._client.insert_arrow(table, rows, database=self._db, settings=chschema.INSERT_SETTINGS)

        await self._call(work, self._settings.call_timeout_s)

    async def _query(self, sql: str, parameters: dict[str, str] | None = None) -> list[Any]:
        def work() -> list[Any]:
            return list(self._client.query(sql, parameters=parameters).result_rows)

        return await self._call(work, self._settings.call_timeout_s)

    async def _count(self, sql: str, parameters: dict[str, str] | None = None) -> int:
        """One number from a query that may take long."""
        silence_s = self._settings.count_timeout_s

        def work() -> int:
            if self._patient is None:
                self._patient = self._connect(silence_s)
            return int(self._patient.query(sql, parameters=parameters).result_rows[0][0])

        return await self._call(work, silence_s)
