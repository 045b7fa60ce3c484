"""What an incarnation is handed."""

from __future__ import annotations

import threading

import pytest
import structlog
import trio
import trio.testing

from runtime.actor import ActorContext, Seams, offload_inline, offload_to_thread
from runtime.board import Board
from runtime.clock import VirtualClock
from runtime.entropy import SeededEntropy


@pytest.fixture
def ctx() -> ActorContext:
    seams = Seams(clock=VirtualClock(0), entropy=SeededEntropy(1), offload=offload_inline, board=Board())
    return ActorContext(name="a", incarnation=1, seams=seams, log=structlog.stdlib.get_logger())


async def test_a_shield_survives_cancellation_until_its_deadline(autojump_clock, ctx) -> None:
    with trio.CancelScope() as outer:
        outer.cancel()
        with ctx.shielded(2.0) as scope:
            assert ctx.shields == {scope}
            await trio.sleep(1)
        assert trio.current_time() == 1
        with ctx.shielded(2.0):
            await trio.sleep_forever()
        assert trio.current_time() == 3
    assert ctx.shields == set()


async def test_a_registered_shield_can_be_ended_from_outside(autojump_clock, ctx) -> None:
    async with trio.open_nursery() as nursery:

        async def hold() -> None:
            with ctx.shielded(3600.0):
                await trio.sleep_forever()

        nursery.start_soon(hold)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
        for shield in ctx.shields:
            shield.cancel()
    assert trio.current_time() == 1


async def test_waiting_is_visible_and_its_end_counts_as_progress(autojump_clock, ctx) -> None:
    with ctx.waiting("input"):
        assert ctx.board.waits == {"a": "input"}
        await trio.sleep(5)
    assert ctx.board.waits == {}
    assert ctx.board.progress_age_s("a", trio.current_time()) == 0


async def test_progress_has_an_age(autojump_clock, ctx) -> None:
    assert ctx.board.progress_age_s("a", 0.0) is None
    ctx.progress()
    await trio.sleep(3)
    assert ctx.board.progress_age_s("a", ctx.clock.monotonic_s()) == 3


@pytest.mark.parametrize("offload", [offload_inline, offload_to_thread])
async def test_offload_gives_the_result_or_the_error(offload) -> None:
    assert await offload(lambda: 42) == 42
    with pytest.raises(ZeroDivisionError):
        await offload(lambda: 1 // 0)


async def test_offload_waits_for_a_place_and_gives_it_back_whatever_happens() -> None:
    limiter, order = trio.CapacityLimiter(1), []
    may_end = threading.Event()

    async def second() -> None:
        order.append(await offload_to_thread(lambda: "second", limiter=limiter))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            lambda: offload_to_thread(lambda: may_end.wait(10) and order.append("first"), limiter=limiter)
        )
        await trio.testing.wait_all_tasks_blocked()
        assert limiter.borrowed_tokens == 1
        nursery.start_soon(second)
        await trio.testing.wait_all_tasks_blocked()
        assert order == []
        may_end.set()
    assert order == ["first", "second"]
    with pytest.raises(ZeroDivisionError):
        await offload_to_thread(lambda: 1 // 0, limiter=limiter)
    assert limiter.borrowed_tokens == 0


async def test_offload_ends_what_it_began_and_begins_nothing_when_cancelled() -> None:
    """Not abandoned: the log's write ends before its task does."""
    done: list[str] = []
    may_end = threading.Event()

    async def run() -> None:
        await offload_to_thread(lambda: may_end.wait(10) and done.append("began before"))
        await offload_to_thread(lambda: done.append("began after"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        may_end.set()
    assert done == ["began before"]
