"""What an error of the disk may cost, by the place where it comes: never a frame that was acknowledged."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any

import pytest

from runtime.errors import ConfigError, LogError, LogFull, LogSyncFailed
from runtime.log.cursor import Cursor
from runtime.log.log import Log
from runtime.log.types import Group
from runtime.log.writer import Writer

Everything = Callable[..., list[Group]]
NO_SPACE = [errno.ENOSPC, errno.EDQUOT, errno.EROFS]


def nearly_full_segment(rig: Any) -> tuple[Log, int]:
    """(a log whose segment has room for small groups only, sequence of the last one of producer p)."""
    log = rig.open()
    for n in range(1, 14):
        log.commit([rig.draft("p", n, sizes=(4000,))])
    return log, 13


def commit_what_goes(rig: Any, log: Log, last: int) -> int:
    """As a producer and a record of a loss do after a refusal; the last sequence that was acknowledged."""
    for size, use_reserve in ((3000, False), (500, True)):
        try:
            log.commit([rig.draft("p", last + 1, sizes=(size,))], use_reserve=use_reserve)
            last += 1
        except LogError:
            pass
    return last


# --- a new segment's name


@pytest.mark.parametrize("error", [*NO_SPACE, errno.EIO])
@pytest.mark.parametrize("keep", [None, 0.0, 1.0])
def test_a_new_segment_whose_name_was_not_synced_ends_the_process(
    memory_rig: Any, everything: Everything, error: int, keep: float | None
) -> None:
    """It used to be "no space, the current one stays": the next start cut off what was then committed there."""
    log, last = nearly_full_segment(memory_rig)
    memory_rig.disk.fail("sync_directory", error)
    with pytest.raises(LogSyncFailed, match=r"the name of \d{20}\.seg"):
        log.commit([memory_rig.draft("p", last + 1, sizes=(12_000,))])
    assert memory_rig.disk.exists(memory_rig.path / "SUSPECT")
    last = commit_what_goes(memory_rig, log, last)
    with pytest.raises(LogSyncFailed):
        log.reopen()
    memory_rig.disk.kill() if keep is None else memory_rig.disk.crash(keep=keep)
    log = memory_rig.open()
    assert log.producer("p").sequence == last
    assert [g.sequence for g in everything(log)] == list(range(1, last + 1))
    assert log.damage == log.torn == []


def test_control_taken_for_a_full_disk_acknowledged_groups_are_lost(
    memory_rig: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Positive control of the test above."""
    log, last = nearly_full_segment(memory_rig)

    def refuse(writer: Writer, *_: Any) -> None:
        raise LogFull("the current one stays as it was")

    monkeypatch.setattr(Writer, "_sync_name", refuse)
    with pytest.raises(LogFull):
        log.commit([memory_rig.draft("p", last + 1, sizes=(12_000,))])
    last = commit_what_goes(memory_rig, log, last)
    memory_rig.disk.kill()
    monkeypatch.undo()
    assert memory_rig.open().producer("p").sequence < last


def test_a_reopen_whose_new_name_was_not_synced_is_the_last_one_of_the_process(memory_rig: Any) -> None:
    log, last = nearly_full_segment(memory_rig)
    log._broken = True
    memory_rig.disk.fail("sync_directory", errno.ENOSPC, after=1)  # the first one is LOCK's
    with pytest.raises(LogSyncFailed, match="the name of"):
        log.reopen()
    with pytest.raises(LogSyncFailed, match="only a new"):
        log.reopen()
    memory_rig.disk.crash(keep=0.0)
    assert memory_rig.open().producer("p").sequence == last


@pytest.mark.parametrize("error", NO_SPACE)
def test_a_rename_that_fails_for_want_of_space_leaves_the_current_segment_in_use(
    memory_rig: Any, everything: Everything, error: int
) -> None:
    log, last = nearly_full_segment(memory_rig)
    memory_rig.disk.fail("rename", error)
    with pytest.raises(LogFull):
        log.commit([memory_rig.draft("p", last + 1, sizes=(12_000,))])
    last = commit_what_goes(memory_rig, log, last)
    assert last == 15
    memory_rig.disk.kill()
    log = memory_rig.open()
    assert [g.sequence for g in everything(log)] == list(range(1, last + 1))


# --- what lies about


