"""OTP's supervisor_SUITE: restarts, escalation, trees, significant children (cases 29-34, 41-63, 78)."""

from __future__ import annotations

import pytest
import trio

from runtime.errors import RestartIntensityExceeded, Shutdown
from supervisors.engine.admin import Presence
from supervisors.engine.child import AutoShutdown, Restart


@pytest.mark.otp(29)
async def test_restarts_beyond_the_period_never_exhaust_the_budget(autojump_clock, world) -> None:
    async with world.running(world.sup("root", "one_for_one", "a", intensity=(1, 1.0))):
        for _ in range(10):
            await world.crash("a")
            await trio.sleep(2.1)
        assert world.child_state("a").restarts == 10


@pytest.mark.otp(30, 32, 41)
@pytest.mark.parametrize(("strategy", "fresh"), [("one_for_one", "b"), ("one_for_all", "abc"), ("rest_for_one", "bc")])
async def test_who_is_new_and_when_it_is_over(autojump_clock, world, strategy: str, fresh: str) -> None:
    with pytest.RaisesGroup(RestartIntensityExceeded):
        async with world.running(world.sup("root", strategy, "a", "b", "c", intensity=(2, 3600.0))):
            await world.crash("b")
            incarnations = {c.id: c.incarnation for c in await world.admin.which_children("root")}
            assert incarnations == {n: 2 if n in fresh else 1 for n in "abc"}
            await world.crash("b")
            world.take()
            await world.crash("b")
            assert world.take() == "-b -c -a"


@pytest.mark.otp(31, 33, 42)
@pytest.mark.parametrize("strategy", ["one_for_one", "one_for_all", "rest_for_one"])
async def test_a_child_that_cannot_restart_takes_everybody_down(autojump_clock, world, strategy: str) -> None:
    with pytest.RaisesGroup(RestartIntensityExceeded):
        async with world.running(world.sup("root", strategy, "a", "b", intensity=(4, 3600.0))):
            broken = "a" if strategy == "one_for_one" else "b"
            world.fail_start(broken, times=100)
            world.take()
            await world.crash("a")
            assert world.take().count(f"+{broken}") == 4
            assert world.child_state("root").state == "FAILED"


@pytest.mark.otp(34, 43)
@pytest.mark.parametrize(
    ("strategy", "expected"),
    [("one_for_all", "-a -c -b +a +b +c -b -a +a +b +c"), ("rest_for_one", "-a -c -b +a +b +c +c")],
)
async def test_when_a_later_sibling_fails_to_restart(autojump_clock, world, strategy: str, expected: str) -> None:
    async with world.running(world.sup("root", strategy, "a", "b", "c")):
        world.take()
        world.fail_start("c")
        await world.crash("a")
        assert world.take() == expected


@pytest.mark.otp(45, 46, 47, 48, 49, 50, 52, 53, 54)
@pytest.mark.parametrize("restart", Restart)
@pytest.mark.parametrize("how", ["normal", "shutdown", "crash"])
async def test_restart_type_against_the_way_it_ended(autojump_clock, world, restart: Restart, how: str) -> None:
    async with world.running(world.sup("root", "one_for_one", world.child("b", restart=restart), "z")):
        errors = {"normal": None, "shutdown": Shutdown("t"), "crash": world.Boom()}
        await (world.crash("b", errors[how]) if errors[how] else world.end("b"))
        found = {c.id: str(c.presence) for c in await world.admin.which_children("root")}
        again = restart is Restart.PERMANENT or (restart is Restart.TRANSIENT and how == "crash")
        if again:
            assert found["b"] == "running"
        elif restart is Restart.TRANSIENT:
            assert found["b"] == "idle"
            assert await world.admin.restart_child("root", "b")
        else:
            assert "b" not in found


@pytest.mark.otp(56)
async def test_a_nested_tree_is_rebuilt_without_what_was_added_by_hand(autojump_clock, world) -> None:
    inner = world.sup("inner", "one_for_one", "w", intensity=(1, 3600.0))
    idle = world.sup("idle", "one_for_one", "x")
    async with world.running(world.sup("root", "one_for_all", inner, idle)):
        await world.admin.start_child("root/inner", world.child("dynamic"))
        await world.admin.terminate_child("root", "idle")
        world.take()
        await world.crash("w")
        assert world.take() == "-w +w"
        await world.crash("w")
        assert world.take() == "-w -dynamic +w +x"


@pytest.mark.otp(78)
@pytest.mark.parametrize("strategy", ["one_for_all", "rest_for_one"])
async def test_a_temporary_bystander_is_not_restarted(autojump_clock, world, strategy: str) -> None:
    async with world.running(world.sup("root", strategy, "a", world.child("t", restart=Restart.TEMPORARY))):
        await world.crash("a")
        assert [c.id for c in await world.admin.which_children("root")] == ["a"]


