"""A delivery under weather: whatever breaks, a reader sees every row once, and an outage is no crash."""

from __future__ import annotations

import attrs
import pytest
import trio

from actors.bridge.delivery import Pace
from actors.bridge.memory import MemorySink
from actors.bridge.plan import Coalescing, Lane
from actors.market.coverage import Coverage, coverage_batch
from runtime.board import DependencyState
from runtime.errors import ConfigError, LogFull
from runtime.log.cursor import Cursor
from tests.support.bridge import EUR, HOUR, LOG_ID, MINUTE, T0, LogBuilder, candles
from tests.support.sinks import in_order, quotes_of


def fill(log: LogBuilder, slices: int, rows: int = 50) -> None:
    for i in range(slices):
        n = len(log.groups)
        log.slice(T0 + n * HOUR, T0 + (n + 1) * HOUR, rows + i % 7)


def bars(log: LogBuilder, groups: int) -> None:
    for _ in range(groups):
        n = len(log.groups)
        rows = [{"ts_ns": T0 + (n * 10 + i) * MINUTE, "revision": n + 1, "close": float(i)} for i in range(10)]
        record = Coverage(symbol=EUR, kind="candles", source="p", from_ns=T0, to_ns=T0 + HOUR, status="final")
        log.append([(2, "candles", candles(rows)), (2, "coverage", coverage_batch([record]))])


def seen(rig) -> list[tuple]:
    table = rig.db.ticks("quotes").select(["symbol", "ts_ns", "bid", "ask", "accepted_at", "seq"])
    return list(zip(*(c.to_pylist() for c in table.columns), strict=True))


def expected(log: LogBuilder) -> list[tuple]:
    return in_order([row for group in log.groups for row in quotes_of(group)])


def bars_seen(rig) -> list[tuple]:
    return [(r["ts_ns"], r["close"], r["revision"]) for r in rig.db.candles_latest()]


def bars_expected(log: LogBuilder) -> list[tuple]:
    return [(T0 + (n * 10 + i) * MINUTE, float(i), n + 1) for n in range(len(log.groups)) for i in range(10)]


async def test_everything_in_the_log_is_stored_once_and_read_back(tick_rig, autojump_clock):
    fill(tick_rig.log, 20)
    async with tick_rig.running():
        await tick_rig.wait_verified()
        assert tick_rig.state.caught_up
        assert tick_rig.state.records_stored == sum(f.rows for g in tick_rig.log.groups for f in g.frames)
    assert seen(tick_rig) == expected(tick_rig.log)
    assert tick_rig.cursor.cursor == Cursor(position=tick_rig.log.end, committed={2: 40}, verified={2: 40})
    assert tick_rig.board.dependencies["memory"].state == DependencyState.UP


async def test_rows_that_arrive_at_the_head_are_stored_within_the_linger(tick_rig, autojump_clock):
    async with tick_rig.running():
        await trio.sleep(5)
        for _ in range(3):
            fill(tick_rig.log, 1, rows=2)
            tick_rig.consumer.wake()
            began = trio.current_time()
            await tick_rig.wait(lambda: tick_rig.state.committed_position == tick_rig.log.end)
            assert trio.current_time() - began < 0.1
            await trio.sleep(1)
        await tick_rig.wait_verified(within_s=0.5)


async def test_few_rows_are_put_together_and_many_go_at_once(tick_rig, autojump_clock):
    batches = []
    write = MemorySink.write

    async def counted(self, batch):
        batches.append(sum(f.rows for g in batch.groups for f in g.frames))
        await trio.sleep(0.005)
        return await write(self, batch)

    tick_rig.settings["coalescing"] = Coalescing(rows_min=500, rows_max=1000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemorySink, "write", counted)
        fill(tick_rig.log, 100, rows=100)
        async with tick_rig.running():
            await tick_rig.wait_verified()
    assert max(batches) <= 1000
    assert min(batches[:-1]) >= 500


@pytest.mark.parametrize("fault", ["times_answer_lost", "times_crash_in_write"])
async def test_an_unknown_outcome_never_loses_or_doubles_a_row(tick_rig, bar_rig, fault, autojump_clock):
    for rig, make, see, want in (
        (tick_rig, fill, seen, expected),
        (bar_rig, bars, bars_seen, bars_expected),
    ):
        rig.settings["coalescing"] = Coalescing(rows_min=10, rows_max=120)
        make(rig.log, 30)
        setattr(rig.db.faults, fault, 6)
        async with rig.running():
            await rig.wait_verified()
        assert getattr(rig.db.faults, fault) == 0
        assert see(rig) == want(rig.log)


