"""Torn, rotten, stale, missing: what a start makes of it. The oracle is the list of groups that were committed."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtime.disk import MemoryDisk, SimulatedCrash
from runtime.errors import ConfigError
from runtime.log import recovery, scan
from runtime.log.cursor import Cursor, CursorFile
from runtime.log.frame import pack_header, unpack_header
from runtime.log.log import Log
from runtime.log.segment import HEADER_BYTES, unpack_segment_header
from runtime.log.types import Group, GroupDraft

Draft = Callable[..., GroupDraft]
Everything = Callable[..., list[Group]]


def image(disk: MemoryDisk, folder: Path) -> dict[Path, bytes]:
    """All files below `folder`."""
    found: dict[Path, bytes] = {}
    for name in disk.names(folder):
        path = folder / name
        if disk.names(path):
            found |= image(disk, path)
        else:
            try:
                found[path] = disk.read_bytes(path)
            except FileNotFoundError:
                continue  # an empty directory
    return found


def restored(files: dict[Path, bytes]) -> MemoryDisk:
    disk = MemoryDisk()
    for path, data in files.items():
        disk.make_directory(path.parent)
        disk.write_atomic(path, data)
    return disk


def killed(rig: Any, groups: int, *, sizes: tuple[int, ...] = (40, 70)) -> tuple[list[Group], dict[Path, bytes], Path]:
    """(groups, files, last segment) of a log whose process was killed: nothing but the frames says what is synced."""
    made = rig.filled(groups, sizes=sizes, close=False)
    files = image(rig.disk, rig.path)
    return made, files, rig.last_segment()


def started(rig: Any, files: dict[Path, bytes]) -> Log:
    rig.disk = restored(files)
    log: Log = rig.open()
    return log


def with_bytes(files: dict[Path, bytes], path: Path, at: int, data: bytes) -> dict[Path, bytes]:
    whole = files[path]
    return files | {path: whole[:at] + data + whole[at + len(data) :]}


def goes_on(log: Log, rig: Any, draft: Draft, everything: Everything) -> None:
    """After any start the log takes the next sequence, dense, and still has it after one more start."""
    before = everything(log)
    sequence = log.producer("p").sequence + 1
    answers, groups = log.commit([draft("p", sequence)])
    assert not answers[0].duplicate
    assert groups[0].position >= (before[-1].end_position if before else 0)
    log.close()
    again = rig.open()
    assert everything(again) == [*before, *groups]
    again.close()


# --- torn tails


def test_a_tail_cut_at_any_byte_costs_only_the_unfinished_group(
    memory_rig: Any, draft: Draft, everything: Everything
) -> None:
    memory_rig.segment_bytes = 8 << 10
    groups, files, path = killed(memory_rig, 4, sizes=(20, 9))
    ends = [HEADER_BYTES + g.end_position for g in groups]
    for cut in range(HEADER_BYTES + groups[-2].position, ends[-1] + 1):
        log = started(memory_rig, files | {path: files[path][:cut]})
        expected = [g for g, end in zip(groups, ends, strict=True) if end <= cut]
        assert everything(log) == expected, f"cut at {cut}"
        assert log.damage == []
        assert bool(log.torn) == (cut not in ends)
        assert log.producer("p").sequence == len(expected)
        if cut % 16 == 0:
            goes_on(log, memory_rig, draft, everything)


def test_a_zeroed_sector_in_the_unacknowledged_tail_voids_everything_from_its_group_on(
    memory_rig: Any, draft: Draft, everything: Everything
) -> None:
    """One commit of several groups reached the disk in part: later groups check, and are void all the same."""
    log = memory_rig.open()
    _, first = log.commit([draft("p", 1, sizes=(700,))])
    _, batch = log.commit([draft("p", n, sizes=(700, 300)) for n in range(2, 8)])
    files, path = image(memory_rig.disk, memory_rig.path), memory_rig.last_segment()
    start, end = HEADER_BYTES + batch[0].position, HEADER_BYTES + batch[-1].end_position
    for sector in range(start // 512, end // 512 + 1):
        low, high = max(start, sector * 512), min(end, sector * 512 + 512)
        log = started(memory_rig, with_bytes(files, path, low, bytes(high - low)))
        kept = [g for g in batch if HEADER_BYTES + g.end_position <= low]
        assert everything(log) == [*first, *kept], f"sector {sector}"
        assert log.damage == []
        goes_on(log, memory_rig, draft, everything)


def test_a_torn_tail_is_kept_in_quarantine_and_never_written_over(memory_rig: Any, everything: Everything) -> None:
    groups, files, path = killed(memory_rig, 3)
    torn = files[path][: HEADER_BYTES + groups[-1].end_position - 8]
    log = started(memory_rig, files | {path: torn})
    folder = memory_rig.path / "quarantine"
    name = f"{groups[-1].position:020d}.torn"
    assert memory_rig.disk.names(folder) == [name, "index"]
    kept = torn[HEADER_BYTES + groups[-1].position :]
    assert memory_rig.disk.read_bytes(folder / name) == kept.rstrip(b"\0")
    assert b"group is incomplete" in memory_rig.disk.read_bytes(folder / "index")
    assert memory_rig.last_segment() != path, "goes on in a new segment"
    assert memory_rig.last_segment().name == f"{groups[2].position:020d}.seg"
    assert len(memory_rig.disk.read_bytes(path)) == HEADER_BYTES + groups[2].position
    assert everything(log) == groups[:-1]


def test_the_last_commit_is_carried_into_the_new_segment_because_it_may_not_be_synced(
    memory_rig: Any, draft: Draft, everything: Everything
) -> None:
    groups, files, path = killed(memory_rig, 3)
    log = started(memory_rig, files)
    assert everything(log) == groups
    assert memory_rig.last_segment().name == f"{groups[2].position:020d}.seg"
    assert len(memory_rig.disk.read_bytes(path)) == HEADER_BYTES + groups[2].position
    assert memory_rig.disk.names(memory_rig.path / "quarantine") == []
    goes_on(log, memory_rig, draft, everything)


# --- rot below what is known to be synced


def test_a_rotten_bit_anywhere_in_a_frame_costs_its_group_and_no_other(
    memory_rig: Any, draft: Draft, everything: Everything
) -> None:
    """Header, body, padding; first, middle and last group of the segment that was being written."""
    groups, files, path = killed(memory_rig, 4, sizes=(13, 21))
    for victim in (0, 1, 2):
        low, high = groups[victim].position, groups[victim].end_position
        for byte in range(low, high, 1 if victim == 1 else 5):
            at = HEADER_BYTES + byte
            log = started(memory_rig, with_bytes(files, path, at, bytes([files[path][at] ^ 1 << byte % 8])))
            rest = [g for g in groups if g is not groups[victim]]
            assert everything(log) == rest, f"byte {byte - low} of group {victim}"
            assert [(d.position, d.end_position) for d in log.damage] == [(low, high)]
            assert log.torn == []
            if byte % 40 == 0:
                goes_on(log, memory_rig, draft, everything)
                assert f"{low:020d}.frame" in memory_rig.disk.names(memory_rig.path / "quarantine")


def test_with_the_checksums_off_rot_is_delivered(
    memory_rig: Any, everything: Everything, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Positive control of the test above."""
    groups, files, path = killed(memory_rig, 3, sizes=(100,))
    at = HEADER_BYTES + groups[1].end_position - 20
    unchecked = _zero_body_checksums(files[path], groups)
    monkeypatch.setattr("runtime.log.scan.crc32c", lambda data: 0)
    monkeypatch.setattr("runtime.log.scan.crc32c_more", lambda crc, data: 0)
    log = started(memory_rig, with_bytes(files | {path: unchecked}, path, at, b"\xff"))
    with pytest.raises(AssertionError):
        assert everything(log) == [groups[0], groups[2]]


