"""One contract for every disk, and what the one in memory may forget."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.disk import Disk, MemoryDisk, RealDisk, SimulatedCrash


@pytest.fixture(params=["real", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Disk, Path]:
    folder = tmp_path / "a" / "b"
    disk: Disk = RealDisk() if request.param == "real" else MemoryDisk()
    disk.make_directory(folder)
    return disk, folder


def put(disk: Disk, path: Path, data: bytes, *, sync: bool = True) -> None:
    file = disk.open(path, write=True, create=True)
    file.pwritev([data], 0)
    if sync:
        file.sync()
        disk.sync_directory(path.parent)
    file.close()


def test_what_is_written_in_pieces_is_read_back(place: tuple[Disk, Path]) -> None:
    disk, folder = place
    file = disk.open(folder / "f", write=True, create=True)
    pieces = [bytes([n % 256]) * 3 for n in range(2500)]  # more than IOV_MAX
    assert file.pwritev(pieces, 10) == 7500
    assert file.pread(8000, 10) == b"".join(pieces)
    assert file.pread(10, 0) == bytes(10)
    assert file.size() == 7510
    file.close()


def test_preallocated_space_reads_as_zeros_and_keeps_content(place: tuple[Disk, Path]) -> None:
    disk, folder = place
    file = disk.open(folder / "f", write=True, create=True)
    file.pwritev([b"abc"], 0)
    file.allocate(10_000)
    file.allocate(5_000)
    assert file.size() == 10_000
    assert file.pread(10_000, 0) == b"abc" + bytes(9_997)
    file.truncate(2)
    assert file.pread(10, 0) == b"ab"
    file.close()


def test_write_atomic_replaces_and_leaves_nothing_else(place: tuple[Disk, Path]) -> None:
    disk, folder = place
    disk.write_atomic(folder / "f", b"one")
    disk.write_atomic(folder / "f", b"second")
    assert disk.read_bytes(folder / "f") == b"second"
    assert disk.names(folder) == ["f"]


def test_names_exists_rename_unlink(place: tuple[Disk, Path]) -> None:
    disk, folder = place
    put(disk, folder / "x", b"1")
    put(disk, folder / "y", b"2")
    disk.rename(folder / "x", folder / "y")
    assert disk.names(folder) == ["y"]
    assert disk.read_bytes(folder / "y") == b"1"
    disk.unlink(folder / "y")
    assert not disk.exists(folder / "y")
    assert disk.exists(folder)
    assert disk.names(folder / "nothing") == []
    with pytest.raises(FileNotFoundError):
        disk.open(folder / "y")


def test_the_lock_is_exclusive_until_released(place: tuple[Disk, Path]) -> None:
    disk, folder = place
    first = disk.lock(folder / "LOCK")
    assert first is not None
    assert disk.lock(folder / "LOCK") is None
    disk.read_bytes(folder / "LOCK")  # closing another handle of the file must not drop it
    assert disk.lock(folder / "LOCK") is None
    first.release()
    second = disk.lock(folder / "LOCK")
    assert second is not None
    second.release()


# --- the memory disk's crashes

F = Path("/d/f")


def crashed(seed: int, act: Callable[[MemoryDisk], None], keep: float | None = None) -> MemoryDisk:
    disk = MemoryDisk(seed=seed)
    disk.make_directory(F.parent)
    put(disk, F, b"old" * 1000)
    act(disk)
    disk.crash(keep=keep)
    return disk


def test_synced_bytes_survive_every_crash() -> None:
    for seed in range(30):
        assert crashed(seed, lambda disk: put(disk, F, b"new" * 1000)).read_bytes(F) == b"new" * 1000


def test_unsynced_bytes_survive_whole_torn_or_not_at_all() -> None:
    seen = {crashed(seed, lambda disk: put(disk, F, b"new" * 1000, sync=False)).read_bytes(F) for seed in range(60)}
    assert {b"new" * 1000, b"old" * 1000} < seen
    torn = seen - {b"new" * 1000, b"old" * 1000}
    assert torn
    for content in torn:
        for start in range(0, 3000, 512):
            part = content[start : start + 512]
            assert part in ((b"new" * 1000)[start : start + 512], (b"old" * 1000)[start : start + 512])


def test_two_unsynced_writes_may_arrive_in_either_order() -> None:
    def both(disk: MemoryDisk) -> None:
        file = disk.open(F, write=True)
        file.pwritev([b"A" * 512], 0)
        file.pwritev([b"B" * 512], 512)

    seen = {(c[:1], c[512:513]) for c in (crashed(seed, both).read_bytes(F) for seed in range(60))}
    assert (b"A", b"d") in seen or (b"A", b"o") in seen or (b"A", b"l") in seen
    assert any(second == b"B" and first != b"A" for first, second in seen)


def test_an_unsynced_length_may_arrive_before_its_content() -> None:
    def extend(disk: MemoryDisk) -> None:
        disk.open(F, write=True).pwritev([b"x" * 512], 4096)

    contents = [crashed(seed, extend).read_bytes(F) for seed in range(60)]
    assert any(len(c) == 4608 and not any(c[4096:]) for c in contents)
    assert any(len(c) == 3000 for c in contents)


def test_a_new_name_needs_the_directory_synced() -> None:
    def create(disk: MemoryDisk) -> None:
        file = disk.open(F.with_name("g"), write=True, create=True)
        file.sync()

    assert {crashed(seed, create).exists(F.with_name("g")) for seed in range(30)} == {True, False}
    assert not crashed(1, create, keep=0.0).exists(F.with_name("g"))
    assert crashed(1, create, keep=1.0).exists(F.with_name("g"))


def test_write_atomic_gives_old_or_new_whenever_the_power_goes() -> None:
    seen = set()
    for seed in range(40):
        for operation in range(7):
            disk = MemoryDisk(seed=seed)
            disk.make_directory(F.parent)
            disk.write_atomic(F, b"o" * 2000)
            disk.crash_after(operation)
            done = True
            try:
                disk.write_atomic(F, b"n" * 2000)
            except SimulatedCrash:
                done = False
            disk.crash()
            content = disk.read_bytes(F)
            assert content == b"n" * 2000 or (not done and content == b"o" * 2000)
            seen.add(content)
    assert len(seen) == 2


def test_a_failed_sync_drops_the_pages_while_readers_still_see_them() -> None:
    disk = MemoryDisk()
    disk.make_directory(F.parent)
    put(disk, F, b"old")
    disk.fail("sync")
    file = disk.open(F, write=True)
    file.pwritev([b"new"], 0)
    with pytest.raises(OSError, match="Input/output error") as failed:
        file.datasync()
    assert failed.value.errno == errno.EIO
    file.datasync()  # "fine"
    assert file.pread(3, 0) == b"new"
    disk.crash(keep=1.0)
    assert disk.read_bytes(F) == b"old"


def test_handles_from_before_a_crash_are_dead() -> None:
    disk = MemoryDisk()
    disk.make_directory(F.parent)
    file = disk.open(F, write=True, create=True)
    disk.crash()
    with pytest.raises(SimulatedCrash):
        file.pwritev([b"x"], 0)


def test_a_full_disk_takes_what_fits_and_then_says_so() -> None:
    disk = MemoryDisk(capacity_bytes=100)
    disk.make_directory(F.parent)
    file = disk.open(F, write=True, create=True)
    assert file.pwritev([b"x" * 150], 0) == 100
    with pytest.raises(OSError, match="no space left"):
        file.pwritev([b"x"], 100)
    with pytest.raises(OSError, match="no space left"):
        file.allocate(101)
    file.truncate(40)
    file.allocate(100)
    assert file.pwritev([b"y" * 60], 40) == 60
    assert disk.free_bytes(F) == 0