async def test_an_outage_is_shown_waited_for_and_never_a_crash(tick_rig, autojump_clock):
    fill(tick_rig.log, 3)
    tick_rig.db.faults.down = True
    async with tick_rig.running() as ctx:
        await trio.sleep(120)
        down = tick_rig.board.dependencies["memory"]
        assert (down.state, down.reason) == (DependencyState.DOWN, "memory: down")
        assert tick_rig.board.progress_age_s(ctx.name, trio.current_time()) < 15
        tick_rig.db.faults.down = False
        await tick_rig.wait_verified()
        assert tick_rig.board.dependencies["memory"].state == DependencyState.UP
    assert seen(tick_rig) == expected(tick_rig.log)


async def test_during_an_outage_a_drain_ends_it_at_once(tick_rig, autojump_clock):
    tick_rig.db.faults.down = True
    async with tick_rig.running():
        await trio.sleep(60)
        began = trio.current_time()
    assert trio.current_time() - began < 0.01


async def test_a_drain_finishes_what_is_held_and_stores_the_cursor(tick_rig, autojump_clock):
    tick_rig.settings["pace"] = Pace(cursor_s=1000)
    fill(tick_rig.log, 30)
    async with tick_rig.running():
        await tick_rig.wait(lambda: tick_rig.state is not None)
    assert tick_rig.cursor.cursor.verified == tick_rig.db.state.marks[LOG_ID]
    assert seen(tick_rig) == expected(tick_rig.log)


async def test_the_cursor_is_stored_at_most_once_per_second(tick_rig, autojump_clock):
    async with tick_rig.running():
        for _ in range(50):
            fill(tick_rig.log, 1, rows=1)
            tick_rig.consumer.wake()
            await trio.sleep(0.1)
        stores = tick_rig.cursor.stores
    assert 4 <= stores <= 7


async def test_a_full_disk_under_the_cursor_stops_nothing(tick_rig, autojump_clock):
    fill(tick_rig.log, 3)

    def full(cursor):
        raise LogFull("no space")

    tick_rig.cursor.store = full
    async with tick_rig.running():
        await tick_rig.wait_verified()
    assert seen(tick_rig) == expected(tick_rig.log)


async def test_a_restarted_delivery_reads_back_what_it_had_not_verified(tick_rig, autojump_clock):
    fill(tick_rig.log, 10)
    async with tick_rig.running():
        await tick_rig.wait_verified()
    tick_rig.cursor.cursor = Cursor(committed={2: 20}, verified={2: 6})
    read_back = []
    verify = MemorySink.verify

    async def noted(self, groups, refused):
        read_back.extend(f.offset for g in groups for f in g.frames)
        return await verify(self, groups, refused)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemorySink, "verify", noted)
        tick_rig.board.consumers.clear()
        async with tick_rig.running():
            await tick_rig.wait_verified()
    assert read_back == list(range(6, 20))
    assert seen(tick_rig) == expected(tick_rig.log)


async def test_a_database_that_was_set_back_is_given_what_it_lacks(tick_rig, autojump_clock):
    fill(tick_rig.log, 4)
    async with tick_rig.running():
        await tick_rig.wait_verified()
        backup = tick_rig.db.state
        fill(tick_rig.log, 4)
        tick_rig.consumer.wake()
        await tick_rig.wait_verified()
    tick_rig.db.state = backup
    async with tick_rig.running():
        await trio.sleep(1)
        await tick_rig.wait_verified()
    assert seen(tick_rig) == expected(tick_rig.log)


async def test_a_new_empty_keyed_database_is_filled_from_the_start_even_after_a_crash_before_the_first_write(
    bar_rig, autojump_clock
):
    bars(bar_rig.log, 4)
    async with bar_rig.running():
        await bar_rig.wait_verified()
    bar_rig.db.state = attrs.evolve(bar_rig.db.state, candles=(), coverage=())
    bar_rig.db.log_ids.clear()
    bar_rig.db.faults.times_crash_in_write = 1
    async with bar_rig.running():
        await trio.sleep(1)
        await bar_rig.wait_verified()
    assert bars_seen(bar_rig) == bars_expected(bar_rig.log)


