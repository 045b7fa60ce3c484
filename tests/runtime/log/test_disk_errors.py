"""What an error of the disk may cost, by the place where it comes: never a frame that was acknowledged."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import pytest

from runtime.errors import LogError, LogFull, LogSyncFailed
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
