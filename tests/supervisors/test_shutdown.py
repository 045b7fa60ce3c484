"""How a tree ends: asked, cancelled, fatally, and against children that will not stop (2.2-2.4, must-show 4)."""

from __future__ import annotations

from functools import partial

import pytest
import trio

from runtime.errors import (
    ConfigError,
    InvariantViolation,
    LogSyncFailed,
    RestartIntensityExceeded,
    StartFailed,
    UnstoppableChild,
)
from supervisors.engine import life
from supervisors.engine.child import Restart
from supervisors.engine.events import EventKind
from supervisors.engine.life import Life
from tests.supervisors.conftest import World


async def ignore_everything(release: trio.Event, ctx) -> None:
    ctx.ready()
    with trio.CancelScope(shield=True):
        await release.wait()


@pytest.fixture
async def release():
    """Ends what nothing else ends, also when the test fails: Trio would wait for ever."""
    event = trio.Event()
    yield event
    event.set()


async def test_cancelling_the_tree_from_outside_is_the_same_ordered_stop(autojump_clock, world) -> None:
    with trio.move_on_after(10):
        await world.run(world.sup("root", "one_for_one", "a", world.sup("inner", "one_for_one", "b", "c")))
    assert world.take() == "+a +b +c -c -b -a"


async def test_a_child_finishes_what_it_holds_within_its_grace(autojump_clock, world) -> None:
    done = []

    async def drain(ctx) -> None:
        await trio.sleep(4.9)
        done.append(trio.current_time())

    world.on_drain["a"] = drain
    async with world.running(world.sup("root", "one_for_one", world.child("a", shutdown_grace_s=5.0))):
        pass
    assert done == [pytest.approx(4.9)]
    assert world.kinds("root/a") == [EventKind.STARTED, EventKind.STOPPED]


async def test_after_its_grace_a_child_is_cancelled_with_a_reason(autojump_clock, world) -> None:
    seen = []

    async def run(ctx) -> None:
        ctx.ready()
        try:
            await trio.sleep_forever()
        except trio.Cancelled as cancelled:
            seen.append((trio.current_time(), str(cancelled)))
            raise

    spec = world.child("a", world.actor(run), shutdown_grace_s=3.0)
    async with world.running(world.sup("root", "one_for_one", spec)):
        pass
    ((at, text),) = seen
    assert at == pytest.approx(3.0)
    assert "root/a did not stop within 3.0 s" in text
    assert world.kinds("root/a")[-1] is EventKind.STOP_FAILED  # OTP: killed after the timeout is a shutdown_error


async def test_no_grace_means_cancelled_at_once_and_that_is_no_error(autojump_clock, world) -> None:
    async def run(ctx) -> None:
        ctx.ready()
        await trio.sleep_forever()

    spec = world.child("a", world.actor(run), shutdown_grace_s=0)
    async with world.running(world.sup("root", "one_for_one", spec)):
        pass
    assert trio.current_time() < 0.01
    assert world.kinds("root/a")[-1] is EventKind.STOPPED


async def test_an_unstoppable_child_is_named_with_its_stack_and_the_siblings_still_stop(
    autojump_clock, world, release
) -> None:
    bad = world.child("bad", world.actor(partial(ignore_everything, release)))
    with pytest.RaisesGroup(pytest.RaisesExc(UnstoppableChild, match=r"root/bad did not stop.*ignore_everything")):
        async with world.running(world.sup("root", "one_for_one", "a", bad, "c")):
            pass
    assert world.take() == "+a +c -c -a"
    assert world.kinds("root/bad")[-2:] == [EventKind.UNSTOPPABLE, EventKind.FATAL]
    assert world.state("bad") == "FAILED"
    assert trio.current_time() == pytest.approx(7.1, abs=0.2)  # 5 s grace, 2 s after the cancel


async def test_a_registered_shield_is_opened_before_giving_up(autojump_clock, world) -> None:
    async def run(ctx) -> None:
        ctx.ready()
        with ctx.shielded(3600.0):
            await trio.sleep_forever()

    async with world.running(world.sup("root", "one_for_one", "a", world.child("s", world.actor(run)))):
        pass
    assert trio.current_time() == pytest.approx(7.0, abs=0.1)