def _zero_body_checksums(data: bytes, groups: list[Group]) -> bytes:
    """The same segment as a writer without body checksums would have left it."""
    out = bytearray(data)
    chain = 0
    for group in groups:
        at = HEADER_BYTES + group.position
        header = unpack_header(data, at)
        assert header is not None
        packed, chain = pack_header(header._replace(body_crc=0, chain=chain))
        out[at : at + len(packed)] = packed
    return bytes(out)


def test_rot_in_the_newest_group_is_told_from_a_torn_write_by_positions_and_cursors(
    memory_rig: Any, draft: Draft, everything: Everything
) -> None:
    groups = memory_rig.filled(3)  # closed: the positions file says all of it is synced
    path = memory_rig.path / f"{0:020d}.seg"
    memory_rig.flip(path, 8 * (HEADER_BYTES + groups[-1].end_position - 30))
    log = memory_rig.open()
    assert everything(log) == groups[:-1]
    assert [(d.position, d.end_position) for d in log.damage] == [(groups[-1].position, groups[-1].end_position)]
    assert log.torn == []
    assert log.log_end_offset(0) >= 3, "the lost offset is not given out again"
    goes_on(log, memory_rig, draft, everything)


def test_a_log_whose_synced_end_is_gone_names_the_loss_and_never_reuses_an_offset(
    memory_rig: Any, draft: Draft, everything: Everything
) -> None:
    groups, files, path = killed(memory_rig, 5)
    memory_rig.disk = restored(files)
    memory_rig.disk.make_directory(memory_rig.path / "cursors")
    cursor = CursorFile(memory_rig.disk, memory_rig.path, "sink", log_id=groups[0].log_id, partitions_total=4)
    cursor.store(Cursor(position=groups[-1].end_position))
    file = memory_rig.disk.open(path, write=True)
    file.truncate(HEADER_BYTES + groups[2].end_position)
    file.sync()
    log = memory_rig.open()
    assert everything(log) == groups[:3]
    assert [(d.position, d.end_position) for d in log.damage] == [(groups[2].end_position, groups[-1].end_position)]
    assert all(log.log_end_offset(p) >= 5 for p in (0, 1))
    _, new = log.commit([draft("p", 4)])
    assert new[0].position == groups[-1].end_position
    log.close()
    again = memory_rig.open()
    assert everything(again) == [*groups[:3], *new]
    assert again.position_of(0, new[0].frames[0].offset) == new[0].position
    hole = (groups[2].end_position, groups[-1].end_position)
    assert [(d.position, d.end_position) for d in again.damage] == [hole], (
        "the segment's header knows it, for who reads"
    )


