"""Intensity, escalation, start failures and retries, backoff (R9, R17-R22, 4.1, 4.2)."""

from __future__ import annotations

import pytest
import trio

from runtime.backoff import Backoff
from runtime.errors import NotConnected, RestartIntensityExceeded, StartFailed
from supervisors.engine.child import AutoShutdown, Restart
from supervisors.engine.events import EventKind


async def expect(kind: type[BaseException], run, *args: object, **options: object) -> BaseException:
    with pytest.raises(kind) as caught:
        await run(*args, **options)
    return caught.value


async def test_over_budget_the_root_stops_everything_and_raises(autojump_clock, world) -> None:
    with pytest.RaisesGroup(RestartIntensityExceeded):
        async with world.running(world.sup("root", "one_for_one", "a", "b", intensity=(2, 10.0))):
            for _ in range(3):
                await world.crash("a")
            assert world.take() == "+a +b -a +a -a +a -a -b"
    assert EventKind.ESCALATED in world.kinds("root")


async def test_the_budget_is_shared_by_all_children(autojump_clock, world) -> None:
    with pytest.RaisesGroup(RestartIntensityExceeded):
        async with world.running(world.sup("root", "one_for_one", "a", "b", intensity=(1, 10.0))):
            await world.crash("a")
            await world.crash("b")


async def test_restarts_outside_the_window_are_forgotten(autojump_clock, world) -> None:
    async with world.running(world.sup("root", "one_for_one", "a", intensity=(1, 10.0))):
        for _ in range(5):
            await world.crash("a")
            await trio.sleep(10.001)
        assert world.child_state("a").restarts == 5


async def test_the_window_is_closed_at_its_far_end(autojump_clock, world) -> None:
    with pytest.RaisesGroup(RestartIntensityExceeded):
        async with world.running(world.sup("root", "one_for_one", "a", intensity=(1, 8.0))):
            await world.crash("a")
            await trio.sleep(8.0)
            await world.crash("a")


async def test_a_restarted_supervisor_has_an_empty_history(autojump_clock, world) -> None:
    inner = world.sup("inner", "one_for_one", "a", intensity=(1, 100.0))
    with pytest.RaisesGroup(RestartIntensityExceeded):
        async with world.running(world.sup("root", "one_for_one", inner, intensity=(1, 100.0))):
            for _ in range(3):
                await world.crash("a")
            assert world.child_state("inner").restarts == 1
            assert world.state("a") == "RUNNING"
            await world.crash("a")


async def test_a_failed_start_rolls_back_in_reverse_and_names_the_innermost_child(autojump_clock, world) -> None:
    world.fail_start("c", error=OSError("no such directory"))
    inner = world.sup("inner", "one_for_one", "b", "c", "d")
    error = await expect(StartFailed, world.run, world.sup("root", "one_for_one", "a", inner, "e"))
    assert str(error) == "root/inner/c did not start: OSError: no such directory"
    assert isinstance(error.__cause__, OSError)
    assert world.take() == "+a +b +c -b -a"


async def test_a_child_that_is_not_ready_in_time_has_not_started(autojump_clock, world) -> None:
    world.start_script["b"].append(world.hang)
    spec = world.sup("root", "one_for_one", "a", world.child("b", start_timeout_s=3.0))
    error = await expect(StartFailed, world.run, spec)
    assert "not ready within 3.0 s" in str(error)
    assert trio.current_time() == pytest.approx(3.0, abs=0.1)
    assert world.take() == "+a +b -a"


async def test_a_failed_restart_is_retried_and_every_attempt_counts(autojump_clock, world) -> None:
    with pytest.RaisesGroup(RestartIntensityExceeded):
        async with world.running(world.sup("root", "one_for_one", "a", "b", intensity=(3, 10.0))):
            world.take()
            world.fail_start("b", times=2)
            await world.crash("b")
            assert world.take() == "-b +b +b +b"
            await world.crash("b")


async def test_rest_for_one_retries_from_the_failing_sibling_on(autojump_clock, world) -> None:
    async with world.running(world.sup("root", "rest_for_one", "a", "b", "c", "d")):
        world.take()
        world.fail_start("c")
        await world.crash("b")
        assert world.take() == "-b -d -c +b +c +c +d"


async def test_one_for_all_stops_the_restarted_ones_again_when_a_later_one_fails(autojump_clock, world) -> None:
    async with world.running(world.sup("root", "one_for_all", "a", "b", "c")):
        world.take()
        world.fail_start("b")
        await world.crash("c")
        assert world.take() == "-c -b -a +a +b -a +a +b +c"


async def test_backoff_grows_and_is_reset_by_a_healthy_run(autojump_clock, world) -> None:
    backoff = Backoff(initial_s=1.0, max_s=8.0, jitter=0.0, reset_after_s=60.0)
    spec = world.sup("root", "one_for_one", world.child("a", backoff=backoff), intensity=None)
    async with world.running(spec):
        waits = []
        for _ in range(6):
            await world.crash("a")
            assert world.state("a") == "BACKING_OFF"
            waits.append(world.child_state("a").retry_in_s)
            await trio.sleep(waits[-1] - 0.01)
            assert world.state("a") == "BACKING_OFF"
            await trio.sleep(0.02)
            assert world.state("a") == "RUNNING"
        assert waits == [1, 2, 4, 8, 8, 8]
        await trio.sleep(60)
        await world.crash("a")
        assert world.child_state("a").retry_in_s == 1


