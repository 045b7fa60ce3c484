"""The actor: kill it at every step, start it again, and the log holds the same candles, bit for bit."""

import errno
import json

import msgspec
import pytest
import trio

from actors.aggregator import aggregator, core
from actors.aggregator.aggregator import AggregatorSpec
from runtime.disk import RealDisk
from runtime.errors import InvariantViolation, LogError
from runtime.log.types import ProducerState
from tests.support.aggregator import (
    EUR,
    HOUR,
    MINUTE,
    STATE,
    T0,
    Death,
    MemoryLog,
    Truth,
    World,
    latest,
    quotes,
    slice_frames,
)

EAGER = AggregatorSpec(checkpoint_bytes=0, days_max=1, in_flight_groups_max=3)
"""A checkpoint after every read, one day in memory: every path is taken in a short run."""


def ticks(from_ns, to_ns, price):
    return [(t, price, 1.5) for t in range(from_ns, to_ns, 20 * 10**9)]


def script():
    """Inputs and their truth: two symbols, two days, a correction, a retraction, an edge, the same again."""
    steps = [
        (EUR, T0 + 23 * HOUR, 60, 1.3),
        (EUR, T0 + 24 * HOUR, 60, 1.31),
        ("C:USDJPY", T0, 30, 1.1),
        (EUR, T0 + 24 * HOUR + 15 * MINUTE, 5, 1.29),
        (EUR, T0 + 22 * HOUR, 60, None),
        ("C:USDJPY", T0 + 30 * MINUTE, 30, 1.12),
        (EUR, T0 + 24 * HOUR, 60, 1.31),
        ("C:USDJPY", T0, 15, None),
        ("C:USDJPY", T0, 15, None),
    ]
    frames, truths = [], {EUR: Truth(), "C:USDJPY": Truth()}
    for symbol, start, minutes, price in steps:
        end = start + minutes * MINUTE
        rows = [] if price is None else ticks(start, end, price)
        frames.append(slice_frames(start, end, quotes(rows, symbol=symbol), symbol=symbol))
        truths[symbol].replace(start, end, "polygon", rows)
    return frames, truths


INPUTS, TRUTHS = script()


def outputs(log):
    return [(g.sequence, g.producer_position, g.frames) for g in log.outputs()]


async def undisturbed(**world):
    one = World(**world)
    assert await one.life(INPUTS)
    return one


async def survive(world, death, *, lives_max=20):
    """Live until the work is done; dies once as told."""
    assert not await world.life(INPUTS, death=death)
    for _ in range(lives_max):
        if await world.life(INPUTS):
            return
    raise AssertionError("no life ends")


@pytest.mark.parametrize("spec", [AggregatorSpec(), EAGER])
async def test_an_undisturbed_run_puts_out_the_truth(autojump_clock, spec):
    world = await undisturbed(spec=spec)
    for symbol, truth in TRUTHS.items():
        assert latest(row for row in world.log.rows() if row["symbol"] == symbol) == truth.candles()
    positions = [json.loads(g.producer_position) for g in world.log.outputs()]
    ends = [g.end_position for g in world.log.groups if g.producer == "history"]
    assert [p["input"] for p in positions] == [ends[i] for i in (0, 1, 2, 3, 5, 6, 7)]
    assert [g.sequence for g in world.log.outputs()] == list(range(1, 8))


async def killed_at(spec, step, *, stride=1):
    want = await undisturbed(spec=spec)
    assert want.steps[step] > 6
    for after in range(0, want.steps[step], stride):
        world = World(spec=spec)
        await survive(world, Death(step, after))
        assert outputs(world.log) == outputs(want.log), f"died at {step} number {after}"
        assert [g.end_position for g in world.log.groups] == [g.end_position for g in want.log.groups]


@pytest.mark.parametrize(("step", "stride"), [("before append", 1), ("after append", 1), ("offload", 5), ("disk", 17)])
async def test_killed_at_some_steps_and_restarted_it_puts_out_the_same(autojump_clock, step, stride):
    await killed_at(EAGER, step, stride=stride)


@pytest.mark.slow
@pytest.mark.parametrize("spec", [AggregatorSpec(), EAGER])
@pytest.mark.parametrize("step", ["before append", "after append", "offload", "disk"])
async def test_killed_at_every_step_and_restarted_it_puts_out_the_same(autojump_clock, spec, step):
    await killed_at(spec, step)


