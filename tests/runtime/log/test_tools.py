"""Looking into a log without its lock, while it is written and after it was closed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import msgspec
import pytest

from runtime.disk import RealDisk
from runtime.errors import ConfigError, LogCorrupt
from runtime.log import tools
from runtime.log.cursor import Cursor
from runtime.log.log import Log, LogSettings
from runtime.log.meta import META
from runtime.log.retention import Retention
from runtime.log.slots import SlotFile
from runtime.log.tools import open_files
from runtime.log.types import Group, GroupDraft

Draft = Callable[..., GroupDraft]
Everything = Callable[..., list[Group]]


def test_a_live_log_is_read_by_somebody_else(rig: Any, draft: Draft) -> None:
    made = rig.filled(60, sizes=(2500, 30), close=False)
    files = open_files(rig.disk, rig.path)
    assert files.log_id == made[0].log_id
    assert files.end_position == made[-1].end_position
    assert files.durable_upto == made[-1].position
    assert list(files.groups()) == made
    assert next(files.groups(made[50].position, partitions=frozenset({1}))).frames == made[50].frames[1:]
    assert [(f.header.partition, f.header.offset, f.kind) for f in files.frames()] == [
        (f.partition, f.offset, f.kind) for g in made for f in g.frames
    ]
    assert files.check() == []
    more = rig.logs[-1].commit([draft("p", 61)])[1]
    assert list(files.groups()) == made, "as it was when it was opened"
    assert list(open_files(rig.disk, rig.path).groups()) == [*made, *more]


def test_rows_are_counted_per_partition_and_kind_below_given_offsets(rig: Any, draft: Draft) -> None:
    log = rig.open()
    for number in range(1, 11):
        log.commit([draft("p", number, sizes=(5, 5, 5), kind=("quotes", "candles")[number % 2])])
    files = open_files(rig.disk, rig.path)
    assert files.row_counts() == {(p, kind): (p + 1) * 5 for p in range(3) for kind in ("quotes", "candles")}
    assert files.row_counts({0: 3, 2: 100}) == {
        (0, "candles"): 2,
        (0, "quotes"): 1,
        (2, "candles"): 15,
        (2, "quotes"): 15,
    }
    assert files.row_counts({}) == {}


def test_cursors_and_damage_are_listed(rig: Any) -> None:
    made = rig.filled(5, close=False)
    log = rig.logs[-1]
    log.cursor("sink").store(Cursor(position=made[1].end_position, committed={0: 2}))
    log.close()
    rig.flip(rig.path / f"{0:020d}.seg", 8 * (4096 + made[2].position + 9))
    files = open_files(rig.disk, rig.path)
    assert files.cursors()["sink"].position == made[1].end_position
    assert [(d.position, d.end_position) for d in files.check()] == [(made[2].position, made[2].end_position)]
    assert list(files.groups()) == [*made[:2], *made[3:]]


def test_a_write_under_way_is_not_looked_at(memory_rig: Any) -> None:
    made = memory_rig.filled(5, close=False)
    path = memory_rig.last_segment()
    file = memory_rig.disk.open(path, write=True)
    file.truncate(4096 + made[-1].end_position - 9)
    files = open_files(memory_rig.disk, memory_rig.path)
    assert list(files.groups()) == made[:-1]
    assert files.damage == []


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_log_with_a_missing_file_is_still_looked_at(rig: Any, which: int) -> None:
    """A start refuses it; whoever has to find out what is gone can look at the rest."""
    made = rig.filled(60, sizes=(3000,))
    names = [name for name in rig.disk.names(rig.path) if name.endswith(".seg")]
    assert len(names) == 4
    rig.disk.unlink(rig.path / names[which])
    low, high = (int(name[:20]) for name in names[which : which + 2])
    files = open_files(rig.disk, rig.path)
    missing = [one for one in files.check_files() if one.reason == "the file is missing"]
    assert [(one.segment, one.position, one.end_position) for one in missing] == [(names[which], low, high)]
    assert list(files.groups()) == [group for group in made if not low <= group.position < high]
    assert files.check() == []
    listed = {segment.path.name: end for segment, end in files.extents()}
    assert sorted(listed) == [name for name in names if name != names[which]]
    assert all(int(name[:20]) <= end <= low for name, end in listed.items() if int(name[:20]) < low)
    with pytest.raises(ConfigError, match="put"):
        rig.open()


def test_no_log_is_said_so(rig: Any) -> None:
    with pytest.raises(ConfigError, match="holds no log"):
        open_files(rig.disk, Path(rig.path) / "nothing")


def ranges(damage: list[Any]) -> list[tuple[int, int, str]]:
    return [(one.position, one.end_position, one.reason) for one in damage]


def cut(rig: Any, path: Path, size: int) -> None:
    file = rig.disk.open(path, write=True)
    file.truncate(size)
    file.sync()
    file.close()


@pytest.mark.parametrize("how", ["cut", "cut inside a group", "flipped", "zeros"])
def test_the_end_of_a_log_that_was_stopped_is_named_when_it_is_not_there(rig: Any, how: str) -> None:
    """`positions`, written by the stop, knows how far the log was durable; what is to be seen ends before, neatly."""
    made = rig.filled(10)
    path, end = rig.last_segment(), made[-1].end_position
    low = made[-1].position if how == "flipped" else made[6].position
    if how == "flipped":
        rig.flip(path, 8 * (4096 + made[-1].end_position - 9))
    elif how == "zeros":
        rig.overwrite(path, 4096 + low, bytes(end - low))
    else:
        cut(rig, path, 4096 + low + (50 if "inside" in how else 0))
    files = open_files(rig.disk, rig.path)
    expected = [(low, end, "body does not check" if how == "flipped" else "the end of the log is missing")]
    assert (files.end_position, files.found_end) == (end, low)
    assert ranges([*files.check_files(), *files.check()]) == expected
    files = open_files(rig.disk, rig.path)
    assert list(files.groups()) == [group for group in made if group.position < low]
    assert ranges(files.damage) == expected
    assert ranges(rig.open().damage)[0][0] == low, "and the next start says the same"


def test_the_last_segments_that_are_gone_are_named(rig: Any) -> None:
    made = rig.filled(60, sizes=(3000,))
    *_, last = names = [name for name in rig.disk.names(rig.path) if name.endswith(".seg")]
    rig.disk.unlink(rig.path / last)
    low, end = int(last[:20]), made[-1].end_position
    files = open_files(rig.disk, rig.path)
    assert ranges([*files.check_files(), *files.check()]) == [(low, end, "the end of the log is missing")]
    assert [to for _, to in files.extents()][-1] == low
    for name in names[:-1]:
        rig.disk.unlink(rig.path / name)
    files = open_files(rig.disk, rig.path)
    assert ranges([*files.check_files(), *files.check()]) == [(0, end, "no segment is left")]
    assert list(files.groups()) == []


def test_a_cursor_knows_the_end_of_a_killed_process(memory_rig: Any) -> None:
    made = memory_rig.filled(5, close=False)
    log = memory_rig.logs.pop()
    log.cursor("sink").store(Cursor(position=made[3].end_position))
    cut(memory_rig, memory_rig.last_segment(), 4096 + made[2].position)
    found = open_files(memory_rig.disk, memory_rig.path).check()
    assert ranges(found) == [(made[2].position, made[3].end_position, "the end of the log is missing")]


def test_a_writer_that_goes_on_beside_is_no_missing_end(
    memory_rig: Any, draft: Draft, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = memory_rig.open()
    numbers = iter(range(1, 100))

    def goes_on(function: Callable[..., Any]) -> Callable[..., Any]:
        def first(*args: Any, **rest: Any) -> Any:
            found = function(*args, **rest)
            log.commit([draft("p", next(numbers), sizes=(30_000,))])
            log.cursor("sink").store(Cursor(position=log.end_position))
            return found

        return first

    for name in ("known_end", "list_segments", "find_end", "load_meta"):
        monkeypatch.setattr(tools, name, goes_on(getattr(tools, name)))
        for _ in range(4):
            files = open_files(memory_rig.disk, memory_rig.path)
            assert ranges([*files.check_files(), *files.check()]) == []
        monkeypatch.undo()
    assert log.segments > 4


@attrs.define
class Beside:
    """A disk as a tool sees it: something happens before its nth operation, and before each one after that."""

    disk: Any
    happens: Callable[[], None]
    countdown: int
    times: int

    def __getattr__(self, name: str) -> Any:
        self.countdown -= 1
        if self.countdown < 0 and self.times > 0:
            self.times -= 1
            self.happens()
        return getattr(self.disk, name)


def trimmed_all_the_time(rig: Any, draft: Draft) -> tuple[Log, Callable[[], None]]:
    """The writer, and a call that lets it fill a segment and trim all but the last two."""
    log = rig.open(
        settings=LogSettings(
            partitions=2, segment_bytes=8 << 10, background_upkeep=True, retention=Retention(seconds=0)
        )
    )
    cursor = log.cursor("sink")

    def turn() -> None:
        for _ in range(4):
            log.commit([draft("p", log.producer("p").sequence + 1, sizes=(2500,))])
        cursor.store(Cursor(position=log.end_position))
        log.upkeep(verified=log.end_position - 8000)

    turn()
    turn()
    return log, turn


@pytest.mark.parametrize("times", [1, 3])
def test_trimming_beside_a_look_at_whatever_moment_is_no_damage(memory_rig: Any, draft: Draft, times: int) -> None:
    seen_trimmed = happened = 0
    log, turn = trimmed_all_the_time(memory_rig, draft)
    for moment in range(60):
        disk = Beside(memory_rig.disk, turn, moment, times)
        files = open_files(disk, memory_rig.path)
        assert ranges([*files.check_files(), *files.check()]) == []
        happened += disk.times < times
        files = open_files(memory_rig.disk, memory_rig.path)
        files._disk = Beside(memory_rig.disk, turn, moment, times)
        try:
            assert [group.sequence for group in files.groups()][-1] <= log.producer("p").sequence
        except LogCorrupt as error:
            seen_trimmed += "was trimmed while it was read" in str(error)
    assert happened > 20
    assert seen_trimmed > 0


def test_a_log_that_is_trimmed_at_every_operation_is_given_up_in_the_end(memory_rig: Any, draft: Draft) -> None:
    _, turn = trimmed_all_the_time(memory_rig, draft)
    disk = Beside(memory_rig.disk, turn, 0, 10**9)
    with pytest.raises(LogCorrupt, match="trimmed faster than it can be looked at"):
        open_files(disk, memory_rig.path)


def test_a_missing_file_is_named_beside_a_writer_that_trims(memory_rig: Any, draft: Draft) -> None:
    """The control: looking again does not hide what really is gone."""
    log, turn = trimmed_all_the_time(memory_rig, draft)
    for _ in range(3):
        turn()
    for _ in range(8):
        log.commit([draft("p", log.producer("p").sequence + 1, sizes=(2500,))])
    names = [name for name in memory_rig.disk.names(memory_rig.path) if name.endswith(".seg")]
    memory_rig.disk.unlink(memory_rig.path / names[-2])
    files = open_files(memory_rig.disk, memory_rig.path)
    assert [one.segment for one in files.check_files() if one.reason == "the file is missing"] == [names[-2]]


@pytest.mark.parametrize(
    ("name", "harm", "reason"),
    [
        ("META", "empty", "it is empty"),
        ("META", "gone", "it is missing"),
        ("META", "flip", "a slot is damaged"),
        ("positions", "empty", "it is empty"),
        ("positions", "flip", "a slot is damaged"),
        ("cursors/sink", "empty", "it is empty"),
        ("LOCK", "flip", "it does not check"),
        ("LOCK", "short", "it does not check"),
        ("schemas/*", "flip", "it does not check"),
        ("schemas/*", "empty", "it does not check"),
        ("schemas/*", "gone", "is missing: nobody knows its rows"),
    ],
)
def test_rot_in_the_small_files_is_named(rig: Any, name: str, harm: str, reason: str) -> None:
    made = rig.filled(5, close=False)
    log = rig.logs[-1]
    log.cursor("sink").store(Cursor(position=made[1].end_position))
    log.cursor("sink").store(Cursor(position=made[1].end_position))
    log.close()
    files = open_files(rig.disk, rig.path)
    assert [*files.check_files(), *files.check()] == []
    if name == "schemas/*":
        name = "schemas/" + tools.schema_name(next(files.frames()).header.schema_id)
    path = rig.path / name
    size = len(rig.disk.read_bytes(path))
    if harm == "gone":
        rig.disk.unlink(path)
    elif harm == "flip":
        rig.flip(path, 8 * 9 if size < 4096 else 8 * 20 if any(rig.disk.read_bytes(path)[:4096]) else 8 * 4116)
    else:
        cut(rig, path, 0 if harm == "empty" else size - 3)
    files = open_files(rig.disk, rig.path)
    found = [*files.check_files(), *files.check()]
    assert [one.segment for one in found] == [name]
    assert reason in found[0].reason


def test_a_log_whose_lock_was_never_written_and_one_that_was_just_made_are_whole(rig: Any) -> None:
    log = rig.open()
    files = open_files(rig.disk, rig.path)
    assert [*files.check_files(), *files.check()] == []
    log.close()
    cut(rig, rig.path / "LOCK", 0)
    assert open_files(rig.disk, rig.path).check_files() == []


def test_kinds_that_the_caller_knows_are_read_without_their_schema(rig: Any) -> None:
    made = rig.filled(5)
    for name in rig.disk.names(rig.path / "schemas"):
        rig.disk.unlink(rig.path / "schemas" / name)
    with pytest.raises(LogCorrupt, match="is missing or damaged"):
        list(open_files(rig.disk, rig.path).groups())
    assert list(open_files(rig.disk, rig.path, schemas={"quotes": b"schema of quotes"}).groups()) == made


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (msgspec.json.encode({"version": 2, "id": "x"}), "the log has format 2"),
        (msgspec.json.encode({"version": 3, "log_id": 7, "partitions": {"live": 4}}), "the log has format 3"),
        (msgspec.json.encode({"version": 1}), "of a shape that this program does not know"),
        (b"\x00\x01", "of a shape that this program does not know"),
    ],
)
def test_meta_of_a_newer_format_and_another_shape_is_for_a_person(rig: Any, payload: bytes, said: str) -> None:
    rig.filled(2)
    slots = SlotFile(rig.disk, rig.path / META)
    slots.load()
    slots.store(payload)
    slots.close()
    for look in (lambda: open_files(rig.disk, rig.path), rig.open):
        with pytest.raises(ConfigError, match=f"{said}.* use the version .*a newer version"):
            look()


def test_a_file_in_the_place_of_a_log_is_said_so(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x")
    for path in (file, file / "log"):
        with pytest.raises(ConfigError, match=f"{file}.* is no directory"):
            open_files(RealDisk(), path)
