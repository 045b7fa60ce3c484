"""The ledger balances, and says so when it does not."""

from __future__ import annotations

import json

import attrs
import pytest

from actors.bridge.conservation import ledger, verify_sink
from actors.bridge.port import KindTotals, Mismatch, SinkBatch, SinkTotals, VerifyResult
from actors.bridge.rows import counted_as
from tests.support.bridge import EUR, HOUR, LOG_ID, MINUTE, T0, LogBuilder, log_of_bars, quotes
from tests.support.sink_servers import clickhouse_server, postgres_server
from tests.support.sinks import ClickHouseStore, PostgresStore, seams

__all__ = ["clickhouse_server", "postgres_server"]


@pytest.fixture
def database(postgres_server):
    """An empty one."""
    found = PostgresStore(postgres_server.dsn)
    yield found
    found.remove()


FINE = VerifyResult(rows_checked=0, mismatches=())


def report(found: KindTotals, *, accepted: int, below: int, audit: VerifyResult = FINE):
    return ledger(
        sink="s", log_id=LOG_ID, accepted={(0, "quotes"): accepted, (1, "candles"): 7}, below={(0, "quotes"): below},
        totals=SinkTotals(marks={0: 1}, kinds={"quotes": found}), audit=audit,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("found", "accepted", "below", "pending", "unaccounted", "duplicated"),
    [
        (KindTotals(stored=100), 100, 100, 0, 0, 0),
        (KindTotals(stored=60, replaced=30), 120, 90, 30, 0, 0),
        (KindTotals(stored=150, before=50), 100, 100, 0, 0, 0),
        (KindTotals(stored=99), 100, 100, 0, 1, 0),
        (KindTotals(stored=101), 100, 100, 0, 0, 1),
        (KindTotals(stored=100, duplicated=3), 100, 100, 0, 3, 3),
        (KindTotals(stored=0), 100, 0, 100, 0, 0),
    ],
)
def test_every_row_is_stored_replaced_pending_or_named(found, accepted, below, pending, unaccounted, duplicated):
    got = report(found, accepted=accepted, below=below)
    (line,) = got.lines
    assert (line.pending, line.unaccounted, line.duplicated) == (pending, unaccounted, duplicated)
    assert got.ok == (unaccounted == duplicated == 0)
    inside = line.stored - line.before + line.replaced + line.pending + line.unaccounted - line.duplicated
    assert line.accepted == inside


def test_a_slice_that_differs_is_a_problem_though_the_counts_balance():
    wrong = Mismatch(partition=-1, offset=-1, what="C:EURUSD quotes [a, b)", rows_expected=3, rows_found=3)
    got = report(KindTotals(stored=5), accepted=5, below=5, audit=VerifyResult(rows_checked=3, mismatches=(wrong,)))
    assert not got.ok
    assert json.loads(json.dumps(got.to_json()))["problems"] == ["C:EURUSD quotes [a, b): 3 rows, expected 3"]


async def test_a_delivered_sink_balances_and_a_meddled_one_does_not(tick_rig, autojump_clock):
    log = tick_rig.log
    for i in range(5):
        log.slice(T0 + i * HOUR, T0 + (i + 1) * HOUR, 20)
    log.slice(T0, T0 + HOUR, 7)
    async with tick_rig.running():
        await tick_rig.wait_verified()
    log.slice(T0 + 9 * HOUR, T0 + 10 * HOUR, 11)

    async def look():
        return await verify_sink(
            tick_rig.sink, seams(), log_id=LOG_ID, marks=tick_rig.cursor.cursor.committed, row_counts=counts(log)
        )

    fine = await look()
    quotes = {line.kind: line for line in fine.lines}["quotes"]
    assert fine.ok
    assert (quotes.accepted, quotes.stored, quotes.replaced, quotes.pending) == (118, 87, 20, 11)
    state = tick_rig.db.state
    blocks = state.ticks["quotes"]
    tick_rig.db.state = attrs.evolve(state, ticks=state.ticks | {"quotes": (*blocks, blocks[-1])})
    assert any("duplicated" in p for p in (await look()).problems)
    shorter = attrs.evolve(blocks[0], table=blocks[0].table.slice(4))
    tick_rig.db.state = attrs.evolve(state, ticks=state.ticks | {"quotes": (shorter, *blocks[1:])})
    problems = (await look()).problems
    assert any("4 rows unaccounted" in p for p in problems)
    assert any("rows or content differ" in p for p in problems)


