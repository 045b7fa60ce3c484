"""PostgreSQL for real: unknown commits, rivals, frozen and killed servers, and what readers are given."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterator

import pytest
import trio

from actors.bridge.delivery import Delivery, Pace
from actors.bridge.pgsink import PostgresSink
from actors.bridge.plan import Coalescing, Lane
from actors.bridge.port import SinkBatch
from actors.market.coverage import Coverage, coverage_batch
from actors.market.schema import content_checksum
from runtime.backoff import Backoff
from runtime.board import DependencyState
from runtime.errors import ConfigError, PermanentSinkError, RetryableSinkError
from tests.support.bridge import DAY, EUR, HOUR, LOG_ID, MINUTE, T0, Consumers, LogBuilder, MemoryCursor, trades
from tests.support.lossy_proxy import LossyProxy
from tests.support.postgres_server import PostgresServer
from tests.support.sink_servers import postgres_server
from tests.support.sinks import PostgresStore, context, in_order, quotes_of, seams

__all__ = ["postgres_server"]
pytestmark = pytest.mark.stack


@pytest.fixture
def store(postgres_server: PostgresServer) -> Iterator[PostgresStore]:
    """An empty database."""
    found = PostgresStore(postgres_server.dsn)
    yield found
    found.remove()


def log_of_slices(count: int, rows: int = 200) -> LogBuilder:
    log = LogBuilder()
    for i in range(count):
        log.slice(T0 + i * HOUR, T0 + (i + 1) * HOUR, rows, sizes=bool(i % 2))
    return log


def whole(log: LogBuilder) -> SinkBatch:
    return SinkBatch(groups=tuple(log.groups), marks={2: (0, 2 * len(log.groups))})


def expected(log: LogBuilder, without: frozenset[int] = frozenset()) -> list[tuple]:
    return in_order([row for i, group in enumerate(log.groups) if i not in without for row in quotes_of(group)])


class Running:
    """A delivery into a store, drained at the end of the `async with`."""

    def __init__(self, log: LogBuilder, factory, **settings) -> None:
        self.log = log
        self.seams = seams()
        self.ctx = context("bridge.timescale", self.seams)
        self.cursor = MemoryCursor()
        self.actor = Delivery(
            sink=factory,
            consumers=Consumers(log).both,
            cursor=self.cursor,
            **{"backoff": Backoff(initial_s=0.05, max_s=0.3), "coalescing": Coalescing(rows_min=10, rows_max=900)}
            | settings,
        )

    def wake(self) -> None:
        """The log has grown."""
        for consumer in self.actor.consumers:
            consumer.wake()

    @property
    def dependency(self):
        return self.seams.board.dependencies.get("timescale")

    async def __aenter__(self):
        self._nursery = trio.open_nursery()
        nursery = await self._nursery.__aenter__()
        nursery.start_soon(self.actor.run, self.ctx)
        return self

    async def __aexit__(self, *exc):
        self.ctx.drain_requested.set()
        return await self._nursery.__aexit__(*exc)

    async def wait_verified(self, within_s: float = 30) -> None:
        await self.wait(lambda: self.verified == self.log.end, within_s)

    @property
    def verified(self) -> int:
        state = self.seams.board.consumers.get("bridge.timescale")
        return -1 if state is None else state.verified_position

    async def wait(self, done, within_s: float = 30) -> None:
        with trio.fail_after(within_s):
            while not done():  # noqa: ASYNC110
                await trio.sleep(0.01)


# --- exactly once


async def test_a_commit_whose_answer_is_lost_is_neither_lost_nor_repeated(store, postgres_server):
    log = log_of_slices(20)
    proxy = LossyProxy(postgres_server.port)
    async with proxy.serve():
        dsn = store.dsn.replace(f":{postgres_server.port}/", f":{proxy.port}/")
        async with Running(log, store.factory(dsn=dsn)) as run:
            await run.wait(lambda: run.verified > 0)
            proxy.commits_to_lose = 3
            await run.wait_verified()
        assert proxy.lost >= 1
    assert await store.quotes() == expected(log)
    (mark,) = await store.sql("select next_offset, rows_copied, rows_replaced from market.delivery")
    assert tuple(mark) == (40, 20 * 201, 0)


async def test_killed_in_mid_run_and_started_again_it_holds_every_row_once(store, postgres_server):
    log = log_of_slices(60, rows=500)
    async with Running(log, store.factory(), coalescing=Coalescing(rows_min=10, rows_max=600)) as run:
        for _ in range(2):
            at = run.verified
            await run.wait(lambda at=at: run.verified > at)
            await trio.to_thread.run_sync(postgres_server.stop, signal.SIGKILL)
            await run.wait(lambda: run.dependency.state == DependencyState.DOWN)
            await trio.to_thread.run_sync(postgres_server.start)
        await run.wait_verified()
        assert run.dependency.state == DependencyState.UP
    assert await store.quotes() == expected(log)


async def test_a_frozen_server_is_given_up_in_time_and_delivery_goes_on_after_it(store, postgres_server):
    log = log_of_slices(30)
    factory = store.factory(call_timeout_s=1.0, connect_timeout_s=1.0, lock_timeout_s=1.0)
    async with Running(log, factory, pace=Pace(verify_s=0.01)) as run:
        await run.wait(lambda: run.verified > 0)
        tree = [postgres_server.process.pid, *children(postgres_server.process.pid)]
        for pid in tree:
            os.kill(pid, signal.SIGSTOP)
        try:
            log.slice(T0 + 90 * HOUR, T0 + 91 * HOUR, 5)
            run.wake()
            await run.wait(lambda: run.dependency.state == DependencyState.DOWN, within_s=8)
        finally:
            for pid in tree:
                os.kill(pid, signal.SIGCONT)
        await run.wait_verified()
    assert await store.quotes() == expected(log)


def children(pid: int) -> list[int]:
    import psutil

    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


async def test_a_rival_that_wakes_up_late_writes_nothing(store):
    log = log_of_slices(3)
    async with store.factory()(seams()) as old, store.factory()(seams()) as new:
        await old.open(LOG_ID)
        await new.open(LOG_ID)
        await new.write(whole(log))
        with pytest.raises(RetryableSinkError, match="moved the mark"):
            await old.write(SinkBatch(groups=tuple(log.groups[:1]), marks={2: (0, 2)}))
    assert await store.quotes() == expected(log)


async def test_a_refetch_under_a_polling_reader_shows_the_old_or_the_new_hour(store):
    log = log_of_slices(4, rows=30_000)
    shown = []
    async with Running(log, store.factory()) as run:
        await run.wait_verified()
        log.slice(T0 + HOUR, T0 + 2 * HOUR, 29_000, price=1.5)
        run.wake()
        while run.verified != log.end:
            rows = await store.sql(
                "select count(*), sum(bid) from v_quotes where symbol = 'C:EURUSD'"
                " and ts >= '2014-05-01 01:00Z' and ts < '2014-05-01 02:00Z'"
            )
            shown.append(rows[0][0])
    assert set(shown) <= {30_000, 29_000}
    assert await store.quotes() == expected(log, without=frozenset({1}))


# --- rows of every shape


async def test_months_nulls_and_both_kinds_are_stored_as_given(store):
    log = LogBuilder()
    new_year = 1_420_070_400 * 10**9
    log.slice(new_year - MINUTE, new_year, 3, partition=2)
    log.slice(new_year, new_year + MINUTE, 3, sizes=True, partition=2)
    batch = trades(
        "X:BTCUSD",
        [
            (new_year - 1, 20_000.5, None, None, None),
            (new_year, 20_000.5, 0.25, "a1", "1,37"),
            (new_year + 1_999, 20_001.0, 1.0, "", "ü"),
        ],
    )
    day = Coverage(
        symbol="X:BTCUSD", kind="trades", source="polygon", from_ns=new_year, to_ns=new_year + MINUTE, status="final",
        rows=2, checksum=content_checksum("trades", batch.slice(1)),
    )  # fmt: skip
    log.append([(3, "trades", batch), (3, "coverage", coverage_batch([day]))])
    async with store.factory()(seams()) as sink:
        await sink.open(LOG_ID)
        await sink.write(SinkBatch(groups=tuple(log.groups), marks={2: (0, 4), 3: (0, 2)}))
        assert (await sink.verify(tuple(log.groups))).mismatches == ()
        assert (await sink.audit(new_year - DAY, new_year + DAY)).mismatches == ()
    assert await store.quotes() == expected(log)
    found = await store.sql("select ts_ns, price, size, trade_id, conditions from v_trades order by ts_ns")
    assert [tuple(row) for row in found] == [
        (new_year - 1, 20_000.5, None, None, None),
        (new_year, 20_000.5, 0.25, "a1", "1,37"),
        (new_year + 1_999, 20_001.0, 1.0, "", "ü"),
    ]
    parts = await store.sql("select relname from pg_class where relname ~ '^quotes_[0-9]' and relkind = 'r' order by 1")
    assert [row[0] for row in parts] == ["quotes_2014_12", "quotes_2015_01"]


async def test_rows_that_the_database_refuses_are_poison_and_leave_nothing(store):
    log = LogBuilder()
    batch = trades("X:BTCUSD", [(T0, 1.0, None, "a\0b", None)])
    log.append([(3, "trades", batch)])
    async with store.factory()(seams()) as sink:
        await sink.open(LOG_ID)
        with pytest.raises(PermanentSinkError, match="22021"):
            await sink.write(SinkBatch(groups=tuple(log.groups), marks={3: (0, 1)}))
    async with store.factory()(seams()) as sink:
        assert await sink.open(LOG_ID) == {3: 0}


async def test_without_coverage_in_its_stores_a_slice_still_replaces_its_interval(store):
    log = log_of_slices(2)
    log.slice(T0, T0 + HOUR, 100)
    async with Running(log, store.factory(stores=frozenset({"quotes"}))) as run:
        await run.wait_verified()
    assert await store.quotes() == expected(log, without=frozenset({0}))


async def test_a_reader_in_a_long_transaction_does_not_hold_up_a_new_month(store):
    log = log_of_slices(1)
    log.slice(T0 + 62 * DAY, T0 + 62 * DAY + HOUR, 10)
    async with store.factory(lock_timeout_s=1)(seams()) as sink, store.factory()(seams()) as reader:
        await sink.open(LOG_ID)
        await reader.open(LOG_ID)
        await sink.write(SinkBatch(groups=tuple(log.groups[:1]), marks={2: (0, 2)}))
        link = reader._reader
        await link.call(link.con.execute("begin; select count(*) from market.v_quotes"), 5)
        await sink.write(SinkBatch(groups=tuple(log.groups[1:]), marks={2: (2, 4)}))
    assert await store.quotes() == expected(log)


# --- what readers are given


async def test_a_reader_may_read_the_views_by_their_bare_names_the_marks_and_nothing_else(store):
    log = log_of_slices(1)
    async with store.factory()(seams()) as sink:
        await sink.open(LOG_ID)
        await sink.write(whole(log))
    for view in ("v_quotes", "v_trades", "market.coverage", "coverage_latest", "market.delivery"):
        rows = await store.sql(f"select has_table_privilege('market_reader', '{view}', 'select')")
        assert rows[0][0] is True
    for table in ("quotes", "trades", "coverage_records", "pipeline_log", "symbols"):
        rows = await store.sql(f"select has_table_privilege('market_reader', 'market.{table}', 'select')")
        assert rows[0][0] is False
    assert len(await store.sql("select * from v_quotes")) == 200


async def test_a_symbols_hour_is_read_through_the_index(store):
    log = log_of_slices(48, rows=2000)
    log.slice(T0, T0 + HOUR, 2000, symbol="C:GBPUSD")
    async with store.factory()(seams()) as sink:
        await sink.open(LOG_ID)
        await sink.write(SinkBatch(groups=tuple(log.groups), marks={2: (0, 98)}))
    await store.sql("analyze")
    plan = await store.sql(
        "explain select * from v_quotes where symbol = 'C:EURUSD' and ts >= '2014-05-01 05:00Z'"
        " and ts < '2014-05-01 06:00Z'"
    )
    text = "\n".join(row[0] for row in plan)
    assert "Index" in text
    assert "ts >=" in text


async def test_coverage_latest_is_disjoint_and_has_the_newest_word_everywhere(store):
    log = LogBuilder()
    spans = [(0, 60), (60, 120), (30, 90), (70, 80), (110, 120), (0, 10), (1430, 1440)]
    for low, high in spans:
        log.slice(T0 + low * MINUTE, T0 + high * MINUTE, 2)
    log.slice(T0 + DAY, T0 + DAY + MINUTE, 2)
    spans.append((1440, 1441))
    async with store.factory()(seams()) as sink:
        await sink.open(LOG_ID)
        await sink.write(whole(log))
    word: dict[int, int] = {}
    for n, (low, high) in enumerate(spans):
        word |= dict.fromkeys(range(low, high), n)
    found = await store.sql(
        "select (from_ns - 1398902400000000000) / 60000000000, (to_ns - 1398902400000000000) / 60000000000, revision,"
        " rows from market.coverage_latest order by from_ns"
    )
    shown: dict[int, int] = {}
    number = {group.stamp_ns: n for n, group in enumerate(log.groups)}
    for low, high, revision, rows in found:
        for minute in range(low, high):
            assert minute not in shown
            shown[minute] = number[revision]
        assert (rows == 2) == ((low, high) == spans[number[revision]])
    assert shown == word
    for (_, high, revision, _), (low, _, following, _) in itertools.pairwise(found):
        assert high < low or revision != following


async def test_a_dsn_that_the_driver_cannot_use_is_a_config_error(store):
    with pytest.raises(ConfigError, match="dsn"):
        async with store.factory(dsn="mysql://somewhere/db")(seams()) as sink:
            await sink.open(LOG_ID)


async def test_nobody_there_is_an_outage(store):
    with pytest.raises(RetryableSinkError):
        async with store.factory(dsn="postgresql://127.0.0.1:1/db")(seams()) as sink:
            await sink.open(LOG_ID)


# --- positive controls on the real database


async def run_through_lossy_commits(store, server, log) -> None:
    proxy = LossyProxy(server.port)
    async with proxy.serve():
        dsn = store.dsn.replace(f":{server.port}/", f":{proxy.port}/")
        async with Running(log, store.factory(dsn=dsn)) as run:
            await run.wait(lambda: run.verified > 0)
            proxy.commits_to_lose = 3
            with trio.move_on_after(3):
                await run.wait_verified()


async def test_mutant_mark_outside_the_transaction_is_caught(store, postgres_server, monkeypatch):
    original = PostgresSink._move_marks
    calls = itertools.count()

    async def before(self, batch, decoded):
        await self._writer.con.execute("rollback")
        await original(self, batch, decoded)
        await self._writer.con.execute("begin")
        if next(calls) == 2:
            self._writer.con.terminate()

    monkeypatch.setattr(PostgresSink, "_move_marks", before)
    log = log_of_slices(20)
    async with Running(log, store.factory()) as run:
        with trio.move_on_after(3):
            await run.wait_verified()
    assert await store.quotes() != expected(log)


async def test_mutant_compare_and_set_that_ignores_its_count_is_caught(store, monkeypatch):
    monkeypatch.setattr("actors.bridge.pgsink.affected", lambda status: 1)
    log = log_of_slices(1)
    async with store.factory()(seams()) as sink:
        await sink.open(LOG_ID)
        await sink.write(SinkBatch(groups=tuple(log.groups), marks={2: (0, 2)}))
        again = log.append([(0, "quotes", one_quote())])
        await sink.write(SinkBatch(groups=(again,), marks={0: (0, 1)}))
        await sink.write(SinkBatch(groups=(again,), marks={0: (0, 1)}))
    assert await store.quotes() != expected(log)


def one_quote():
    from tests.support.bridge import quotes

    return quotes(EUR, [T0 + 50 * HOUR])


async def test_mutant_slice_without_the_delete_is_caught(store, monkeypatch):
    async def nothing(self, slices):
        return 0

    monkeypatch.setattr(PostgresSink, "_delete", nothing)
    log = log_of_slices(2)
    log.slice(T0, T0 + HOUR, 100)
    async with Running(log, store.factory()) as run:
        with trio.move_on_after(2):
            await run.wait_verified()
        assert "read-back" in run.dependency.reason
    assert await store.quotes() != expected(log, without=frozenset({0}))


async def test_mutant_no_deduplication_is_caught(store, postgres_server, monkeypatch):
    monkeypatch.setattr(Lane, "_new_partitions", lambda self, group: {f.partition for f in group.frames})
    log = log_of_slices(20)
    for _ in range(3):
        log.append([(0, "quotes", one_quote())])
    await run_through_lossy_commits(store, postgres_server, log)
    async with Running(log, store.factory()) as run:
        with trio.move_on_after(2):
            await run.wait_verified()
        ended_well = run.verified == log.end and await store.quotes() == expected(log)
    assert not ended_well