@pytest.mark.parametrize("name", ["runway-0.seg.new.bak", "runway-", "runway-x", "runway-7.seg", "runway-0.seg.new~"])
def test_a_file_that_somebody_put_beside_the_runway_does_not_break_the_start(rig: Any, name: str) -> None:
    rig.filled(3)
    rig.disk.write_atomic(rig.path / name, b"mine")
    log = rig.open()
    log.commit([rig.draft("p", 4)])
    assert rig.disk.read_bytes(rig.path / name) == b"mine"


@pytest.mark.parametrize("name", ["runway-x.seg.new", "runway-3.seg.new", f"{77:020d}.seg.new"])
def test_an_unfinished_file_is_tidied_away_whatever_its_name(rig: Any, name: str) -> None:
    rig.filled(3)
    rig.disk.write_atomic(rig.path / name, b"half made")
    rig.open().commit([rig.draft("p", 4)])
    assert not rig.disk.exists(rig.path / name)


# --- a write that failed and cannot be taken back


def half_a_batch(rig: Any, log: Log, *, cut: int) -> None:
    """A batch of two groups, of which the first and a part of the second are written and cannot be cut off."""
    rig.disk.fail("short write", suffix=".seg.new")
    rig.disk.fail("truncate", cut, suffix=".seg.new")
    log.commit([rig.draft("a", 2, sizes=(100,)), rig.draft("b", 1, sizes=(300,))])


@pytest.mark.parametrize("error", NO_SPACE)
@pytest.mark.parametrize("background", [False, True])
def test_behind_half_a_write_that_cannot_be_cut_back_nothing_is_written(
    memory_rig: Any, everything: Everything, error: int, background: bool
) -> None:
    memory_rig.background = background
    log = memory_rig.open()
    log.commit([memory_rig.draft("a", 1)])
    with pytest.raises(LogFull, match=r"cutting back: \w"):
        half_a_batch(memory_rig, log, cut=error)
    assert not log.needs_reopen
    left = memory_rig.last_segment()
    before = memory_rig.disk.read_bytes(left)
    memory_rig.disk.fail("open", error, suffix=".seg.new")
    with pytest.raises(LogFull):
        log.commit([memory_rig.draft("a", 2, sizes=(7,))])
    assert before.startswith(memory_rig.disk.read_bytes(left))  # sealed by now, or as it was
    _, groups = log.commit([memory_rig.draft("a", 2, sizes=(7,)), memory_rig.draft("c", 1)])
    assert memory_rig.last_segment() != left
    assert everything(log)[1:] == groups
    assert log.damage == []
    memory_rig.disk.crash(keep=1.0)
    log = memory_rig.open()
    assert [(g.producer, g.sequence) for g in everything(log)] == [("a", 1), ("a", 2), ("c", 1)]
    assert log.damage == []