def log_with_remnants() -> LogBuilder:
    """An hour of 60 rows of which a refetch with other borders replaced the middle half, and live rows after it."""
    log = LogBuilder()
    log.slice(T0, T0 + HOUR, 60)
    log.slice(T0 + HOUR // 4, T0 + 3 * HOUR // 4, 31)
    log.append([(0, "quotes", quotes(EUR, [T0 + 2 * HOUR, T0 + 2 * HOUR + 5]))])
    return log


REMNANTS = [
    (EUR, T0, T0 + 14 * MINUTE + 1, 15),
    (EUR, T0 + 45 * MINUTE, T0 + 2 * HOUR + 6, 17),
]
"""Behind the refetch: the rest of the hour and the live rows, with no audited slice in between."""


async def test_rows_that_no_checksum_covers_are_counted_by_interval(tick_rig, autojump_clock):
    tick_rig.log.groups += log_with_remnants().groups
    tick_rig.log.end = tick_rig.log.groups[-1].end_position
    async with tick_rig.running():
        await tick_rig.wait_verified()
    found = await verify_sink(
        tick_rig.sink, seams(), log_id=LOG_ID, marks=tick_rig.cursor.cursor.committed, row_counts=counts(tick_rig.log)
    )
    assert found.ok
    assert [(u.symbol, u.from_ns, u.to_ns, u.rows) for u in found.unaudited] == REMNANTS


@pytest.mark.stack
async def test_postgres_counts_the_rows_that_no_checksum_covers(database):
    log = log_with_remnants()
    async with database.factory()(seams()) as sink:
        await sink.open(LOG_ID)
        await sink.write(SinkBatch(groups=tuple(log.groups), marks={0: (0, 1), 2: (0, 4)}))

    async def look():
        return await verify_sink(database.factory(), seams(), log_id=LOG_ID, marks={}, row_counts=counts(log))

    found = await look()
    assert found.ok, found.problems
    assert found.rows_audited == 31
    assert [(u.symbol, u.from_ns, u.to_ns, u.rows) for u in found.unaudited] == REMNANTS
    async with database.factory()(seams()) as sink:
        await sink.open(LOG_ID)
        inside = await sink.audit(T0 + HOUR // 4, T0 + 3 * HOUR // 4)
        assert (inside.rows_checked, inside.unaudited) == (31, ())


def counts(log: LogBuilder):
    def row_counts(upto=None):
        found: dict[tuple[int, str], int] = {}
        for group in log.groups:
            for f in group.frames:
                if upto is None or f.offset < upto.get(f.partition, 0):
                    key = (f.partition, counted_as(f.kind, f))
                    found[key] = found.get(key, 0) + f.rows
        return found

    return row_counts


@pytest.mark.stack
async def test_postgres_balances_and_a_deleted_and_a_doubled_row_are_found(database):
    log = LogBuilder()
    for i in range(3):
        log.slice(T0 + i * HOUR, T0 + (i + 1) * HOUR, 20)
    log.slice(T0, T0 + HOUR, 7)
    async with database.factory()(seams()) as sink:
        await sink.open(LOG_ID)
        await sink.write(SinkBatch(groups=tuple(log.groups), marks={2: (0, 8)}))

    async def look():
        return await verify_sink(database.factory(), seams(), log_id=LOG_ID, marks={}, row_counts=counts(log))

    fine = await look()
    assert fine.ok, fine.problems
    await database.sql("delete from market.quotes where ts_ns = (select min(ts_ns) from market.quotes)")
    assert any("1 rows unaccounted" in p for p in (await look()).problems)
    await database.sql(
        "insert into market.quotes select * from market.quotes where ts_ns = (select max(ts_ns) from market.quotes)"
    )
    problems = (await look()).problems
    assert any("stored twice" in p for p in problems)
    assert any("missing or double: 6 rows, expected 7" in p for p in problems)


@pytest.mark.stack
async def test_clickhouse_balances_and_deleted_rows_are_found(clickhouse_server):
    store = ClickHouseStore(clickhouse_server.dsn)
    log = log_of_bars(4)
    marks = {2: 4, 3: 4}
    async with store.factory()(seams()) as sink:
        await sink.open(LOG_ID)
        batch = SinkBatch(groups=tuple(log.groups), marks={2: (0, 4), 3: (0, 4)})
        await sink.write(batch)
        await sink.write(batch)

    async def look():
        return await verify_sink(store.factory(), seams(), log_id=LOG_ID, marks=marks, row_counts=counts(log))

    fine = await look()
    assert fine.ok, fine.problems
    await store.sql("delete from DB.candles where log_offset = 2 and log_partition = 3")
    assert (await look()).problems == ("candles: 60 rows unaccounted",)
