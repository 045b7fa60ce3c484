"""Looking into a log without its lock, while it is written and after it was closed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import ConfigError
from runtime.log.cursor import Cursor
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
