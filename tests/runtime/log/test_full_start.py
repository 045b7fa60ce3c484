"""A start on a full disk: what is there is read and trimmed, nothing acknowledged is lost, it goes on by itself."""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
import pytest

from runtime.disk import MemoryDisk, SimulatedCrash
from runtime.errors import LogFull
from runtime.log.cursor import Cursor
from runtime.log.log import Log, LogSettings
from runtime.log.recovery import Recovery
from runtime.log.retention import Retention
from runtime.log.types import Group

Everything = Callable[..., list[Group]]
SEGMENT = 16 << 10


def opened(rig: Any, segment_bytes: int = SEGMENT) -> Log:
    log: Log = rig.open(
        settings=LogSettings(
            partitions=2, segment_bytes=segment_bytes, background_upkeep=True, retention=Retention(seconds=0)
        )
    )
    return log


def killed(
    rig: Any, *, groups: int, sizes: tuple[int, ...] = (900,), verified: bool, segment_bytes: int = SEGMENT
) -> None:
    """A process with a consumer that is at the end, or nowhere, was killed; its disk is full to the last byte."""
    log = opened(rig, segment_bytes)
    log.cursor("sink").store(Cursor(position=0))
    for n in range(1, groups + 1):
        log.commit([rig.draft("p", n, sizes=sizes)])
        while log._writer._full or log._writer._snapshot:
            log._writer._finish_former()
    if verified:
        log.cursor("sink").store(Cursor(position=log.end_position))
    rig.disk.kill()
    full(rig)


def full(rig: Any) -> None:
    rig.disk.capacity_bytes = rig.disk._used()


def sequences(groups: list[Group]) -> list[int]:
    return [group.sequence for group in groups]


def test_the_second_start_on_a_full_disk_reads_and_waits_and_goes_on(memory_rig: Any, everything: Everything) -> None:
    """The first one takes the runway; the second ended with 75: no status page, no draining, no trimming."""
    log = opened(memory_rig)
    log.upkeep()
    log.commit([memory_rig.draft("p", 1)])
    log.cursor("sink").store(Cursor(position=log.end_position))
    memory_rig.disk.kill()
    full(memory_rig)
    log = opened(memory_rig)
    log.commit([memory_rig.draft("p", 2)])  # into what was the runway
    log.cursor("sink").store(Cursor(position=log.end_position))
    memory_rig.disk.kill()
    full(memory_rig)
    memory_rig.disk.fail("allocate", errno.ENOSPC, times=1 << 30)  # what the first start gave back is somebody else's
    for _ in range(3):
        log = opened(memory_rig)
        assert sequences(everything(log)) == [1, 2]
        assert log.producer("p").sequence == 2
        for use_reserve in (False, True):
            with pytest.raises(LogFull, match="new segment"):
                log.commit([memory_rig.draft("p", 3)], use_reserve=use_reserve)
        assert not log.needs_reopen
        with pytest.raises(LogFull, match="runway"):
            log.upkeep()
        log.reopen()
        assert log.room_bytes == 0
        memory_rig.disk.kill()
    log = opened(memory_rig)
    memory_rig.disk.capacity_bytes = None
    memory_rig.disk._faults.clear()
    _, groups = log.commit([memory_rig.draft("p", 3)])
    log.upkeep()
    assert groups == everything(log)[2:]
    memory_rig.disk.crash(keep=0.0)
    log = opened(memory_rig)
    assert sequences(everything(log)) == [1, 2, 3]
    assert log.damage == log.torn == []


def test_a_log_that_is_opened_on_a_full_disk_is_trimmed_and_so_goes_on_by_itself(
    memory_rig: Any, everything: Everything
) -> None:
    killed(memory_rig, groups=55, verified=True)  # 11 in a segment: the last one has no room to give back
    log = opened(memory_rig)
    segments, end = log.segments, log.end_position
    assert (segments, log.room_bytes) == (5, 0)
    with pytest.raises(LogFull):
        log.commit([memory_rig.draft("p", 56)])
    log.cursor("sink").load()
    log.upkeep(verified=log.verified_by(["sink"]), pressed=True)
    assert log.segments == 1
    log.commit([memory_rig.draft("p", 56)])
    assert log.end_position > end
    log.upkeep()
    assert log.producer("p").sequence == 56
    memory_rig.disk.crash(keep=0.0)
    log = opened(memory_rig)
    assert log.producer("p").sequence == 56
    assert sequences(everything(log))[-1] == 56
    assert log.damage == []


