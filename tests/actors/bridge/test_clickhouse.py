"""The ClickHouse engine for real: killed in mid-run, re-sends, and what readers are given."""

from __future__ import annotations

import itertools
import shutil

import attrs
import pytest
import trio

from actors.bridge import chschema
from actors.bridge.cherrors import classify
from actors.bridge.clickhouse import parse_dsn
from actors.bridge.delivery import Delivery
from actors.bridge.plan import Coalescing
from actors.bridge.port import SinkBatch
from runtime.backoff import Backoff
from runtime.board import DependencyState
from runtime.errors import ConfigError, PermanentSinkError, RetryableSinkError
from tests.support.bridge import (
    DAY,
    EUR,
    LOG_ID,
    MINUTE,
    T0,
    Consumers,
    LogBuilder,
    MemoryCursor,
    candles,
    log_of_bars,
)
from tests.support.sink_servers import ClickHouseServer, clickhouse_server
from tests.support.sinks import ClickHouseStore, context, seams

__all__ = ["clickhouse_server"]


@pytest.fixture
def store(clickhouse_server: ClickHouseServer) -> ClickHouseStore:
    """An empty database."""
    if clickhouse_server.process is None:  # a test that kills it did not come to its end
        clickhouse_server.start()
    return ClickHouseStore(clickhouse_server.dsn)


def expected(log: LogBuilder, rows: int = 60) -> list[tuple]:
    return [
        (EUR, "1m", "bid", T0 + (n * rows + i) * MINUTE, 1 + i / 8, n + 1)
        for n in range(len(log.groups))
        for i in range(rows)
    ]


@pytest.mark.stack
async def test_killed_in_mid_run_and_started_again_it_shows_every_bar_once(store, clickhouse_server):
    log = log_of_bars(80)
    own, cursor = seams(), MemoryCursor()
    ctx = context("bridge.clickhouse", own)
    actor = Delivery(
        sink=store.factory(),
        consumers=Consumers(log).both,
        cursor=cursor,
        coalescing=Coalescing(rows_min=10, rows_max=130),
        backoff=Backoff(initial_s=0.05, max_s=0.3),
    )

    def verified() -> int:
        state = own.board.consumers.get("bridge.clickhouse")
        return -1 if state is None else state.verified_position

    async def wait(done) -> None:
        with trio.fail_after(60):
            while not done():  # noqa: ASYNC110
                await trio.sleep(0.01)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(actor.run, ctx)
        for _ in range(2):
            at = verified()
            await wait(lambda at=at: verified() > at)
            await trio.to_thread.run_sync(clickhouse_server.kill)
            await wait(lambda: own.board.dependencies["clickhouse"].state == DependencyState.DOWN)
            await trio.to_thread.run_sync(clickhouse_server.start)
        await wait(lambda: verified() == log.end)
        ctx.drain_requested.set()
    assert await store.candles() == expected(log)
    assert cursor.cursor.verified == {2: 80, 3: 80}


@attrs.define
class Life:
    """One run of a delivery until everything is verified, on a cursor that survives."""

    store: ClickHouseStore
    log: LogBuilder
    cursor: MemoryCursor = attrs.field(factory=MemoryCursor)

    async def run(self) -> None:
        own = seams()
        ctx = context("bridge.clickhouse", own)
        actor = Delivery(
            sink=self.store.factory(),
            consumers=Consumers(self.log).both,
            cursor=self.cursor,
            backoff=Backoff(initial_s=0.05, max_s=0.3),
        )
        states = own.board.consumers

        def is_done() -> bool:
            state = states.get("bridge.clickhouse")
            return state is not None and state.verified_position == self.log.end

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(actor.run, ctx)
                while not is_done():  # noqa: ASYNC110
                    await trio.sleep(0.01)
                ctx.drain_requested.set()


@pytest.mark.stack
@pytest.mark.parametrize("older_copy_has", [0, 1, 3])
async def test_an_older_copy_of_the_directory_that_is_put_back_is_filled_up_again(
    store, clickhouse_server, older_copy_has
):
    log = log_of_bars(older_copy_has)
    life = Life(store, log)
    async with store.factory()(seams()) as sink:  # the database is there before the copy
        await sink.open(LOG_ID)
    if older_copy_has:
        await life.run()
    copy = clickhouse_server.folder / f"copy-{store.name}"
    await trio.to_thread.run_sync(clickhouse_server.kill)
    shutil.copytree(clickhouse_server.folder / "data", copy, symlinks=True)
    await trio.to_thread.run_sync(clickhouse_server.start)
    log.groups[:] = log_of_bars(9).groups
    log.end = log.groups[-1].end_position
    await life.run()
    await trio.to_thread.run_sync(clickhouse_server.kill)
    shutil.rmtree(clickhouse_server.folder / "data")
    copy.rename(clickhouse_server.folder / "data")
    await trio.to_thread.run_sync(clickhouse_server.start)
    assert await store.sql("select count() from DB.candles final") == [(60 * older_copy_has,)]
    await life.run()
    assert await store.candles() == expected(log)
    assert life.cursor.cursor.verified == {2: 10, 3: 8}