async def test_no_twin_is_started_beside_an_unstoppable_child(autojump_clock, world, release) -> None:
    starts = []

    async def run(ctx) -> None:
        starts.append(ctx.incarnation)
        await ignore_everything(release, ctx)

    spec = world.sup("root", "one_for_all", "a", world.child("bad", world.actor(run)))
    with pytest.RaisesGroup(UnstoppableChild):
        async with world.running(spec):
            await world.crash("a")
            await trio.sleep(60)
    assert starts == [1]


@pytest.mark.parametrize("how", ["group restart", "by hand"])
async def test_no_twin_is_started_by_a_new_supervisor_nor_by_hand(autojump_clock, world, release, how: str) -> None:
    """The supervisor of the stuck child is restarted with its siblings while the tree stops elsewhere (chaos, seed 383)."""
    starts = []

    async def run(ctx) -> None:
        starts.append(ctx.incarnation)
        await ignore_everything(release, ctx)

    async def slow(ctx) -> None:
        await trio.sleep(4)

    world.on_drain["late"] = slow
    inner = world.sup("inner", "one_for_one", world.child("bad", world.actor(run), shutdown_grace_s=1.0))
    group = world.sup("group", "one_for_all", "a", inner)
    with pytest.RaisesGroup(UnstoppableChild):
        async with world.running(world.sup("root", "one_for_one", group, "late")):
            if how == "group restart":
                await world.crash("a")
            else:
                await world.admin.terminate_child("root/group/inner", "bad")
                with pytest.raises(StartFailed, match="an incarnation of root/group/inner/bad still lives"):
                    await world.admin.restart_child("root/group/inner", "bad")
            await trio.sleep(60)
    assert starts == [1]


async def test_the_whole_stop_keeps_its_deadline_however_many_children_are_slow(autojump_clock, world) -> None:
    async def slow(ctx) -> None:
        await trio.sleep(60)

    names = [f"c{i}" for i in range(20)]
    for name in names:
        world.on_drain[name] = slow
    async with world.running(
        world.sup("root", "one_for_one", *(world.child(n, shutdown_grace_s=30.0) for n in names)),
        shutdown_deadline_s=10.0,
    ):
        pass
    assert trio.current_time() <= 10.0
    assert {world.state(n) for n in names} == {"STOPPED"}


async def test_twenty_unstoppable_children_cannot_stretch_the_deadline(autojump_clock, world, release) -> None:
    specs = [world.child(f"c{i}", world.actor(partial(ignore_everything, release))) for i in range(20)]
    with pytest.RaisesGroup(UnstoppableChild):
        async with world.running(world.sup("root", "one_for_one", *specs), shutdown_deadline_s=10.0):
            pass
    assert trio.current_time() <= 10.2


@pytest.mark.parametrize("kind", [LogSyncFailed, InvariantViolation, ConfigError])
async def test_a_fatal_error_stops_the_rest_in_order_and_is_raised_itself(autojump_clock, world, kind) -> None:
    flow = world.sup("flow", "one_for_one", "bridge", "ingest")
    spec = world.sup("root", "rest_for_one", "buffer", flow)
    with pytest.RaisesGroup(kind):
        async with world.running(spec, fatal=(LogSyncFailed, InvariantViolation, ConfigError)):
            world.take()
            await world.crash("buffer", ExceptionGroup("inside a nursery", [OSError("x"), kind("disk")]))
            await trio.sleep(100)
    assert world.take() == "-buffer -ingest -bridge"


async def test_a_fatal_error_deep_down_while_starting_comes_out_unwrapped(autojump_clock, world) -> None:
    world.fail_start("b", error=ConfigError("port 8800 is taken"))
    spec = world.sup("root", "one_for_one", "a", world.sup("inner", "one_for_one", "b"))
    with pytest.raises(ConfigError, match="port 8800"):
        await world.run(spec, fatal=(ConfigError,))
    assert world.take() == "+a +b -a"


async def test_a_stop_interrupts_a_start_that_hangs(autojump_clock, world) -> None:
    world.start_script["b"].append(world.hang)
    async with world.running(world.sup("root", "one_for_one", "a", world.child("b", shutdown_grace_s=1.0), "c")):
        pass
    assert trio.current_time() == pytest.approx(1.0, abs=0.1)
    assert world.take() == "+a +b -a"


