"""OTP's supervisor_SUITE: start, stop, specs and flags (cases 1-22, 27, 28)."""

from __future__ import annotations

import pytest
import trio

from runtime.backoff import Backoff
from runtime.errors import ConfigError, Shutdown, StartFailed
from supervisors.engine.admin import ChildCounts, Presence
from supervisors.engine.child import (
    AutoShutdown,
    ChildSpec,
    Restart,
    RestartIntensity,
    Strategy,
    SupervisorSpec,
)
from supervisors.engine.events import EventKind


def nothing() -> None:
    """A factory with nothing to run: OTP's `ignore`."""


@pytest.mark.otp(1)
async def test_a_tree_starts_and_stops_cleanly(autojump_clock, world) -> None:
    async with world.running(world.sup("root", "one_for_one")):
        assert world.state("root") == "RUNNING"
    assert world.state("root") == "STOPPED"


@pytest.mark.otp(3)
async def test_an_ignored_child_keeps_its_spec(autojump_clock, world) -> None:
    async with world.running(world.sup("root", "one_for_one", world.child("a", nothing), "b")):
        assert await world.admin.count_children("root") == ChildCounts(specs=2, active=1, supervisors=0, workers=2)
        await world.admin.start_child("root", world.child("c", nothing))
        assert await world.admin.count_children("root") == ChildCounts(specs=3, active=1, supervisors=0, workers=3)


@pytest.mark.otp(4, 5)
async def test_an_ignored_temporary_child_is_not_kept(autojump_clock, world) -> None:
    temporary = world.child("t", nothing, restart=Restart.TEMPORARY)
    async with world.running(world.sup("root", "one_for_one", temporary, "b")):
        assert [c.id for c in await world.admin.which_children("root")] == ["b"]
        assert not await world.admin.start_child("root", temporary)
        assert [c.id for c in await world.admin.which_children("root")] == ["b"]


@pytest.mark.otp(8)
async def test_a_factory_that_returns_rubbish_is_a_failed_start(autojump_clock, world) -> None:
    spec = world.sup("root", "one_for_one", "a", world.child("b", lambda: 42))
    with pytest.raises(StartFailed, match=r"root/b did not start") as caught:
        await world.run(spec)
    assert isinstance(caught.value.__cause__, AttributeError)
    assert world.take() == "+a -a"


@pytest.mark.otp(9)
async def test_a_factory_that_raises_gives_its_error_with_the_stack(autojump_clock, world) -> None:
    def factory() -> None:
        raise OSError("no socket")

    with pytest.raises(StartFailed, match=r"no socket") as caught:
        await world.run(world.sup("root", "one_for_one", world.child("b", factory)))
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.__traceback__ is not None


@pytest.mark.otp(10)
async def test_start_child_that_fails_drops_the_spec_and_harms_nobody(autojump_clock, world) -> None:
    async with world.running(world.sup("root", "one_for_all", "a")):
        world.fail_start("b")
        with pytest.raises(StartFailed):
            await world.admin.start_child("root", world.child("b"))
        assert [c.id for c in await world.admin.which_children("root")] == ["a"]
        assert world.take() == "+a +b"


@pytest.mark.otp(11)
async def test_restart_child_that_fails_keeps_the_spec_idle(autojump_clock, world) -> None:
    async with world.running(world.sup("root", "one_for_one", "a")):
        await world.admin.terminate_child("root", "a")
        world.fail_start("a")
        with pytest.raises(StartFailed):
            await world.admin.restart_child("root", "a")
        (entry,) = await world.admin.which_children("root")
        assert entry.presence is Presence.IDLE


@pytest.mark.otp(13)
async def test_the_spec_comes_back_with_every_default(autojump_clock, world) -> None:
    async with world.running(world.sup("root", "one_for_one", "a")):
        spec = await world.admin.child_spec("root", "a")
        assert (spec.restart, spec.significant, spec.shutdown_grace_s) == (Restart.PERMANENT, False, 5.0)
        with pytest.raises(Exception, match=r"not_found.*'ghost'") as caught:
            await world.admin.child_spec("root", "ghost")
        assert caught.value.code == "not_found"


