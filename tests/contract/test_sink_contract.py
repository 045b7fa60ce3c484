"""What every sink promises its delivery (actors/bridge/port.py), for the fakes and the real servers alike."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest
import trio

from actors.bridge.port import SinkBatch
from actors.market.coverage import Coverage, coverage_batch
from runtime.errors import ConfigError, RetryableSinkError, SinkError
from tests.support.bridge import DAY, EUR, HOUR, LOG_ID, MINUTE, T0, LogBuilder, candles, quotes
from tests.support.sink_servers import clickhouse_server, postgres_server
from tests.support.sinks import ClickHouseStore, MemoryStore, PostgresStore, Store, in_order, quotes_of, seams

__all__ = ["clickhouse_server", "postgres_server"]

stack = pytest.mark.stack
WITH_MARKS = ["memory", pytest.param("postgres", marks=stack)]
KEYED = ["memory-keyed", pytest.param("clickhouse", marks=stack)]


@pytest.fixture
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    """A fresh, empty database of the kind that the test asks for."""
    match request.param:
        case "memory" | "memory-keyed":
            yield MemoryStore(keyed=request.param == "memory-keyed")
        case "postgres":
            found = PostgresStore(request.getfixturevalue("postgres_server").dsn)
            yield found
            found.remove()
        case "clickhouse":
            yield ClickHouseStore(request.getfixturevalue("clickhouse_server").dsn)


def every(kinds: list[object]) -> pytest.MarkDecorator:
    """Run for each of these kinds of store."""
    return pytest.mark.parametrize("store", kinds, indirect=True)


def batch_of(log: LogBuilder, start: int = 0, end: int | None = None) -> SinkBatch:
    """Groups [start, end) of the log as one batch, the marks as they must be."""
    groups = tuple(log.groups[start:end])
    moves: dict[int, tuple[int, int]] = {}
    for group in groups:
        for frame in group.frames:
            low, _ = moves.get(frame.partition, (frame.offset, 0))
            moves[frame.partition] = (low, frame.offset + 1)
    return SinkBatch(groups=groups, marks=moves)


def bars(log: LogBuilder, count: int, *, revision: int, close: float = 1.5, first: int = 0) -> None:
    """One group of candles and their coverage."""
    rows = [
        {"ts_ns": T0 + (first + i) * MINUTE, "close": close + i, "revision": revision, "volume": None}
        for i in range(count)
    ]
    record = Coverage(symbol=EUR, kind="candles", source="p", from_ns=T0, to_ns=T0 + HOUR, status="final", rows=count)
    log.append([(2, "candles", candles(rows)), (2, "coverage", coverage_batch([record]))])


# --- marks and identity


@every(WITH_MARKS + KEYED)
async def test_a_sink_that_is_new_to_the_log_starts_at_nothing(store: Store) -> None:
    async with store.factory()(seams()) as sink:
        assert await sink.open(LOG_ID) == {}


@every(WITH_MARKS)
async def test_marks_are_those_of_what_was_written(store: Store) -> None:
    log = LogBuilder()
    log.slice(T0, T0 + HOUR, 10)
    log.slice(T0, T0 + HOUR, 10, symbol="C:GBPUSD", partition=3)
    async with store.factory()(seams()) as sink:
        await sink.open(LOG_ID)
        result = await sink.write(batch_of(log))
        assert (result.rows_stored, result.rows_replaced) == (22, 0)
    async with store.factory()(seams()) as sink:
        assert await sink.open(LOG_ID) == {2: 2, 3: 2}
    assert await store.quotes() == in_order([row for group in log.groups for row in quotes_of(group)])


@every(KEYED)
async def test_a_sink_without_marks_trusts_the_cursor_once_it_was_written_to(store: Store) -> None:
    log = LogBuilder()
    bars(log, 3, revision=1)
    async with store.factory()(seams()) as sink:
        await sink.open(LOG_ID)
    async with store.factory()(seams()) as sink:
        assert await sink.open(LOG_ID) == {}
        await sink.write(batch_of(log))
    async with store.factory()(seams()) as sink:
        assert await sink.open(LOG_ID) is None


@every(KEYED)
async def test_a_sink_without_marks_confirms_of_the_cursor_what_was_read_back_there(store: Store) -> None:
    log = LogBuilder()
    for n in range(3):
        bars(log, 5, revision=n + 1)
    async with store.factory()(seams()) as sink:
        await sink.open(LOG_ID)
        await sink.write(batch_of(log))
        await sink.verify(tuple(log.groups[:2]))
    async with store.factory()(seams()) as sink:
        assert await sink.open(LOG_ID) is None
        assert await sink.confirmed({2: 6, 3: 9}) == {2: 4, 3: 0}
        assert await sink.confirmed({2: 1}) == {2: 1}


@every(WITH_MARKS)
async def test_an_audit_counts_rows_that_no_slice_speaks_of(store: Store) -> None:
    log = LogBuilder()
    log.slice(T0, T0 + HOUR, 60)
    log.slice(T0 + 30 * MINUTE, T0 + HOUR, 3)
    async with store.factory()(seams()) as sink:
        await sink.open(LOG_ID)
        await sink.write(batch_of(log))
        found = await sink.audit(T0 - DAY, T0 + DAY)
        assert found.mismatches == ()
        (left,) = found.unaudited
        assert (left.kind, left.symbol, left.rows) == ("quotes", EUR, 30)
        assert (left.from_ns, left.to_ns) == (T0, T0 + 29 * MINUTE + 1)


@every(WITH_MARKS + KEYED)
async def test_another_logs_data_is_refused_until_adopted(store: Store) -> None:
    log = LogBuilder()
    log.slice(T0, T0 + HOUR, 10)
    async with store.factory()(seams()) as sink:
        await sink.open(LOG_ID)
        await sink.write(batch_of(log))
    other = LOG_ID[::-1]
    with pytest.raises(ConfigError, match="pipeline run --adopt"):
        async with store.factory()(seams()) as sink:
            await sink.open(other)
    async with store.factory(adopt=True)(seams()) as sink:
        assert await sink.open(other) == {}


# --- once


@every(WITH_MARKS)
async def test_the_same_batch_twice_is_refused_by_the_mark_and_stored_once(store: Store) -> None:
    log = LogBuilder()
    log.slice(T0, T0 + HOUR, 10)
    async with store.factory()(seams()) as sink:
        await sink.open(LOG_ID)
        await sink.write(batch_of(log))
        with pytest.raises(RetryableSinkError, match="somebody else moved the mark"):
            await sink.write(batch_of(log))
    assert await store.quotes() == quotes_of(log.groups[0])


@every(KEYED)
async def test_the_same_rows_sent_again_however_cut_are_shown_once_and_pass_the_read_back(store: Store) -> None:
    log = LogBuilder()
    bars(log, 5, revision=1)
    bars(log, 5, revision=2, close=2.5, first=10)
    async with store.factory()(seams()) as sink:
        await sink.open(LOG_ID)
        for part in (batch_of(log), batch_of(log, 0, 1), batch_of(log, 1, 2), batch_of(log)):
            await sink.write(part)
        result = await sink.verify(tuple(log.groups))
    assert result.mismatches == ()
    shown = await store.candles()
    assert [(row[3], row[4], row[5]) for row in shown] == [
        (T0 + minute * MINUTE, close, revision)
        for first, close0, revision in ((0, 1.5, 1), (10, 2.5, 2))
        for minute, close in [(first + i, close0 + i) for i in range(5)]
    ]


@every(KEYED)
async def test_of_a_bar_the_newest_revision_of_own_ticks_is_shown_and_a_gone_one_hides_it(store: Store) -> None:
    def bar(**values):
        return {"ts_ns": T0, "volume": 3.0} | values

    log = LogBuilder()
    log.append([(2, "candles", candles([bar(revision=5, close=5.0, volume=None), bar(revision=4, close=4.0)]))])
    vendor = bar(revision=9, close=9.0, origin="vendor")
    log.append([(2, "candles", candles([vendor, bar(revision=3, close=3.0, basis="ask")]))])
    log.append([(2, "candles", candles([bar(revision=6, ticks=0, flags=2, basis="ask")]))])
    log.append([(2, "candles", candles([vendor | {"ts_ns": T0 + MINUTE, "close": 7.0}]))])
    async with store.factory()(seams()) as sink:
        await sink.open(LOG_ID)
        await sink.write(batch_of(log))
        assert (await sink.verify(tuple(log.groups))).mismatches == ()
    assert await store.candles() == [
        (EUR, "1m", "bid", T0, 5.0, 5),
        (EUR, "1m", "bid", T0 + MINUTE, 7.0, 9),
    ]


# --- slices


@every(WITH_MARKS)
async def test_a_slice_replaces_exactly_its_interval_of_its_symbol(store: Store) -> None:
    log = LogBuilder()
    before = log.slice(T0, T0 + HOUR, 50, sizes=True)
    log.slice(T0 + HOUR, T0 + 2 * HOUR, 60)
    after = log.slice(T0 + 2 * HOUR, T0 + 3 * HOUR, 50)
    other = log.slice(T0 + HOUR, T0 + 2 * HOUR, 40, symbol="C:GBPUSD", partition=3)
    new = log.slice(T0 + HOUR, T0 + 2 * HOUR, 30, price=1.5)
    async with store.factory()(seams()) as sink:
        await sink.open(LOG_ID)
        await sink.write(batch_of(log, 0, 4))
        result = await sink.write(batch_of(log, 4))
        assert (result.rows_stored, result.rows_replaced) == (31, 60)
        assert (await sink.verify(tuple(log.groups))).mismatches == ()
    assert await store.quotes() == in_order([row for g in (before, after, other, new) for row in quotes_of(g)])


@every(WITH_MARKS)
async def test_slices_that_overlap_within_one_batch_are_applied_in_their_order(store: Store) -> None:
    log = LogBuilder()
    log.slice(T0, T0 + HOUR, 50)
    middle = log.slice(T0 + 20 * MINUTE, T0 + 40 * MINUTE, 7, price=1.4)
    log.slice(T0 + 30 * MINUTE, T0 + 31 * MINUTE, 3, price=1.6)
    last = log.slice(T0 + 30 * MINUTE, T0 + 31 * MINUTE, 0)
    async with store.factory()(seams()) as sink:
        await sink.open(LOG_ID)
        await sink.write(batch_of(log))
        assert (await sink.verify(tuple(log.groups))).mismatches == ()
    first = [r for r in quotes_of(log.groups[0]) if not 20 * MINUTE <= r[1] - T0 < 40 * MINUTE]
    second = [r for r in quotes_of(middle) if not 30 * MINUTE <= r[1] - T0 < 31 * MINUTE]
    assert quotes_of(last) == []
    assert await store.quotes() == in_order(first + second)


@every(WITH_MARKS)
async def test_a_slice_with_after_replaces_live_rows_that_no_coverage_speaks_of(store: Store) -> None:
    log = LogBuilder()
    log.append([(0, "quotes", quotes(EUR, [T0 + 5, T0 + 6, T0 + HOUR]))])
    log.slice(T0, T0 + HOUR, 4, after_offset=0)
    async with store.factory()(seams()) as sink:
        await sink.open(LOG_ID)
        await sink.write(batch_of(log, 0, 1))
        result = await sink.write(batch_of(log, 1))
    assert result.rows_replaced == 2
    assert await store.quotes() == in_order([quotes_of(log.groups[0])[2], *quotes_of(log.groups[1])])


@every(WITH_MARKS)
async def test_a_reader_sees_the_old_slice_or_the_new_one_never_a_part(store: Store) -> None:
    log = LogBuilder()
    log.slice(T0, T0 + HOUR, 20_000)
    log.slice(T0, T0 + HOUR, 15_000, price=1.5)
    seen: list[frozenset[tuple[object, ...]]] = []
    done = trio.Event()

    async def poll() -> None:
        while not done.is_set():
            seen.append(frozenset(row[1:4] for row in await store.quotes()))

    async with store.factory()(seams()) as sink:
        await sink.open(LOG_ID)
        await sink.write(batch_of(log, 0, 1))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(poll)
            await sink.write(batch_of(log, 1))
            await trio.lowlevel.checkpoint()
            done.set()
        seen.append(frozenset(row[1:4] for row in await store.quotes()))
    old, new = (frozenset(row[1:4] for row in quotes_of(group)) for group in log.groups)
    assert set(seen) <= {old, new}
    assert seen[-1] == new


# --- reading back


@every(WITH_MARKS)
async def test_the_read_back_names_frames_that_the_sink_never_got(store: Store) -> None:
    log = LogBuilder()
    log.slice(T0, T0 + HOUR, 10)
    log.slice(T0 + HOUR, T0 + 2 * HOUR, 10)
    async with store.factory()(seams()) as sink:
        await sink.open(LOG_ID)
        await sink.write(batch_of(log, 0, 1))
        found = (await sink.verify(tuple(log.groups))).mismatches
    assert {(m.partition, m.offset) for m in found} >= {(2, 2), (2, 3)}


@every(KEYED)
async def test_the_read_back_of_a_keyed_sink_names_frames_that_it_never_got(store: Store) -> None:
    log = LogBuilder()
    bars(log, 5, revision=1)
    bars(log, 6, revision=2, first=10)
    async with store.factory()(seams()) as sink:
        await sink.open(LOG_ID)
        await sink.write(batch_of(log, 0, 1))
        found = (await sink.verify(tuple(log.groups))).mismatches
    assert {(m.partition, m.offset, m.rows_expected, m.rows_found) for m in found} == {(2, 2, 6, 0), (2, 3, 1, 0)}


@every(WITH_MARKS)
async def test_a_slice_whose_content_is_not_what_coverage_says_is_named(store: Store) -> None:
    log = LogBuilder()
    log.slice(T0, T0 + HOUR, 10)
    frames = log.groups[0].frames
    lied = LogBuilder()
    lied.slice(T0, T0 + HOUR, 10, price=1.75)
    body = lied.groups[0].frames[0].body
    group = msgspec.structs.replace(log.groups[0], frames=(msgspec.structs.replace(frames[0], body=body), frames[1]))
    async with store.factory()(seams()) as sink:
        await sink.open(LOG_ID)
        await sink.write(SinkBatch(groups=(group,), marks={2: (0, 2)}))
        (found,) = (await sink.verify((group,))).mismatches
        (audited,) = (await sink.audit(T0, T0 + DAY)).mismatches
    assert found.rows_expected == found.rows_found == 10
    assert EUR in found.what
    assert EUR in audited.what


@every(WITH_MARKS + KEYED)
async def test_totals_count_what_is_there(store: Store) -> None:
    log = LogBuilder()
    if store.keyed:
        bars(log, 5, revision=1)
        bars(log, 5, revision=2)
    else:
        log.slice(T0, T0 + HOUR, 10)
        log.slice(T0, T0 + HOUR, 8)
    async with store.factory()(seams()) as sink:
        await sink.open(LOG_ID)
        await sink.write(batch_of(log, 0, 1))
        await sink.write(batch_of(log, 1))
        totals = await sink.totals(LOG_ID, {2: 2})
    if store.keyed:
        assert (totals.kinds["candles"].stored, totals.kinds["coverage"].stored) == (5, 1)
    else:
        assert totals.marks == {2: 4}
        assert (totals.kinds["quotes"].stored, totals.kinds["quotes"].replaced) == (8, 10)
        assert totals.kinds["coverage"].stored == 2


@every(["memory", *KEYED[:1]])
async def test_a_sink_that_is_down_says_so_and_is_of_no_more_use(store: MemoryStore) -> None:
    log = LogBuilder()
    log.slice(T0, T0 + HOUR, 10)
    async with store.factory()(seams()) as sink:
        await sink.open(LOG_ID)
        store.db.faults.down = True
        with pytest.raises(RetryableSinkError):
            await sink.write(batch_of(log))
        store.db.faults.down = False
        with pytest.raises(SinkError):
            await sink.write(batch_of(log))


@every(WITH_MARKS + KEYED)
async def test_a_sink_tells_how_far_it_was_written_so_that_a_log_set_back_is_noticed(store: Store) -> None:
    log = LogBuilder()
    bars(log, 5, revision=1)
    bars(log, 5, revision=2)
    async with store.factory()(seams()) as sink:
        await sink.open(LOG_ID)
        assert await sink.reached() == {}
        await sink.write(batch_of(log))
        assert await sink.reached() == {2: 4}


@every(WITH_MARKS + KEYED)
async def test_of_a_minutes_heartbeats_only_the_one_that_ends_it_is_kept(store: Store) -> None:
    log = LogBuilder()
    for second in (1, 2, 59, 60, 61):
        start = T0 + (second - 1) // 60 * MINUTE
        log.live([], beat=(start, T0 + second * 10**9))
    async with store.factory()(seams()) as sink:
        await sink.open(LOG_ID)
        result = await sink.write(batch_of(log))
        assert (await sink.verify(tuple(log.groups))).mismatches == ()
    assert result.rows_stored == 1
    assert await store.coverage() == [(EUR, "quotes", T0, T0 + MINUTE, "live")]
