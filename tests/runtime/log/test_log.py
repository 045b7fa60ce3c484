"""The log's contract, on a real disk and in memory."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from typing import Any

import pytest

from runtime.disk import MemoryDisk
from runtime.entropy import SeededEntropy
from runtime.errors import ConfigError, InvariantViolation, LogError, LogFull, LogSyncFailed
from runtime.log.types import Group, GroupDraft, ProducerState

Draft = Callable[..., GroupDraft]
Everything = Callable[..., list[Group]]


def bodies(groups: list[Group]) -> list[tuple[bytes, ...]]:
    return [tuple(frame.body for frame in group.frames) for group in groups]


def test_a_new_directory_becomes_an_empty_log(rig: Any, everything: Everything) -> None:
    log = rig.open()
    assert len(log.log_id) == 32
    assert (log.partitions, log.partitions_total, log.end_position, log.records_accepted) == (2, 4, 0, 0)
    assert log.producer("p") == ProducerState()
    assert everything(log) == []


def test_groups_come_back_as_committed(rig: Any, draft: Draft, everything: Everything) -> None:
    log = rig.open()
    drafts = [draft("a", 1, sizes=(0, 1, 7, 8, 9)), draft("b", 1, sizes=(5000,), partition=3, kind="candles")]
    answers, groups = log.commit(drafts)
    more_answers, more = log.commit([draft("a", 2)])
    answers, groups = answers + more_answers, groups + more
    assert bodies(groups) == [tuple(f.body for f in d.frames) for d in (*drafts, draft("a", 2))]
    for answer, group in zip(answers, groups, strict=True):
        assert (answer.position, answer.end_position, answer.duplicate) == (group.position, group.end_position, False)
    assert [g.position for g in groups[1:]] == [g.end_position for g in groups[:-1]]
    assert groups[-1].end_position == log.end_position
    first = groups[0].frames[0]
    assert (first.kind, first.schema, first.rows, first.event_time_ns_min) == ("quotes", b"schema of quotes", 1, 1)
    assert everything(log) == groups
    log.close()
    again = rig.open()
    assert again.log_id == log.log_id
    assert everything(again) == groups
    assert again.rows_by_kind == {"quotes": 16, "candles": 1}
    assert again.damage == again.torn == []


def test_offsets_are_dense_per_partition_and_point_back_per_kind(
    rig: Any, draft: Draft, everything: Everything
) -> None:
    log = rig.open()
    for number in range(1, 30):
        log.commit([draft("p", number, sizes=(3, 3), partition=number, kind=("quotes", "candles")[number % 2])])
        if number % 7 == 0:
            log.close()
            log = rig.open()
    last: dict[int, int] = {}
    last_of_kind: dict[tuple[int, str], int] = {}
    for group in everything(log):
        for frame in group.frames:
            assert frame.offset == last.get(frame.partition, -1) + 1
            assert frame.prev_offset == last_of_kind.get((frame.partition, frame.kind), -1)
            last[frame.partition] = last_of_kind[frame.partition, frame.kind] = frame.offset
    assert {p: log.log_end_offset(p) - 1 for p in range(4)} == last


def test_segments_roll_and_nothing_spans_two(rig: Any, draft: Draft, everything: Everything) -> None:
    groups = rig.filled(60, sizes=(3000, 1500), close=False)
    log = rig.logs[-1]
    assert log.segments > 3
    assert everything(log) == groups
    assert everything(log, groups[33].position) == groups[33:]
    sealed = [n for n in rig.disk.names(rig.path) if n.endswith(".seg")][:-1]
    assert all(len(rig.disk.read_bytes(rig.path / name)) < rig.segment_bytes for name in sealed)


def test_a_group_larger_than_a_segment_gets_one_of_its_own(rig: Any, draft: Draft, everything: Everything) -> None:
    log = rig.open()
    _, groups = log.commit([draft("a", 1), draft("b", 1, sizes=(90_000, 90_000)), draft("a", 2)])
    assert everything(log) == groups
    log.close()
    assert everything(rig.open()) == groups


def test_a_batch_larger_than_a_segment_is_committed_in_order(rig: Any, draft: Draft, everything: Everything) -> None:
    log = rig.open()
    answers, groups = log.commit([draft("a", n, sizes=(20_000,)) for n in range(1, 12)])
    assert [a.duplicate for a in answers] == [False] * 11
    assert [g.sequence for g in groups] == list(range(1, 12))
    assert everything(log) == groups


def test_a_repeated_sequence_is_a_duplicate_and_writes_nothing(rig: Any, draft: Draft) -> None:
    log = rig.open()
    log.commit([draft("a", 1), draft("a", 2)])
    end = log.end_position
    answers, groups = log.commit([draft("a", 1), draft("a", 2)])
    assert [a.duplicate for a in answers] == [True, True]
    assert groups == []
    assert log.end_position == end
    answers, groups = log.commit([draft("a", 2), draft("a", 3), draft("a", 3), draft("b", 1)])
    assert [a.duplicate for a in answers] == [True, False, True, False]
    assert len(groups) == 2
    log.close()
    log = rig.open()
    assert log.commit([draft("a", 3)])[0][0].duplicate


def test_a_gap_in_a_sequence_is_our_bug_and_writes_nothing(rig: Any, draft: Draft) -> None:
    log = rig.open()
    with pytest.raises(InvariantViolation, match="sequence 3 after 1"):
        log.commit([draft("a", 1), draft("a", 3)])
    assert log.end_position == 0
    assert not log.needs_reopen
    log.commit([draft("a", 1)])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sizes": (900_001,)}, "body of 900001 bytes"),
        ({"sizes": ()}, "0 frames"),
        ({"sizes": (800_000,) * 21}, "in one group"),
        ({"kind": "bars"}, "kind 'bars'"),
        ({"producer": ""}, "name"),
    ],
)
def test_a_draft_over_a_limit_is_refused(memory_rig: Any, draft: Draft, changes: dict[str, Any], words: str) -> None:
    log = memory_rig.open()
    with pytest.raises(InvariantViolation, match=words):
        log.commit([draft(**changes)])
    assert log.end_position == 0


def test_producers_are_told_where_they_stood(rig: Any, draft: Draft) -> None:
    log = rig.open()
    log.commit([draft("a", 1), draft("b", 1), draft("a", 2)])
    expected = {"a": ProducerState(sequence=2, position=b"at 2"), "b": ProducerState(sequence=1, position=b"at 1")}
    assert log.producers() == expected
    log.close()
    assert rig.open().producers() == expected


def test_producers_survive_the_loss_of_the_positions_file(rig: Any) -> None:
    rig.filled(50, sizes=(2000,))
    rig.disk.unlink(rig.path / "positions")
    log = rig.open()
    assert log.producer("p") == ProducerState(sequence=50, position=b"at 50")
    assert log.records_accepted == 50
    assert log.damage == []


def test_stamps_rise_when_the_wall_clock_goes_back(rig: Any, draft: Draft, everything: Everything) -> None:
    log = rig.open()
    for number, now in enumerate((5_000, 5_000, 9_000, 2_000), start=1):
        rig.now_ns = now
        log.commit([draft("a", number)])
    log.close()
    rig.now_ns = 1
    log = rig.open()
    log.commit([draft("a", 5)])
    assert [group.stamp_ns for group in everything(log)] == [5_000, 5_001, 9_000, 9_001, 9_002]


def test_a_second_writer_is_refused_and_the_first_one_named(rig: Any) -> None:
    rig.open()
    with pytest.raises(ConfigError, match=f"in use by process {os.getpid()}"):
        rig.open()


def test_a_frozen_writer_whose_epoch_is_over_writes_nothing(rig: Any, draft: Draft, everything: Everything) -> None:
    frozen = rig.open()
    frozen.commit([draft("a", 1)])
    rig.disk.unlink(rig.path / "LOCK")  # somebody "cleaned up": the lock no longer keeps anyone out
    if isinstance(rig.disk, MemoryDisk):
        rig.disk.locks.clear()
    second = rig.open()
    with pytest.raises(InvariantViolation, match="epoch"):
        frozen.commit([draft("a", 2)])
    assert [g.sequence for g in everything(second)] == [1]


def test_changed_partitions_are_refused_and_the_message_says_what_to_do(rig: Any) -> None:
    rig.filled(1)
    rig.partitions = 3
    with pytest.raises(ConfigError, match=r"log.partitions = 3, but .* made with 2"):
        rig.open()


def test_a_newer_format_is_refused(rig: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.log.log.FORMAT_VERSION", 2)
    rig.filled(1)
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="format 2"):
        rig.open()


def test_a_missing_segment_in_the_middle_is_refused_by_name(rig: Any) -> None:
    rig.filled(60, sizes=(3000,))
    middle = [n for n in rig.disk.names(rig.path) if n.endswith(".seg")][1]
    rig.disk.unlink(rig.path / middle)
    with pytest.raises(ConfigError, match=f"base {int(middle[:20])} is missing"):
        rig.open()


def test_a_missing_first_segment_is_refused(rig: Any) -> None:
    rig.filled(60, sizes=(3000,))
    rig.disk.unlink(rig.path / f"{0:020d}.seg")
    with pytest.raises(ConfigError, match="put the missing segment back"):
        rig.open()


def test_a_segment_of_another_log_is_refused(rig: Any) -> None:
    rig.filled(1)
    stolen = rig.disk.read_bytes(rig.last_segment())
    rig.path = rig.path.with_name("other")
    rig.open(entropy=SeededEntropy(2)).close()
    rig.disk.write_atomic(rig.path / f"{999:020d}.seg", stolen)
    with pytest.raises(ConfigError, match="belongs to log"):
        rig.open()


def test_position_of_finds_every_frame_and_the_end(rig: Any) -> None:
    groups = rig.filled(80, sizes=(1500, 10))
    log = rig.open()
    for group in groups:
        for frame in group.frames:
            assert log.position_of(frame.partition, frame.offset) == group.position
    assert log.position_of(0, 80) == log.position_of(3, 0) == log.end_position


# --- a disk that says no


def test_a_full_disk_writes_nothing_and_goes_on_when_space_returns(
    memory_rig: Any, draft: Draft, everything: Everything
) -> None:
    memory_rig.disk.capacity_bytes = 200_000
    log = memory_rig.open()
    done = 0
    with contextlib.suppress(LogFull):
        while True:
            log.commit([draft("a", done + 1, sizes=(9000,))])
            done += 1
    assert not log.needs_reopen
    assert done > 5
    assert [g.sequence for g in everything(log)] == list(range(1, done + 1))
    with pytest.raises(LogFull):
        log.commit([draft("a", done + 1, sizes=(9000,))])
    memory_rig.disk.capacity_bytes = None
    log.commit([draft("a", done + 1, sizes=(9000,))])
    memory_rig.disk.crash(keep=0.0)
    log = memory_rig.open()
    assert [g.sequence for g in everything(log)] == list(range(1, done + 2))
    assert log.damage == []


def test_a_short_write_is_cut_back(memory_rig: Any, draft: Draft, everything: Everything) -> None:
    log = memory_rig.open()
    log.commit([draft("a", 1)])
    memory_rig.disk.fail("short write", suffix=".seg.new")  # an open file keeps the name it was opened by
    with pytest.raises(LogFull, match="bytes could be written"):
        log.commit([draft("a", 2), draft("b", 1)])
    log.commit([draft("a", 2, sizes=(11,))])
    memory_rig.disk.crash()
    log = memory_rig.open()
    assert [(g.producer, g.sequence) for g in everything(log)] == [("a", 1), ("a", 2)]
    assert log.torn == log.damage == []


def test_a_failed_sync_is_fatal_and_the_tail_is_not_believed(
    memory_rig: Any, draft: Draft, everything: Everything
) -> None:
    log = memory_rig.open()
    log.commit([draft("a", 1)])
    memory_rig.disk.fail("sync", errno.EIO, suffix=".seg.new")
    with pytest.raises(LogSyncFailed, match="nothing was acknowledged"):
        log.commit([draft("a", 2)])
    assert memory_rig.disk.exists(memory_rig.path / "SUSPECT")
    with pytest.raises(LogError, match="reopen"):
        log.commit([draft("a", 2)])
    with pytest.raises(LogSyncFailed, match="only a new"):
        log.reopen()
    memory_rig.disk.kill()
    log = memory_rig.open()
    assert not memory_rig.disk.exists(memory_rig.path / "SUSPECT")
    believed = everything(log)
    memory_rig.disk.crash(keep=0.0)
    assert everything(memory_rig.open()) == believed


def test_a_failed_sync_on_a_full_disk_leaves_no_marker_and_is_not_believed_either(
    memory_rig: Any, draft: Draft, everything: Everything
) -> None:
    """Seed 488 of the crash model: the SUSPECT marker could not be written, and the page cache was believed."""
    log = memory_rig.open()
    log.commit([draft("a", 1)])
    memory_rig.disk.capacity_bytes = 0
    memory_rig.disk.fail("sync", errno.EIO, suffix=".seg.new")
    with pytest.raises(LogSyncFailed):
        log.commit([draft("a", 2)])
    assert not memory_rig.disk.exists(memory_rig.path / "SUSPECT")
    memory_rig.disk.kill()
    memory_rig.disk.capacity_bytes = None
    believed = everything(memory_rig.open())
    memory_rig.disk.crash(keep=0.0)
    assert everything(memory_rig.open()) == believed


def test_synced_in_place_after_a_failed_sync_what_was_believed_is_lost(
    memory_rig: Any, draft: Draft, everything: Everything, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Positive control of the tests above: the second fsync says "fine" for data that is gone."""
    log = memory_rig.open()
    log.commit([draft("a", 1)])
    memory_rig.disk.fail("sync", errno.EIO, suffix=".seg.new")
    with pytest.raises(LogSyncFailed):
        log.commit([draft("a", 2)])
    memory_rig.disk.kill()
    monkeypatch.setattr("runtime.log.recovery.split_tail", lambda spans, evidence: (spans, []))
    memory_rig.disk.open(memory_rig.last_segment(), write=True).sync()
    believed = everything(memory_rig.open())
    assert len(believed) == 2
    memory_rig.disk.crash(keep=0.0)
    with pytest.raises(AssertionError):
        assert everything(memory_rig.open()) == believed


