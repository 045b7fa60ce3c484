"""Progress deadlines and who held the loop (4.3, 4.11, must-show 4)."""

from __future__ import annotations

from functools import partial

import pytest
import trio

from runtime.errors import UnstoppableChild
from supervisors.engine.events import EventKind
from supervisors.engine.watchdog import LoopHold


async def moving(ctx) -> None:
    ctx.ready()
    while not ctx.drain_requested.is_set():
        ctx.progress()
        with trio.move_on_after(1):
            await ctx.drain_requested.wait()


async def waiting(ctx) -> None:
    ctx.ready()
    with ctx.waiting("input"):
        await ctx.drain_requested.wait()


async def stuck(ctx) -> None:
    """Holds a batch and does not move."""
    ctx.ready()
    await ctx.drain_requested.wait()


async def test_an_actor_that_holds_work_and_does_not_move_is_restarted(autojump_clock, world) -> None:
    async def run(ctx) -> None:
        await (stuck(ctx) if ctx.incarnation == 1 else moving(ctx))

    child = world.child("a", world.actor(run), progress_timeout_s=10.0)
    async with world.running(world.sup("root", "one_for_one", child, "b")):
        await trio.sleep(9.9)
        assert world.child_state("a").restarts == 0
        await trio.sleep(1)
        assert world.child_state("a").restarts == 1
        assert world.child_state("a").last_exit.startswith("crashed: ActorStalled: root/a made no progress for 10.0 s")
        await trio.sleep(1000)
        assert world.child_state("a").restarts == 1
    assert [k for k in world.kinds("root/a") if k is EventKind.STALLED] == [EventKind.STALLED]


@pytest.mark.parametrize("body", [moving, waiting])
async def test_who_moves_or_waits_for_input_is_not_stalled(autojump_clock, world, body) -> None:
    child = world.child("a", world.actor(body), progress_timeout_s=10.0)
    async with world.running(world.sup("root", "one_for_one", child)):
        await trio.sleep(3600)
        assert world.child_state("a").restarts == 0


async def test_after_waiting_the_deadline_counts_anew(autojump_clock, world) -> None:
    async def run(ctx) -> None:
        ctx.ready()
        with ctx.waiting("input"):
            await trio.sleep(100)
        await ctx.drain_requested.wait()

    child = world.child("a", world.actor(run), progress_timeout_s=10.0)
    async with world.running(world.sup("root", "one_for_one", child)):
        await trio.sleep(109)
        assert world.child_state("a").restarts == 0
        await trio.sleep(2)
        assert world.child_state("a").restarts == 1


async def test_the_systemd_watchdog_can_ask_who_is_late_and_whether_the_root_answers(autojump_clock, world) -> None:
    async def drain(ctx) -> None:
        ctx.ready()
        await ctx.drain_requested.wait()
        await trio.sleep(3)

    child = world.child("a", world.actor(drain), progress_timeout_s=10.0, shutdown_grace_s=4.0)
    async with world.running(world.sup("root", "one_for_one", child, "b")):
        assert world.admin.late() == ()
        await trio.sleep(11)
        assert world.admin.late() == ("a",)
        await world.admin.ping()
        await trio.sleep(4)
        assert world.admin.late() == ()
        assert world.child_state("a").restarts == 1


async def test_a_stalled_child_that_will_not_even_be_cancelled_ends_the_process(autojump_clock, world) -> None:
    release = trio.Event()

    async def run(release: trio.Event, ctx) -> None:
        ctx.ready()
        with trio.CancelScope(shield=True):
            await release.wait()

    child = world.child("a", world.actor(partial(run, release)), progress_timeout_s=10.0)
    with pytest.RaisesGroup(UnstoppableChild):
        async with world.running(world.sup("root", "one_for_one", child, "b"), shutdown_deadline_s=20.0):
            await trio.sleep(1000)
    assert trio.current_time() < 45
    assert world.take() == "+b -b"
    release.set()


async def test_who_holds_the_loop_is_named_with_the_time(world) -> None:
    now = [0.0]
    holds = []
    instrument = LoopHold(lambda: now[0], lambda name, held_s: holds.append((name, held_s)))

    async def run(ctx) -> None:
        ctx.ready()

        async def helper() -> None:
            await trio.lowlevel.checkpoint()
            now[0] += 3.0  # what a blocking call of 3 s does to the clock

        async with trio.open_nursery() as nursery:
            nursery.start_soon(helper)
        await ctx.drain_requested.wait()

    trio.lowlevel.add_instrument(instrument)
    try:
        async with world.running(world.sup("root", "one_for_one", "a", world.child("b", world.actor(run)))):
            pass
    finally:
        trio.lowlevel.remove_instrument(instrument)
    assert holds == [("root/b", 3.0)]
