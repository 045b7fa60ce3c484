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
from actors.downloader.behind import Behind, ConfirmRules
from actors.downloader.jobs import Position, Wanted, Work, plan
from actors.downloader.live_feed import owed_minutes
from actors.downloader.live_group import LiveGroup, LiveLimits
from actors.downloader.memory_live import MemoryLive, MemoryMarket
from actors.downloader.seam import Seam
from actors.market.symbols import AssetClass
from runtime.actor import ActorContext, Seams, offload_inline
from runtime.board import Board
from runtime.clock import VirtualClock
from runtime.disk_memory import MemoryDisk
from runtime.entropy import SeededEntropy
from runtime.errors import LogFull, LogSyncFailed, NotConnected
from runtime.log.appender import AppendRequest
from runtime.log.log import Log, LogSettings
from runtime.log.types import FrameDraft, GroupDraft, ProducerState
from runtime.mailbox import Mailbox
from runtime.market_clock import MarketClock, Sample


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


async def test_8_an_append_behind_a_refused_one_is_refused_too(autojump_clock: trio.abc.Clock) -> None:
    """It was written into the gap's face: InvariantViolation, and a bug in the buffer ended the process with code 70."""
    disk = MemoryDisk()
    log = open_log(disk)
    inbox: Mailbox[AppendRequest] = Mailbox("buffer", 8)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Buffer(log=log, inbox=inbox).run, context())
        await trio.testing.wait_all_tasks_blocked()
        late, again = AppendRequest(draft(2)), AppendRequest(draft(1))  # the former incarnation refused number 1
        await inbox.send(late)
        with trio.fail_after(5.0), pytest.raises(NotConnected):
            await late.wait()
        await inbox.send(again)
        with trio.fail_after(5.0):
            assert not (await again.wait()).duplicate
        nursery.cancel_scope.cancel()


def test_66_what_meta_says_is_durable_before_segments_go_for_good() -> None:
    """Killed between write and sync of META; the next start trimmed by what it read, and the power took META back."""
    from runtime.log.retention import Retention

    disk = MemoryDisk()
    log = open_log(disk, background_upkeep=True, retention=Retention(seconds=0))
    for sequence in (1, 2, 3):
        log.commit([draft(sequence, size=9_000)])
    disk.fail("short write", suffix="META", times=1)
    with pytest.raises(LogFull):
        log.upkeep(verified=log.end_position)
    disk.kill()
    start = open_log(disk).start_position
    assert start > 0, "the page cache did not show the new META"
    disk.crash(keep=0.0)
    assert open_log(disk).start_position == start


def test_407_the_log_is_not_cut_by_a_cursor_that_is_only_in_the_page_cache() -> None:
    """The sync of a cursor failed (or the process was killed before it); trimmed by what was read; the power took the
    cursor back: the sink was stuck for ever, waiting for frames that were gone."""
    from runtime.log.cursor import Cursor
    from runtime.log.retention import Retention

    disk = MemoryDisk()
    retention = Retention(seconds=0)
    log = open_log(disk, background_upkeep=True, retention=retention)
    log.cursor("sink").store(Cursor())
    for sequence in (1, 2, 3):
        log.commit([draft(sequence, size=9_000)])
    disk.fail("sync", suffix="cursors/sink")
    with pytest.raises(LogSyncFailed):
        log.cursor("sink").store(Cursor(position=log.end_position))
    disk.kill()
    log = open_log(disk, background_upkeep=True, retention=retention)
    assert log.verified_by(["sink"]) == 0
    assert log.cursor("sink").load().position == log.end_position, "the page cache did not show the new cursor"
    log.upkeep(verified=log.verified_by(["sink"]))
    start = log.start_position
    assert start > 0
    disk.crash(keep=0.0)
    assert open_log(disk).cursor("sink").load().position >= start