@pytest.mark.otp(15, 27)
@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"id": ""}, "missing_id"),
        ({"id": None}, "missing_id"),
        ({"id": "a/b"}, "missing_id"),
        ({"start": None}, "missing_start"),
        ({"restart": "always"}, "invalid_restart_type.*'always'"),
        ({"significant": "yes"}, "invalid_significant.*'yes'"),
        ({"shutdown_grace_s": -1}, "invalid_shutdown.*-1"),
        ({"shutdown_grace_s": float("inf")}, "invalid_shutdown.*inf"),
        ({"cancel_grace_s": "2"}, "invalid_shutdown.*'2'"),
        ({"start_timeout_s": None}, "invalid_start_timeout.*None"),
        ({"backoff": 3}, "invalid_backoff.*3"),
        ({"outages": (OSError,)}, "bad_combination.*backoff"),
        ({"significant": True}, "bad_combination.*restart"),
    ],
)
def test_a_bad_child_spec_names_field_and_value(fields: dict, error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        ChildSpec(**{"id": "a", "start": nothing, **fields})


@pytest.mark.otp(15)
def test_an_unknown_field_of_a_spec_is_refused_by_name() -> None:
    """A deliberate deviation: OTP ignores it."""
    with pytest.raises(TypeError, match=r"shutdwon"):
        ChildSpec("a", nothing, shutdwon=3)


@pytest.mark.otp(27)
@pytest.mark.parametrize("auto_shutdown", AutoShutdown)
@pytest.mark.parametrize("restart", Restart)
def test_significant_needs_a_mode_and_a_child_that_can_end(auto_shutdown: AutoShutdown, restart: Restart) -> None:
    def make() -> SupervisorSpec:
        child = ChildSpec("a", nothing, restart=restart, significant=True)
        return SupervisorSpec("s", Strategy.ONE_FOR_ONE, (child,), auto_shutdown=auto_shutdown)

    if restart is Restart.PERMANENT or auto_shutdown is AutoShutdown.NEVER:
        with pytest.raises(ConfigError, match=r"bad_combination"):
            make()
    else:
        make()


@pytest.mark.otp(27)
def test_an_id_given_twice_is_refused_in_a_supervisor_and_in_the_tree(world) -> None:
    with pytest.raises(ConfigError, match=r"duplicate_child_name.*'a'"):
        world.sup("root", "one_for_one", "a", "a")


@pytest.mark.otp(28)
@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"strategy": "one_for_two"}, "invalid_strategy.*'one_for_two'"),
        ({"intensity": 3}, "invalid_intensity.*3"),
        ({"auto_shutdown": "sometimes"}, "invalid_auto_shutdown.*'sometimes'"),
        ({"children": [1]}, "invalid_children"),
        ({"children": (1,)}, "invalid_child_spec.*1"),
    ],
)
def test_a_bad_flag_names_itself_and_its_value(fields: dict, error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        SupervisorSpec(**{"id": "s", "strategy": Strategy.ONE_FOR_ONE, "children": (), **fields})


@pytest.mark.otp(28)
@pytest.mark.parametrize(
    ("most", "period_s", "error"),
    [
        (-1, 5, "invalid_intensity.*-1"),
        (1.5, 5, "invalid_intensity.*1.5"),
        (1, 0, "invalid_period.*0"),
        (1, float("inf"), "invalid_period.*inf"),
        (1, "5", "invalid_period.*'5'"),
    ],
)
def test_a_bad_budget_names_itself_and_its_value(most, period_s, error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        RestartIntensity(restarts_max=most, period_s=period_s)


def test_restarting_for_ever_needs_a_backoff(world) -> None:
    with pytest.raises(ConfigError, match=r"missing_backoff.*'a'"):
        world.sup("root", "one_for_one", "a", intensity=None)


def test_a_backoff_that_makes_the_window_unreachable_is_refused(world) -> None:
    child = world.child("a", backoff=Backoff(initial_s=5.0, max_s=60.0, jitter=0.0))
    world.sup("root", "one_for_one", child, intensity=(3, 35.0))
    with pytest.raises(ConfigError, match=r"window_unreachable.*35"):
        world.sup("root", "one_for_one", child, intensity=(3, 34.0))


async def test_an_actor_id_used_twice_in_the_tree_does_not_start(autojump_clock, world) -> None:
    spec = world.sup("root", "one_for_one", "a", world.sup("inner", "one_for_one", "a"))
    with pytest.raises(ConfigError, match=r"duplicate_child_name.*root/inner/a.*root/a"):
        await world.run(spec)


@pytest.mark.otp(16)
async def test_a_worker_may_have_a_very_long_grace(autojump_clock, world) -> None:
    async def drain(ctx) -> None:
        await trio.sleep(900)

    world.on_drain["a"] = drain
    spec = world.sup("root", "one_for_one", world.child("a", shutdown_grace_s=1000.0), "b")
    async with world.running(spec, shutdown_deadline_s=2000.0):
        pass
    assert [world.child_state(n).last_exit for n in "ab"] == ["shutdown", "shutdown"]


@pytest.mark.otp(17)
async def test_a_child_that_sleeps_is_forced_after_its_time_the_other_is_not(autojump_clock, world) -> None:
    world.on_drain["a"] = world.hang
    spec = world.sup("root", "one_for_one", world.child("a", shutdown_grace_s=1.0), "b")
    async with world.running(spec):
        pass
    assert [world.child_state(n).last_exit for n in "ab"] == ["killed", "shutdown"]
    assert trio.current_time() == pytest.approx(1.0, abs=0.01)


@pytest.mark.otp(19)
async def test_no_grace_is_a_brutal_kill(autojump_clock, world) -> None:
    spec = world.sup("root", "one_for_one", world.child("a", shutdown_grace_s=0), "b")
    async with world.running(spec):
        pass
    assert [world.child_state(n).last_exit for n in "ab"] == ["killed", "shutdown"]


@pytest.mark.otp(21)
@pytest.mark.parametrize("restart", Restart)
@pytest.mark.parametrize("how", ["normal", "shutdown", "crash", "killed"])
async def test_children_that_end_by_themselves_during_the_stop_disturb_nothing(
    autojump_clock, world, restart: Restart, how: str
) -> None:
    async def end(ctx) -> None:
        match how:
            case "shutdown":
                raise Shutdown("mine")
            case "crash":
                raise world.Boom
            case "killed":
                world.inboxes["a"][0].send_nowait(world.hang)
                await trio.sleep_forever()

    world.on_drain["a"] = end
    spec = world.sup("root", "one_for_one", "z", world.child("a", restart=restart), "b")
    async with world.running(spec):
        world.take()
    assert world.take() == "-b -a -z"
    is_error = how in ("crash", "killed")
    assert world.kinds("root/a")[-1] is (EventKind.STOP_FAILED if is_error else EventKind.STOPPED)


@pytest.mark.otp(51)
async def test_a_start_failure_deep_inside_surfaces_with_its_cause(autojump_clock, world) -> None:
    world.fail_start("w", error=ValueError("bad table"))
    spec = world.sup("root", "one_for_one", world.sup("x", "one_for_one", world.sup("y", "one_for_one", "w")))
    with pytest.raises(StartFailed, match=r"root/x/y/w did not start: ValueError: bad table"):
        await world.run(spec)
