"""One flipped bit anywhere in a log: found, named, and only the group that it hit is lost."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from runtime.disk_memory import MemoryFile
from runtime.errors import ConfigError, LogSyncFailed
from runtime.log import frame, scan
from runtime.log.checksum import crc32c
from runtime.log.cursor import Cursor
from runtime.log.losses import LOST, LostProducer
from runtime.log.segment import HEADER_BYTES
from runtime.log.tools import open_files
from runtime.log.types import Group

SEGMENT = f"{0:020d}.seg"
SIZES = (41, 70)
"""Neither is a multiple of 8: both frames end in padding."""


def flipped(rig: Any, made: list[Group], at: int, bit: int) -> list[tuple[int, int]]:
    """What `verify` names when one bit at position `at` is flipped; flips it back."""
    rig.flip(rig.path / SEGMENT, 8 * (HEADER_BYTES + at) + bit)
    try:
        files = open_files(rig.disk, rig.path)
        found = [(d.position, d.end_position) for d in files.check()]
        served = list(open_files(rig.disk, rig.path).groups())
        assert served == [g for g in made if not any(low <= g.position < high for low, high in found)]
        return found
    finally:
        rig.flip(rig.path / SEGMENT, 8 * (HEADER_BYTES + at) + bit)


def two_segments(rig: Any) -> list[Group]:
    """Six groups in the first, which is sealed; the reader's evidence does not depend on the last one then."""
    made: list[Group] = rig.filled(6, sizes=SIZES)
    log = rig.open()
    log.commit([rig.draft("q", 1)])
    log.close()
    return [*made, *list(open_files(rig.disk, rig.path).groups())[6:]]


def test_a_bit_in_any_byte_of_a_group_costs_exactly_that_group(memory_rig: Any) -> None:
    """Headers, bodies, the padding behind both."""
    made = two_segments(memory_rig)
    for victim in (made[0], made[3], made[5]):
        for at in range(victim.position, victim.end_position):
            found = flipped(memory_rig, made, at, at % 8)
            assert found == [(victim.position, victim.end_position)], f"byte {at - victim.position} of the group"


