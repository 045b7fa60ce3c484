"""OTP's supervisor_SUITE: admin calls, restart loops, counts, reports (cases 23, 44, 71-73, 75, 76, 80, 81, 87-92)."""

from __future__ import annotations

import gc
import time
import weakref
from functools import partial

import pytest
import structlog
import trio

from runtime.errors import AdminRefused
from supervisors.engine.admin import ChildCounts, Presence
from supervisors.engine.child import Restart
from supervisors.engine.events import EventKind, report_to
from supervisors.engine.slot import Slot
from tests.supervisors.conftest import World


async def refused(code: str, call, *args) -> None:
    with pytest.raises(AdminRefused) as caught:
        await call(*args)
    assert caught.value.code == code


async def presences(world, path: str) -> dict[str, str]:
    return {c.id: str(c.presence) for c in await world.admin.which_children(path)}


@pytest.mark.otp(23)
async def test_the_whole_life_of_a_child_by_hand(autojump_clock, world) -> None:
    admin = world.admin
    await refused("noproc", admin.which_children, "root")
    async with world.running(world.sup("root", "one_for_one")):
        assert await admin.which_children("root") == ()
        for call in (admin.terminate_child, admin.restart_child, admin.delete_child, admin.child_spec):
            await refused("not_found", call, "root", "a")
        assert await admin.start_child("root", world.child("a"))
        await refused("already_started", admin.start_child, "root", world.child("a"))
        await refused("running", admin.restart_child, "root", "a")
        await refused("running", admin.delete_child, "root", "a")
        assert await admin.count_children("root") == ChildCounts(specs=1, active=1, supervisors=0, workers=1)
        await admin.terminate_child("root", "a")
        await admin.terminate_child("root", "a")  # idempotent
        assert await presences(world, "root") == {"a": "idle"}
        await refused("already_present", admin.start_child, "root", world.child("a"))
        assert await admin.restart_child("root", "a")
        await admin.terminate_child("root", "a")
        await admin.delete_child("root", "a")
        assert await admin.count_children("root") == ChildCounts(specs=0, active=0, supervisors=0, workers=0)
        assert "root/a" not in world.seams.board.children
    await refused("noproc", admin.which_children, "root")


@pytest.mark.otp(44)
async def test_a_start_by_hand_is_no_news(autojump_clock, world) -> None:
    world.report = report_to(world.seams.board, world.seams.clock.wall_ns)
    with structlog.testing.capture_logs() as logs:
        async with world.running(world.sup("root", "one_for_one", "a")):
            await world.admin.start_child("root", world.child("b"))
            await world.crash("b")
    levels = [(r["path"], r["log_level"]) for r in logs if r["event"] == EventKind.STARTED]
    assert levels == [("root/a", "info"), ("root/b", "debug"), ("root/b", "info")], "an automatic restart is news"


@pytest.mark.otp(71)
async def test_a_thousand_children_are_counted_right(autojump_clock, world) -> None:
    async def run(ctx) -> None:
        ctx.ready()
        await ctx.drain_requested.wait()

    make = world.actor(run)
    async with world.running(world.sup("root", "one_for_one")):
        for n in range(1000):
            await world.admin.start_child("root", world.child(f"c{n}", make))
        assert await world.admin.count_children("root") == ChildCounts(1000, 1000, 0, 1000)
        for n in range(500):
            await world.admin.terminate_child("root", f"c{n}")
        assert await world.admin.count_children("root") == ChildCounts(1000, 500, 0, 1000)


@pytest.mark.otp(72)
async def test_supervisors_are_counted_apart(autojump_clock, world) -> None:
    inner = world.sup("inner", "one_for_one", "a")
    async with world.running(world.sup("root", "one_for_one", inner, "b")):
        for n in range(50):
            await world.admin.start_child("root", world.sup(f"s{n}", "one_for_one"))
        assert await world.admin.count_children("root") == ChildCounts(52, 52, 51, 1)
        await world.admin.terminate_child("root", "s7")
        assert await world.admin.count_children("root") == ChildCounts(52, 51, 51, 1)


@pytest.mark.otp(73)
async def test_a_restarting_child_is_not_active(autojump_clock, world) -> None:
    async with looping(world, world.sup("root", "one_for_one", "a", "b", intensity=(10**6, 1.0)), "b"):
        assert await world.admin.count_children("root") == ChildCounts(specs=2, active=1, supervisors=0, workers=2)
        await world.admin.terminate_child("root", "b")
        assert await world.admin.count_children("root") == ChildCounts(specs=2, active=1, supervisors=0, workers=2)
        await world.admin.delete_child("root", "b")
        assert await world.admin.count_children("root") == ChildCounts(specs=1, active=1, supervisors=0, workers=1)


