"""Which segments may go, in which order things become durable, and the next segment that is ready before it is needed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtime.disk import MemoryDisk, SimulatedCrash
from runtime.errors import ConfigError, LogCorrupt, LogFull, LogSyncFailed
from runtime.log import log as log_module
from runtime.log.cursor import Cursor
from runtime.log.log import Log, LogSettings
from runtime.log.retention import PRESSED_S, Retention, new_start
from runtime.log.segment import Segment, SegmentHeader
from runtime.log.tools import open_files
from runtime.log.types import GroupDraft

S = 1_000_000_000


def segments(*created_s: int, size: int = 1000) -> list[Segment]:
    """Segments of `size` bytes, made at these seconds."""
    made = []
    for n, at_s in enumerate(created_s):
        header = SegmentHeader(
            log_id="0" * 32, epoch=1, base=n * size, prev_base=max(0, n - 1) * size, prev_end=n * size, chain=0,
            created_ns=at_s * S, offsets=(0, 0),
        )  # fmt: skip
        made.append(Segment(path=Path(f"/{n}"), base=n * size, header=header))
    return made


@pytest.mark.parametrize(
    ("verified", "now_s", "seconds", "size", "pressed", "start"),
    [
        (10**9, 1000, 10**6, 10**9, False, 0),  # young and small
        (10**9, 1000, 100, 10**9, False, 0),  # old, but so few: the clock alone says so
        (1999, 1000, 500, 10**9, True, 1000),  # not verified to its last byte
        (0, 10**9, 0, 0, True, 0),  # nothing unverified goes, whatever the pressure
        (10**9, 1000, 0, 10**9, False, 3000),  # the last segment stays
        (10**9, 600, 10**6, 15_000, False, 1000),  # by size
        (10**9, PRESSED_S + 500, 10**6, 10**9, True, 2000),
        (10**9, PRESSED_S + 500, 10**6, 10**9, False, 0),
        (10**9, 1000, 500, 10**9, True, 2000),  # the third was made at 500; pressure never lengthens
    ],
)
def test_what_may_go(verified: int, now_s: int, seconds: int, size: int, pressed: bool, start: int) -> None:
    kept = segments(0, 250, 500, 900)
    retention = Retention(seconds=seconds, bytes=size)
    assert new_start(kept, verified=verified, now_ns=now_s * S, retention=retention, pressed=pressed) == start


def kept_by_age(created_s: list[int], now_s: int, keep_s: int) -> int:
    """How many segments stay when all is verified."""
    made = segments(*created_s)
    start = new_start(made, verified=10**9, now_ns=now_s * S, retention=Retention(seconds=keep_s))
    return sum(s.base >= start for s in made)


def test_a_log_that_fills_steadily_is_cut_by_its_age() -> None:
    assert kept_by_age(list(range(0, 1000, 10)), 1000, 500) == 50  # the oldest of them ended 490 s ago


@pytest.mark.parametrize("years", [1, 50])
def test_a_clock_that_jumps_forward_costs_a_seventh_of_the_retention(years: int) -> None:
    jumped = 1000 + years * 365 * 86_400
    assert kept_by_age(list(range(0, 1000, 10)), jumped, 500) >= 50 * 6 // 7
    # and when it came back after a segment was made by the wrong clock, nothing goes that would have stayed
    assert kept_by_age([*range(0, 1000, 10), jumped], 1010, 500) >= 50 * 6 // 7


def test_believing_the_clock_a_jump_would_cut_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Positive control."""
    monkeypatch.setattr("runtime.log.retention.GAP_SHARE", 1)
    assert kept_by_age(list(range(0, 1000, 10)), 1000 + 365 * 86_400, 500) == 1


def trimming(rig: Any, **settings: Any) -> Log:
    wanted = {"retention": Retention(seconds=0), "background_upkeep": True}
    return rig.open(settings=LogSettings(partitions=2, segment_bytes=8 << 10, **(wanted | settings)))