@pytest.mark.slow
async def test_killed_again_and_again_it_puts_out_the_same(autojump_clock):
    """Each life dies a little later than the one before: replays are interrupted by deaths."""
    want = await undisturbed(spec=EAGER)
    for step in ("offload", "disk", "after append"):
        world = World(spec=EAGER)
        after = 0
        while not await world.life(INPUTS, death=Death(step, after)):
            after += 1
        assert outputs(world.log) == outputs(want.log)


@pytest.mark.slow
async def test_a_backlog_is_replayed_to_the_same_candles_whatever_the_reads_are(autojump_clock):
    """All inputs are there before the start, so many outputs are in flight at once; positions are the inputs' own."""
    rows = []
    for groups_per_read, spec in ((1, AggregatorSpec()), (3, EAGER), (100, AggregatorSpec())):
        world = World(spec=spec, groups_per_read=groups_per_read)
        for frames in INPUTS:
            world.log.append(frames)
        assert await world.life(INPUTS)
        rows.append(outputs(world.log))
    assert rows[0] == rows[1] == rows[2]
    want = rows[0]
    for step in ("before append", "after append", "offload", "disk"):
        for after in range(0, 100, 3):
            world = World(spec=EAGER)
            for frames in INPUTS:
                world.log.append(frames)
            if await world.life(INPUTS, death=Death(step, after)):
                break
            assert await world.life(INPUTS)
            assert outputs(world.log) == want, f"died at {step} number {after}"


async def test_a_restart_with_everything_done_puts_out_nothing_and_reads_from_the_checkpoint(autojump_clock):
    world = await undisturbed()
    before = outputs(world.log)
    assert await world.life(INPUTS)
    assert outputs(world.log) == before
    state = world.board.consumers["aggregator"]
    assert state.committed_position == state.verified_position == world.log.end


async def test_without_its_state_it_replays_the_log_and_goes_on_as_if_nothing_happened(autojump_clock):
    want = await undisturbed()
    for cut in (1, 5, 8):
        world = World()
        assert await world.life(INPUTS[:cut])
        for name in world.disk.names(STATE):
            world.disk.unlink(STATE / name)
        assert await world.life(INPUTS)
        assert outputs(world.log) == outputs(want.log)


@pytest.mark.parametrize("what", ["checkpoint.json", ".day"])
async def test_damaged_state_is_discarded_and_the_log_replayed(autojump_clock, what):
    want = await undisturbed(spec=EAGER)
    for cut in (1, 4, 7):
        world = World(spec=EAGER)
        assert await world.life(INPUTS[:cut])
        for name in world.disk.names(STATE):
            if name.endswith(what):
                world.disk.flip_bit(STATE / name, 8 * 30 + 1)
        assert await world.life(INPUTS)
        assert outputs(world.log) == outputs(want.log)


async def test_state_of_other_code_or_another_log_is_discarded(autojump_clock, monkeypatch):
    want = await undisturbed()
    world = World()
    assert await world.life(INPUTS[:4])
    monkeypatch.setattr(aggregator, "CODE_VERSION", 99)
    assert await world.life(INPUTS)
    assert [g.frames for g in world.log.outputs()] == [g.frames for g in want.log.outputs()]
    other = World(disk=world.disk, log=MemoryLog(log_id="log-2"))
    assert await other.life(INPUTS)
    assert [g.frames for g in other.log.outputs()] == [g.frames for g in want.log.outputs()]


async def test_a_full_disk_delays_the_checkpoint_and_nothing_else(autojump_clock):
    want = await undisturbed()
    for op in ("write", "sync", "rename", "sync_directory"):
        world = World(spec=EAGER)
        world.disk.fail(op, errno.ENOSPC, after=5, times=9)
        assert await world.life(INPUTS)
        assert outputs(world.log) == outputs(want.log)
        assert await world.life(INPUTS)
        assert outputs(world.log) == outputs(want.log)


async def test_what_is_published_never_promises_more_than_is_durable(autojump_clock):
    world = World(spec=EAGER)
    seen = []

    async def watch():
        while True:
            await trio.sleep(0.05)
            state = world.board.consumers.get("aggregator")
            if state:
                durable = [json.loads(g.producer_position)["input"] for g in world.log.outputs()]
                inputs = [g for g in world.log.groups if g.producer == "history"]
                owed = [g for g in inputs if g.end_position <= state.committed_position]
                causing = {0, 1, 2, 3, 5, 6, 7}
                assert {g.end_position for i, g in enumerate(owed) if i in causing} <= set(durable)
                assert state.verified_position <= state.committed_position <= world.log.end
                seen.append(state.committed_position)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        assert await world.life(INPUTS)
        nursery.cancel_scope.cancel()
    assert len(set(seen)) > 5