@pytest.mark.stack
async def test_after_a_stop_nothing_is_sent_again(store):
    life = Life(store, log_of_bars(3))
    await life.run()
    life.log.groups[:] = log_of_bars(4).groups
    life.log.end = life.log.groups[-1].end_position
    await store.sql("system stop merges DB.candles")
    await life.run()
    assert await store.sql("select count() from DB.candles") == [(240,)]


@pytest.mark.stack
async def test_a_database_from_before_there_were_marks_believes_the_cursor_once(store):
    life = Life(store, log_of_bars(3))
    await life.run()
    await store.sql("drop table DB.pipeline_marks")
    await store.sql("system stop merges DB.candles")
    await life.run()
    assert await store.sql("select count() from DB.candles") == [(180,)]
    assert life.cursor.cursor.verified == {2: 4, 3: 2}


@pytest.mark.stack
async def test_a_dropped_table_is_filled_again_from_the_log(store):
    life = Life(store, log_of_bars(3))
    await life.run()
    await store.sql("drop table DB.candles")
    await life.run()
    assert await store.candles() == expected(life.log)


@pytest.mark.stack
async def test_a_copy_put_back_between_two_calls_is_noticed_before_the_marks_move_on(store):
    log = log_of_bars(4)
    async with store.factory()(seams()) as sink:
        await sink.open(LOG_ID)
        await sink.write(SinkBatch(groups=tuple(log.groups[:2]), marks={2: (0, 2), 3: (0, 2)}))
        await sink.verify(tuple(log.groups[:2]))
        await store.sql("alter table DB.pipeline_marks delete where next_offset > 0 settings mutations_sync = 1")
        await sink.write(SinkBatch(groups=tuple(log.groups[2:]), marks={2: (2, 4), 3: (2, 4)}))
        await trio.sleep(1)
        with pytest.raises(RetryableSinkError, match="put back"):
            await sink.verify(tuple(log.groups[2:]))


@pytest.mark.stack
async def test_mutant_read_back_without_final_takes_a_re_send_for_too_much(store, monkeypatch):
    log = log_of_bars(2)
    batch = SinkBatch(groups=tuple(log.groups), marks={2: (0, 2), 3: (0, 2)})
    async with store.factory()(seams()) as sink:
        await sink.open(LOG_ID)
        await store.sql("system stop merges DB.candles")
        await sink.write(batch)
        await sink.write(batch)
        assert (await sink.verify(batch.groups)).mismatches == ()
        read_back = chschema.read_back
        monkeypatch.setattr(chschema, "read_back", lambda *args: read_back(*args).replace(" final", ""))
        assert (await sink.verify(batch.groups)).mismatches != ()


@pytest.mark.stack
@pytest.mark.parametrize("key", ["revision", "log_id"])
async def test_mutant_sort_key_without_revision_or_log_id_loses_rows_to_the_read_back(store, monkeypatch, key):
    poorer = chschema.CANDLES.replace(f", {key}", "", 1) if key == "log_id" else chschema.CANDLES
    poorer = poorer.replace("origin, source, revision, log_id)", f"origin, source, {other(key)})")
    assert poorer != chschema.CANDLES
    monkeypatch.setattr(chschema, "STATEMENTS", (poorer, *chschema.STATEMENTS[1:]))
    log = LogBuilder()
    log.append([(2, "candles", candles([{"revision": 1}]))])
    log.append([(2, "candles", candles([{"revision": 2}]))])
    second = LogBuilder(log_id=LOG_ID[::-1])
    second.append([(2, "candles", candles([{"revision": 1}]))])
    async with store.factory(adopt=True)(seams()) as sink, store.factory(adopt=True)(seams()) as adopter:
        await sink.open(LOG_ID)
        await sink.write(SinkBatch(groups=tuple(log.groups), marks={2: (0, 2)}))
        await adopter.open(second.log_id)
        await adopter.write(SinkBatch(groups=tuple(second.groups), marks={2: (0, 1)}))
        assert (await sink.verify(tuple(log.groups))).mismatches != ()


def other(key: str) -> str:
    return "log_id" if key == "revision" else "revision"


