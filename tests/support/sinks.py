"""One face for every sink under test: how to make it, and how a reader sees what it holds."""

from __future__ import annotations

import asyncio
import datetime
import itertools
from typing import Any, Protocol

import asyncpg
import attrs
import clickhouse_connect
import numpy as np
import structlog
import trio

from actors.bridge.clickhouse import ClickHouse, ClickHouseSettings
from actors.bridge.memory import Memory
from actors.bridge.memory_db import MemoryDatabase
from actors.bridge.port import SinkFactory
from actors.bridge.timescale import Timescale, TimescaleSettings
from runtime.actor import ActorContext, Seams, offload_to_thread
from runtime.board import Board
from runtime.clock import SystemClock
from runtime.entropy import SeededEntropy

_names = itertools.count()
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def seams() -> Seams:
    """Real clock and threads, seeded randomness, an empty board."""
    return Seams(clock=SystemClock(), entropy=SeededEntropy(7), offload=offload_to_thread, board=Board())


def context(name: str, with_seams: Seams) -> ActorContext:
    """An actor's context over these seams."""
    return ActorContext(name=name, incarnation=1, seams=with_seams, log=structlog.get_logger())


class Store(Protocol):
    """A fresh database for one test."""

    keyed: bool

    def factory(self, *, adopt: bool = False) -> SinkFactory: ...
    async def quotes(self) -> list[tuple[str, int, float, float, int, int]]:
        """(symbol, ts_ns, bid, ask, accepted_at, seq) as the view gives them."""
        ...

    async def candles(self) -> list[tuple[str, str, str, int, float, int]]:
        """(symbol, timeframe, basis, ts_ns, close, revision) of `candles_latest`."""
        ...

    async def coverage(self) -> list[tuple[str, str, int, int, str]]:
        """(symbol, kind, from_ns, to_ns, status) of `coverage_latest` (memory: of every record)."""
        ...


@attrs.define
class MemoryStore:
    """In memory."""

    keyed: bool
    db: MemoryDatabase = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.db = MemoryDatabase(keeps_marks=not self.keyed)

    def factory(self, *, adopt: bool = False) -> SinkFactory:
        stores = frozenset({"candles", "coverage"} if self.keyed else {"quotes", "trades", "coverage"})
        return Memory(database=self.db, stores=stores, adopt=adopt)

    async def quotes(self) -> list[tuple[str, int, float, float, int, int]]:
        await trio.lowlevel.checkpoint()
        table = self.db.ticks("quotes").select(["symbol", "ts_ns", "bid", "ask", "accepted_at", "seq"])
        return list(zip(*(c.to_pylist() for c in table.columns), strict=True))

    async def candles(self) -> list[tuple[str, str, str, int, float, int]]:
        await trio.lowlevel.checkpoint()
        rows = self.db.candles_latest()
        return [(r["symbol"], r["timeframe"], r["basis"], r["ts_ns"], r["close"], r["revision"]) for r in rows]

    async def coverage(self) -> list[tuple[str, str, int, int, str]]:
        await trio.lowlevel.checkpoint()
        records = [row.record for row in self.db.coverage()]
        return [(r.symbol, r.kind, r.from_ns, r.to_ns, r.status) for r in records]


class PostgresStore:
    """A database of its own in a running server."""

    keyed = False

    def __init__(self, dsn_of: Any) -> None:
        self.name = f"t{next(_names)}"
        self.dsn_of = dsn_of
        self.dsn = dsn_of(self.name)
        _run(_pg(dsn_of("postgres"), f"create database {self.name}"))

    def factory(self, *, adopt: bool = False, **settings: Any) -> SinkFactory:
        return Timescale(settings=TimescaleSettings(**{"dsn": self.dsn, "adopt": adopt} | settings))

    async def sql(self, query: str) -> list[Any]:
        """Run by somebody else, in a thread with asyncio of its own."""
        return await trio.to_thread.run_sync(_run, _pg(self.dsn, query))

    async def quotes(self) -> list[tuple[str, int, float, float, int, int]]:
        found = await self.sql(
            "select symbol, ts_ns, bid, ask, accepted_at, seq from v_quotes order by ts_ns, accepted_at, seq"
        )
        return [tuple(row) for row in found]

    async def candles(self) -> list[tuple[str, str, str, int, float, int]]:
        raise NotImplementedError

    async def coverage(self) -> list[tuple[str, str, int, int, str]]:
        found = await self.sql(
            "select symbol, kind, from_ns, to_ns, status from market.coverage_latest order by symbol, kind, from_ns"
        )
        return [tuple(row) for row in found]

    def remove(self) -> None:
        _run(_pg(self.dsn_of("postgres"), f"drop database {self.name} with (force)"))


class ClickHouseStore:
    """A database of its own in a running server."""

    keyed = True

    def __init__(self, dsn_of: Any) -> None:
        self.name = f"t{next(_names)}"
        self.dsn = dsn_of(self.name)

    def factory(self, *, adopt: bool = False, **settings: Any) -> SinkFactory:
        return ClickHouse(settings=ClickHouseSettings(**{"dsn": self.dsn, "adopt": adopt} | settings))

    async def sql(self, query: str) -> list[Any]:
        """`DB.` in the text stands for the database."""
        return await trio.to_thread.run_sync(self._sql, query.replace("DB.", self.name + "."))

    def _sql(self, query: str) -> list[Any]:
        from actors.bridge.clickhouse import parse_dsn

        a = parse_dsn(self.dsn)
        client = clickhouse_connect.get_client(
            host=a.host, port=a.port, username=a.user, password=a.password, compress=False,
            autogenerate_session_id=False,
        )  # fmt: skip
        try:
            return list(client.query(query).result_rows)
        finally:
            client.close()

    async def quotes(self) -> list[tuple[str, int, float, float, int, int]]:
        raise NotImplementedError

    async def candles(self) -> list[tuple[str, str, str, int, float, int]]:
        found = await self.sql(
            "select symbol, timeframe, basis, toUnixTimestamp64Milli(ts) * 1000000, close, revision"
            " from DB.candles_latest order by 1, 2, 3, 4"
        )
        return [tuple(row) for row in found]

    async def coverage(self) -> list[tuple[str, str, int, int, str]]:
        found = await self.sql(
            "select symbol, kind, toUnixTimestamp64Nano(from_ts), toUnixTimestamp64Nano(to_ts), status"
            " from DB.coverage_latest order by 1, 2, 3"
        )
        return [tuple(row) for row in found]

    def remove(self) -> None:
        pass


async def _pg(dsn: str, query: str) -> list[Any]:
    con = await asyncpg.connect(dsn)
    try:
        return await con.fetch(query)
    finally:
        await con.close()


def _run(work: Any) -> Any:
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        return runner.run(work)


def quotes_of(group: Any) -> list[tuple[str, int, float, float, int, int]]:
    """What a reader must see of a group's quotes, worked out row by row: the oracle."""
    from actors.market.schema import decode

    rows = []
    for frame in group.frames:
        if frame.kind == "quotes":
            for index, row in enumerate(decode(frame.schema, frame.body).to_pylist()):
                seq = frame.group_index * 2**20 + index
                rows.append((row["symbol"], row["ts_ns"], row["bid"], row["ask"], group.stamp_ns, seq))
    return rows


def in_order(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """By (ts_ns, accepted_at, seq): the order of the view."""
    return sorted(rows, key=lambda r: (r[1], r[4], r[5]))


def at(ns: int) -> datetime.datetime:
    """UTC datetime."""
    return _EPOCH + datetime.timedelta(microseconds=int(np.int64(ns)) // 1000)