def test_control_written_behind_half_a_write_what_was_refused_comes_back(
    memory_rig: Any, everything: Everything, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Positive control: the second group of the refused batch, whole behind a shorter one, is no torn tail."""
    log = memory_rig.open()
    log.commit([memory_rig.draft("a", 1)])
    monkeypatch.setattr(Writer, "_leave_current", lambda self: None)
    with pytest.raises(LogFull):
        half_a_batch(memory_rig, log, cut=errno.EROFS)
    end = log.end_position
    log.commit([memory_rig.draft("a", 2, sizes=(7,))])
    assert any(memory_rig.disk.read_bytes(memory_rig.last_segment())[4096 + log.end_position :][:64])
    assert log.end_position > end


def test_half_a_write_in_an_empty_segment_goes_with_its_file(memory_rig: Any, everything: Everything) -> None:
    log = memory_rig.open()
    memory_rig.disk.fail("short write", suffix=".seg.new")
    memory_rig.disk.fail("truncate", errno.EROFS, suffix=".seg.new")
    with pytest.raises(LogFull):
        log.commit([memory_rig.draft("a", 1), memory_rig.draft("b", 1, sizes=(900,))])
    _, groups = log.commit([memory_rig.draft("a", 1)])
    assert log.segments == 1
    memory_rig.disk.crash(keep=0.0)
    assert everything(memory_rig.open()) == groups


def test_a_failing_disk_under_half_a_write_is_fatal_and_marked(memory_rig: Any, everything: Everything) -> None:
    """The buffer crashed by a raw OSError."""
    log = memory_rig.open()
    log.commit([memory_rig.draft("a", 1)])
    with pytest.raises(LogSyncFailed, match="cutting back"):
        half_a_batch(memory_rig, log, cut=errno.EIO)
    assert memory_rig.disk.exists(memory_rig.path / "SUSPECT")
    memory_rig.disk.kill()
    assert everything(memory_rig.open())[0].sequence == 1


def test_a_volume_that_becomes_read_only_is_waited_for(memory_rig: Any, everything: Everything) -> None:
    """Every write, cut and allocation says EROFS; the log says LogFull until it can be written to again."""
    log = memory_rig.open()
    log.commit([memory_rig.draft("a", 1)])
    for op in ("write", "truncate", "allocate"):
        memory_rig.disk.fail(op, errno.EROFS, times=1 << 30)
    for _ in range(5):
        with pytest.raises(LogFull, match="Read-only file system"):
            log.commit([memory_rig.draft("a", 2)])
        with pytest.raises(LogFull, match="Read-only file system"):
            log.upkeep()
    log._broken = True  # as if the buffer had died in a commit
    with pytest.raises(LogFull, match="Read-only file system") as caught:
        log.reopen()
    assert "None" not in str(caught.value)
    memory_rig.disk._faults.clear()
    log.reopen()
    log.commit([memory_rig.draft("a", 2)])
    assert [g.sequence for g in everything(log)] == [1, 2]


def test_no_message_says_none(memory_rig: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of a write on an open file has no file name."""
    memory_rig.filled(1)
    for error, kind in ((errno.EROFS, ConfigError), (errno.EIO, LogSyncFailed), (errno.ENOSPC, LogFull)):

        def fail(*_: Any, error: int = error) -> None:
            raise OSError(error, os.strerror(error))

        monkeypatch.setattr("runtime.log.meta.WriterLock.begin_epoch", fail)
        with pytest.raises(kind, match=os.strerror(error)) as caught:
            memory_rig.open()
        assert "None" not in str(caught.value)


# --- SUSPECT: whenever the disk failed, and only then


def test_a_cursor_whose_sync_failed_leaves_the_marker(memory_rig: Any) -> None:
    log = memory_rig.open()
    cursor = log.cursor("sink")
    cursor.store(Cursor(position=0))
    memory_rig.disk.fail("sync", errno.EIO, suffix="/sink")
    with pytest.raises(LogSyncFailed, match="cursor sink"):
        cursor.store(Cursor(position=0))
    assert b"cursor sink" in memory_rig.disk.read_bytes(memory_rig.path / "SUSPECT")


def test_a_cursor_that_finds_no_space_leaves_no_marker(memory_rig: Any) -> None:
    log = memory_rig.open()
    for error in NO_SPACE:
        memory_rig.disk.fail("write", error, suffix="/sink.tmp")
        with pytest.raises(LogFull, match="cursor sink"):
            log.cursor("sink").store(Cursor(position=0))
    assert not memory_rig.disk.exists(memory_rig.path / "SUSPECT")


def test_a_close_whose_sync_failed_says_so_once_all_is_released(memory_rig: Any) -> None:
    log = memory_rig.open()
    log.commit([memory_rig.draft("p", 1)])
    memory_rig.disk.fail("sync", errno.EIO, suffix="positions")
    with pytest.raises(LogSyncFailed, match="positions"):
        log.close()
    assert memory_rig.disk.exists(memory_rig.path / "SUSPECT")
    log.close()  # a second time it has nothing left to say
    log = memory_rig.open()  # the lock is free
    assert log.producer("p").sequence == 1
    assert not memory_rig.disk.exists(memory_rig.path / "SUSPECT")


def test_where_no_sync_works_at_all_the_marker_is_there_all_the_same(memory_rig: Any) -> None:
    log = memory_rig.open()
    log.commit([memory_rig.draft("p", 1)])
    memory_rig.disk.fail("sync", errno.EIO, times=1 << 30)
    with pytest.raises(LogSyncFailed):
        log.close()
    assert b"positions" in memory_rig.disk.read_bytes(memory_rig.path / "SUSPECT")


@pytest.mark.parametrize("error", NO_SPACE)
def test_a_close_on_a_full_disk_is_clean(memory_rig: Any, error: int) -> None:
    """It said SUSPECT."""
    log = memory_rig.open()
    log.commit([memory_rig.draft("p", 1)])
    memory_rig.disk.fail("write", error, suffix="positions")
    log.close()
    assert not memory_rig.disk.exists(memory_rig.path / "SUSPECT")
    assert memory_rig.open().producer("p").sequence == 1