class looping:
    """The tree, with `name` in an endless restart loop (each failing start takes 10 ms)."""

    def __init__(self, world, spec, name: str) -> None:
        self.world, self.name = world, name
        self.tree = world.running(spec)

    async def __aenter__(self) -> None:
        world = self.world

        async def fail(ctx) -> None:
            world.start_script[self.name].append(fail)
            await trio.sleep(0.01)
            raise world.Boom

        await self.tree.__aenter__()
        world.start_script[self.name].append(fail)
        await world.crash(self.name)

    async def __aexit__(self, *error: object) -> None:
        await self.tree.__aexit__(*error)


@pytest.mark.otp(80)
async def test_during_an_endless_restart_loop_requests_are_served(autojump_clock, world) -> None:
    admin = world.admin
    async with looping(world, world.sup("root", "one_for_one", "a", "b", intensity=(10**6, 1.0)), "b"):
        await trio.sleep(1)
        assert await presences(world, "root") == {"a": "running", "b": "restarting"}
        await refused("already_present", admin.start_child, "root", world.child("b"))
        await refused("restarting", admin.restart_child, "root", "b")
        await refused("restarting", admin.delete_child, "root", "b")
        await admin.terminate_child("root", "b")
        assert await presences(world, "root") == {"a": "running", "b": "idle"}
        world.take()
        await trio.sleep(1)
        assert world.take() == ""


@pytest.mark.otp(80)
async def test_a_supervisor_in_a_restart_loop_stops_promptly(autojump_clock, world) -> None:
    async with looping(world, world.sup("root", "one_for_one", "a", "b", intensity=(10**6, 1.0)), "b"):
        await trio.sleep(1)
    assert trio.current_time() < 1.1
    assert world.trace[-1] == "-a"


@pytest.mark.otp(81)
async def test_during_a_rest_for_one_loop_the_later_ones_are_idle(autojump_clock, world) -> None:
    async with looping(world, world.sup("root", "rest_for_one", "c1", "c2", "c3", intensity=(10**6, 1.0)), "c2"):
        await trio.sleep(1)
        assert await presences(world, "root") == {"c3": "idle", "c2": "restarting", "c1": "running"}
        await world.admin.terminate_child("root", "c2")
        assert await world.admin.restart_child("root", "c3")


@pytest.mark.otp(75)
@pytest.mark.parametrize("restart", Restart)
async def test_what_a_temporary_child_was_started_with_goes_with_it(autojump_clock, world, restart: Restart) -> None:
    """OTP forgets it while the child still runs; here it goes with the child, that of the others stays (control)."""

    class Heavy:
        """A big argument."""

    def body(heavy: Heavy, ctx) -> object:
        return _wait(ctx)

    async def _wait(ctx) -> None:
        ctx.ready()
        await ctx.drain_requested.wait()

    async with world.running(world.sup("root", "one_for_one", "a")):
        heavy = Heavy()
        spec = world.child("t", world.actor(partial(body, heavy)), restart=restart)
        await world.admin.start_child("root", spec)
        watch = weakref.ref(heavy)
        del heavy, spec
        await world.admin.terminate_child("root", "t")
        gc.collect()
        assert (watch() is None) is (restart is Restart.TEMPORARY)


@pytest.mark.otp(76)
@pytest.mark.parametrize("strategy", ["one_for_one", "one_for_all", "rest_for_one"])
@pytest.mark.parametrize("how", ["normal", "crash", "terminate", "sibling"])
async def test_the_spec_of_a_temporary_child_goes_with_it(autojump_clock, world, strategy: str, how: str) -> None:
    temporary = world.child("t", restart=Restart.TEMPORARY)
    async with world.running(world.sup("root", strategy, "a", temporary)):
        match how:
            case "normal":
                await world.end("t")
            case "crash":
                await world.crash("t")
            case "terminate":
                await world.admin.terminate_child("root", "t")
            case "sibling":
                await world.crash("a")
        expected = {"a"} if how != "sibling" or strategy != "one_for_one" else {"a", "t"}
        assert {c.id for c in await world.admin.which_children("root")} == expected