def test_a_commit_that_died_half_way_is_recovered_in_place(
    memory_rig: Any, draft: Draft, everything: Everything, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = memory_rig.open()
    log.commit([draft("a", 1)])
    monkeypatch.setattr("runtime.log.build.Write.behind", lambda _: (_ for _ in ()).throw(MemoryError))
    with pytest.raises(MemoryError):
        log.commit([draft("a", 2)])
    monkeypatch.undo()
    assert log.needs_reopen
    with pytest.raises(LogError, match="reopen"):
        log.commit([draft("a", 2)])
    log.reopen()
    assert not log.needs_reopen
    assert log.commit([draft("a", 2)])[0][0].duplicate
    log.commit([draft("a", 3)])
    assert [g.sequence for g in everything(log)] == [1, 2, 3]


def test_position_of_bisects_in_a_sealed_segment_of_many_small_frames(
    memory_rig: Any, draft: Draft, everything: Everything
) -> None:
    """Behind the first 2000 headers it jumps; every partition, also a rare one, is found all the same."""
    memory_rig.segment_bytes = 8 << 20
    log = memory_rig.open()
    for start in range(1, 6001, 500):
        log.commit(
            [draft("p", n, sizes=(900,), partition=3 if n % 1000 == 0 else n % 2) for n in range(start, start + 500)]
        )
    log.close()
    log = memory_rig.open()
    wanted = [(f.partition, f.offset, g.position) for g in everything(log) for f in g.frames]
    sample = [w for w in wanted if w[0] == 3] + wanted[::251]
    for partition, offset, position in sample:
        assert log.position_of(partition, offset) == position
    log.close()
    log = memory_rig.open()
    for partition, offset, position in reversed(sample):
        assert log.position_of(partition, offset) == position


def test_a_group_in_the_middle_of_recovery_is_not_called_damaged(memory_rig: Any, draft: Draft) -> None:
    """A reader holds the old tail while `reopen` carries it into a new segment and cuts the old file."""
    log = memory_rig.open()
    _, groups = log.commit([draft("a", 1), draft("a", 2)])
    _, more = log.commit([draft("a", 3)])
    reader = log.reader()
    first, position = reader.read(0, groups[0].end_position, bytes_max=1, partitions=None)
    log._broken = True
    log.reopen()
    rest, _ = reader.read(position, log.end_position, bytes_max=10_000, partitions=None)
    assert first + rest == groups + more
    assert log.damage == []


def test_a_read_only_volume_at_start_is_for_a_person_to_mend(memory_rig: Any) -> None:
    memory_rig.filled(3)
    for op in ("write", "allocate", "truncate"):
        memory_rig.disk.fail(op, errno.EROFS, times=100)
    with pytest.raises(ConfigError, match=r"Read-only file system.*a directory that we may write to"):
        memory_rig.open()


def test_what_is_trimmed_while_it_is_looked_up_is_no_error(memory_rig: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = memory_rig.filled(60, sizes=(3000,))
    log = memory_rig.open()
    catalog, disk = log._catalog, memory_rig.disk
    first, second = catalog.segments[:2]
    opened = disk.open

    def trimmed_first(path: Any, **how: Any) -> Any:
        if path == first.path and disk.exists(path):
            disk.unlink(path)
            catalog.drop_below(second.base)
        return opened(path, **how)

    monkeypatch.setattr(disk, "open", trimmed_first)
    assert log.position_of(0, made[0].frames[0].offset) >= second.base
    assert catalog.offsets_around(first) == ({}, {})
    disk.unlink(second.path)  # and what nobody trimmed is an error as ever
    with pytest.raises(FileNotFoundError):
        log.position_of(0, second.header.offsets[0])
