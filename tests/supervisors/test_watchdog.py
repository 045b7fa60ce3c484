"""Progress deadlines and who held the loop (4.3, 4.11, must-show 4)."""

from __future__ import annotations

from functools import partial

import attrs
import pytest
import trio

from actors.buffer.buffer import Buffer
from actors.buffer.memory import MemoryCommitLog
from runtime.actor import offload_inline
from runtime.errors import UnstoppableChild
from runtime.log.appender import Appender, AppendRequest
from runtime.log.types import FrameDraft, GroupDraft
from runtime.mailbox import Mailbox
from runtime.settings import Settings
from supervisors.engine.child import ChildSpec, walk
from supervisors.engine.events import EventKind
from supervisors.engine.watchdog import LoopHold
from supervisors.tree import PROGRESS_S, build_spec

FRAME = FrameDraft(partition=0, kind="quotes", body=b"x", rows=1, event_time_ns_min=0, event_time_ns_max=0)
DRAFT = GroupDraft(producer="p", sequence=1, producer_position=b"1", frames=(FRAME,))


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


@pytest.mark.parametrize("held_s", [130.0, 0.0])
async def test_who_could_not_move_because_the_loop_was_held_is_not_stalled(
    autojump_clock, world, held_s: float
) -> None:
    """Only its owner was to blame; an actor that then still does not move has its whole deadline again."""

    async def run(ctx) -> None:
        ctx.ready()
        ctx.progress()
        await ctx.drain_requested.wait()

    async def holds(ctx) -> None:
        ctx.ready()
        await trio.sleep(20)
        autojump_clock.jump(held_s)
        await ctx.drain_requested.wait()

    innocent = world.child("innocent", world.actor(run), progress_timeout_s=120.0)
    async with world.running(world.sup("root", "one_for_one", innocent, world.child("holds", world.actor(holds)))):
        await trio.sleep(20 + held_s + 10)
        assert world.admin.late() == ()
        assert world.child_state("innocent").restarts == 0
        await trio.sleep(120)
        assert world.child_state("innocent").restarts == 1


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


async def test_the_products_buffer_waits_for_appends_without_being_stalled(autojump_clock, world) -> None:
    def make() -> Buffer:
        return Buffer(log=MemoryCommitLog(), inbox=Mailbox("appends", 4))

    child = world.child("buffer", make, progress_timeout_s=PROGRESS_S)
    async with world.running(world.sup("root", "one_for_one", child)):
        await trio.sleep(10 * PROGRESS_S)
        assert world.child_state("buffer").restarts == 0


async def test_the_products_buffer_is_stalled_when_a_commit_hangs(autojump_clock, world) -> None:
    inbox: Mailbox[AppendRequest] = Mailbox("appends", 4)
    log = MemoryCommitLog()
    hung = []

    async def hang_once(fn, *, limiter=None):
        """The first commit is done and never answers."""
        result = await offload_inline(fn)
        if log.commits and not hung:
            hung.append(fn)
            await trio.sleep_forever()
        return result

    world.seams = attrs.evolve(world.seams, offload=hang_once)
    child = world.child("buffer", lambda: Buffer(log=log, inbox=inbox), progress_timeout_s=PROGRESS_S)
    async with world.running(world.sup("root", "one_for_one", child)):
        await Appender(inbox=inbox, lookup=log.producer).submit(DRAFT)
        await trio.sleep(PROGRESS_S + 20)
        assert world.child_state("buffer").restarts == 1
        assert "ActorStalled" in world.child_state("buffer").last_exit


def test_every_actor_of_the_product_that_holds_work_has_a_deadline() -> None:
    """Embedded servers hold none: they are outages of a dependency."""
    specs = [spec for _, spec in walk(build_spec(Settings())) if isinstance(spec, ChildSpec)]
    without = {spec.id for spec in specs if spec.progress_timeout_s is None}
    assert all(name.startswith("embedded.") for name in without), without
    vendor = next(spec for spec in specs if spec.id == "downloader.history")
    assert vendor.progress_timeout_s >= 120