def test_12_a_second_refetch_of_what_is_not_over_waits_for_the_first() -> None:
    """Each began anew in turn, for ever: as fast as the vendor answered, and all of it went into the log."""
    minute = 60 * 10**9
    one, two = (Wanted(job=name, from_ns=0, to_ns=10 * minute, refetch=True) for name in ("one", "two"))
    position, asked = Position(), []
    for _ in range(10):
        work = plan(position, [one, two], 9 * minute)
        if work is None:
            break
        asked.append(work.wanted.job)
        position = position.after_slice(0, 9 * minute, work.wanted)
    assert asked == ["one"]
    assert plan(position, [one, two], 10 * minute) is not None


def test_8_what_a_provisional_slice_replaces_is_confirmed_once_more() -> None:
    """The clock was ahead for a moment: final; then a refetch, provisional; nobody ever confirmed it again."""
    hour, nothing = 3600 * 10**9, Wanted(job="", from_ns=0, to_ns=None, refetch=False)
    position = Position().after_slice(0, hour, nothing, confirms=True)
    assert position.confirmed.covers(0, hour)
    position = position.after_slice(hour // 2, hour, nothing)
    assert list(position.confirmed) == [(0, hour // 2)]
    assert position.covered.covers(0, hour)


async def test_27_a_late_row_orders_its_minute_when_history_has_asked_for_it_whatever_the_clock_says_now(
    autojump_clock: trio.abc.Clock,
) -> None:
    """At a start the vendor's clock is taken to run as ours does; then it was found to run 300 times as fast, and what
    had been asked for counted as "not asked for yet": a late row of it was lost until its hour was confirmed."""
    minute, hour = 60 * 10**9, 3600 * 10**9
    seam = Seam(lambda name: ProducerState()).feed("C:EURUSD", "quotes")
    market = MarketClock(VirtualClock(24 * hour))
    market.observe(Sample(sent_s=0.0, received_s=0.0, vendor_ns=hour))
    behind = Behind(clock=VirtualClock(24 * hour), rules=ConfirmRules(), minute_settle_s=5.0, market=market, seam=seam)
    behind.begin(Work(wanted=Wanted(job="", from_ns=0, to_ns=None, refetch=False), intervals=((0, 5 * minute),)))
    refused = ((4 * minute, 5 * minute),)
    assert owed_minutes(refused, 10 * minute, 2 * minute) == []
    assert owed_minutes(refused, 10 * minute, max(2 * minute, seam.asked_to_ns)) == list(refused)


async def test_129_a_session_begins_behind_the_answer_that_came_after_its_subscription(
    autojump_clock: trio.abc.Clock,
) -> None:
    """Two connections asked at once, the slower answer was ignored; the older one, taken to run as our clock does, made
    the seam earlier than the subscription: rows before it were claimed and had never come."""
    minute = 60 * 10**9
    market = MarketClock(VirtualClock(0))
    market.observe(Sample(sent_s=-1.0, received_s=0.5, vendor_ns=10 * minute))

    class Slow:
        async def server_time(self) -> Sample:
            return Sample(sent_s=0.0, received_s=1.0, vendor_ns=15 * minute)

        async def close(self) -> None: ...

    group = LiveGroup(
        asset_class=AssetClass.FX,
        feeds={},
        source=MemoryLive(market=MemoryMarket(ticks={}, start_ns=0)),
        time=Slow(),
        market=market,
        limits=LiveLimits(),
        ctx=context(),
    )
    assert await group._seam() == 16 * minute


async def test_0_a_clock_that_runs_faster_than_it_was_taken_to_is_believed(autojump_clock: trio.abc.Clock) -> None:
    """A market stood until the first subscription and then ran 300 times as fast as ours. Three answers had made its rate
    1; all later ones were called wrong, for ever, because they did not agree with each other at that rate."""
    market = MarketClock(VirtualClock(0))
    for number in range(40):
        at_s = number * 0.25
        vendor_ns = 10**18 + max(0, round((at_s - 1.0) * 300)) * 10**9
        market.observe(Sample(sent_s=at_s, received_s=at_s + 0.01, vendor_ns=vendor_ns))
    assert 290 < market.rate < 310