def group(world, mode: AutoShutdown, *children, **options):
    """A supervisor under a root, so that its end can be looked at."""
    inner = world.sup("inner", "one_for_one", *children, auto_shutdown=mode, restart=Restart.TEMPORARY, **options)
    return world.sup("root", "one_for_one", inner, "bystander")


async def is_up(world) -> bool:
    """It runs, and still does when all has come to rest: a transient one that has ended stays known, idle."""
    await world.settle()
    return (Presence.RUNNING, "inner") in {(c.presence, c.id) for c in await world.admin.which_children("root")}


@pytest.mark.otp(57, 58)
@pytest.mark.parametrize("restart", [Restart.TEMPORARY, Restart.TRANSIENT])
@pytest.mark.parametrize("mode", AutoShutdown)
@pytest.mark.parametrize("how", ["terminate", "crash", "normal", "shutdown"])
async def test_a_child_that_is_not_significant_never_triggers(
    autojump_clock, world, restart: Restart, mode: AutoShutdown, how: str
) -> None:
    async with world.running(group(world, mode, world.child("a", restart=restart), "b")):
        await _end(world, "a", how)
        assert await is_up(world)


async def _end(world, name: str, how: str) -> None:
    match how:
        case "terminate":
            await world.admin.terminate_child("root/inner", name)
        case "crash":
            await world.crash(name)
        case "normal":
            await world.end(name)
        case "shutdown":
            await world.crash(name, Shutdown("t"))


@pytest.mark.otp(59)
@pytest.mark.parametrize(("how", "triggers"), [("terminate", False), ("crash", True), ("normal", True)])
async def test_a_significant_temporary_child_triggers_however_it_ends_by_itself(
    autojump_clock, world, how: str, triggers: bool
) -> None:
    child = world.child("a", restart=Restart.TEMPORARY, significant=True)
    async with world.running(group(world, AutoShutdown.ANY_SIGNIFICANT, child, "b")):
        await _end(world, "a", how)
        assert await is_up(world) is not triggers


@pytest.mark.otp(60)
@pytest.mark.parametrize(
    ("how", "triggers"), [("terminate", False), ("crash", False), ("normal", True), ("shutdown", True)]
)
async def test_a_significant_transient_child_triggers_when_it_is_not_restarted(
    autojump_clock, world, how: str, triggers: bool
) -> None:
    child = world.child("a", restart=Restart.TRANSIENT, significant=True)
    async with world.running(group(world, AutoShutdown.ANY_SIGNIFICANT, child, "b")):
        await _end(world, "a", how)
        assert await is_up(world) is not triggers


@pytest.mark.otp(59, 60)
@pytest.mark.parametrize("restart", [Restart.TEMPORARY, Restart.TRANSIENT])
async def test_all_significant_triggers_on_the_last_one_only(autojump_clock, world, restart: Restart) -> None:
    children = [world.child(n, restart=restart, significant=True) for n in "ab"]
    async with world.running(group(world, AutoShutdown.ALL_SIGNIFICANT, *children, "c")):
        await world.end("a")
        assert await is_up(world)
        await world.end("b")
        assert not await is_up(world)


@pytest.mark.otp(62)
@pytest.mark.parametrize("strategy", ["one_for_one", "one_for_all", "rest_for_one"])
@pytest.mark.parametrize("mode", [AutoShutdown.ANY_SIGNIFICANT, AutoShutdown.ALL_SIGNIFICANT])
async def test_death_through_a_sibling_does_not_trigger(autojump_clock, world, strategy: str, mode) -> None:
    child = world.child("s", restart=Restart.TEMPORARY, significant=True)
    inner = world.sup("inner", strategy, "a", child, auto_shutdown=mode, restart=Restart.TRANSIENT)
    async with world.running(world.sup("root", "one_for_one", inner)):
        await world.crash("a")
        assert await is_up(world)
        known = {c.id for c in await world.admin.which_children("root/inner")}
        assert known == ({"a", "s"} if strategy == "one_for_one" else {"a"})


@pytest.mark.otp(63)
@pytest.mark.parametrize("significant", [True, False])
async def test_auto_shutdown_cascades_through_a_significant_supervisor_only(
    autojump_clock, world, significant: bool
) -> None:
    any_of = AutoShutdown.ANY_SIGNIFICANT
    worker = world.child("w", restart=Restart.TRANSIENT, significant=True)
    inner = world.sup(
        "inner", "one_for_one", worker, auto_shutdown=any_of, restart=Restart.TRANSIENT, significant=significant
    )
    async with world.running(world.sup("root", "one_for_one", inner, "b", auto_shutdown=any_of)):
        world.take()
        await world.end("w")
        assert world.state("root") == ("STOPPED" if significant else "RUNNING")
        assert world.take() == ("-w -b" if significant else "-w")