async def test_a_child_under_no_intensity_restarts_for_ever(autojump_clock, world) -> None:
    spec = world.sup("root", "one_for_one", world.child("a", backoff=Backoff(initial_s=1, max_s=5)), intensity=None)
    async with world.running(spec):
        world.fail_start("a", times=500)
        await world.crash("a")
        await trio.sleep(3600)
        assert world.take().count("+a") == 502
        assert world.state("a") == "RUNNING"


async def test_siblings_wait_together_when_a_group_backs_off(autojump_clock, world) -> None:
    backoff = Backoff(initial_s=1.0, max_s=1.0, jitter=0.0)
    spec = world.sup("root", "one_for_all", world.child("a", backoff=backoff), "b")
    async with world.running(spec):
        world.take()
        await world.crash("a")
        assert world.take() == "-a -b"
        await trio.sleep(1.01)
        assert world.take() == "+a +b"


async def test_a_stop_ends_the_wait_of_a_backoff(autojump_clock, world) -> None:
    backoff = Backoff(initial_s=900.0, max_s=900.0)
    async with world.running(world.sup("root", "one_for_one", world.child("a", backoff=backoff), intensity=None)):
        await world.crash("a")
    assert trio.current_time() < 1
    assert world.state("a") == "STOPPED"


async def test_an_outage_waits_without_spending_the_budget_or_touching_siblings(autojump_clock, world) -> None:
    backoff = Backoff(initial_s=1.0, max_s=4.0, jitter=0.0)
    spec = world.child("a", backoff=backoff, outages=(NotConnected,))
    async with world.running(world.sup("root", "one_for_all", spec, "b", intensity=(1, 1000.0))):
        world.take()
        for _ in range(10):
            await world.crash("a", NotConnected("broker is down"))
            await trio.sleep(5)
        assert world.take() == " ".join(["-a +a"] * 10)
        world.fail_start("a", times=50, error=NotConnected("still down"))
        await world.crash("a", NotConnected("broker is down"))
        await trio.sleep(300)
        assert world.state("a") == "RUNNING"
        await world.crash("a")  # a bug is still a bug
        await trio.sleep(5)
        assert world.take().endswith("-a -b +a +b")


async def test_an_outage_at_boot_does_not_block_the_start(autojump_clock, world) -> None:
    world.fail_start("a", times=3, error=NotConnected("nobody there"))
    spec = world.child("a", backoff=Backoff(initial_s=1.0, max_s=4.0, jitter=0.0), outages=(NotConnected,))
    async with world.running(world.sup("root", "rest_for_one", spec, "b")):
        assert world.take() == "+a +b"
        await trio.sleep(10)
        assert world.take() == "+a +a +a"


async def test_a_transient_supervisor_that_gives_up_counts_as_a_shutdown_and_says_so(autojump_clock, world) -> None:
    """R19, OTP's trap: the end is reported, never silent."""
    inner = world.sup("inner", "one_for_one", "a", intensity=(0, 1.0), restart=Restart.TRANSIENT)
    async with world.running(world.sup("root", "one_for_one", inner, "b")):
        await world.crash("a")
        assert world.state("inner") == "STOPPED"
        assert world.kinds("root/inner") == [EventKind.STARTED, EventKind.ESCALATED, EventKind.ENDED]


async def test_a_factory_with_nothing_to_run_leaves_an_idle_child(autojump_clock, world) -> None:
    spec = world.sup("root", "one_for_one", world.child("a", lambda: None), "b")
    async with world.running(spec):
        assert world.take() == "+b"
        assert world.state("a") == "STOPPED"


async def test_calling_off_a_group_restart_that_waits_brings_the_healthy_siblings_back(autojump_clock, world) -> None:
    """OTP has no backoff: there a group restart happens at once, and no sibling is ever idle because somebody waits."""
    backoff = Backoff(initial_s=10.0, max_s=10.0, jitter=0.0)
    spec = world.sup("root", "one_for_all", "a", world.child("x", backoff=backoff), "c")
    async with world.running(spec):
        await world.crash("x")
        assert world.take() == "+a +x +c -x -c -a"
        await world.admin.terminate_child("root", "x")
        assert world.take() == "+a +c"
        assert (world.state("a"), world.state("x"), world.state("c")) == ("RUNNING", "STOPPED", "RUNNING")
        await trio.sleep(100)
        assert world.take() == "", "its own restart is called off"
        assert await world.admin.restart_child("root", "x")


async def test_control_without_a_wait_terminating_a_sibling_starts_nobody(autojump_clock, world) -> None:
    async with world.running(world.sup("root", "one_for_all", "a", "x", "c")):
        await world.admin.terminate_child("root", "a")
        world.take()
        await world.admin.terminate_child("root", "x")
        assert world.take() == "-x"


@pytest.mark.parametrize("waits", [True, False])
async def test_who_waits_for_a_siblings_backoff_is_not_idle_to_all_significant(
    autojump_clock, world, waits: bool
) -> None:
    """`b` is stopped because `x` crashed and will be started with it; without a backoff it runs again already."""
    backoff = Backoff(initial_s=10.0, max_s=10.0, jitter=0.0) if waits else None
    significant = {"restart": Restart.TRANSIENT, "significant": True}
    spec = world.sup(
        "root",
        "rest_for_one",
        world.child("first", **significant),
        world.child("x", backoff=backoff),
        world.child("b", **significant),
        auto_shutdown=AutoShutdown.ALL_SIGNIFICANT,
    )
    async with world.running(spec):
        await world.crash("x")
        await world.end("first")
        assert world.state("root") == "RUNNING"
        await trio.sleep(20)
        assert world.state("b") == "RUNNING"
        await world.end("b")
        await trio.sleep(1)
        assert world.state("root") == "STOPPED"
