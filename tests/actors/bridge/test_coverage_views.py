"""`coverage_latest` of the real databases, and the checks over it, with records of any length at any time."""

from __future__ import annotations

import random
import time

import pytest

from actors.bridge.port import SinkBatch
from actors.market.coverage import Coverage, coverage_batch
from runtime.clock import parse_instant_ns
from tests.support.bridge import DAY, EUR, HOUR, LOG_ID, MINUTE, T0, LogBuilder
from tests.support.sink_servers import clickhouse_server, postgres_server
from tests.support.sinks import ClickHouseStore, PostgresStore, seams

__all__ = ["clickhouse_server", "postgres_server"]
pytestmark = pytest.mark.stack
STATUSES = ("missing", "final", "empty", "live", "quarantined")
MOON_LANDING = parse_instant_ns("1969-07-20T20:17Z")


@pytest.fixture(params=["postgres", "clickhouse"])
def store(request):
    """An empty database of either kind."""
    if request.param == "postgres":
        found = PostgresStore(request.getfixturevalue("postgres_server").dsn)
    else:
        found = ClickHouseStore(request.getfixturevalue("clickhouse_server").dsn)
    yield found
    found.remove()


def log_of(spans: list[tuple[int, int, str]]) -> LogBuilder:
    """One record each, oldest first, of candles: ClickHouse and PostgreSQL keep their coverage alike."""
    log = LogBuilder()
    for low, high, status in spans:
        record = Coverage(symbol=EUR, kind="candles", source="p", from_ns=low, to_ns=high, status=status)
        log.append([(2, "coverage", coverage_batch([record]))])
    return log


def newest_word(spans: list[tuple[int, int, str]], step: int) -> list[tuple[str, str, int, int, str]]:
    """Worked out instant by instant; neighbours of one record joined."""
    word: dict[int, int] = {}
    for n, (low, high, _) in enumerate(spans):
        word |= dict.fromkeys(range(low, high, step), n)
    shown: list[list[int]] = []
    for at, n in sorted(word.items()):
        if shown and shown[-1][1] == at and shown[-1][2] == n:
            shown[-1][1] += step
        else:
            shown.append([at, at + step, n])
    return [(EUR, "candles", low, high, spans[n][2]) for low, high, n in shown]


async def look(store, spans, log) -> list[tuple[str, str, int, int, str]]:
    low, high = min(s[0] for s in spans), max(s[1] for s in spans)
    async with store.factory()(seams()) as sink:
        await sink.open(LOG_ID)
        await sink.write(SinkBatch(groups=tuple(log.groups), marks={2: (0, len(log.groups))}))
        assert (await sink.audit(low, high)).mismatches == ()
        totals = await sink.totals(LOG_ID, {2: len(log.groups)})
        assert totals.kinds["coverage"].duplicated == 0
    return await store.coverage()


@pytest.mark.parametrize("begin", [T0, MOON_LANDING // DAY * DAY], ids=["2014", "1969"])
async def test_records_over_many_days_give_disjoint_intervals_with_the_newest_word(store, begin):
    draw = random.Random(5)
    spans = [(begin - 3 * DAY, begin + 9 * DAY, "missing"), (begin + 5 * HOUR, begin + 6 * HOUR, "final")]
    for _ in range(60):
        low = begin + draw.randrange(6 * 24) * HOUR
        length = draw.choice([HOUR, 3 * HOUR, DAY, 2 * DAY, 50 * HOUR])
        spans.append((low, low + length, draw.choice(STATUSES)))
    assert await look(store, spans, log_of(spans)) == newest_word(spans, HOUR)


async def test_a_record_that_nothing_hides_is_one_interval_however_long_it_is(store):
    spans = [(T0 - 700 * DAY + HOUR, T0 + HOUR, "missing"), (T0 - DAY, T0, "empty")]
    assert await look(store, spans, log_of(spans)) == newest_word(spans, HOUR)


async def test_the_first_record_of_1969_is_no_double(store):
    spans = [(MOON_LANDING + n * MINUTE, MOON_LANDING + (n + 1) * MINUTE, "final") for n in range(3)]
    assert len(await look(store, spans, log_of(spans))) == 3


async def test_the_view_is_quick_on_a_day_of_live_records_under_a_long_one(store):
    spans = [(T0 - 30 * DAY, T0 + 30 * DAY, "missing")]
    spans += [(T0 + n * 10**9, T0 + (n + 1) * 10**9, "live") for n in range(20_000)]
    records = [
        Coverage(symbol=EUR, kind="candles", source="p", from_ns=a, to_ns=b, status=status) for a, b, status in spans
    ]
    log = LogBuilder()
    log.append([(2, "coverage", coverage_batch(records[:1]))])
    for at in range(1, len(records), 5000):
        log.append([(2, "coverage", coverage_batch(records[at : at + 5000]))])
    began = time.perf_counter()
    found = await look(store, spans, log)
    assert len(found) == 20_002
    assert time.perf_counter() - began < 20


@pytest.mark.parametrize("store", ["postgres"], indirect=True)
async def test_a_slice_replaces_a_part_of_one_that_began_days_before(store):
    log = LogBuilder()
    log.slice(T0, T0 + 3 * DAY, 300)
    log.slice(T0 + 2 * DAY, T0 + 2 * DAY + HOUR, 7)
    async with store.factory()(seams()) as sink:
        await sink.open(LOG_ID)
        for n, group in enumerate(log.groups):
            await sink.write(SinkBatch(groups=(group,), marks={2: (2 * n, 2 * n + 2)}))
        assert (await sink.audit(T0, T0 + 4 * DAY)).mismatches == ()
    inside = [row for row in await store.quotes() if T0 + 2 * DAY <= row[1] < T0 + 2 * DAY + HOUR]
    assert len(inside) == 7