async def test_an_earlier_sibling_is_still_supervised_while_later_ones_drain(autojump_clock, world) -> None:
    async def drain(ctx) -> None:
        await trio.sleep(4)

    world.on_drain["flow"] = drain
    async with world.running(world.sup("root", "one_for_one", world.sup("s", "one_for_one", "storage"), "flow")) as n:
        world.take()
        world.stop.set()
        n.start_soon(trio.sleep, 2)
        await trio.sleep(1)
        await world.crash("storage")
        assert world.take() == "-storage +storage"


@pytest.mark.parametrize("where", ["return", "cleanup", "group", "system_exit"])
async def test_awkward_ends_are_crashes_of_one_child_only(autojump_clock, world, where: str) -> None:
    async def run(ctx) -> None:
        ctx.ready()
        if ctx.incarnation > 1:
            await ctx.drain_requested.wait()
            return
        if where == "cleanup":
            try:
                raise world.Boom
            finally:
                raise ValueError("in cleanup")
        if where == "group":
            raise BaseExceptionGroup("g", [GeneratorExit(), world.Boom()])
        if where == "system_exit":
            raise GeneratorExit

    async with world.running(world.sup("root", "one_for_one", "a", world.child("x", world.actor(run)), "c")):
        assert world.state("x") == "RUNNING"
        assert world.child_state("x").restarts == 1
        assert world.take() == "+a +c"


async def test_a_child_that_leaks_a_nursery_is_named_and_hurts_nobody(autojump_clock, world) -> None:
    leaked = []

    async def forever() -> None:
        try:
            await trio.sleep_forever()
        finally:
            leaked.append("ended")

    async def run(ctx) -> None:
        ctx.ready()
        if ctx.incarnation == 1:
            nursery = await trio.open_nursery().__aenter__()
            nursery.start_soon(forever)
            await trio.sleep(1)
            return
        await ctx.drain_requested.wait()

    async with world.running(world.sup("root", "one_for_one", "a", world.child("leaky", world.actor(run)), "c")):
        await trio.sleep(5)
        assert world.take() == "+a +c"
        assert world.child_state("leaky").restarts == 1
        assert "Nursery" in world.child_state("leaky").last_exit or "corrupted" in world.child_state("leaky").last_exit
        assert leaked == ["ended"]


def leaks_a_stubborn_task(world, release: trio.Event):
    """Returns after one second and leaves a nursery open, in which a task swallows its cancellation."""

    async def stubborn() -> None:
        while not release.is_set():
            try:
                await release.wait()
            except trio.Cancelled:
                with trio.CancelScope(shield=True):
                    await release.wait()

    async def run(ctx) -> None:
        world.trace.append("+leaky")
        ctx.ready()
        nursery = await trio.open_nursery().__aenter__()
        nursery.start_soon(stubborn)
        await trio.sleep(1)

    return world.child("leaky", world.actor(run))


async def test_a_leaked_task_that_swallows_cancellation_is_an_unstoppable_child(autojump_clock, world, release) -> None:
    spec = world.sup("root", "one_for_one", "a", leaks_a_stubborn_task(world, release), "c")
    with pytest.RaisesGroup(
        pytest.RaisesExc(UnstoppableChild, match=r"root/leaky did not stop; it hangs in .* stubborn$")
    ):
        async with world.running(spec):
            await trio.sleep(1000)
    assert world.take() == "+a +leaky +c -c -a", "no twin, and the siblings stop in order"
    assert world.kinds("root/leaky") == [EventKind.STARTED, EventKind.UNSTOPPABLE, EventKind.FATAL]
    assert world.state("leaky") == "FAILED"
    assert trio.current_time() < 1 + 2 + 1 + 7 + 1  # its life, the grace, the look, the ladder
    assert world.admin.leftovers() == ("root/leaky",)
    release.set()
    await trio.sleep(0.1)
    assert world.admin.leftovers() == ()


async def test_control_without_waiting_for_leaked_tasks_a_twin_is_started(
    autojump_clock, world, release, monkeypatch
) -> None:
    async def only_cancel(life) -> None:
        for nursery in life.task.child_nurseries:
            nursery.cancel_scope.cancel(reason="leaked")

    monkeypatch.setattr(Life, "_end_leaked_tasks", only_cancel)
    async with world.running(world.sup("root", "one_for_one", leaks_a_stubborn_task(world, release), "c")):
        await trio.sleep(1.5)
        assert world.trace.count("+leaky") == 2
        release.set()