@pytest.mark.otp(87)
async def test_order_of_children_for_a_group_and_for_the_whole(autojump_clock, world) -> None:
    names = [f"c{n}" for n in range(1, 6)]
    async with world.running(world.sup("root", "rest_for_one", *names)):
        assert world.take() == "+c1 +c2 +c3 +c4 +c5"
        await world.crash("c3")
        assert world.take() == "-c3 -c5 -c4 +c3 +c4 +c5"
    assert world.take() == "-c5 -c4 -c3 -c2 -c1"


FEW, MANY = 250, 3_000
GROWTH_MAX = 2.2
"""Times what linear would be; quadratic is `MANY / FEW` = 12 times that."""


def cost_of_starting_and_stopping_s(count: int) -> float:
    """CPU seconds of this thread for a tree of `count` children, the better of two."""

    async def run(ctx) -> None:
        ctx.ready()
        await ctx.drain_requested.wait()

    async def main() -> None:
        world = World()

        async def last(ctx) -> None:
            world.stop.set()
            await run(ctx)

        children = [world.child(f"c{n}", world.actor(run)) for n in range(count)]
        await world.run(world.sup("root", "one_for_one", *children, world.child("last", world.actor(last))))

    def once_s() -> float:
        gc.collect()
        began_s = time.thread_time()
        trio.run(main)
        return time.thread_time() - began_s

    return min(once_s() for _ in range(2))


def growth() -> float:
    """1 = linear."""
    return cost_of_starting_and_stopping_s(MANY) / cost_of_starting_and_stopping_s(FEW) / (MANY / FEW)


@pytest.mark.otp(88)
@pytest.mark.slow
def test_starting_and_stopping_many_children_is_about_linear() -> None:
    assert growth() < GROWTH_MAX


@pytest.mark.slow
def test_control_one_walk_over_the_siblings_for_each_start_and_stop_is_seen(monkeypatch) -> None:
    real = Slot.publish

    def walking(slot: Slot, host, state: str, **more) -> None:
        assert sum(path == slot.path for path in host.seams.board.children) <= 1
        real(slot, host, state, **more)

    monkeypatch.setattr(Slot, "publish", walking)
    assert growth() > GROWTH_MAX


@pytest.mark.otp(90)
async def test_an_event_is_one_line_and_one_record(autojump_clock, world) -> None:
    report = report_to(world.seams.board, world.seams.clock.wall_ns)
    async with world.running(world.sup("root", "one_for_one", "a")):
        await world.crash("a", ExceptionGroup("two", [OSError("disk\nfull"), ValueError("x" * 5000)]))
    crash = next(e for e in world.events if e.kind is EventKind.CRASHED)
    report(crash)
    ((_, line),) = world.seams.board.events
    assert line.startswith("actor_crashed root/a #1 crashed: OSError: disk full; ValueError: xxx")
    assert "\n" not in line
    assert len(line) < 600


@pytest.mark.otp(91)
async def test_a_name_taken_elsewhere_is_told_to_the_caller(autojump_clock, world) -> None:
    async with world.running(world.sup("root", "one_for_one", world.sup("inner", "one_for_one", "a"))):
        with pytest.raises(AdminRefused, match="already_started: root/inner/a"):
            await world.admin.start_child("root", world.child("a"))


@pytest.mark.otp(92)
async def test_which_children_follows_start_terminate_delete(autojump_clock, world) -> None:
    async with world.running(world.sup("root", "one_for_one", "a", "b")):
        await world.admin.start_child("root", world.child("c"))
        assert [(c.id, c.presence, c.incarnation) for c in await world.admin.which_children("root")] == [
            ("c", Presence.RUNNING, 1),
            ("b", Presence.RUNNING, 1),
            ("a", Presence.RUNNING, 1),
        ]
        await world.admin.terminate_child("root", "b")
        assert await presences(world, "root") == {"a": "running", "b": "idle", "c": "running"}
        await world.admin.delete_child("root", "b")
        assert await presences(world, "root") == {"a": "running", "c": "running"}


async def test_a_call_fails_at_once_when_its_supervisor_ends(autojump_clock, world) -> None:
    async with world.running(world.sup("root", "one_for_one", "a")) as nursery:
        world.start_script["slow"].append(world.hang)

        async def second() -> None:
            await refused("noproc", world.admin.which_children, "root")

        async def first() -> None:
            await world.admin.start_child("root", world.child("slow", shutdown_grace_s=1))

        nursery.start_soon(first)
        await world.settle()
        nursery.start_soon(second)
        await world.settle()
        world.stop.set()
    assert trio.current_time() < 2
