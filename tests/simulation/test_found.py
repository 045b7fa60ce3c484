"""Bugs that the simulation found, each as small as it can be told; the seed is the one that found it (first version)."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import attrs
import pytest
import structlog
import trio

from actors.buffer.buffer import Buffer, CommitLimits
from actors.buffer.memory import MemoryCommitLog
from runtime.actor import ActorContext, Seams, offload_inline
from runtime.board import Board
from runtime.clock import VirtualClock
from runtime.disk_memory import MemoryDisk
from runtime.entropy import SeededEntropy
from runtime.errors import LogFull, NotConnected
from runtime.log.appender import AppendRequest
from runtime.log.log import Log, LogSettings
from runtime.log.types import FrameDraft, GroupDraft
from runtime.mailbox import Mailbox


def context() -> ActorContext:
    seams = Seams(clock=VirtualClock(0), entropy=SeededEntropy(0), offload=offload_inline, board=Board())
    return ActorContext(name="buffer", incarnation=1, seams=seams, log=structlog.stdlib.get_logger("test"))


def draft(sequence: int, *, size: int = 10) -> GroupDraft:
    frame = FrameDraft(partition=0, kind="quotes", body=b"x" * size, rows=1, event_time_ns_min=0, event_time_ns_max=0)
    return GroupDraft(producer="p", sequence=sequence, producer_position=b"", frames=(frame,))


def open_log(disk: MemoryDisk, **settings: Any) -> Log:
    return Log.open(
        disk,
        Path("/data/log"),
        settings=LogSettings(partitions=1, segment_bytes=16 << 10, **settings),
        schemas={"quotes": b"schema"},
        wall_ns=lambda: 10**18,
        entropy=SeededEntropy(0),
        offload=offload_inline,
    )


async def test_139_a_buffer_that_ends_with_an_append_in_hand_says_so(autojump_clock: trio.abc.Clock) -> None:
    """The producer waited for ever: the request was out of the mailbox and not yet in a commit."""
    inbox: Mailbox[AppendRequest] = Mailbox("buffer", 8)
    buffer = Buffer(log=MemoryCommitLog(), inbox=inbox, limits=CommitLimits(linger_s=5.0))
    company = [AppendRequest(draft(1)), AppendRequest(draft(2))]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(buffer.run, context())
        await trio.testing.wait_all_tasks_blocked()
        for request in company:  # a batch of two: the next one waits for company, too
            inbox.send_nowait(request)
        await trio.testing.wait_all_tasks_blocked()
        held = AppendRequest(draft(3))
        await inbox.send(held)
        await trio.testing.wait_all_tasks_blocked()
        assert inbox.statistics().depth == 0
        nursery.cancel_scope.cancel()
    with trio.fail_after(1.0), pytest.raises(NotConnected):
        await held.wait()


@attrs.define(kw_only=True, eq=False)
class _FullLog(MemoryCommitLog):
    """No space for the first two reopens."""

    times_full: int = 2
    needs_reopen: bool = True

    def reopen(self) -> None:
        self.times_full -= 1
        if self.times_full >= 0:
            raise LogFull("no space")
        self.needs_reopen = False


async def test_13_a_full_disk_at_a_reopen_is_waited_for(autojump_clock: trio.abc.Clock) -> None:
    """It counted as a crash of the buffer, three of which end the process."""
    inbox: Mailbox[AppendRequest] = Mailbox("buffer", 8)
    buffer = Buffer(log=_FullLog(), inbox=inbox)
    request = AppendRequest(draft(1))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(buffer.run, context())
        await trio.testing.wait_all_tasks_blocked()
        await inbox.send(request)
        with trio.fail_after(10.0):
            assert not (await request.wait()).duplicate
        nursery.cancel_scope.cancel()


def test_75_what_a_commit_wrote_before_the_disk_was_full_is_no_duplicate_when_it_is_given_again() -> None:
    """The producer took the answer for somebody else's append, and crashed: an outage counted as a bug."""
    disk = MemoryDisk()
    log = open_log(disk)
    drafts = [draft(1, size=9_000), draft(2, size=9_000)]  # two segments, so two writes
    disk.fail("allocate", errno.ENOSPC, times=10)
    disk.fail("short write", suffix="00.seg.new", after=1, times=10)
    with pytest.raises(LogFull):
        log.commit(drafts)
    disk._faults.clear()
    assert log.producer("p").sequence == 1, "the fault did not strike between the two writes"
    answers, groups = log.commit(drafts)
    assert [answer.duplicate for answer in answers] == [False, False]
    assert [group.sequence for group in groups] == [1, 2]
    assert [(a.position, a.end_position) for a in answers] == [(g.position, g.end_position) for g in groups]
    assert [answer.duplicate for answer in log.commit(drafts)[0]] == [True, True]


def test_50_positions_that_found_no_space_are_stored_later() -> None:
    """They were forgotten: trimming failed for ever, the ladder stayed at "no space", backfill stopped for good."""
    from runtime.log.retention import Retention

    disk = MemoryDisk()
    log = open_log(disk, background_upkeep=True, retention=Retention(seconds=0))
    for sequence in (1, 2, 3):
        log.commit([draft(sequence, size=9_000)])
    disk.fail("short write", suffix="positions.tmp", times=1)
    with pytest.raises(LogFull):
        log.upkeep(verified=log.end_position)
    log.upkeep(verified=log.end_position)
    assert log.start_position > 0
