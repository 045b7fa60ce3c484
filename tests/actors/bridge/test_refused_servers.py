"""Rows that a real PostgreSQL or ClickHouse refuses: exactly they are put aside, the rest is there, and the ledger balances."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from actors.bridge.conservation import verify_sink
from actors.bridge.delivery import Delivery
from actors.market.coverage import Coverage, coverage_batch
from actors.market.schema import content_checksum
from runtime.backoff import Backoff
from runtime.disk import MemoryDisk
from runtime.entropy import SeededEntropy
from runtime.log.dead_letters import DeadLetters
from tests.actors.bridge.test_conservation import counts
from tests.support.bridge import HOUR, LOG_ID, MINUTE, T0, Consumers, LogBuilder, MemoryCursor, log_of_bars, trades
from tests.support.sink_servers import clickhouse_server, postgres_server
from tests.support.sinks import ClickHouseStore, PostgresStore, context, seams

__all__ = ["clickhouse_server", "postgres_server"]

pytestmark = pytest.mark.stack


@pytest.fixture
def store(postgres_server):
    made = PostgresStore(postgres_server.dsn)
    yield made
    made.remove()


async def deliver(log, store, sink: str):
    """Everything, then (letters, ledger by kind, problems)."""
    disk, own, cursor = MemoryDisk(), seams(), MemoryCursor()
    box = DeadLetters(disk=disk, directory=Path("/d"), wall_ns=own.clock.wall_ns, entropy=SeededEntropy(1))
    ctx = context(f"bridge.{sink}", own)
    actor = Delivery(
        sink=store.factory(), consumers=Consumers(log).both, cursor=cursor, letters=box,
        backoff=Backoff(initial_s=0.05, max_s=0.3),
    )  # fmt: skip
    states = own.board.consumers
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(actor.run, ctx)
            while ctx.name not in states or states[ctx.name].verified_position != log.end:  # noqa: ASYNC110
                await trio.sleep(0.01)
            ctx.drain_requested.set()
    entries = box.of_sink(sink)[0]
    found = await verify_sink(
        store.factory(), seams(), log_id=LOG_ID, marks=cursor.cursor.committed, row_counts=counts(log),
        letters=lambda: box.of_sink(sink)[0],
    )  # fmt: skip
    return entries, {line.kind: line for line in found.lines}, found.problems


async def test_postgres_keeps_all_but_the_texts_with_a_nul(store):
    log = LogBuilder()
    for n in range(3):
        start = T0 + n * HOUR
        rows = [(start + i, 1.0 + i, None, "a\0b" if (n, i) in {(1, 7), (2, 0)} else str(i), None) for i in range(50)]
        batch = trades("X:BTCUSD", rows)
        record = Coverage(
            symbol="X:BTCUSD", kind="trades", source="polygon", from_ns=start, to_ns=start + HOUR, status="final",
            rows=50, checksum=content_checksum("trades", batch), request_id="with\0nul",
        )  # fmt: skip
        log.append([(3, "trades", batch), (3, "coverage", coverage_batch([record]))])
    entries, lines, problems = await deliver(log, store, "timescale")
    assert sorted((e.letter.offset, e.letter.row) for e in entries) == [(2, 7), (4, 0)]
    assert all("22021" in e.letter.error for e in entries)
    assert (problems, lines["trades"].stored, lines["trades"].dead_lettered) == ((), 148, 2)


async def test_clickhouse_keeps_all_but_the_candles_that_break_a_constraint(clickhouse_server):
    store = ClickHouseStore(clickhouse_server.dsn)
    async with store.factory()(seams()) as sink:
        await sink.open(LOG_ID)  # makes the tables
    refused = sorted({T0 + 7 * MINUTE, T0 + 2 * HOUR + 59 * MINUTE})
    ms = ", ".join(str(ns // 10**6) for ns in refused)
    await store.sql(f"alter table DB.candles add constraint odd check toUnixTimestamp64Milli(ts) not in ({ms})")
    entries, lines, problems = await deliver(log_of_bars(4), store, "clickhouse")
    assert sorted(e.letter.row for e in entries) == [7, 59]
    assert all("469" in e.letter.error for e in entries)
    assert (problems, lines["candles"].stored, lines["candles"].dead_lettered) == ((), 238, 2)
