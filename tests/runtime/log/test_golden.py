"""Logs of every format version, written once and kept for ever: the reader must go on reading them.

`golden/v1`: three groups, a cursor, closed. Made by `write_log` below (see the last test); never made again.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from runtime.disk import RealDisk
from runtime.log.cursor import Cursor
from runtime.log.tools import open_files
from runtime.log.types import Group, GroupDraft

Draft = Callable[..., GroupDraft]
Everything = Callable[..., list[Group]]

GOLDEN = Path(__file__).parent / "golden"


def drafts(draft: Draft) -> list[GroupDraft]:
    return [
        draft("history/C:EURUSD/quotes", 1, sizes=(100, 33), partition=2),
        draft("aggregator", 1, sizes=(64,), partition=2, kind="candles"),
        draft("history/C:EURUSD/quotes", 2, sizes=(0, 7, 8), partition=3),
    ]


def write_log(rig: Any, draft: Draft) -> None:
    rig.now_ns = 1_400_000_000_000_000_000
    log = rig.open()
    log.commit(drafts(draft)[:2])
    log.commit(drafts(draft)[2:])
    cursor = log.cursor("bridge.timescale")
    cursor.store(Cursor(position=432, committed={2: 2, 3: 1}, verified={2: 1}))
    cursor.close()
    log.close()


def files_of(disk: Any, folder: Path) -> dict[str, bytes]:
    names = ["META", "positions", f"{0:020d}.seg", "cursors/bridge.timescale"]
    names += [f"schemas/{name}" for name in disk.names(folder / "schemas")]
    return {name: disk.read_bytes(folder / name).rstrip(b"\0") for name in names}


def test_version_1_is_read(rig: Any, draft: Draft, everything: Everything) -> None:
    for path in sorted((GOLDEN / "v1").rglob("*")):
        if path.is_file():
            target = rig.path / path.relative_to(GOLDEN / "v1")
            rig.disk.make_directory(target.parent)
            rig.disk.write_atomic(target, path.read_bytes())
    groups = list(open_files(rig.disk, rig.path).groups())
    assert [(g.producer, g.sequence, g.producer_position, g.stamp_ns) for g in groups] == [
        ("history/C:EURUSD/quotes", 1, b"at 1", 1_400_000_000_000_000_000),
        ("aggregator", 1, b"at 1", 1_400_000_000_000_000_001),
        ("history/C:EURUSD/quotes", 2, b"at 2", 1_400_000_000_000_000_002),
    ]
    assert [[(f.partition, f.offset, f.prev_offset, f.kind, f.body) for f in g.frames] for g in groups] == [
        [(2, 0, -1, "quotes", b1), (3, 0, -1, "quotes", b2)]
        if index == 0
        else [(2, 1, -1, "candles", b1)]
        if index == 1
        else [(3, 1, 0, "quotes", b1), (0, 0, -1, "quotes", b2), (1, 0, -1, "quotes", b3)]
        for index, (b1, b2, b3) in enumerate(_bodies(draft))
    ]
    log = rig.open()
    assert log.log_id == "cd613e30d8f14adf91b7584a2265b1f5"
    assert everything(log) == groups
    assert log.damage == log.torn == []
    assert log.cursor("bridge.timescale").load() == Cursor(
        position=432, committed={0: 0, 1: 0, 2: 2, 3: 1}, verified={0: 0, 1: 0, 2: 1, 3: 0}
    )


def _bodies(draft: Draft) -> list[tuple[bytes, bytes, bytes]]:
    padded = [[*(f.body for f in d.frames), b"", b""][:3] for d in drafts(draft)]
    return [(one, two, three) for one, two, three in padded]


def test_what_is_written_today_is_still_version_1(memory_rig: Any, draft: Draft) -> None:
    """Another byte on disk = another format: give it a new version number and a new golden log, keep this one."""
    write_log(memory_rig, draft)
    golden = files_of(RealDisk(), GOLDEN / "v1")
    written = files_of(memory_rig.disk, memory_rig.path)
    assert written.keys() == golden.keys()
    for name, data in golden.items():
        assert written[name] == data, name