def test_rot_in_a_sealed_segment_is_found_when_it_is_read(
    memory_rig: Any, draft: Draft, everything: Everything
) -> None:
    groups = memory_rig.filled(60, sizes=(3000,))
    victim = groups[5]
    memory_rig.flip(memory_rig.path / f"{0:020d}.seg", 8 * (HEADER_BYTES + victim.position + 500))
    log = memory_rig.open()
    assert log.damage == []
    assert everything(log) == [g for g in groups if g is not victim]
    everything(log)
    assert [(d.segment, d.position, d.reason) for d in log.damage] == [
        (f"{0:020d}.seg", victim.position, "body does not check")
    ]


def test_zeros_in_a_sealed_segment_are_lost_sectors(memory_rig: Any, everything: Everything) -> None:
    groups = memory_rig.filled(60, sizes=(3000,))
    second = [n for n in memory_rig.disk.names(memory_rig.path) if n.endswith(".seg")][1]
    base = int(second[:20])
    last = next(g for g in reversed(groups) if g.position < base)
    memory_rig.overwrite(memory_rig.path / f"{0:020d}.seg", HEADER_BYTES + last.position, bytes(base - last.position))
    log = memory_rig.open()
    assert everything(log) == [g for g in groups if g is not last]
    assert [(d.position, d.end_position) for d in log.damage] == [(last.position, base)]


