"""Two lanes into one sink: live first, history not starved, and no slice before the live rows that it replaces."""

from __future__ import annotations

import itertools
import random

import attrs
import pytest
import trio

from actors.bridge import delivery
from actors.bridge.conservation import verify_sink
from actors.bridge.delivery import Pace
from actors.bridge.lanes import BESIDE_LIVE_ROWS_MAX, Lanes, after_marks
from actors.bridge.memory import Memory, MemorySink
from actors.bridge.memory_db import MemoryDatabase
from actors.bridge.plan import Coalescing, Lane
from actors.market.symbols import partition_of
from runtime.errors import ConfigError
from runtime.log.reader import cut_group
from tests.support.bridge import EUR, HOUR, LOG_ID, MINUTE, T0, Consumers, LogBuilder, MemoryCursor
from tests.support.sinks import in_order, quotes_of, seams

STORES = frozenset({"quotes", "trades", "coverage"})
GBP = "C:GBPUSD"
SYMBOLS = (EUR, GBP, "C:USDJPY")
SECOND = 10**9


def lanes_of(log: LogBuilder, marks: dict[int, int] | None = None) -> Lanes:
    n = log.partitions_live
    marks = marks or {}
    both = [
        Lane(stores=STORES, marks={p: o for p, o in marks.items() if p // n == side}, verified={}, start_position=0)
        for side in (0, 1)
    ]
    return Lanes(live=both[0], history=both[1], partitions_live=n)


def offer_all(lanes: Lanes, log: LogBuilder) -> None:
    for lane, side in ((lanes.live, 0), (lanes.history, 1)):
        lane.offer(of_side(log, side))
        lane.look(log.end)


def of_side(log: LogBuilder, side: int) -> list:
    n = log.partitions_live
    partitions = frozenset(range(side * n, side * n + n))
    return [cut for group in log.groups if (cut := cut_group(group, partitions)) is not None]


def history_partition(log: LogBuilder, symbol: str) -> int:
    return partition_of(symbol, log.partitions_live, history=True)


# --- whose turn it is


def test_live_goes_first_whatever_came_first():
    log = LogBuilder()
    log.slice(T0, T0 + HOUR, 100)
    log.live([T0 + HOUR])
    lanes = lanes_of(log)
    offer_all(lanes, log)
    turns = [lanes.take(Coalescing(), 0.0) for _ in range(3)]
    assert [turn and turn.lane for turn in turns] == [lanes.live, lanes.history, None]


def test_while_both_have_work_history_gets_a_tenth_of_the_rows_and_live_the_rest():
    log = LogBuilder()
    for i in range(400):
        log.live([T0 + i * SECOND + k for k in range(100)])
    for i in range(100):
        log.slice(T0 + i * HOUR, T0 + (i + 1) * HOUR, 99, symbol=GBP)
    lanes = lanes_of(log)
    offer_all(lanes, log)
    limits = Coalescing(rows_min=500, rows_max=1000)
    rows = {"live": 0, "history": 0}
    while lanes.live.waiting_rows >= limits.rows_min and lanes.history.waiting_rows:
        turn = lanes.take(limits, 0.0)
        assert turn is not None
        of = "live" if turn.lane is lanes.live else "history"
        rows[of] += sum(f.rows for g in turn.batch.groups for f in g.frames)
    share = rows["history"] / sum(rows.values())
    assert 0.09 <= share <= 0.115, rows


def test_history_saves_up_no_claim_while_it_has_nothing():
    log = LogBuilder()
    for i in range(50):
        log.live([T0 + i * SECOND + k for k in range(100)])
    lanes = lanes_of(log)
    offer_all(lanes, log)
    limits = Coalescing(rows_min=100, rows_max=500)
    for _ in range(5):
        lanes.take(limits, 0.0)
    log.slice(T0, T0 + HOUR, 400, symbol=GBP)
    lanes.history.offer(of_side(log, 1))
    first = lanes.take(limits, 0.0)
    assert first is not None
    assert first.lane is lanes.live


def test_beside_busy_live_a_history_batch_is_short_and_alone_it_is_not():
    log = LogBuilder()
    log.live([T0])
    for i in range(8):
        log.slice(T0 + i * HOUR, T0 + (i + 1) * HOUR, 9_000, symbol=GBP)
    lanes = lanes_of(log)
    offer_all(lanes, log)
    taken = [lanes.take(Coalescing(), now_s) for now_s in (0.0, 0.1, 5.0)]
    rows = [sum(f.rows for g in turn.batch.groups for f in g.frames) for turn in taken if turn is not None]
    assert rows[0] == 1
    assert rows[1] <= BESIDE_LIVE_ROWS_MAX < rows[2]


def test_small_batches_of_a_lane_go_out_at_once_and_then_once_per_linger():
    log = LogBuilder()
    lanes = lanes_of(log)
    limits = Coalescing(linger_s=0.05)
    assert lanes.due_at_s(limits) == float("inf")
    log.live([T0])
    lanes.live.offer(of_side(log, 0))
    assert lanes.due_at_s(limits) <= 10.0
    assert lanes.take(limits, 10.0) is not None
    log.live([T0 + 1])
    lanes.live.offer(of_side(log, 0)[1:])
    assert lanes.due_at_s(limits) == pytest.approx(10.05)
    assert lanes.take(limits, 10.04) is None
    assert lanes.take(limits, 10.06) is not None


def test_a_slice_over_live_rows_waits_for_them_and_others_before_it_do_not():
    log = LogBuilder()
    log.slice(T0 - HOUR, T0, 5)
    log.live([T0 + 1])
    log.live([T0 + 2])
    after = log.live_offset()
    log.slice(T0, T0 + MINUTE, 5, after_offset=after)
    lanes = lanes_of(log)
    lanes.history.offer(of_side(log, 1))
    first = lanes.take(Coalescing(), 0.0)
    assert first is not None
    assert len(first.batch.groups) == 1
    assert lanes.take(Coalescing(), 99.0) is None
    assert lanes.due_at_s(Coalescing()) == float("inf")
    live = of_side(log, 0)
    lanes.live.offer(live[:1])
    assert lanes.take(Coalescing(), 100.0).lane is lanes.live
    assert lanes.take(Coalescing(), 101.0) is None
    lanes.live.offer(live[1:])
    assert lanes.take(Coalescing(), 102.0).lane is lanes.live
    assert lanes.take(Coalescing(), 103.0).lane is lanes.history
    assert after_marks(log.groups[-1], 2) == {partition_of(EUR, 2, history=False): after}


def test_live_rows_that_the_sink_had_before_the_start_need_not_be_read_again():
    log = LogBuilder()
    log.live([T0 + 1])
    log.slice(T0, T0 + MINUTE, 5, after_offset=log.live_offset())
    lanes = lanes_of(log, marks={partition_of(EUR, 2, history=False): 1})
    lanes.history.offer(of_side(log, 1))
    assert lanes.take(Coalescing(), 0.0).lane is lanes.history


def test_a_live_lane_that_is_busy_with_other_symbols_does_not_hold_up_a_slice_that_is_ripe():
    log = LogBuilder()
    log.live([T0 + 1], symbol=EUR)
    log.live([T0 + 1], symbol=GBP)
    log.slice(T0, T0 + MINUTE, 5, after_offset=0)
    lanes = lanes_of(log)
    offer_all(lanes, log)
    assert lanes.take(Coalescing(rows_max=1), 0.0).lane is lanes.live
    assert lanes.live.has_waiting
    lanes.live._taken_at_s = 100.0  # its next batch lingers
    assert lanes.take(Coalescing(), 100.0).lane is lanes.history


# --- any interleaving


def random_log(rng: random.Random) -> LogBuilder:
    """What the buffer appends: no live row of a minute that a slice replaced, each slice over live rows says so."""
    log = LogBuilder()
    replaced: dict[str, set[int]] = {symbol: set() for symbol in SYMBOLS}
    ticks: dict[str, set[int]] = {symbol: set() for symbol in SYMBOLS}
    for _ in range(rng.randrange(8, 40)):
        symbol = rng.choice(SYMBOLS)
        if rng.random() < 0.6:
            open_minutes = [m for m in range(12) if m not in replaced[symbol]]
            times = {T0 + rng.choice(open_minutes) * MINUTE + rng.randrange(60) for _ in range(3) if open_minutes}
            times -= ticks[symbol]
            ticks[symbol] |= times
            beat = (T0, T0 + rng.randrange(1, 200) * SECOND) if rng.random() < 0.5 or not times else None
            log.live(sorted(times), symbol=symbol, beat=beat)
        else:
            low = rng.randrange(12)
            high = rng.randrange(low + 1, 13)
            replaced[symbol] |= set(range(low, high))
            known = {t for t in ticks[symbol] if T0 + low * MINUTE <= t < T0 + high * MINUTE}
            extra = {T0 + rng.randrange(low, high) * MINUTE + rng.randrange(60) for _ in range(2)}
            log.slice(
                T0 + low * MINUTE, T0 + high * MINUTE, sorted(known | extra), symbol=symbol, price=rng.choice([1.0, 2.0]),
                partition=history_partition(log, symbol), after_offset=log.live_offset(symbol),
                status=rng.choice(["live", "final"]),
            )  # fmt: skip
            ticks[symbol] |= extra
    return log


def truth(log: LogBuilder) -> list[tuple]:
    """The groups applied one by one in the order of the log."""
    from actors.market.coverage import coverage_records
    from actors.market.schema import decode

    rows: list[tuple] = []
    for group in log.groups:
        for frame in group.frames:
            if frame.kind == "coverage":
                for r in coverage_records(decode(frame.schema, frame.body)):
                    if r.session is None:
                        rows = [row for row in rows if not (row[0] == r.symbol and r.from_ns <= row[1] < r.to_ns)]
        rows += quotes_of(group)
    return in_order(rows)


def rows_seen(db: MemoryDatabase) -> list[tuple]:
    table = db.ticks("quotes").select(["symbol", "ts_ns", "bid", "ask", "accepted_at", "seq"])
    return list(zip(*(c.to_pylist() for c in table.columns), strict=True))


def doubles_in(db: MemoryDatabase) -> int:
    """Rows beyond the first of their (symbol, time): what a reader would count twice."""
    keys = [
        key
        for block in db.state.ticks.get("quotes", ())
        for key in zip(block.table["symbol"].to_pylist(), block.table["ts_ns"].to_pylist(), strict=True)
    ]
    return len(keys) - len(set(keys))


async def interleaved(seed: int) -> tuple[list[tuple], list[tuple], int]:
    """(what is stored at the end, the truth, doubles that a reader saw on the way) with connections that break."""
    rng = random.Random(seed)
    log = random_log(rng)
    db = MemoryDatabase(keeps_marks=True)
    doubles = 0
    while (marks := db.state.marks.get(LOG_ID, {})) != log.offsets:
        sink = MemorySink(Memory(database=db, stores=STORES))
        await sink.open(LOG_ID)
        lanes = lanes_of(log, marks)
        unread = [of_side(log, 0), of_side(log, 1)]
        for _ in range(rng.randrange(5, 60)):
            side = rng.randrange(2)
            lane = (lanes.live, lanes.history)[side]
            if unread[side] and rng.random() < 0.6:
                count = rng.randrange(1, 4)
                lane.offer(unread[side][:count])
                del unread[side][:count]
            if not unread[side]:
                lane.look(log.end)
            turn = lanes.take(Coalescing(rows_min=2, rows_max=rng.randrange(1, 12)), rng.random())
            if turn is not None:
                await sink.write(turn.batch)
                turn.lane.wrote(turn.batch)
                doubles += doubles_in(db)
    return rows_seen(db), truth(log), doubles


async def test_any_interleaving_of_the_lanes_ends_as_the_log_says_and_never_shows_a_double():
    for seed in range(25):
        stored, wanted, doubles = await interleaved(seed)
        assert doubles == 0, seed
        assert stored == wanted, seed


async def test_mutant_a_slice_before_its_after_mark_is_caught(monkeypatch):
    monkeypatch.setattr(Lanes, "_is_ripe", lambda self, group: True)
    wrong = 0
    for seed in range(8):
        stored, wanted, doubles = await interleaved(seed)
        wrong += doubles > 0 or stored != wanted
    assert wrong > 2


async def test_mutant_a_slice_after_the_live_offset_before_its_mark_is_caught(monkeypatch):
    """Off by one: the slice goes when the live lane stands at its mark and not past it."""
    after = after_marks
    monkeypatch.setattr("actors.bridge.lanes.after_marks", lambda g, n: {p: o - 1 for p, o in after(g, n).items()})
    results = [await interleaved(seed) for seed in range(25)]
    assert any(doubles or stored != wanted for stored, wanted, doubles in results)


# --- the whole delivery


def live_and_slices(log: LogBuilder, hours: int) -> None:
    for hour in range(hours):
        begin = T0 + hour * HOUR
        for minute in range(0, 60, 10):
            log.live(
                [begin + minute * MINUTE + i * SECOND for i in range(20)],
                beat=(begin + minute * MINUTE, begin + (minute + 1) * MINUTE),
            )
            log.live([], beat=(begin + (minute + 1) * MINUTE, begin + (minute + 1) * MINUTE + 7 * SECOND))
        times = [begin + minute * MINUTE + i * SECOND for minute in range(0, 60, 10) for i in range(21)]
        log.slice(begin, begin + HOUR, times, partition=history_partition(log, EUR), after_offset=log.live_offset())


async def poll(db: MemoryDatabase, found: list[int]) -> None:
    """A reader: how many (symbol, ts) it sees twice, at every look."""
    while True:
        found.append(doubles_in(db))
        await trio.sleep(0.02)


@pytest.fixture
def slow_live(tick_rig, monkeypatch):
    """The live consumer is read late: every other look finds nothing, as one into files of nothing but history."""
    read = tick_rig.consumer.live.read
    late_looks = itertools.cycle((True, False))

    async def late(*, bytes_max, wait=True):
        if next(late_looks):
            await trio.sleep(0.07)
            return []
        return await read(bytes_max=bytes_max, wait=wait)

    monkeypatch.setattr(tick_rig.consumer.live, "read", late)
    tick_rig.settings["pace"] = Pace(read_bytes=2_000)
    return tick_rig


async def run_polled(rig) -> list[int]:
    rig.settings["coalescing"] = Coalescing(rows_min=20, rows_max=100)
    live_and_slices(rig.log, 4)
    rig.db.faults.times_answer_lost = 2
    rig.db.faults.times_crash_in_write = 2
    seen: list[int] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(poll, rig.db, seen)
        async with rig.running():
            await rig.wait_verified()
        nursery.cancel_scope.cancel()
    return seen


async def test_a_polling_reader_sees_no_double_while_slices_replace_live_rows(slow_live, autojump_clock):
    seen = await run_polled(slow_live)
    assert max(seen) == 0
    assert len(seen) > 50
    assert rows_seen(slow_live.db) == truth(slow_live.log)


async def test_mutant_without_the_after_mark_the_reader_sees_doubles(slow_live, monkeypatch, autojump_clock):
    monkeypatch.setattr(Lanes, "_is_ripe", lambda self, group: True)
    slow_live.settings["coalescing"] = Coalescing(rows_min=20, rows_max=100)
    live_and_slices(slow_live.log, 4)
    seen: list[int] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(poll, slow_live.db, seen)
        async with slow_live.running():
            await trio.sleep(20)
        nursery.cancel_scope.cancel()
    assert max(seen) > 0


async def test_live_heartbeats_are_kept_once_a_minute_and_the_ledger_balances(tick_rig, autojump_clock):
    log = tick_rig.log
    live_and_slices(log, 2)
    async with tick_rig.running():
        await tick_rig.wait_verified()
    log.live([], beat=(T0, T0 + 3 * SECOND))
    log.live([], beat=(T0, T0 + MINUTE))
    beats = [row.record for row in tick_rig.db.coverage() if row.record.is_heartbeat]
    assert len(beats) == 12
    assert all(beat.to_ns % MINUTE == 0 for beat in beats)
    report = await verify_sink(
        tick_rig.sink, seams(), log_id=LOG_ID, marks=tick_rig.cursor.cursor.committed, row_counts=counts(log)
    )
    assert report.ok, report.problems
    line = {line.kind: line for line in report.lines}["coverage"]
    assert (line.accepted, line.stored, line.replaced, line.pending) == (28, 14, 12, 2)
    gone = attrs.evolve(tick_rig.db.state, coverage=tick_rig.db.state.coverage[1:])
    tick_rig.db.state = gone
    again = await verify_sink(
        tick_rig.sink, seams(), log_id=LOG_ID, marks=tick_rig.cursor.cursor.committed, row_counts=counts(log)
    )
    assert "coverage: 1 rows unaccounted" in again.problems


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


async def test_latency_is_counted_per_group_and_lane(tick_rig, autojump_clock):
    live_and_slices(tick_rig.log, 1)
    tick_rig.settings["coalescing"] = Coalescing(rows_min=10**6)
    async with tick_rig.running() as ctx:
        await tick_rig.wait_verified()
        found = {}
        for metric in ctx.metrics.registry.collect():
            for sample in metric.samples:
                if sample.name == "holdfast_delivery_latency_seconds_count":
                    found[sample.labels["lane"]] = sample.value
    assert found == {"live": 6, "history": 1}


# --- a log that was set back


async def refused(rig) -> str:
    with pytest.RaisesGroup(pytest.RaisesExc(ConfigError)) as caught:
        async with rig.running():
            await trio.sleep(10)
    return str(caught.value.exceptions[0])


@pytest.mark.parametrize("which", ["tick_rig", "bar_rig"])
async def test_a_log_restored_from_an_older_copy_is_refused_and_says_what_to_do(request, which, autojump_clock):
    rig = request.getfixturevalue(which)
    live_and_slices(rig.log, 2)
    async with rig.running():
        await rig.wait_verified()
    older = LogBuilder()
    live_and_slices(older, 1)
    older.live([T0 + HOUR + 5])
    rig.log, rig.consumer, rig.cursor = older, Consumers(older), MemoryCursor()
    text = await refused(rig)
    assert "restored from an older copy" in text
    assert "--adopt" in text
    rig.board.consumers.clear()


async def test_mutant_without_that_check_new_frames_are_dropped_as_duplicates(tick_rig, monkeypatch, autojump_clock):
    monkeypatch.setattr(delivery._Session, "_refuse_a_longer_log", lambda self, reached: None)
    live_and_slices(tick_rig.log, 2)
    async with tick_rig.running():
        await tick_rig.wait_verified()
    older = LogBuilder()
    live_and_slices(older, 1)
    older.live([T0 + HOUR + 5])
    tick_rig.log, tick_rig.consumer, tick_rig.cursor = older, Consumers(older), MemoryCursor()
    tick_rig.board.consumers.clear()
    async with tick_rig.running():
        await trio.sleep(5)
    assert (EUR, T0 + HOUR + 5) not in {row[:2] for row in rows_seen(tick_rig.db)}