def fill(rig: Any, log: Log, groups: int, first: int = 1) -> None:
    for n in range(first, first + groups):
        log.commit([rig.draft("p" if n % 2 else "q", (n + 1) // 2, sizes=(900,))])


def test_trimming_forgets_files_and_nothing_else(rig: Any, everything: Any) -> None:
    log = trimming(rig)
    fill(rig, log, 40)
    before = everything(log)
    old = log.segments
    log.upkeep(verified=before[30].position)
    assert log.segments < old
    assert 0 < log.start_position <= before[30].position
    assert everything(log) == [g for g in before if g.position >= log.start_position]
    assert len([n for n in rig.disk.names(rig.path) if n.endswith(".seg")]) == log.segments
    assert open_files(rig.disk, rig.path).start_position == log.start_position
    consumer = log.consumer("late")
    assert consumer.position == log.start_position
    with pytest.raises(LogCorrupt, match="not kept any more"):
        log.reader().read(0, log.end_position, bytes_max=1000, partitions=None)
    start, producers = log.start_position, log.producers()
    log.close()
    log = trimming(rig)
    assert (log.start_position, log.producers(), log.damage) == (start, producers, [])
    fill(rig, log, 4, first=41)


def test_a_producer_whose_groups_are_all_trimmed_is_remembered_after_a_crash(memory_rig: Any) -> None:
    log = trimming(memory_rig)
    log.commit([memory_rig.draft("gone", 1)])
    fill(memory_rig, log, 40)
    log.upkeep(verified=log.end_position)
    assert log.start_position > 1000
    memory_rig.disk.crash(keep=0.0)
    log = trimming(memory_rig)
    assert log.producer("gone").sequence == 1


def test_a_crash_at_any_operation_of_trimming_loses_nothing_unverified(memory_rig: Any, everything: Any) -> None:
    for keep in (0.0, 0.5, 1.0):
        for operation in range(60):
            disk = memory_rig.disk = MemoryDisk(seed=operation)
            log = trimming(memory_rig)
            fill(memory_rig, log, 30)
            log.cursor("sink").store(Cursor(position=log.end_position))
            fill(memory_rig, log, 5, first=31)
            before = everything(log)
            verified = log.verified_by(["sink"])
            disk.crash_after(operation)
            try:
                log.upkeep(verified=verified)
            except SimulatedCrash:
                pass
            else:
                assert operation > 8
                continue
            disk.crash(keep=keep)
            log = trimming(memory_rig)
            assert log.start_position <= verified
            assert everything(log) == [g for g in before if g.position >= log.start_position], (operation, keep)
            assert {n: p.sequence for n, p in log.producers().items()} == {"p": 18, "q": 17}
            assert log.damage == []


def test_control_unlink_before_meta_is_a_gap_at_the_next_start(
    memory_rig: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = trimming(memory_rig)
    fill(memory_rig, log, 30)
    monkeypatch.setattr(log_module, "store_meta", lambda *args: None)
    log.upkeep(verified=log.end_position)
    memory_rig.disk.crash(keep=1.0)
    with pytest.raises(ConfigError, match="put the missing segment back"):
        trimming(memory_rig)


def test_who_has_no_cursor_has_verified_nothing(rig: Any) -> None:
    log = trimming(rig)
    fill(rig, log, 10)
    log.cursor("a").store(Cursor(position=log.end_position))
    assert log.verified_by(["a"]) == log.end_position
    assert log.verified_by(["a", "b"]) == 0


# --- the runway


def until_full(log: Log, make: Callable[[int], GroupDraft]) -> int:
    """The first that was refused."""
    for n in range(1, 1000):
        try:
            log.commit([make(n)])
        except LogFull:
            return n
    raise AssertionError("it never was full")


def test_the_next_segment_is_ready_before_it_is_needed_and_a_new_one_costs_two_syncs(memory_rig: Any) -> None:
    log = trimming(memory_rig, retention=Retention())
    assert log.upkeep_due
    log.upkeep()
    assert not log.upkeep_due
    assert log.room_bytes == 2 * (4096 - 128)  # this segment and the next, without their reserves
    fill(memory_rig, log, 3)
    disk = memory_rig.disk
    disk.fail("allocate", 28, times=1 << 30)  # a full disk gives nothing any more
    before = disk.operations
    fill(memory_rig, log, 3, first=4)
    assert disk.operations - before == 4 + 3 * 3  # write, sync, rename, sync of the directory; a commit is three
    assert log.segments == 2
    with pytest.raises(LogFull):
        fill(memory_rig, log, 1, first=7)
    with pytest.raises(LogFull):
        log.upkeep()


def test_the_reserve_takes_the_record_of_a_loss_when_nothing_else_fits(memory_rig: Any, everything: Any) -> None:
    memory_rig.segment_bytes = 1 << 20  # the reserve is a 64th of it
    log = memory_rig.open()
    memory_rig.disk.fail("allocate", times=1 << 30, error=28)
    n = until_full(log, lambda n: memory_rig.draft("p", n, sizes=(5000,)))
    log.commit([memory_rig.draft("losses", 1, sizes=(2000,))], use_reserve=True)
    with pytest.raises(LogFull):
        log.commit([memory_rig.draft("p", n, sizes=(5000,))])
    assert everything(log)[-1].producer == "losses"


def test_a_failed_sync_in_the_background_stops_the_writer_too(memory_rig: Any) -> None:
    log = trimming(memory_rig)
    memory_rig.disk.fail("sync", suffix=".seg.new")
    with pytest.raises(LogSyncFailed):
        log.upkeep()
    with pytest.raises(LogSyncFailed):
        log.commit([memory_rig.draft("p", 1)])
    with pytest.raises(LogSyncFailed):
        log.reopen()


def test_a_spare_of_a_former_process_is_used_and_a_half_written_one_is_not(memory_rig: Any) -> None:
    log = trimming(memory_rig)
    log.upkeep()
    [spare] = [n for n in memory_rig.disk.names(memory_rig.path) if n.startswith("runway-")]
    log.close()
    log = trimming(memory_rig)
    assert spare not in memory_rig.disk.names(memory_rig.path)  # it became the segment of this start
    log.upkeep()
    [spare] = [n for n in memory_rig.disk.names(memory_rig.path) if n.startswith("runway-")]
    memory_rig.overwrite(memory_rig.path / spare, 100, b"something")
    log.close()
    before = memory_rig.disk.operations
    log = trimming(memory_rig)
    assert spare not in memory_rig.disk.names(memory_rig.path)
    assert memory_rig.disk.operations > before
    log.commit([memory_rig.draft("p", 1)])


def open_segments() -> list[str]:
    """Segment files that this process holds open, as Linux names them: what was unlinked meanwhile is "(deleted)"."""
    links = [Path("/proc/self/fd") / fd for fd in os.listdir("/proc/self/fd")]
    names = [str(link.readlink()) for link in links if link.is_symlink()]
    return [name for name in names if ".seg" in name]


async def test_what_is_trimmed_gives_its_space_back_whatever_idle_readers_have_read(rig: Any) -> None:
    """A file that somebody holds open keeps its blocks: on a full disk the log would never go on."""
    log = trimming(rig)
    fill(rig, log, 40)
    consumers = [log.consumer("behind"), log.consumer("at the head")]
    reader = log.reader()
    await consumers[0].read(bytes_max=3000)
    while consumers[1].read_nowait_available():
        await consumers[1].read()
    reader.read(0, 3000, bytes_max=1, partitions=None)
    assert len(open_segments()) <= 1, "the writer's own"
    log.upkeep(verified=log.end_position)
    assert log.start_position > 20_000
    assert [name for name in open_segments() if "deleted" in name] == []
    with pytest.raises(LogCorrupt, match="not kept any more"):
        await consumers[0].read()


async def test_a_file_that_is_trimmed_between_the_listing_and_its_opening_is_a_position_not_kept(
    memory_rig: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = trimming(memory_rig)
    fill(memory_rig, log, 40)
    consumer, opened = log.consumer("late"), memory_rig.disk.open

    def trim_first(path: Path, **how: bool) -> Any:
        monkeypatch.undo()
        log.upkeep(verified=log.end_position)
        return opened(path, **how)

    monkeypatch.setattr(memory_rig.disk, "open", trim_first)
    with pytest.raises(LogCorrupt, match="position 0 is not kept any more"):
        await consumer.read()
    consumer.seek(0)
    assert (await consumer.read(bytes_max=1))[0].position == log.start_position