@pytest.mark.stack
async def test_the_schema_is_the_contracts(store):
    async with store.factory()(seams()) as sink:
        await sink.open(LOG_ID)
    columns = {row[0]: row[1] for row in await store.sql("describe DB.candles")}
    assert list(columns) == [
        "symbol",
        "timeframe",
        "basis",
        "ts",
        "open",
        "high",
        "low",
        "close",
        "volume",
        "vwap",
        "ticks",
        "origin",
        "source",
        "final",
        "flags",
        "revision",
        "log_id",
        "log_partition",
        "log_offset",
    ]
    assert columns["ts"] == "DateTime64(3, 'UTC')"
    (table,) = await store.sql(
        "select engine, partition_key, sorting_key, create_table_query from system.tables"
        f" where database = '{store.name}' and name = 'candles'"
    )
    assert table[:3] == (
        "ReplacingMergeTree",
        "toYear(ts)",
        "symbol, timeframe, basis, ts, origin, source, revision, log_id",
    )
    assert "fsync_after_insert = 1" in table[3]
    assert "fsync_part_directory = 1" in table[3]


@pytest.mark.stack
async def test_coverage_latest_is_disjoint_and_has_the_newest_word_everywhere(store):
    log = LogBuilder()
    spans = [(0, 60), (60, 120), (30, 90), (70, 80), (110, 120), (0, 10), (1430, 1440), (1440, 1441)]
    for low, high in spans:
        log.slice(T0 + low * MINUTE, T0 + high * MINUTE, 2)
    batch = SinkBatch(groups=tuple(log.groups), marks={2: (0, 16)})
    async with store.factory()(seams()) as sink:
        await sink.open(LOG_ID)
        await sink.write(batch)
        await sink.write(batch)
        assert (await sink.audit(T0, T0 + 2 * DAY)).mismatches == ()
    word: dict[int, int] = {}
    for n, (low, high) in enumerate(spans):
        word |= dict.fromkeys(range(low, high), n)
    found = await store.sql(
        "select intDiv(toUnixTimestamp64Nano(from_ts) - 1398902400000000000, 60000000000),"
        " intDiv(toUnixTimestamp64Nano(to_ts) - 1398902400000000000, 60000000000), revision, rows"
        " from DB.coverage_latest order by from_ts"
    )
    number = {group.stamp_ns: n for n, group in enumerate(log.groups)}
    shown: dict[int, int] = {}
    for low, high, revision, rows in found:
        for minute in range(low, high):
            assert minute not in shown
            shown[minute] = number[revision]
        assert (rows == 2) == ((low, high) == spans[number[revision]])
    assert shown == word
    for (_, high, revision, _), (low, _, following, _) in itertools.pairwise(found):
        assert high < low or revision != following


@pytest.mark.stack
async def test_a_server_that_is_not_there_is_an_outage(store):
    async with store.factory(dsn="http://127.0.0.1:1/market")(seams()) as sink:
        with pytest.raises(RetryableSinkError):
            await sink.open(LOG_ID)


@pytest.mark.stack
async def test_a_dropped_table_is_an_outage_and_made_again_at_the_next_open(store):
    log = log_of_bars(1)
    batch = SinkBatch(groups=tuple(log.groups), marks={2: (0, 2)})
    async with store.factory()(seams()) as sink:
        await sink.open(LOG_ID)
        await store.sql("drop table DB.candles")
        with pytest.raises(RetryableSinkError):
            await sink.write(batch)
        await sink.open(LOG_ID)
        await sink.write(batch)
    assert await store.candles() == expected(log)


def test_codes_are_sorted_by_whose_fault_they_are():
    outages = [None, 60, 81, 159, 209, 210, 241, 242, 243, 252, 33, 516]
    assert {classify(code) for code in outages} == {RetryableSinkError}
    assert {classify(code) for code in (27, 53, 117)} == {PermanentSinkError}
    assert {classify(code) for code in (62, 47, 46)} == {None}


def test_addresses():
    a = parse_dsn("clickhouse://user:p%40ss@host:9000/market")
    assert (a.host, a.port, a.user, a.password, a.secure, a.database) == ("host", 9000, "user", "p@ss", False, "market")
    a = parse_dsn("https://host")
    assert (a.port, a.user, a.password, a.secure, a.database) == (8443, "default", "", True, "market")
    assert "p@ss" not in repr(parse_dsn("http://u:p%40ss@h"))


@pytest.mark.parametrize("dsn", ["postgresql://h/db", "http:///market", "http://h:99999/", "http://h/a-b;drop"])
def test_a_dsn_that_cannot_be_right_is_a_config_error(dsn):
    with pytest.raises(ConfigError):
        parse_dsn(dsn)
