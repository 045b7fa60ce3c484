"""Whom a failure restarts, in which order things start and stop (R7, R13, R14, R16, R26)."""

from __future__ import annotations

import pytest

from supervisors.engine.child import Restart


async def test_start_in_order_and_stop_in_reverse(autojump_clock, world) -> None:
    inner = world.sup("inner", "one_for_one", "b", "c")
    async with world.running(world.sup("root", "one_for_one", "a", inner, "d")):
        assert world.take() == "+a +b +c +d"
        assert {s.path: s.state for s in world.seams.board.children.values()} == dict.fromkeys(
            ["root", "root/a", "root/inner", "root/inner/b", "root/inner/c", "root/d"], "RUNNING"
        )
    assert world.take() == "-d -c -b -a"
    assert {s.state for s in world.seams.board.children.values()} == {"STOPPED"}


async def test_the_next_child_starts_only_when_the_one_before_is_ready(autojump_clock, world) -> None:
    import trio

    async def slow(ctx) -> None:
        await trio.sleep(5)

    world.start_script["a"].append(slow)
    async with world.running(world.sup("root", "one_for_one", "a", "b")):
        assert world.take() == "+a"
        assert world.state("a") == "STARTING"
        await trio.sleep(6)
        assert world.take() == "+b"


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [("one_for_one", "-b +b"), ("one_for_all", "-b -c -a +a +b +c"), ("rest_for_one", "-b -c +b +c")],
)
async def test_strategy_decides_whom_a_crash_restarts(autojump_clock, world, strategy: str, expected: str) -> None:
    async with world.running(world.sup("root", strategy, "a", "b", "c")):
        world.take()
        await world.crash("b")
        assert world.take() == expected
        assert world.state("b") == "RUNNING"
    assert world.take() == "-c -b -a"


async def test_a_whole_subtree_is_restarted_as_one_child(autojump_clock, world) -> None:
    storage = world.sup("storage", "one_for_all", "buffer", "dead_letters")
    flow = world.sup("flow", "one_for_one", "bridge", "ingest")
    async with world.running(world.sup("root", "rest_for_one", storage, flow)):
        world.take()
        await world.crash("bridge")
        assert world.take() == "-bridge +bridge"
        for _ in range(4):  # one more than storage's budget: it gives up, root restarts it and all after it
            await world.crash("buffer")
        assert world.take() == (
            "-buffer -dead_letters +buffer +dead_letters " * 3
            + "-buffer -dead_letters -ingest -bridge +buffer +dead_letters +bridge +ingest"
        )
        assert world.child_state("storage").restarts == 1
        assert world.child_state("flow").restarts == 1


@pytest.mark.parametrize(
    ("restart", "end", "expected"),
    [
        (Restart.PERMANENT, "normal", "-b +b"),
        (Restart.TRANSIENT, "normal", "-b"),
        (Restart.TEMPORARY, "normal", "-b"),
        (Restart.PERMANENT, "shutdown", "-b +b"),
        (Restart.TRANSIENT, "shutdown", "-b"),
        (Restart.TEMPORARY, "shutdown", "-b"),
        (Restart.PERMANENT, "crash", "-b +b"),
        (Restart.TRANSIENT, "crash", "-b +b"),
        (Restart.TEMPORARY, "crash", "-b"),
    ],
)
async def test_restart_type_decides_whether_an_end_is_answered(
    autojump_clock, world, restart: Restart, end: str, expected: str
) -> None:
    from runtime.errors import Shutdown

    async with world.running(world.sup("root", "one_for_one", "a", world.child("b", restart=restart))):
        world.take()
        match end:
            case "normal":
                await world.end("b")
            case "shutdown":
                await world.crash("b", Shutdown("enough"))
            case "crash":
                await world.crash("b")
        assert world.take() == expected


async def test_a_temporary_sibling_stopped_by_a_strategy_does_not_come_back(autojump_clock, world) -> None:
    temporary = world.child("t", restart=Restart.TEMPORARY)
    async with world.running(world.sup("root", "one_for_all", "a", temporary, "c")):
        world.take()
        await world.crash("a")
        assert world.take() == "-a -c -t +a +c"


async def test_a_group_restart_starts_idle_siblings_too(autojump_clock, world) -> None:
    idle = world.child("i", restart=Restart.TRANSIENT)
    async with world.running(world.sup("root", "one_for_all", "a", idle)):
        await world.end("i")
        assert world.state("i") == "STOPPED"
        world.take()
        await world.crash("a")
        assert world.take() == "-a +a +i"


async def test_two_crashes_at_once_under_one_for_all_count_once(autojump_clock, world) -> None:
    spec = world.sup("root", "one_for_all", "a", "b", intensity=(1, 30.0))
    async with world.running(spec):
        world.take()

        async def boom(ctx) -> None:
            raise world.Boom

        world.inboxes["a"][0].send_nowait(boom)
        world.inboxes["b"][0].send_nowait(boom)
        await world.settle()
        assert sorted(world.take().split()[:2]) == ["-a", "-b"]
        assert world.state("a") == world.state("b") == "RUNNING"
