"""Live rows, provisional slices and trades in a real PostgreSQL, with a reader that polls all the time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import trio

from actors.bridge.conservation import verify_sink
from actors.bridge.delivery import Delivery
from actors.bridge.lanes import Lanes
from actors.bridge.plan import Coalescing
from actors.bridge.port import SinkBatch
from actors.market.coverage import Coverage, coverage_batch
from actors.market.schema import content_checksum
from actors.market.symbols import partition_of
from tests.support.bridge import EUR, HOUR, LOG_ID, MINUTE, T0, Consumers, LogBuilder, MemoryCursor, trades
from tests.support.postgres_server import PostgresServer
from tests.support.sink_servers import postgres_server
from tests.support.sinks import PostgresStore, context, seams

__all__ = ["postgres_server"]
pytestmark = pytest.mark.stack
SECOND = 10**9
BTC = "X:BTCUSD"


@pytest.fixture
def store(postgres_server: PostgresServer) -> Iterator[PostgresStore]:
    """An empty database."""
    found = PostgresStore(postgres_server.dsn)
    yield found
    found.remove()


def live_minutes(log: LogBuilder, minutes: int, *, symbol: str = EUR, kind: str = "quotes") -> list[int]:
    """Ten groups a minute, a heartbeat each; returns the times."""
    found = []
    for at in range(minutes * 10):
        begin = T0 + at * 6 * SECOND
        times = [begin + i * SECOND for i in range(3)]
        start = begin // MINUTE * MINUTE
        log.live(times, symbol=symbol, kind=kind, beat=(start, begin + 6 * SECOND))
        found += times
    return found


def trade_slice(log: LogBuilder, from_ns: int, to_ns: int, times: list[int], *, status: str = "final") -> None:
    batch = trades(BTC, [(ts, 50_000.5, 0.25, f"t{ts}", "1,2") for ts in times])
    record = Coverage(
        symbol=BTC, kind="trades", source="polygon", from_ns=from_ns, to_ns=to_ns, status=status, rows=len(times),
        checksum=content_checksum("trades", batch), after_offset=log.live_offset(BTC),
    )  # fmt: skip
    partition = partition_of(BTC, log.partitions_live, history=True)
    log.append([(partition, "trades", batch), (partition, "coverage", coverage_batch([record]))])


def counts(log: LogBuilder):
    from actors.bridge.rows import counted_as

    def row_counts(upto=None):
        found: dict[tuple[int, str], int] = {}
        for group in log.groups:
            for f in group.frames:
                if upto is None or f.offset < upto.get(f.partition, 0):
                    key = (f.partition, counted_as(f.kind, f))
                    found[key] = found.get(key, 0) + f.rows
        return found

    return row_counts


class Watcher:
    """A reader of the views: how often it saw a (symbol, ts) twice, or a slice in part."""

    def __init__(self, store: PostgresStore, kind: str) -> None:
        self.sql = f"select count(*) as n, count(distinct (symbol, ts_ns)) as keys from market.v_{kind}"
        self.store = store
        self.looks = 0
        self.doubles = 0

    async def run(self) -> None:
        while True:
            (row,) = await self.store.sql(self.sql)
            self.looks += 1
            self.doubles += row["n"] - row["keys"]
            await trio.sleep(0.005)


async def deliver(log: LogBuilder, store: PostgresStore, kind: str, *, late_live_s: float = 0.0) -> Watcher:
    """Deliver the whole log with a reader beside it; live is given out late: every other look finds nothing."""
    consumers = Consumers(log)
    read = consumers.live.read
    late_looks = itertools.cycle((True, False))

    async def late(*, bytes_max, wait=True):
        if next(late_looks):
            await trio.sleep(late_live_s)
            return []
        return await read(bytes_max=4_000, wait=wait)

    if late_live_s:
        consumers.live.read = late
    own = seams()
    ctx = context("bridge.timescale", own)
    actor = Delivery(
        sink=store.factory(),
        consumers=consumers.both,
        cursor=MemoryCursor(),
        coalescing=Coalescing(rows_min=50, rows_max=200),
    )
    watcher = Watcher(store, kind)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(actor.run, ctx)
        with trio.move_on_after(10):
            while own.board.dependencies.get("timescale") is None:  # noqa: ASYNC110
                await trio.sleep(0.01)
            await trio.sleep(0.3)
            nursery.start_soon(watcher.run)
            while own.board.consumers["bridge.timescale"].verified_position < log.end:  # noqa: ASYNC110
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    return watcher


def quotes_and_slices() -> tuple[LogBuilder, list[int]]:
    log = LogBuilder()
    times = live_minutes(log, 10)
    partition = partition_of(EUR, log.partitions_live, history=True)
    for low, high, status in ((0, 4, "live"), (4, 8, "live"), (0, 8, "final")):
        inside = [t for t in times if T0 + low * MINUTE <= t < T0 + high * MINUTE]
        log.slice(
            T0 + low * MINUTE, T0 + high * MINUTE, inside, partition=partition, after_offset=log.live_offset(),
            status=status, price=1.5,
        )  # fmt: skip
    return log, times


async def test_live_rows_are_replaced_by_slices_and_no_reader_sees_a_tick_twice(store):
    log, times = quotes_and_slices()
    watcher = await deliver(log, store, "quotes", late_live_s=0.02)
    assert watcher.looks > 5
    assert watcher.doubles == 0
    rows = await store.quotes()
    assert [row[1] for row in rows] == times
    assert {row[2] >= 1.5 for row in rows[: 8 * 30]} == {True}
    (kept,) = await store.sql("select count(*) n, count(*) filter (where session is not null) live from coverage")
    assert (kept["n"], kept["live"]) == (13, 10)
    report = await verify_sink(store.factory(), seams(), log_id=LOG_ID, marks={}, row_counts=counts(log))
    assert report.ok, report.problems


async def test_mutant_a_slice_before_its_live_rows_leaves_doubles_that_the_audit_finds(store, monkeypatch):
    monkeypatch.setattr(Lanes, "_is_ripe", lambda self, group: True)
    log, _ = quotes_and_slices()
    watcher = await deliver(log, store, "quotes", late_live_s=0.02)
    assert watcher.doubles > 0
    report = await verify_sink(store.factory(), seams(), log_id=LOG_ID, marks={}, row_counts=counts(log))
    assert any("missing or double" in problem for problem in report.problems)


async def test_live_rows_after_a_slice_are_none_of_its_and_older_ones_are(store):
    log = LogBuilder()
    log.slice(T0, T0 + HOUR, 20, partition=partition_of(EUR, 2, history=True))
    log.live([T0 + 5, T0 + 7])
    async with store.factory()(seams()) as sink:
        await sink.open(LOG_ID)
        p = log.groups[0].frames[0].partition
        live = log.groups[1].frames[0].partition
        await sink.write(SinkBatch(groups=tuple(log.groups), marks={p: (0, 2), live: (0, 1)}))
        assert (await sink.audit(T0, T0 + HOUR)).mismatches == ()
        await store.sql("update market.quotes set accepted_at = 5 where ts_ns = (select min(ts_ns) + 5 from v_quotes)")
        (wrong,) = (await sink.audit(T0, T0 + HOUR)).mismatches
        assert wrong.rows_found == 21


async def test_trades_live_and_by_slice_keep_every_column_and_the_order_of_ties(store):
    log = LogBuilder()
    times = live_minutes(log, 3, symbol=BTC, kind="trades")
    trade_slice(log, T0, T0 + 2 * MINUTE, times[:60], status="live")
    watcher = await deliver(log, store, "trades", late_live_s=0.01)
    assert watcher.doubles == 0
    rows = await store.sql("select * from v_trades order by ts_ns, accepted_at, seq")
    assert [row["ts_ns"] for row in rows] == times
    assert [tuple(rows[0])[3:8]] == [(50_000.5, 0.25, f"t{T0}", "1,2", "polygon")]
    assert [tuple(rows[-1])[3:8]] == [(1.25, 0.5, str(times[-1]), None, "polygon")]
    report = await verify_sink(store.factory(), seams(), log_id=LOG_ID, marks={}, row_counts=counts(log))
    assert report.ok, report.problems
