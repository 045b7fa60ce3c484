"""The actor over a live log: killed at every step it puts out the same, bit for bit; what it shows and never says."""

import itertools

import attrs
import numpy as np
import pytest
import trio

from actors.aggregator import aggregator
from actors.aggregator.aggregator import AggregatorSpec
from actors.aggregator.core import Output
from actors.aggregator.day import DayKey
from actors.aggregator.output import candle_batch, frames
from actors.aggregator.views import look_open
from actors.market.candles import TIMEFRAMES
from runtime.disk import RealDisk
from tests.support.aggregator import (
    DAY,
    EUR,
    HOUR,
    LIVE,
    MINUTE,
    T0,
    Death,
    Truth,
    World,
    latest,
    live_frames,
    quotes,
    slice_frames,
)

S = 10**9
EAGER = AggregatorSpec(checkpoint_bytes=0, days_max=1, in_flight_groups_max=3)
"""A checkpoint after every read, one day in memory: every path is taken in a short run."""
YEN = "C:USDJPY"
START = T0 + DAY - 3 * MINUTE


def script():
    """Inputs and their truth: two streams over midnight, late rows, a gap, slices over live rows, a confirmation."""
    rng = np.random.default_rng(11)
    inputs, truths = [], {EUR: Truth(), YEN: Truth()}

    def live(symbol, rows, beat):
        inputs.append(live_frames(quotes(rows, symbol=symbol) if rows else None, beat, symbol=symbol))
        truths[symbol].add("polygon", rows)
        if beat:
            truths[symbol].beat(*beat)

    def slice_(symbol, start, minutes, rows, *, final):
        end = start + minutes * MINUTE
        inputs.append(slice_frames(start, end, quotes(rows, symbol=symbol), symbol=symbol, final=final))
        truths[symbol].replace(start, end, "polygon", rows, final=final)

    def some(start, count):
        return [
            (start + int(second) * S, round(1.3 + int(price) / 1000, 3), 1.5)
            for second, price in rng.integers(0, 40, (count, 2))
        ]

    for step in range(12):
        now = START + step * 40 * S
        live(EUR, some(now, 5), (now // MINUTE * MINUTE, now + 39 * S) if step % 3 else None)
        if step % 2:
            live(YEN, some(now - step * MINUTE, 3), (now // MINUTE * MINUTE, now + 20 * S))
        if step == 5:
            slice_(EUR, START, 2, some(START, 9), final=False)
        if step == 7:
            slice_(YEN, START, 5, some(START, 4), final=True)
            live(YEN, some(START, 2), None)
        if step == 9:
            slice_(EUR, START, 2, some(START, 9), final=True)
    late = T0 + DAY + HOUR
    live(EUR, [], (late, late + MINUTE))
    live(EUR, some(START, 2), (late + MINUTE, late + 2 * MINUTE))
    slice_(EUR, T0 + DAY - 15 * MINUTE, 15, some(START, 20), final=True)
    return inputs, truths


INPUTS, TRUTHS = script()


def outputs(log):
    return [(g.sequence, g.producer_position, g.frames) for g in log.outputs()]


async def undisturbed(inputs=None, **world):
    one = World(**world)
    assert await one.life(INPUTS if inputs is None else inputs)
    return one


@pytest.mark.parametrize("spec", [AggregatorSpec(), EAGER])
async def test_an_undisturbed_run_puts_out_the_truth(autojump_clock, spec):
    world = await undisturbed(spec=spec)
    for symbol, truth in TRUTHS.items():
        assert latest(row for row in world.log.rows() if row["symbol"] == symbol) == truth.candles()
    causes = [g.producer_position for g in world.log.outputs()]
    assert len(causes) == len(set(causes)), "at most one output group per input group"
    kinds = {(row["timeframe"], row["final"]) for row in world.log.rows()}
    assert {("1m", True), ("1m", False), ("15m", True), ("1d", False)} <= kinds


async def killed_at(spec, step, *, stride=1, backlog=False):
    want = World(spec=spec)
    if backlog:
        for one in INPUTS:
            want.log.append(one)
    assert await want.life(INPUTS)
    for after in range(0, want.steps[step], stride):
        world = World(spec=spec)
        if backlog:
            for one in INPUTS:
                world.log.append(one)
        died = not await world.life(INPUTS, death=Death(step, after))
        assert died or backlog
        for _ in range(20):
            if not died or await world.life(INPUTS):
                break
        assert outputs(world.log) == outputs(want.log), f"died at {step} number {after}"


@pytest.mark.parametrize(
    ("step", "stride"), [("before append", 13), ("after append", 13), ("offload", 47), ("disk", 211)]
)
async def test_killed_at_some_steps_and_restarted_it_puts_out_the_same(autojump_clock, step, stride):
    await killed_at(EAGER, step, stride=stride)


@pytest.mark.slow
@pytest.mark.parametrize("backlog", [False, True])
@pytest.mark.parametrize("spec", [AggregatorSpec(), EAGER])
@pytest.mark.parametrize("step", ["before append", "after append", "offload", "disk"])
async def test_killed_at_many_steps_and_restarted_it_puts_out_the_same(autojump_clock, spec, step, backlog):
    await killed_at(spec, step, backlog=backlog, stride={"disk": 11, "offload": 5}.get(step, 2))


async def test_without_its_state_it_replays_the_log_and_goes_on_as_if_nothing_happened(autojump_clock):
    want = await undisturbed()
    for cut in (3, 9, 17):
        world = World()
        assert await world.life(INPUTS[:cut])
        await world_without_state(world)
        assert await world.life(INPUTS)
        assert outputs(world.log) == outputs(want.log)


async def world_without_state(world):
    for name in world.disk.names(world.directory):
        world.disk.unlink(world.directory / name)


async def test_stopped_and_started_between_any_two_inputs_it_puts_out_the_same(autojump_clock):
    """A stop is no end of a candle: what is open stays open."""
    want = await undisturbed()
    world = World()
    for cut in range(1, len(INPUTS) + 1):
        assert await world.life(INPUTS[:cut])
    assert outputs(world.log) == outputs(want.log)


async def test_a_lateness_changed_while_it_was_down_loses_no_candle(autojump_clock):
    """Killed with outputs behind its checkpoint, started with another lateness: those are replayed with their own."""
    minutes = [
        live_frames(quotes([(T0 + i * MINUTE, 1.3, 1.4)]), (T0 + i * MINUTE, T0 + (i + 1) * MINUTE)) for i in range(8)
    ]
    for before, after in ((90.0, 2.0), (2.0, 90.0)):
        world = World(spec=AggregatorSpec(lateness_s=before, checkpoint_interval_s=1e9, idle_s=1e9, timeframes=("1m",)))
        assert not await world.life(minutes, death=Death("after append", 4))
        world.spec = attrs.evolve(world.spec, lateness_s=after)
        last = live_frames(None, (T0 + 8 * MINUTE, T0 + 8 * MINUTE + 100 * S))
        assert await world.life([*minutes, last])
        bids = [row["ts_ns"] for row in world.log.rows() if row["basis"] == "bid"]
        assert bids == [T0 + i * MINUTE for i in range(8)]


# Open candles ------------------------------------------------------------------------------------------------------


async def test_open_candles_are_on_the_board_at_most_every_250_ms(autojump_clock):
    world = World(spec=AggregatorSpec(timeframes=("1m",), bases=("bid",)))
    groups = [
        live_frames(quotes([(T0 + i * S // 10, round(1.3 + i / 1000, 3), 1.9)]), (T0, T0 + i * S // 10 + 1))
        for i in range(300)
    ]
    seen = []

    async def watch():
        while True:
            await trio.sleep(0.01)
            shown = world.board.open_candles.get(EUR)
            if shown and (not seen or shown is not seen[-1][1]):
                seen.append((trio.current_time(), shown))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        assert await world.life(groups)
        nursery.cancel_scope.cancel()
    times = [at for at, _ in seen]
    assert len(times) > 5
    assert min(b - a for a, b in itertools.pairwise(times)) >= 0.24
    (bar,) = seen[-2][1].bars
    assert (bar.timeframe, bar.basis, bar.ts_ns, bar.open) == ("1m", "bid", T0, 1.3)
    assert bar.ticks > 250
    assert not world.log.outputs()


async def test_the_last_change_is_shown_even_when_nothing_follows(autojump_clock, monkeypatch):
    real = World._caught_up

    async def and_wait(self):
        await real(self)
        await trio.sleep(0.1 if len(self.log.groups) < 2 else 10)

    monkeypatch.setattr(World, "_caught_up", and_wait)
    world = World(spec=AggregatorSpec(timeframes=("1m",), bases=("bid",)))
    first = live_frames(quotes([(T0, 1.3, 1.5)]), (T0, T0 + S))
    second = live_frames(quotes([(T0 + S, 1.4, 1.5)]), (T0, T0 + 2 * S))
    seen = []

    async def watch():
        await trio.sleep(3.0)
        seen.append(world.board.open_candles[EUR].bars[0].close)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        nursery.start_soon(world.life, [first, second])
        await trio.sleep(3.1)
        nursery.cancel_scope.cancel()
    assert seen == [1.4]


# Positive controls -------------------------------------------------------------------------------------------------


async def test_control_open_candles_finalised_at_shutdown(autojump_clock, monkeypatch):
    real = aggregator._Incarnation.run

    async def finalising(self):
        await real(self)
        store = self.core.store
        for (symbol, kind), stream in store.streams.items():
            for number in stream.open_days:
                day, low = store.get(DayKey(symbol, kind, number)), stream.closed_to(number)
                views = [v for tf in TIMEFRAMES for v in look_open(day, tf, low, 1440, closed_to=low) if len(v)]
                if views:
                    drafts = frames(candle_batch(symbol, views, revision=self.sequence), LIVE)
                    await self._send(Output(input_end=self.applied_to, frames=drafts, rows=1), self.applied_to)
        await self._settle()

    want = await undisturbed()
    monkeypatch.setattr(aggregator._Incarnation, "run", finalising)
    world = World()
    for cut in range(1, len(INPUTS) + 1, 5):
        assert await world.life(INPUTS[:cut])
    assert await world.life(INPUTS)
    assert outputs(world.log) != outputs(want.log)


async def test_control_days_that_forget_their_last_input_double_live_rows(autojump_clock, monkeypatch):
    from actors.aggregator.store import DayStore

    real = DayStore.touched
    monkeypatch.setattr(DayStore, "touched", lambda self, day, end: real(self, day, 0))
    with pytest.raises(AssertionError):
        await killed_at(EAGER, "disk", stride=11)


async def test_control_watermarks_outside_of_the_checkpoint_lose_candles(autojump_clock, monkeypatch):
    from actors.aggregator import store

    real = store._StreamRecord.of
    empty = store.Stream()
    monkeypatch.setattr(store._StreamRecord, "of", lambda symbol, kind, stream: real(symbol, kind, empty))
    with pytest.raises(AssertionError):
        await killed_at(EAGER, "disk", stride=11)


async def test_on_real_files_and_threads_it_resumes_from_what_it_wrote(tmp_path):
    world = World(disk=RealDisk(), directory=tmp_path / "state", threads=True)
    assert await world.life(INPUTS[:9])
    assert await world.life(INPUTS)
    for symbol, truth in TRUTHS.items():
        assert latest(row for row in world.log.rows() if row["symbol"] == symbol) == truth.candles()