@pytest.mark.parametrize("how", ["stop", "one_for_all"])
async def test_a_leaked_task_cannot_stretch_the_deadline_nor_get_a_twin(
    autojump_clock, world, release, how: str
) -> None:
    spec = world.sup("root", "one_for_all", "a", leaks_a_stubborn_task(world, release), "c")
    with pytest.RaisesGroup(UnstoppableChild):
        async with world.running(spec, shutdown_deadline_s=5.0):
            await trio.sleep(1.1)
            if how == "one_for_all":
                await world.crash("a")
                await trio.sleep(1000)
    assert trio.current_time() < 1 + 2 + 7 + 5 + 1
    assert world.trace.count("+leaky") == 1
    release.set()
    await trio.sleep(0.1)


async def test_a_leaked_task_that_ends_late_is_waited_for_before_the_twin(autojump_clock, world) -> None:
    """Within the grace after its cancellation it may clean up; the next incarnation starts behind it."""
    trace = []

    async def slow() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(1.5)
            trace.append("-task")

    async def run(ctx) -> None:
        trace.append(f"+{ctx.incarnation}")
        ctx.ready()
        if ctx.incarnation == 1:
            nursery = await trio.open_nursery().__aenter__()
            nursery.start_soon(slow)
            await trio.lowlevel.checkpoint()
            world.leaked = nursery
            raise world.Boom
        await ctx.drain_requested.wait()

    async with world.running(world.sup("root", "one_for_one", "a", world.child("leaky", world.actor(run)))):
        await trio.sleep(5)
        assert trace == ["+1", "-task", "+2"]
        with pytest.raises(RuntimeError, match="closed to new arrivals"):
            world.leaked.start_soon(slow)
    assert world.kinds("root/leaky")[1] is EventKind.CRASHED


async def test_the_stack_of_a_hanging_child_goes_on_in_the_task_it_waits_for(autojump_clock, world, release) -> None:

    async def run(ctx) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ignore_everything, release, ctx)

    child = world.child("bad", world.actor(run))
    with pytest.RaisesGroup(pytest.RaisesExc(UnstoppableChild, match=r"run > .*ignore_everything$")):
        async with world.running(world.sup("root", "one_for_one", child)):
            pass


async def test_a_child_that_swallows_cancellation_and_returns_counts_as_stopped(autojump_clock, world) -> None:
    async def run(ctx) -> None:
        ctx.ready()
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            return

    spec = world.child("a", world.actor(run), shutdown_grace_s=0)
    async with world.running(world.sup("root", "one_for_one", spec)):
        pass
    assert world.child_state("a").last_exit == "killed"


async def test_keyboard_interrupt_in_a_child_is_a_stop_request(autojump_clock, world) -> None:
    with pytest.RaisesGroup(KeyboardInterrupt):
        async with world.running(world.sup("root", "one_for_one", "a", "b")):
            await world.crash("b", KeyboardInterrupt())
            await trio.sleep(10)
    assert world.take() == "+a +b -b -a"


async def test_nothing_to_do_any_more_is_not_an_end_of_the_tree(autojump_clock, world) -> None:
    """A tree whose children have all ended normally stays up, as in OTP; who wants it to end sets `stop`."""
    spec = world.sup("root", "one_for_one", world.child("a", restart=Restart.TRANSIENT))
    async with world.running(spec):
        await world.end("a")
        await trio.sleep(100)
        assert world.state("root") == "RUNNING"


async def test_a_root_that_gives_up_keeps_the_deadline_too(autojump_clock, world) -> None:
    async def slow(ctx) -> None:
        await trio.sleep(60)

    names = [f"c{i}" for i in range(10)]
    for name in names:
        world.on_drain[name] = slow
    children = (*(world.child(n, shutdown_grace_s=30.0) for n in names), "a")
    with pytest.RaisesGroup(RestartIntensityExceeded):
        async with world.running(
            world.sup("root", "one_for_one", *children, intensity=(0, 5.0)), shutdown_deadline_s=10.0
        ):
            await world.crash("a")
            await trio.sleep(100)
    assert trio.current_time() <= 10.1
    at = [e for e in world.events if e.kind is EventKind.TREE_STOPPING]
    assert [e.detail for e in at] == ["the root supervisor ends"]
    assert all(world.state(n) == "STOPPED" for n in names)