def test_every_bit_of_a_segment_header_is_checked_and_its_loss_costs_no_frame(
    memory_rig: Any, draft: Draft, everything: Everything
) -> None:
    groups, files, path = killed(memory_rig, 3)
    page = files[path][:HEADER_BYTES]
    assert unpack_segment_header(page) is not None
    for bit in [*range(8 * 200), *range(8 * 200, 8 * HEADER_BYTES, 97)]:
        damaged = bytearray(page)
        damaged[bit // 8] ^= 1 << bit % 8
        assert unpack_segment_header(bytes(damaged)) is None, f"bit {bit}"
    log = started(memory_rig, with_bytes(files, path, 40, b"\xff\xff"))
    assert everything(log) == groups
    goes_on(log, memory_rig, draft, everything)


def test_a_lost_header_in_the_middle_costs_nothing(memory_rig: Any, everything: Everything) -> None:
    groups = memory_rig.filled(60, sizes=(3000,))
    second = [n for n in memory_rig.disk.names(memory_rig.path) if n.endswith(".seg")][1]
    memory_rig.flip(memory_rig.path / second, 8 * 60)
    memory_rig.disk.unlink(memory_rig.path / "positions")
    log = memory_rig.open()
    assert everything(log) == groups
    assert all(log.position_of(0, g.frames[0].offset) == g.position for g in groups)
    assert log.producer("p").sequence == 60


# --- stale, misplaced, mixed


def test_frames_of_another_epoch_position_or_log_never_pass(memory_rig: Any, everything: Everything) -> None:
    groups, files, path = killed(memory_rig, 3)
    at = HEADER_BYTES + groups[1].position
    header = unpack_header(files[path], at)
    assert header is not None
    for change in ({"epoch": header.epoch - 1}, {"position": header.position + 8}, {"log_low": 5}):
        packed, _ = pack_header(header._replace(**change))
        log = started(memory_rig, with_bytes(files, path, at, packed))
        assert everything(log) == [groups[0], groups[2]], change
        assert len(log.damage) == 1


def mixed_attempts(rig: Any, draft: Draft) -> dict[Path, bytes]:
    """A log whose last commit holds the first group of one attempt and the second of another, each valid by itself."""
    rig.filled(1)
    before = image(rig.disk, rig.path)
    attempts = []
    for kind in ("quotes", "candles"):
        log = started(rig, before)
        _, groups = log.commit([draft("p", 2, kind=kind), draft("p", 3, kind=kind)])
        attempts.append(image(rig.disk, rig.path))
    path = rig.last_segment()
    border = HEADER_BYTES + groups[1].position - int(path.name[:20])
    return attempts[0] | {path: attempts[0][path][:border] + attempts[1][path][border:]}


def test_the_chain_tells_two_attempts_at_the_same_place_apart(
    memory_rig: Any, draft: Draft, everything: Everything
) -> None:
    """First group of one attempt, second of the other, both valid by themselves."""
    files = mixed_attempts(memory_rig, draft)
    log = started(memory_rig, files)
    assert [g.sequence for g in everything(log)] == [1, 2]
    assert [t.reason for t in log.torn] == ["chain is broken"]


def test_without_the_chain_the_mixture_is_believed(
    memory_rig: Any, draft: Draft, everything: Everything, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Positive control of the test above."""
    files = mixed_attempts(memory_rig, draft)
    real = scan._misfit
    monkeypatch.setattr(scan, "_misfit", lambda header, first, index, chain: real(header, first, index, None))
    log = started(memory_rig, files)
    assert [g.sequence for g in everything(log)] == [1, 2, 3]


def test_truncating_at_the_first_bad_frame_would_destroy_what_was_acknowledged(
    memory_rig: Any, everything: Everything, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Positive control of the torn/corrupt decision."""
    groups, files, path = killed(memory_rig, 4)
    flipped = with_bytes(files, path, HEADER_BYTES + groups[1].position + 20, b"\xff\xfe\xfd")

    def first_bad(walked: Any, evidence: int) -> recovery.Verdict:
        del evidence
        good = tuple(itertools.takewhile(lambda item: isinstance(item, scan.Span), walked))
        return recovery.Verdict(synced=(), carry=good, gaps=(), torn=None)

    assert everything(started(memory_rig, flipped)) == [groups[0], *groups[2:]]
    monkeypatch.setattr(recovery, "judge", first_bad)
    assert everything(started(memory_rig, flipped)) == groups[:1]


# --- META, LOCK, leftovers


def test_either_slot_of_meta_may_rot(memory_rig: Any, everything: Everything) -> None:
    groups, files, _ = killed(memory_rig, 2)
    meta = memory_rig.path / "META"
    half = len(files[meta]) // 2
    for bit in range(0, 8 * 2 * half, 509):
        damaged = bytearray(files[meta])
        damaged[bit // 8] ^= 1 << bit % 8
        log = started(memory_rig, files | {meta: bytes(damaged)})
        assert log.log_id == groups[0].log_id
        assert everything(log) == groups


def test_a_lost_meta_is_made_again_from_a_segment(memory_rig: Any, everything: Everything) -> None:
    groups, files, _ = killed(memory_rig, 2)
    del files[memory_rig.path / "META"]
    log = started(memory_rig, files)
    assert log.log_id == groups[0].log_id
    memory_rig.partitions = 5
    log.close()
    with pytest.raises(ConfigError, match="was made with 2"):
        memory_rig.open()


def test_all_segments_gone_is_not_an_empty_log(memory_rig: Any) -> None:
    memory_rig.filled(2)
    for name in memory_rig.disk.names(memory_rig.path):
        if name.endswith(".seg"):
            memory_rig.disk.unlink(memory_rig.path / name)
    with pytest.raises(ConfigError, match="segments are missing"):
        memory_rig.open()


def test_a_torn_lock_file_costs_no_epoch(memory_rig: Any, draft: Draft) -> None:
    _, files, _ = killed(memory_rig, 2)
    log = started(memory_rig, files | {memory_rig.path / "LOCK": b"\xff" * 30})
    assert log._lock.epoch == 2
    log.commit([draft("p", 3)])


# --- crash points


def test_a_crash_at_any_operation_of_a_start_is_recovered_by_the_next(
    memory_rig: Any, draft: Draft, everything: Everything
) -> None:
    """Torn tail + quarantine + seal + new segment, and SUSPECT, each cut at every operation, twice in a row."""
    groups, files, path = killed(memory_rig, 3)
    torn = files | {path: files[path][: HEADER_BYTES + groups[-1].end_position - 8]}
    suspect = files | {memory_rig.path / "SUSPECT": b"{}"}
    for base, expected in ((torn, groups[:-1]), (suspect, groups)):
        survived = 0
        for operation in range(200):
            for keep in (0.0, 0.5, 1.0):
                memory_rig.disk = restored(base)
                memory_rig.disk.crash_after(operation)
                if not _crashes(memory_rig):
                    survived += 1
                memory_rig.disk.crash(keep=keep)
                memory_rig.disk.crash_after(operation // 2)
                _crashes(memory_rig)
                memory_rig.disk.crash(keep=keep)
                log = memory_rig.open()
                assert everything(log) == expected, f"operation {operation}, keep {keep}"
                assert log.damage == []
            if survived:
                break
        assert survived, "the last round must be one without a crash"
        goes_on(log, memory_rig, draft, everything)


def _crashes(rig: Any) -> bool:
    try:
        rig.open()
    except SimulatedCrash:
        return True
    return False


def test_recovery_headers_are_all_it_needs(memory_rig: Any, everything: Everything) -> None:
    """Only whole, checked fields: the fold of the headers equals the writer's own state."""
    groups, files, _ = killed(memory_rig, 70, sizes=(1500, 20))
    before = memory_rig.logs[-1]._writer.positions
    log = started(memory_rig, files)
    after = log._writer.positions
    for name in ("offsets", "position", "stamp_ns", "groups", "last_of_kind", "producers", "rows"):
        assert getattr(after, name) == getattr(before, name), name
    assert len(everything(log)) == len(groups)