def test_positions_that_have_outgrown_their_file_do_not_keep_a_full_disk_from_being_trimmed(
    memory_rig: Any, everything: Everything
) -> None:
    """Trimming waited for space for them, and the space for the trimming."""
    rig, big = memory_rig, 64 << 10
    log = opened(rig, big)
    log.cursor("sink").store(Cursor(position=0))
    log.upkeep()
    for n in range(1, 43):
        log.commit([rig.draft("p", n, sizes=(9000,))])
        log._writer._finish_former()
    log.commit([rig.draft(f"history/{n:0100d}", 1, sizes=(10,)) for n in range(60)])
    log.cursor("sink").store(Cursor(position=log.end_position))
    rig.disk.kill()
    full(rig)
    log = opened(rig, big)
    segments = log.segments
    log.cursor("sink").load()
    with suppress(LogFull):
        log.upkeep(verified=log.verified_by(["sink"]), pressed=True)
    assert log.segments < segments
    rig.disk.crash(keep=0.0)
    log = opened(rig, big)
    assert len(log.producers()) == 61
    assert log.producer("p").sequence == 42
    log.upkeep()
    log.commit([rig.draft("p", 43, sizes=(9000,))])


def test_the_second_start_on_a_full_disk_writes_into_what_the_old_segment_had_too_much_of(
    memory_rig: Any, everything: Everything
) -> None:
    """Whoever fills the disk, that space was ours."""
    killed(memory_rig, groups=3, verified=True, segment_bytes=64 << 10)
    done = 3
    for _ in range(3):
        log = opened(memory_rig, 64 << 10)
        assert log.room_bytes > 1000
        log.commit([memory_rig.draft("p", done + 1, sizes=(900,))])
        done += 1
        log.cursor("sink").load()
        log.cursor("sink").store(Cursor(position=log.end_position))
        memory_rig.disk.crash(keep=0.0)
        full(memory_rig)
    log = opened(memory_rig)
    assert sequences(everything(log)) == list(range(1, done + 1))
    assert log.damage == log.torn == []


def test_groups_that_may_not_be_synced_are_copied_into_what_the_old_segment_has_too_much_of(
    memory_rig: Any, everything: Everything
) -> None:
    killed(memory_rig, groups=3, verified=False)
    log = opened(memory_rig)
    assert sequences(everything(log)) == [1, 2, 3]
    with pytest.raises(LogFull, match="runway"):
        log.upkeep()
    memory_rig.disk.crash(keep=0.0)
    log = opened(memory_rig)
    assert sequences(everything(log)) == [1, 2, 3]
    assert log.damage == log.torn == []


def test_groups_that_may_not_be_synced_and_cannot_be_copied_are_a_clear_refusal(
    memory_rig: Any, everything: Everything
) -> None:
    killed(memory_rig, groups=3, verified=False)
    memory_rig.disk.fail("allocate", errno.ENOSPC, times=1 << 30)
    for _ in range(3):
        with pytest.raises(LogFull, match=r"the last 1 groups \(\d+ bytes\) .* must be copied .* free some space"):
            opened(memory_rig)
    memory_rig.disk.capacity_bytes = None
    memory_rig.disk._faults.clear()
    assert sequences(everything(opened(memory_rig))) == [1, 2, 3]
    memory_rig.disk.crash(keep=0.0)
    log = opened(memory_rig)
    assert sequences(everything(log)) == [1, 2, 3]
    assert log.damage == log.torn == []