async def test_rows_that_a_keyed_sink_forgot_before_the_read_back_are_sent_again(bar_rig, autojump_clock):
    bars(bar_rig.log, 4)
    write = MemorySink.write
    forgets = iter([True, False])

    async def forgetful(self, batch):
        result = await write(self, batch)
        if next(forgets, False):
            self._db.state = attrs.evolve(self._db.state, candles=())
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemorySink, "write", forgetful)
        async with bar_rig.running():
            await bar_rig.wait_verified()
    assert bars_seen(bar_rig) == bars_expected(bar_rig.log)


async def test_content_that_differs_stops_verified_and_says_so_until_it_is_right(tick_rig, autojump_clock):
    fill(tick_rig.log, 2)
    async with tick_rig.running():
        await tick_rig.wait_verified()
    whole = tick_rig.db.state
    (first, *_) = whole.ticks["quotes"]
    short = attrs.evolve(first, table=first.table.slice(1))
    tick_rig.db.state = attrs.evolve(whole, ticks={"quotes": (short,)})
    tick_rig.cursor.cursor = Cursor()
    tick_rig.board.consumers.clear()
    async with tick_rig.running():
        await trio.sleep(60)
        down = tick_rig.board.dependencies["memory"]
        assert down.state == DependencyState.DOWN
        assert "read-back" in down.reason
        assert tick_rig.state.verified_position == 0
        tick_rig.db.state = whole
        await tick_rig.wait_verified()
        assert tick_rig.board.dependencies["memory"].state == DependencyState.UP


async def test_refused_rows_stop_the_sink_loudly_and_are_not_skipped(tick_rig, autojump_clock):
    fill(tick_rig.log, 2)
    tick_rig.db.faults.poison_symbol = EUR
    async with tick_rig.running():
        await trio.sleep(60)
        down = tick_rig.board.dependencies["memory"]
        assert (down.state, "refuses rows" in down.reason) == (DependencyState.DOWN, True)
        assert tick_rig.state.committed_position == 0
        tick_rig.db.faults.poison_symbol = ""
        await tick_rig.wait_verified()
    assert seen(tick_rig) == expected(tick_rig.log)


async def test_frames_that_the_log_lacks_are_named_and_not_skipped(tick_rig, autojump_clock):
    fill(tick_rig.log, 3)
    del tick_rig.log.groups[0]
    async with tick_rig.running():
        await trio.sleep(30)
        assert "goes on at offset 2" in tick_rig.board.dependencies["memory"].reason
    assert seen(tick_rig) == []


async def test_another_logs_database_ends_the_actor_with_a_config_error(tick_rig, autojump_clock):
    tick_rig.db.log_ids.append("f" * 32)
    with pytest.RaisesGroup(pytest.RaisesExc(ConfigError, match="--adopt")):
        async with tick_rig.running():
            await trio.sleep(10)


# --- positive controls: with the protection taken away the oracle above fails


async def run_with_faults(rig) -> None:
    rig.settings["coalescing"] = Coalescing(rows_min=10, rows_max=120)
    fill(rig.log, 30)
    rig.log.slice(T0 + HOUR, T0 + 2 * HOUR, 20, price=1.5)
    rig.db.faults.times_answer_lost = 3
    rig.db.faults.times_crash_in_write = 3
    async with rig.running():
        await trio.sleep(100)


def replaced_expected(log: LogBuilder) -> list[tuple]:
    kept = [row for i, group in enumerate(log.groups) if i != 1 for row in quotes_of(group)]
    return in_order(kept)


async def test_control_unchanged_code_passes_the_mutants_test(tick_rig, autojump_clock):
    await run_with_faults(tick_rig)
    assert seen(tick_rig) == replaced_expected(tick_rig.log)


async def test_mutant_mark_outside_the_transaction_is_caught(tick_rig, monkeypatch, autojump_clock):
    move = MemorySink._move_marks

    def at_once(self, state, batch):
        self._db.state = move(self, state, batch)
        return self._db.state

    monkeypatch.setattr(MemorySink, "_move_marks", at_once)
    await run_with_faults(tick_rig)
    assert seen(tick_rig) != replaced_expected(tick_rig.log)