async def test_a_position_that_is_not_ours_stops_everything(autojump_clock):
    world = World()
    world.log.producers["aggregator"] = ProducerState(sequence=3, position=b"{}")
    with pytest.raises(ExceptionGroup) as caught:
        await world.life([])
    assert caught.group_contains(InvariantViolation)


async def test_a_second_writer_of_its_sequence_is_noticed(autojump_clock, monkeypatch):
    world = World()
    real = MemoryLog.append

    def taken(self, frames, producer="history", **rest):
        answer = real(self, frames, producer, **rest)
        return msgspec.structs.replace(answer, duplicate=True) if producer == "aggregator" else answer

    monkeypatch.setattr(MemoryLog, "append", taken)
    with pytest.raises(ExceptionGroup) as caught:
        await world.life(INPUTS)
    assert caught.group_contains(LogError)


# Positive controls: take a protection away, and the kills above must find it ---------------------------------------


async def broken_by(step, *, spec=EAGER, backlog=True):
    """True when some death at a `step` ends in other candles or in no end."""
    want = World(spec=spec)
    for frames in INPUTS:
        want.log.append(frames)
    assert await want.life(INPUTS)
    for after in range(want.steps[step]):
        world = World(spec=spec)
        for frames in INPUTS:
            world.log.append(frames)
        try:
            await survive(world, Death(step, after))
        except (AssertionError, ExceptionGroup, trio.TooSlowError):
            return True
        if outputs(world.log) != outputs(want.log):
            return True
    return False


@pytest.mark.slow
async def test_the_harness_finds_nothing_wrong_with_the_real_one(autojump_clock):
    assert not await broken_by("disk")
    assert not await broken_by("before append")


async def test_control_a_checkpoint_before_the_append_loses_candles(autojump_clock, monkeypatch):
    inside = []
    settle, checkpoint = aggregator._Incarnation._settle, aggregator._Incarnation._checkpoint

    async def settle_but_not_for_a_checkpoint(self):
        if not inside:
            await settle(self)

    async def hasty(self):
        inside.append(1)
        try:
            return await checkpoint(self)
        finally:
            inside.pop()

    monkeypatch.setattr(aggregator._Incarnation, "_settle", settle_but_not_for_a_checkpoint)
    monkeypatch.setattr(aggregator._Incarnation, "_checkpoint", hasty)
    assert await broken_by("before append")


async def test_control_a_position_ahead_of_its_days_loses_candles(autojump_clock, monkeypatch):
    """The checkpoint written before the day files: a kill between them leaves days that lack inputs."""
    from actors.aggregator.store import DayStore

    real_days, real_position = DayStore.write_days, DayStore.write_checkpoint

    def early(self, keys):
        real_position(self, 10**12 if not early.at else early.at[-1])
        real_days(self, keys)

    early.at = []
    real_apply = core.Core.apply

    def apply(self, groups, **options):
        applied = real_apply(self, groups, **options)
        if applied.consumed:
            early.at.append(groups[applied.consumed - 1].end_position)
        return applied

    monkeypatch.setattr(core.Core, "apply", apply)
    monkeypatch.setattr(DayStore, "write_days", early)
    assert await broken_by("disk")


async def test_control_a_replay_without_suppression_writes_candles_twice(autojump_clock, monkeypatch):
    real = core.Core.apply
    monkeypatch.setattr(core.Core, "apply", lambda self, groups, *, suppressed_to: real(self, groups, suppressed_to=0))
    assert await broken_by("after append")


async def test_on_real_files_and_threads_it_resumes_from_what_it_wrote(tmp_path):
    world = World(disk=RealDisk(), directory=tmp_path / "state", threads=True)
    assert await world.life(INPUTS[:3])
    names = sorted(path.name for path in (tmp_path / "state").iterdir())
    assert names == [
        "C%3AEURUSD.quotes.16191.day",
        "C%3AEURUSD.quotes.16192.day",
        "C%3AUSDJPY.quotes.16191.day",
        "checkpoint.json",
    ]
    assert await world.life(INPUTS)
    for symbol, truth in TRUTHS.items():
        assert latest(row for row in world.log.rows() if row["symbol"] == symbol) == truth.candles()


async def test_cancelled_while_it_waits_it_ends_at_once(autojump_clock):
    world = World(spec=EAGER, write_s=100.0)
    with trio.move_on_after(7.77) as scope:
        await world.life(INPUTS)
    assert scope.cancelled_caught
    assert trio.current_time() == pytest.approx(7.77, abs=0.01)