def test_control_opened_without_the_copy_an_acknowledged_group_is_lost(
    memory_rig: Any, everything: Everything, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Positive control of the refusal: its producer is told a sequence too low, and gives that one out again."""
    killed(memory_rig, groups=3, verified=False)
    run = Recovery.run
    monkeypatch.setattr(Recovery, "run", lambda self: attrs.evolve(run(self), carry=[]))
    log = opened(memory_rig)
    assert log.producer("p").sequence == 2
    memory_rig.disk.capacity_bytes = None
    log.commit([memory_rig.draft("p", 3, sizes=(1,))])
    assert len(everything(log)[2].frames[0].body) == 1


@pytest.mark.parametrize("background", [True, False])
def test_who_was_refused_for_want_of_space_notes_where_it_stands(
    memory_rig: Any, everything: Everything, background: bool
) -> None:
    """So the next start has nothing to copy, though no consumer moved."""
    memory_rig.segment_bytes, memory_rig.background = SEGMENT, background
    log = memory_rig.open()
    log.commit([memory_rig.draft("p", 1)])
    log.upkeep()
    full(memory_rig)
    done = 1
    with pytest.raises(LogFull):  # noqa: PT012  (until it is full)
        while True:
            log.commit([memory_rig.draft("p", done + 1, sizes=(3000,))])
            done += 1
    if background:
        with pytest.raises(LogFull, match="runway"):
            log.upkeep()
    memory_rig.disk.kill()
    memory_rig.disk.fail("allocate", errno.ENOSPC, times=1 << 30)
    log = memory_rig.open()
    assert sequences(everything(log)) == list(range(1, done + 1))


def test_a_torn_tail_does_not_keep_a_full_disk_from_opening(memory_rig: Any, everything: Everything) -> None:
    killed(memory_rig, groups=3, verified=True)
    log = opened(memory_rig)
    end = log.end_position
    memory_rig.disk.kill()
    last = memory_rig.last_segment()
    memory_rig.overwrite(last, memory_rig.disk.open(last).size() - 64, b"half a frame")
    full(memory_rig)
    log = opened(memory_rig)
    assert (log.end_position, len(log.torn), log.damage) == (end, 1, [])
    memory_rig.disk.capacity_bytes = None
    log.commit([memory_rig.draft("p", 4)])
    log.upkeep()
    memory_rig.disk.crash(keep=0.0)
    log = opened(memory_rig)
    assert sequences(everything(log)) == [1, 2, 3, 4]
    assert log.torn == log.damage == []


def test_a_spare_that_lost_its_space_does_not_keep_a_full_disk_from_opening(memory_rig: Any) -> None:
    killed(memory_rig, groups=3, verified=True)
    name = memory_rig.path / "runway-0.seg.new"
    memory_rig.disk.capacity_bytes = None
    memory_rig.disk.write_atomic(name, bytes(SEGMENT))
    memory_rig.disk.fail("allocate", errno.ENOSPC, times=1 << 30)
    assert opened(memory_rig).producer("p").sequence == 3
    assert not memory_rig.disk.exists(name)


def test_a_new_log_on_a_full_disk_is_refused(memory_rig: Any) -> None:
    memory_rig.disk.capacity_bytes = 10_000
    with pytest.raises(LogFull):
        opened(memory_rig)
    memory_rig.disk.capacity_bytes = None
    opened(memory_rig).commit([memory_rig.draft("p", 1)])


@pytest.mark.parametrize("verified", [True, False])
@pytest.mark.parametrize("keep", [None, 0.0, 0.5, 1.0])
def test_a_crash_at_any_operation_of_a_start_on_a_full_disk_loses_nothing(
    memory_rig: Any, everything: Everything, verified: bool, keep: float | None
) -> None:
    """Then a second one is killed in the same way, and after the third the disk has space."""
    for operation in range(200):
        memory_rig.disk, memory_rig.path = MemoryDisk(seed=operation), Path(f"/data/{operation}")
        killed(memory_rig, groups=20, sizes=(700, 100), verified=verified)
        if keep is not None:
            memory_rig.disk.crash(keep=1.0)  # from here on nothing is in the page cache only
        ended = 0
        for after in (operation, operation // 2):
            memory_rig.disk.crash_after(after)
            try:
                log = opened(memory_rig)
                log.commit([memory_rig.draft("q", 1)])
            except LogFull:
                ended += 1
            except SimulatedCrash:
                pass
            else:
                ended += 1
            memory_rig.disk.kill() if keep is None else memory_rig.disk.crash(keep=keep)
        memory_rig.disk.capacity_bytes = None
        log = opened(memory_rig)
        assert [g.sequence for g in everything(log) if g.producer == "p"] == list(range(1, 21)), operation
        assert log.damage == []
        log.commit([memory_rig.draft("p", 21)])
        if ended == 2:
            return
    raise AssertionError("the start never ended")