async def test_mutant_no_deduplication_is_caught(tick_rig, monkeypatch, autojump_clock):
    monkeypatch.setattr(Lane, "_new_partitions", lambda self, group: {f.partition for f in group.frames})
    monkeypatch.setattr(
        MemorySink,
        "_move_marks",
        lambda self, state, batch: attrs.evolve(state, marks={self._log_id: dict(_highs(batch))}),
    )
    tick_rig.cursor.cursor = Cursor()
    await run_with_faults(tick_rig)
    assert len(tick_rig.db.coverage()) != len(tick_rig.db.state.coverage)


def _highs(batch):
    return {p: high for p, (_, high) in batch.marks.items()}.items()


async def test_mutant_compare_and_set_that_ignores_its_result_is_caught(tick_rig, monkeypatch, autojump_clock):
    """Two deliveries of one sink at once, as after a frozen one woke up: the mark must let one batch through."""

    def careless(self, state, batch):
        marks = self._marks | dict(_highs(batch))
        return attrs.evolve(state, marks={self._log_id: marks})

    async def rivals() -> int:
        tick_rig.log.append(fill_live())
        fill(tick_rig.log, 2)
        async with tick_rig.running():
            await trio.sleep(5)
            backup = tick_rig.db.state
            stale = MemorySink(tick_rig.sink)
            await stale.open(LOG_ID)
            batch = batch_of_all(tick_rig.log)
            try:
                await stale.write(batch)
            finally:
                rows = len(seen(tick_rig))
                tick_rig.db.state = backup
        return rows

    monkeypatch.setattr(MemorySink, "_move_marks", careless)
    assert await rivals() > len(expected(tick_rig.log))


def fill_live():
    from tests.support.bridge import quotes

    return [(0, "quotes", quotes(EUR, [T0 + 7, T0 + 9]))]


def batch_of_all(log):
    from actors.bridge.port import SinkBatch

    return SinkBatch(groups=tuple(log.groups), marks={0: (0, 1), 2: (0, 4)})


async def test_mutant_slice_without_the_delete_is_caught(tick_rig, monkeypatch, autojump_clock):
    monkeypatch.setattr(MemorySink, "_delete", lambda self, state, step: (state, 0))
    await run_with_faults(tick_rig)
    assert seen(tick_rig) != replaced_expected(tick_rig.log)
    assert "read-back" in tick_rig.board.dependencies["memory"].reason


async def test_mutant_skip_on_outage_is_caught(tick_rig, monkeypatch, autojump_clock):
    from actors.bridge import delivery

    begin = delivery._Session._begin

    async def skipping(self, sink):
        intake = await begin(self, sink)
        for consumer in self.delivery.consumers:
            consumer.seek(consumer.end())
        return intake

    monkeypatch.setattr(delivery._Session, "_begin", skipping)
    await run_with_faults(tick_rig)
    assert seen(tick_rig) != replaced_expected(tick_rig.log)


async def test_an_older_copy_of_a_keyed_database_is_filled_up_again(bar_rig, autojump_clock):
    bars(bar_rig.log, 3)
    async with bar_rig.running():
        await bar_rig.wait_verified()
    older = bar_rig.db.state
    bars(bar_rig.log, 5)
    async with bar_rig.running():
        await bar_rig.wait_verified()
    whole = bars_seen(bar_rig)
    bar_rig.db.state = older
    bar_rig.board.consumers.clear()
    async with bar_rig.running():
        await bar_rig.wait_verified()
    assert bars_seen(bar_rig) == whole == bars_expected(bar_rig.log)
    assert bar_rig.cursor.cursor.verified == {2: 16}


async def test_a_sink_that_trusts_the_cursor_alone_does_not_notice_an_older_copy(bar_rig, autojump_clock, monkeypatch):
    """The control: without the marks beside the rows it ends well and is not."""

    async def believes(self, verified):
        return verified

    monkeypatch.setattr(MemorySink, "confirmed", believes)
    bars(bar_rig.log, 3)
    async with bar_rig.running():
        await bar_rig.wait_verified()
    older = bar_rig.db.state
    bars(bar_rig.log, 5)
    async with bar_rig.running():
        await bar_rig.wait_verified()
    bar_rig.db.state = older
    bar_rig.board.consumers.clear()
    async with bar_rig.running():
        await bar_rig.wait_verified()
    assert bars_seen(bar_rig) != bars_expected(bar_rig.log)