def test_padding_out_of_the_checksum_would_hide_its_rot(memory_rig: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Positive control."""
    made = two_segments(memory_rig)
    victim = made[3]
    padding_at = victim.end_position - 1  # 70 bytes of the last body end 2 before
    assert flipped(memory_rig, made, padding_at, 0)
    monkeypatch.setattr(scan, "crc32c_more", lambda crc, data: frame.crc32c_more(crc, bytes(len(data))))
    with pytest.raises(AssertionError):
        assert flipped(memory_rig, made, padding_at, 0)


def test_rot_in_a_header_with_its_checksum_put_right_would_be_believed(memory_rig: Any) -> None:
    """Positive control: nothing but the checksum knows what a header said."""
    made = two_segments(memory_rig)
    victim, path = made[5], memory_rig.path / SEGMENT  # the last one: the next frame's chain does not tell
    at = HEADER_BYTES + victim.position
    old = frame.unpack_header(memory_rig.disk.read_bytes(path), at + 200)
    assert old is not None
    assert old.last
    rotten, _ = frame.pack_header(old._replace(rows=old.rows ^ 1))
    memory_rig.overwrite(path, at + 200, rotten)
    assert open_files(memory_rig.disk, memory_rig.path).check() == []
    assert list(open_files(memory_rig.disk, memory_rig.path).groups()) != made
    memory_rig.overwrite(path, at + 204, (old.header_crc).to_bytes(4, "little"))
    assert len(open_files(memory_rig.disk, memory_rig.path).check()) == 1


def test_a_bit_in_any_byte_of_a_segments_header_is_named_and_costs_no_group(memory_rig: Any) -> None:
    made = two_segments(memory_rig)
    for at in (*range(200), *range(200, HEADER_BYTES, 61), HEADER_BYTES - 1):
        memory_rig.flip(memory_rig.path / SEGMENT, 8 * at + at % 8)
        files = open_files(memory_rig.disk, memory_rig.path)
        assert [d.reason for d in files.check_files()] == ["the segment's header is damaged"], at
        assert list(files.groups()) == made
        assert files.check() == []
        memory_rig.flip(memory_rig.path / SEGMENT, 8 * at + at % 8)


@pytest.mark.parametrize("name", ["cursors/sink", "META", "positions"])
def test_a_bit_in_any_part_of_a_slot_is_named_and_the_other_slot_goes_on(memory_rig: Any, name: str) -> None:
    """Payload and the zeros behind it. (Rot in the slot that was not the newest costs nothing at all.)"""
    log = memory_rig.open()
    for number in range(1, 4):
        [answer], _ = log.commit([memory_rig.draft("p", number)])
        log.cursor("sink").store(Cursor(position=answer.end_position, committed={0: number}, verified={0: number}))
    log.close()
    memory_rig.open().close()
    path = memory_rig.path / name
    size = len(memory_rig.disk.read_bytes(path))
    written = [start for start in (0, size // 2) if any(memory_rig.disk.read_bytes(path)[start : start + 4])]
    for start in written:
        for at in (0, 3, 7, 12, 25, 80, 300, size // 2 - 1):
            memory_rig.flip(path, 8 * (start + at))
            files = open_files(memory_rig.disk, memory_rig.path)
            assert [d.reason for d in files.check_files()] == [f"{name}: a slot is damaged"], at
            assert len(list(files.groups())) == 3
            if name == "cursors/sink":  # one generation back at most, never forward
                assert files.cursors()["sink"].verified[0] in (2, 3)
            memory_rig.flip(path, 8 * (start + at))


def rotten_headers(rig: Any, group: Group) -> None:
    """Every header of the group: nothing in it says any more whose it was."""
    data = bytearray(rig.disk.read_bytes(rig.path / SEGMENT))
    for at in range(group.position, group.end_position, 8):
        if data[HEADER_BYTES + at : HEADER_BYTES + at + 4] == frame.MAGIC:
            rig.flip(rig.path / SEGMENT, 8 * (HEADER_BYTES + at + 40))


def of_three(rig: Any) -> list[Group]:
    """Groups of producers a, b, c in turn; a segment of their own, sealed by what follows."""
    log = rig.open()
    made = [log.commit([rig.draft(name, n)])[1][0] for n in range(1, 5) for name in "abc"]
    log.close()
    log = rig.open()
    log.commit([rig.draft("z", 1)])
    log.close()
    return made


def test_whose_groups_are_lost_with_their_headers_says_the_hole_in_their_sequence(memory_rig: Any) -> None:
    made = of_three(memory_rig)
    rotten_headers(memory_rig, made[4])  # b 2
    log = memory_rig.open()
    list(read(log))
    [damage] = log.damage
    lost = log.lost_of(damage)
    assert lost.producers == (LostProducer(name="b", groups=1, before=b"at 1", after=b"at 3"),)
    assert [(f.partition, f.offset, f.kind) for f in lost.frames] == [
        (f.partition, f.offset, "") for f in made[4].frames
    ]


def test_two_damaged_groups_side_by_side_are_one_range_and_both_producers_are_named(memory_rig: Any) -> None:
    made = of_three(memory_rig)
    rotten_headers(memory_rig, made[4])  # b 2
    memory_rig.flip(memory_rig.path / SEGMENT, 8 * (HEADER_BYTES + made[5].end_position - 1))  # c 2: its padding
    log = memory_rig.open()
    groups = list(read(log))
    assert [(d.position, d.end_position) for d in log.damage] == [(made[4].position, made[5].end_position)]
    lost = log.lost_of(log.damage[0])
    assert {(p.name, p.groups, p.before, p.after) for p in lost.producers} == {
        ("b", 1, b"at 1", b"at 3"),
        ("c", 1, b"at 1", b"at 3"),
    }
    assert sorted((f.partition, f.offset) for f in lost.frames) == sorted(
        (f.partition, f.offset) for g in made[4:6] for f in g.frames
    )
    assert {f.kind for f in lost.frames} == {"", "quotes"}  # the header that is whole still says what it was
    assert [g.producer for g in groups if g.producer] == [g.producer for i, g in enumerate(made) if i not in (4, 5)] + [
        "z"
    ]


def test_the_first_and_the_last_group_of_a_producer_are_missed_as_well(memory_rig: Any) -> None:
    made = of_three(memory_rig)
    rotten_headers(memory_rig, made[0])  # a 1: nobody saw `a` before
    rotten_headers(memory_rig, made[11])  # c 4: nothing of `c` follows; the snapshot of positions knows it
    log = memory_rig.open()
    list(read(log))
    lost = [log.lost_of(damage).producers for damage in log.damage]
    assert lost == [
        (LostProducer(name="a", groups=1, before=b"", after=b"at 2"),),
        (LostProducer(name="c", groups=1, before=b"at 3", after=b"at 4"),),
    ]


def test_nobody_is_called_a_loser_where_only_bytes_between_groups_are_rotten(memory_rig: Any) -> None:
    """Positive control of the two above: without damage there is no hole."""
    of_three(memory_rig)
    log = memory_rig.open()
    assert len(list(read(log))) == 13
    assert log.damage == []


def read(log: Any) -> list[Group]:
    reader, groups, position = log.reader(), [], 0
    while position < log.end_position:
        found, position = reader.read(position, log.end_position, bytes_max=10_000, partitions=None)
        groups += found
    return groups


def test_the_checksum_differs_for_every_single_bit() -> None:
    data = bytes(range(256)) * 4
    assert len({crc32c(data), *(crc32c(_with(data, bit)) for bit in range(len(data) * 8))}) == len(data) * 8 + 1


def _with(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def segments_of(rig: Any) -> list[str]:
    return [name for name in rig.disk.names(rig.path) if name.endswith(".seg")]


def many_segments(rig: Any) -> list[Group]:
    rig.segment_bytes = 8 << 10
    made: list[Group] = rig.filled(12, sizes=(2500, 30))
    assert len(segments_of(rig)) >= 4
    return made


@pytest.mark.parametrize("which", [0, 1, -1])
async def test_a_segment_of_no_bytes_costs_what_it_held_and_nothing_else(memory_rig: Any, which: int) -> None:
    """The first, one in the middle, the newest; a person may put such a file where one was lost for good."""
    made = many_segments(memory_rig)
    name = segments_of(memory_rig)[which]
    base = int(name[:20])
    file = memory_rig.disk.open(memory_rig.path / name, write=True)
    file.truncate(0)
    file.sync()
    assert open_files(memory_rig.disk, memory_rig.path).check_files() != []
    log = memory_rig.open()
    log.commit([memory_rig.draft("q", 1)])
    consumer, expected, found = log.consumer("c"), [0] * 4, []
    while consumer.read_nowait_available():
        for group in await consumer.read(wait=False):
            found += [group.sequence] if group.producer == "p" else []
            for f in group.frames:  # offsets go on without a hole that nobody named
                first = f.prev_offset + 1 if f.kind == LOST else f.offset
                assert first <= expected[f.partition] <= f.offset + 1, (f, expected)
                expected[f.partition] = max(expected[f.partition], f.offset + 1)
    inside = [g.sequence for g in made if base <= g.position and log.damage[0].end_position >= g.end_position]
    assert inside
    assert found == [g.sequence for g in made if g.sequence not in inside]
    lost = [log.lost_of(damage) for damage in log.damage]
    assert [(p.name, p.groups) for one in lost for p in one.producers] == [("p", len(inside))]


def test_a_missing_end_is_named_by_verify_at_every_later_time(memory_rig: Any) -> None:
    many_segments(memory_rig)
    memory_rig.disk.unlink(memory_rig.path / segments_of(memory_rig)[-1])
    memory_rig.open().close()
    memory_rig.open().close()
    reasons = [d.reason for d in open_files(memory_rig.disk, memory_rig.path).check_files()]
    assert reasons == ["the end of the log is missing"]


def test_a_missing_segment_says_what_to_do_and_that_helps(memory_rig: Any) -> None:
    many_segments(memory_rig)
    name = segments_of(memory_rig)[1]
    memory_rig.disk.unlink(memory_rig.path / name)
    with pytest.raises(ConfigError, match=f"put {name} back") as refused:
        memory_rig.open()
    assert "empty file of its name" in str(refused.value)
    memory_rig.disk.locks.clear()
    memory_rig.disk.open(memory_rig.path / name, write=True, create=True)
    assert memory_rig.open().damage == []  # read lazily: sealed segments are looked at when somebody reads


def fail_reads_of(rig: Any, path: Any, monkeypatch: pytest.MonkeyPatch, bad: range) -> None:
    """A sector that the disk cannot give any more: EIO whenever a read touches it."""
    real = MemoryFile.pread

    def pread(self: MemoryFile, size: int, offset: int) -> bytes:
        if self._path == path and offset < bad.stop and offset + size > bad.start:
            raise OSError(errno.EIO, "Input/output error", str(path))
        return real(self, size, offset)

    monkeypatch.setattr(MemoryFile, "pread", pread)


def test_a_sector_that_cannot_be_read_costs_the_groups_in_it(memory_rig: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the process, which could never start again (DURABLE_LOG 5); those groups are fetched again like rotten ones."""
    memory_rig.segment_bytes = 64 << 10
    made: list[Group] = memory_rig.filled(9, sizes=(7000,))
    log = memory_rig.open()
    log.commit([memory_rig.draft("q", 1)])
    log.close()
    fail_reads_of(memory_rig, memory_rig.path / SEGMENT, monkeypatch, range(5 * 4096, 6 * 4096))
    hit = [g for g in made if g.position + HEADER_BYTES < 6 * 4096 and g.end_position + HEADER_BYTES > 5 * 4096]
    assert 0 < len(hit) < 3
    log = memory_rig.open()
    assert [g.sequence for g in read(log)] == [g.sequence for g in made if g not in hit] + [1]
    assert [(d.position, d.end_position) for d in log.damage] == [(hit[0].position, hit[-1].end_position)]
    [lost] = log.lost_of(log.damage[0]).producers
    assert (lost.name, lost.groups) == ("p", len(hit))
    assert open_files(memory_rig.disk, memory_rig.path).check() == log.damage


def test_an_unreadable_header_of_a_sealed_segment_keeps_nobody_from_starting(
    memory_rig: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = many_segments(memory_rig)
    name = segments_of(memory_rig)[1]
    fail_reads_of(memory_rig, memory_rig.path / name, monkeypatch, range(4096))
    log = memory_rig.open()
    assert [g.sequence for g in read(log)] == [g.sequence for g in made]


def test_the_end_of_the_log_is_never_guessed_from_what_cannot_be_read(
    memory_rig: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Positive control of the leniency: zeros there would end the log before what was acknowledged."""
    memory_rig.filled(7, sizes=(7000,), close=False)
    memory_rig.disk.kill()
    fail_reads_of(memory_rig, memory_rig.path / SEGMENT, monkeypatch, range(5 * 4096, 6 * 4096))
    with pytest.raises(LogSyncFailed, match="see the kernel's messages"):
        memory_rig.open()


@pytest.mark.parametrize("victims", [(0,), (0, 1), (7,), (19,), tuple(range(20))], ids=str)
def test_a_reader_that_stands_where_the_rot_is_is_told_of_it(memory_rig: Any, victims: tuple[int, ...]) -> None:
    """A sink's next frame is in the rot: were it put behind it, it would wait for that frame for ever."""
    made = memory_rig.filled(20)
    for number in victims:
        memory_rig.flip(memory_rig.path / SEGMENT, 8 * (HEADER_BYTES + made[number].position + 60))
    log = memory_rig.open()
    for number, group in enumerate(made):
        for one in group.frames:
            position = log.position_of(one.partition, one.offset)
            if number in victims:
                assert position <= group.position
            else:
                assert position == group.position
            found, _ = log.reader(tell_losses=True).read(
                position, log.end_position, bytes_max=1, partitions=frozenset({one.partition})
            )
            if found:
                first = found[0].frames[0]
                assert first.prev_offset < one.offset or first.offset == one.offset


def test_marks_behind_rot_do_not_hide_it(memory_rig: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look-up makes marks for the next one; behind rot it does not know what it should note."""
    monkeypatch.setattr("runtime.log.index._MARK_BYTES", 1)
    made = memory_rig.filled(20)
    memory_rig.open().close()
    memory_rig.flip(memory_rig.path / SEGMENT, 8 * (HEADER_BYTES + made[5].position + 60))
    log = memory_rig.open()
    for _ in range(2):  # the second time by what the first one noted
        assert log.position_of(0, made[9].frames[0].offset) == made[9].position
        assert log.position_of(0, made[5].frames[0].offset) == made[5].position


def test_a_reader_that_stands_in_a_missing_end_is_told_of_it(memory_rig: Any) -> None:
    made = memory_rig.filled(20)
    file = memory_rig.disk.open(memory_rig.path / SEGMENT, write=True)
    file.truncate(HEADER_BYTES + made[10].position)
    log = memory_rig.open()
    assert log.commit([memory_rig.draft("p", 21)])[1]
    for number in (10, 15, 19):
        assert log.position_of(0, made[number].frames[0].offset) == made[10].position
    assert log.position_of(0, made[9].frames[0].offset) == made[9].position