@pytest.mark.parametrize("what", ["crash", "start"])
async def test_a_crash_in_the_tick_of_an_ordered_stop_does_not_spoil_it(autojump_clock, what: str) -> None:
    """Whoever the scheduler lets go first: it was asked before the budget was spent."""
    for _ in range(50):
        world = World()

        async def run(ctx, world=world) -> None:
            if what == "crash":
                ctx.ready()
            await trio.sleep(1)
            world.stop.set()
            raise world.Boom

        spec = world.sup("root", "one_for_one", "a", world.child("x", world.actor(run)), intensity=(0, 5.0))
        await world.run(spec)
        assert world.take() == "+a -a"


async def test_control_a_budget_spent_before_the_stop_is_told(autojump_clock, world) -> None:
    async def run(ctx) -> None:
        ctx.ready()
        await trio.sleep(1)
        raise world.Boom

    async def slow(ctx) -> None:
        await trio.sleep(1)
        world.stop.set()

    world.on_drain["a"] = slow
    spec = world.sup("root", "one_for_one", "a", world.child("x", world.actor(run)), intensity=(0, 5.0))
    with pytest.raises(RestartIntensityExceeded):
        await world.run(spec)


async def test_an_ordered_stop_ends_with_the_fatal_error_that_comes_up_in_it(autojump_clock, world) -> None:
    async def drain(ctx) -> None:
        raise LogSyncFailed("disk")

    world.on_drain["a"] = drain
    with pytest.RaisesGroup(LogSyncFailed):
        async with world.running(world.sup("root", "one_for_one", "a"), fatal=(LogSyncFailed,)):
            pass


@pytest.mark.parametrize("who", ["itself", "a sibling"])
@pytest.mark.parametrize("how", ["cleanup", "leaked task"])
async def test_time_in_which_the_loop_is_held_is_nobodys_grace(autojump_clock, world, who: str, how: str) -> None:
    """A jump of the clock within one step is what three seconds of blocking look like: longer than the grace of two."""

    async def slow_end() -> None:
        try:
            await trio.sleep_forever()
        finally:
            if who == "itself":
                autojump_clock.jump(3.0)
            with trio.CancelScope(shield=True):
                await trio.sleep(0.4)
            raise RuntimeError("while cleaning up")

    async def run(ctx) -> None:
        ctx.ready()
        if how == "cleanup":
            await slow_end()
        elif ctx.incarnation == 1:
            nursery = await trio.open_nursery().__aenter__()
            nursery.start_soon(slow_end)
            await trio.sleep(1)
        else:
            await ctx.drain_requested.wait()

    async def holds(ctx) -> None:
        ctx.ready()
        if who == "a sibling":
            await trio.sleep(11.1 if how == "cleanup" else 1.1)
            autojump_clock.jump(3.0)
        await ctx.drain_requested.wait()

    bad = world.child("bad", world.actor(run), shutdown_grace_s=1.0)
    async with world.running(world.sup("root", "one_for_one", world.child("holds", world.actor(holds)), bad)):
        await trio.sleep(10)
    assert EventKind.UNSTOPPABLE not in world.kinds("root/bad")
    assert world.child_state("bad").restarts == (how == "leaked task")


async def test_control_with_the_held_time_counted_it_would_be_unstoppable(autojump_clock, world, monkeypatch) -> None:
    monkeypatch.setattr(life, "SLICE_S", 1e9)

    async def run(ctx) -> None:
        ctx.ready()
        try:
            await trio.sleep_forever()
        finally:
            autojump_clock.jump(3.0)
            with trio.CancelScope(shield=True):
                await trio.sleep(0.4)

    with pytest.RaisesGroup(UnstoppableChild):
        async with world.running(world.sup("root", "one_for_one", world.child("bad", world.actor(run)))):
            pass
    await trio.sleep(1)


async def test_ready_is_told_when_every_child_has_started(autojump_clock, world) -> None:
    ready = trio.Event()
    release = trio.Event()

    async def late(ctx) -> None:
        await release.wait()

    world.start_script["b"].append(late)
    async with world.running(world.sup("root", "one_for_one", "a", "b"), ready=ready):
        assert not ready.is_set()
        release.set()
        await world.settle()
        assert ready.is_set()
