"""The buffer commits in order, answers only what is durable, and waits out a full disk."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import attrs
import msgspec
import outcome
import pytest
import structlog
import trio
from trio.testing import wait_all_tasks_blocked

from actors.buffer.buffer import Buffer, CommitLimits
from actors.buffer.memory import MemoryCommitLog
from runtime.actor import ActorContext, Seams, offload_inline
from runtime.board import Board
from runtime.clock import VirtualClock
from runtime.entropy import SeededEntropy
from runtime.errors import LogSyncFailed, NotConnected
from runtime.log.appender import Appender, AppendRequest
from runtime.log.types import FrameDraft, GroupDraft
from runtime.mailbox import Mailbox


def context(started: trio.Event) -> ActorContext:
    seams = Seams(clock=VirtualClock(0), entropy=SeededEntropy(1), offload=offload_inline, board=Board())
    return ActorContext(name="buffer", incarnation=1, seams=seams, log=structlog.get_logger(), on_ready=started.set)


def draft(sequence: int, *, size: int = 100) -> GroupDraft:
    frame = FrameDraft(partition=0, kind="quotes", body=b"x" * size, rows=1, event_time_ns_min=0, event_time_ns_max=0)
    return GroupDraft(producer="p", sequence=sequence, producer_position=b"%d" % sequence, frames=(frame,))


@attrs.define
class World:
    log: MemoryCommitLog
    inbox: Mailbox[AppendRequest]
    appender: Appender
    ctx: ActorContext


@asynccontextmanager
async def running(log: MemoryCommitLog, **limits: float) -> AsyncIterator[World]:
    inbox: Mailbox[AppendRequest] = Mailbox("appends", 64)
    losses: Mailbox[AppendRequest] = Mailbox("losses", 64)
    started = trio.Event()
    world = World(log, inbox, Appender(inbox=inbox, lookup=log.producer, reserve=losses), context(started))
    buffer = Buffer(log=log, inbox=inbox, limits=CommitLimits(**limits), reserve=losses)  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(buffer.run, world.ctx)
        await started.wait()
        yield world
        world.ctx.drain_requested.set()


async def test_appends_that_wait_together_share_one_commit(autojump_clock: trio.testing.MockClock) -> None:
    async with running(MemoryCommitLog()) as world:
        requests = [await world.appender.submit(draft(n)) for n in range(1, 41)]
        answers = [await request.wait() for request in requests]
    assert sum(world.log.commits) == 40
    assert len(world.log.commits) < 40  # how many wait when a sync returns is the scheduler's business
    assert [a.position for a in answers] == list(range(40))
    assert [g.sequence for g in world.log.offered] == list(range(1, 41))


async def test_a_commit_closes_at_its_byte_bound(autojump_clock: trio.testing.MockClock) -> None:
    async with running(MemoryCommitLog(), bytes_max=250) as world:
        for request in [await world.appender.submit(draft(n)) for n in range(1, 31)]:
            await request.wait()
    assert sum(world.log.commits) == 30
    assert max(world.log.commits) == 3  # 250 bytes are reached with the third


async def test_a_lone_producer_waits_for_nobody(autojump_clock: trio.testing.MockClock) -> None:
    async with running(MemoryCommitLog(), linger_s=0.005) as world:
        start = trio.current_time()
        for n in range(1, 4):
            await world.appender.append(draft(n))
        assert trio.current_time() == start
        assert world.log.commits == [1, 1, 1]


async def test_a_batch_waits_for_as_much_company_as_the_last_one_had_but_not_for_ever(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(MemoryCommitLog(), linger_s=0.005) as world:
        last = 0
        while world.log.commits[-1:] in ([], [1]):  # who runs first is the scheduler's business
            await _several(world, last + 1, last + 5)
            last += 5
        start = trio.current_time()
        await world.appender.append(draft(last + 1))
        assert trio.current_time() - start == pytest.approx(0.005)


async def _several(world: World, first: int, last: int) -> None:
    for request in [await world.appender.submit(draft(n)) for n in range(first, last + 1)]:
        await request.wait()


async def test_the_record_of_a_loss_passes_a_full_disk(autojump_clock: trio.testing.MockClock) -> None:
    """The live stream stops and says what it lost, in space kept back for it; what waits is accepted later."""
    async with running(MemoryCommitLog(full_for=5)) as world:
        waiting = await world.appender.submit(draft(1))
        await trio.sleep(1.5)
        assert world.ctx.board.log is not None
        assert world.ctx.board.log.error
        assert world.ctx.board.log.seconds_until_loss == 0.0
        answer = await world.appender.append_loss(msgspec.structs.replace(draft(1), producer="losses"))
        assert trio.current_time() < 3.0
        assert (answer.position, world.log.commits) == (0, [1])
        assert (await waiting.wait()).position == 1
        assert world.ctx.board.log.error == ""


async def test_backfill_is_shed_and_called_back_and_trimming_is_pressed(autojump_clock: trio.testing.MockClock) -> None:
    log = MemoryCommitLog(used_free=(900, 100))
    async with running(log) as world:
        await trio.sleep(1.5)
        state = world.ctx.board.log
        assert state is not None
        assert "backfill is stopped" in state.shed_backfill
        assert state.error == ""
        log.used_free = (800, 200)
        await trio.sleep(2)
        assert world.ctx.board.log is not None
        assert (world.ctx.board.log.shed_backfill, bool(world.ctx.board.log.warning)) == ("", True)
    assert [pressed for _, pressed in log.upkeeps] == [False, True, True, False]


async def test_without_a_runway_live_goes_on_and_people_are_told(autojump_clock: trio.testing.MockClock) -> None:
    log = MemoryCommitLog(runway_fails=True)
    async with running(log) as world:
        await trio.sleep(0.5)
        await world.appender.append(draft(1))
        assert world.ctx.board.log is not None
        assert "no space for another segment" in world.ctx.board.log.warning
        assert world.ctx.board.log.error == ""
        log.runway_fails = False
        await trio.sleep(1.5)
        assert world.ctx.board.log.warning == ""


async def test_a_full_disk_blocks_the_producer_and_loses_nothing(autojump_clock: trio.testing.MockClock) -> None:
    async with running(MemoryCommitLog(full_for=3)) as world:
        answer = await world.appender.append(draft(1))
        assert trio.current_time() >= 3.0
    assert answer.position == 0
    assert len(world.log.groups) == 1


async def test_a_failed_sync_acknowledges_nothing_and_ends_the_buffer(autojump_clock: trio.testing.MockClock) -> None:
    log = MemoryCommitLog(fails_with=LogSyncFailed("EIO"))
    outcomes: list[str] = []
    with pytest.RaisesGroup(LogSyncFailed, flatten_subgroups=True):
        async with running(log) as world, trio.open_nursery() as nursery:

            async def producer() -> None:
                try:
                    await world.appender.append(draft(1))
                except NotConnected:
                    outcomes.append("refused")

            nursery.start_soon(producer)
    assert outcomes in (["refused"], [])  # [] when the producer was cancelled first: it must just never hear "durable"
    assert log.groups == []


async def test_a_restarted_buffer_refuses_what_dead_producers_left(autojump_clock: trio.testing.MockClock) -> None:
    log = MemoryCommitLog(needs_reopen=True)
    inbox: Mailbox[AppendRequest] = Mailbox("appends", 4)
    left = AppendRequest(draft(1))
    inbox.send_nowait(left)
    ctx = context(trio.Event())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Buffer(log=log, inbox=inbox).run, ctx)
        with pytest.raises(NotConnected):
            await left.wait()
        ctx.drain_requested.set()
    assert log.groups == []
    assert not log.needs_reopen


async def test_resume_sees_what_a_dead_incarnation_left_in_the_mailbox(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(MemoryCommitLog()) as world:
        for n in (1, 2):  # a producer that died while it waited
            await world.appender.submit(draft(n))
        state = await world.appender.resume("p")
    assert (state.sequence, state.position) == (2, b"2")


async def test_without_the_barrier_a_new_incarnation_would_reuse_a_sequence(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Positive control: the look-up alone, as `resume` did it before the barrier, answers too early."""
    async with running(MemoryCommitLog()) as world:
        await world.appender.submit(draft(1))
        lookup: Callable[[str], object] = world.appender.lookup
        assert lookup("p") != (await world.appender.resume("p"))


async def test_drain_commits_what_is_queued_then_returns(autojump_clock: trio.testing.MockClock) -> None:
    log = MemoryCommitLog()
    async with running(log) as world:
        await wait_all_tasks_blocked()
        requests = [await world.appender.submit(draft(n)) for n in range(1, 4)]
        world.ctx.drain_requested.set()
    assert [len(r.draft.frames) for r in requests if r.draft] == [1, 1, 1]
    assert len(log.groups) == 3


async def test_an_answer_can_be_asked_for_again(autojump_clock: trio.testing.MockClock) -> None:
    """A producer that is stopped while it flushes waits for the same append twice."""
    request = AppendRequest(draft(1))
    request.answer(outcome.Error(NotConnected("gone")))
    for _ in range(2):
        with pytest.raises(NotConnected):
            await request.wait()
