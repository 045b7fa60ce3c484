"""A disk in memory that forgets like a real one.

Every write since the last sync of its file, and every name since the last sync of its directory, may or may not
survive a `crash`: whole, torn at 512 bytes, as zeros, or not at all, in any combination (POSIX promises no order
between them; ALICE, OSDI '14). A failed sync drops the dirty pages and marks them clean while reads still show them
("Can Applications Recover from fsync Failures?", ATC '20). All chance comes from one seed.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

import attrs

from runtime.disk_port import DiskHelpers, File, Lock
from runtime.entropy import SeededEntropy

SECTOR = 512
ONE_SECTOR_GONE = 0.5
"""Of the writes that a crash tears: all is there but one sector, which is the hardest to notice."""


class SimulatedCrash(Exception):
    """The power went away in the middle of an operation; `MemoryDisk.crash` decides what is left."""

    def __init__(self, message: str, *, first: bool = False) -> None:
        super().__init__(message)
        self.first = first
        """The operation that was hit; every later one until `crash` fails as well."""


@attrs.define
class _Write:
    """A write that is not synced: what was there, what is there now."""

    offset: int
    old: bytes
    new: bytes
    old_size: int


@attrs.define
class _Resize:
    """A change of length that is not synced; `tail` = the bytes cut off."""

    old_size: int
    new_size: int
    tail: bytes


@attrs.define(eq=False)
class _Inode:
    """Content as readers see it, plus how to undo what is not durable."""

    data: bytearray = attrs.field(factory=bytearray)
    size: int = 0
    dirty: list[_Write | _Resize] = attrs.field(factory=list)
    lost: dict[int, bytes] = attrs.field(factory=dict)
    """Sector -> content on the platter, for sectors whose sync failed while readers still see the newer bytes."""

    def read(self, size: int, offset: int) -> bytes:
        end = min(offset + size, self.size)
        if end <= offset:
            return b""
        part = bytes(self.data[offset:end])
        return part + bytes(end - offset - len(part))

    def put(self, offset: int, new: bytes) -> None:
        if len(self.data) < offset + len(new):
            self.data.extend(bytes(offset + len(new) - len(self.data)))
        self.data[offset : offset + len(new)] = new
        self.size = max(self.size, offset + len(new))

    def resize(self, size: int) -> None:
        del self.data[size:]
        self.size = size

    def write(self, offset: int, new: bytes) -> None:
        old = self.read(len(new), offset)
        self.dirty.append(_Write(offset, old + bytes(len(new) - len(old)), new, self.size))
        self.put(offset, new)

    def set_size(self, size: int) -> None:
        if size != self.size:
            self.dirty.append(_Resize(self.size, size, self.read(max(0, self.size - size), size)))
            self.resize(size)

    def synced(self) -> None:
        for op in self.dirty:
            if isinstance(op, _Write):
                for sector in _sectors(op):
                    self.lost.pop(sector, None)
        self.dirty.clear()

    def drop_dirty(self) -> None:
        """A failed sync: pages are marked clean, the platter keeps what it had."""
        for op in self.dirty:
            if isinstance(op, _Write):
                for sector in _sectors(op):
                    start = sector * SECTOR - op.offset
                    before = self.read(SECTOR, sector * SECTOR)
                    platter = bytearray(before)
                    low, high = max(0, start), min(len(op.old), start + SECTOR)
                    platter[low - start : high - start] = op.old[low:high]
                    self.lost.setdefault(sector, bytes(platter))
        self.dirty.clear()

    def crash(self, keep: float, entropy: SeededEntropy) -> None:
        """Back to what was durable, then forward again by a random part of the rest."""
        for op in reversed(self.dirty):
            if isinstance(op, _Write):
                self.put(op.offset, op.old)
                self.resize(op.old_size)
            else:
                self.resize(op.old_size)
                if op.tail:
                    self.put(op.new_size, op.tail)
        for op in self.dirty:
            if isinstance(op, _Write):
                self._redo(op, keep, entropy)
            elif entropy.uniform() < keep:
                self.resize(op.new_size)
        for sector, platter in self.lost.items():
            if sector * SECTOR < self.size:
                self.put(sector * SECTOR, platter[: self.size - sector * SECTOR])
        self.dirty.clear()
        self.lost.clear()

    def _redo(self, op: _Write, keep: float, entropy: SeededEntropy) -> None:
        sectors = _sectors(op)
        whole = entropy.uniform() < keep
        each = 1.0 if whole else entropy.uniform() * keep
        gone = -1
        if not whole and keep and entropy.uniform() < ONE_SECTOR_GONE:
            each, gone = 1.0, sectors[int(entropy.uniform() * len(sectors))]
        if each and entropy.uniform() < keep:
            self.size = max(self.size, op.offset + len(op.new))  # the length arrived before the content: zeros
        for sector in sectors:
            low = max(0, sector * SECTOR - op.offset)
            high = min(len(op.new), (sector + 1) * SECTOR - op.offset)
            if entropy.uniform() < each and sector != gone:
                self.put(op.offset + low, op.new[low:high])


def _sectors(op: _Write) -> range:
    return range(op.offset // SECTOR, (op.offset + len(op.new) + SECTOR - 1) // SECTOR)


@attrs.define(eq=False)
class _Directory:
    """Names as readers see them, names that are safe, and the changes in between."""

    names: dict[str, _Inode] = attrs.field(factory=dict)
    durable: dict[str, _Inode] = attrs.field(factory=dict)
    pending: list[tuple[str | None, str | None, _Inode]] = attrs.field(factory=list)
    """(name taken away, name put, inode), in order."""

    def change(self, gone: str | None, put: str | None, inode: _Inode) -> None:
        _apply(self.names, gone, put, inode)
        self.pending.append((gone, put, inode))

    def sync(self) -> None:
        self.durable = dict(self.names)
        self.pending.clear()

    def crash(self, keep: float, entropy: SeededEntropy) -> None:
        for gone, put, inode in self.pending:
            if entropy.uniform() < keep:
                _apply(self.durable, gone, put, inode)
        self.pending.clear()
        self.names = dict(self.durable)


def _apply(names: dict[str, _Inode], gone: str | None, put: str | None, inode: _Inode) -> None:
    if gone is not None:
        names.pop(gone, None)
    if put is not None:
        names[put] = inode


@attrs.define
class _Fault:
    """The next `times` operations `op` on a path ending in `suffix`, after `after` of them, fail."""

    op: str
    error: int
    suffix: str
    after: int
    times: int


class MemoryFile:
    """An open file of a MemoryDisk; dead after a crash."""

    def __init__(self, disk: MemoryDisk, path: Path, inode: _Inode, *, write: bool) -> None:
        self._disk = disk
        self._path = path
        self._inode = inode
        self._write = write
        self._life = disk.life

    def _enter(self, op: str) -> None:
        if self._life != self._disk.life:
            raise SimulatedCrash(f"{self._path}: opened before the crash")
        self._disk.step(op, self._path)

    def pread(self, size: int, offset: int) -> bytes:
        """Up to `size` bytes from `offset`."""
        self._enter("read")
        return self._inode.read(size, offset)

    def pwritev(self, buffers: Sequence[bytes], offset: int) -> int:
        """Write what fits into the capacity; a fault with error 0 makes the write short by half."""
        if not self._write:
            raise OSError(errno.EBADF, "opened for reading")
        data = b"".join(buffers)
        try:
            self._enter("write")
        except SimulatedCrash as crash:
            if crash.first:
                self._inode.write(offset, data)  # it was under way when the power went
            raise
        if self._disk.take_fault("short write", self._path) is not None:
            data = data[: len(data) // 2]
        fits = data[: max(0, self._disk.end_max(self._inode) - offset)]
        if data and not fits:
            raise OSError(errno.ENOSPC, "no space left", str(self._path))
        self._inode.write(offset, fits)
        return len(fits)

    def size(self) -> int:
        """Bytes."""
        return self._inode.size

    def truncate(self, size: int) -> None:
        """Cut or extend with zeros."""
        self._enter("truncate")
        self._inode.set_size(size)

    def allocate(self, size: int) -> None:
        """Extend with zeros, or ENOSPC."""
        self._enter("allocate")
        if size > self._inode.size:
            if size > self._disk.end_max(self._inode):
                raise OSError(errno.ENOSPC, "no space left", str(self._path))
            self._inode.set_size(size)

    def start_writeback(self, offset: int, size: int) -> None:
        """Nothing: what is not synced may survive a crash or not, anyway."""

    def datasync(self) -> None:
        """All content is safe, or the sync fails and the dirty pages are dropped."""
        try:
            self._enter("sync")
        except OSError:
            self._inode.drop_dirty()
            raise
        self._inode.synced()

    def sync(self) -> None:
        """Like `datasync`; a file's name still needs its directory's sync."""
        self.datasync()

    def close(self) -> None:
        """Nothing to release."""


class MemoryLock:
    """A held lock of a MemoryDisk."""

    def __init__(self, disk: MemoryDisk, path: Path, inode: _Inode) -> None:
        self._disk = disk
        self._path = path
        self._inode = inode

    def version(self) -> object:
        """The content itself, and whether it is still what the name means."""
        self._disk.step("read", self._path)
        return self._disk.is_named(self._path, self._inode), bytes(self._inode.data)

    def release(self) -> None:
        """Let the next one in."""
        if self._disk.locks.get(self._path) is self:
            del self._disk.locks[self._path]


class MemoryDisk(DiskHelpers):
    """Files in memory with durable and dirty state.

    `crash(keep=p)`: each unsynced change survives with probability p (0 nothing, 1 all), else in part; None draws p.
    `fail(op, …)` plants errors: op = read, write, "short write", sync, allocate, truncate, open, rename, unlink,
    sync_directory. `crash_after(n)` raises SimulatedCrash at the n-th operation from now, and at all after it.
    """

    def __init__(self, *, seed: int = 0, capacity_bytes: int | None = None) -> None:
        self.capacity_bytes = capacity_bytes
        self.locks: dict[Path, MemoryLock] = {}
        self.life = 0
        self.operations = 0
        self._entropy = SeededEntropy(seed)
        self._directories: dict[Path, _Directory] = {}
        self._faults: list[_Fault] = []
        self._crash_at: int | None = None

    def open(self, path: Path, *, write: bool = False, create: bool = False) -> File:
        """The file, made if `create`."""
        self.step("open", path)
        directory = self._directory(path.parent)
        inode = directory.names.get(path.name)
        if inode is None:
            if not create:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
            inode = _Inode()
            directory.change(None, path.name, inode)
        return MemoryFile(self, path, inode, write=write)

    def names(self, directory: Path) -> list[str]:
        """Sorted; empty if there is no such directory."""
        found = self._directories.get(directory)
        below = {d.name for d in self._directories if d.parent == directory and d != directory}
        return sorted(below | set(found.names if found else ()))

    def exists(self, path: Path) -> bool:
        """True for a file or directory."""
        parent = self._directories.get(path.parent)
        return path in self._directories or (parent is not None and path.name in parent.names)

    def make_directory(self, path: Path) -> None:
        """Directories are safe at once: `RealDisk.make_directory` syncs each level."""
        for level in (path, *path.parents):
            self._directories.setdefault(level, _Directory())

    def rename(self, old: Path, new: Path) -> None:
        """Within one directory."""
        self.step("rename", old)
        if old.parent != new.parent:
            raise OSError(errno.EXDEV, "only within one directory")
        directory = self._directory(old.parent)
        directory.change(old.name, new.name, self._inode(old))

    def unlink(self, path: Path) -> None:
        """Remove the name."""
        self.step("unlink", path)
        self._directory(path.parent).change(path.name, None, self._inode(path))

    def sync_directory(self, path: Path) -> None:
        """Names are safe when it returns."""
        self.step("sync_directory", path)
        self._directory(path).sync()

    def lock(self, path: Path) -> Lock | None:
        """One holder at a time; a crash lets go."""
        if path in self.locks:
            return None
        self.open(path, create=True)
        self.locks[path] = MemoryLock(self, path, self._inode(path))
        return self.locks[path]

    def free_bytes(self, path: Path) -> int:
        """Capacity minus the lengths of all files."""
        del path
        return 1 << 62 if self.capacity_bytes is None else self.capacity_bytes - self._used()

    def used_bytes(self, path: Path) -> int:
        """Lengths of all files."""
        del path
        return self._used()

    # --- what a test does to it

    def kill(self) -> None:
        """kill -9 of the process: handles and locks die, the page cache stays (a later power cut may take it)."""
        self._crash_at = None
        self.life += 1
        self.locks.clear()

    def crash(self, *, keep: float | None = None) -> None:
        """Power off and on: handles and locks die, unsynced changes survive by chance."""
        self.kill()
        p = keep if keep is not None else (0.0, 0.3, 0.7, 1.0)[int(self._entropy.uniform() * 4)]
        inodes: dict[int, _Inode] = {}
        for directory in self._directories.values():
            for inode in (*directory.names.values(), *directory.durable.values()):
                inodes[id(inode)] = inode
        for inode in inodes.values():
            inode.crash(p, self._entropy)
        for directory in self._directories.values():
            directory.crash(p, self._entropy)

    def crash_after(self, operations: int) -> None:
        """Raise SimulatedCrash at the n-th operation from now (0 = the next) and at every later one until `crash`."""
        self._crash_at = self.operations + operations

    def fail(self, op: str, error: int = errno.EIO, *, suffix: str = "", after: int = 0, times: int = 1) -> None:
        """Plant `error` in the next `times` operations `op` on paths ending in `suffix`, after `after` of them."""
        self._faults.append(_Fault(op, error, suffix, after, times))

    def flip_bit(self, path: Path, bit: int) -> None:
        """Rot: one bit of the durable content."""
        self._inode(path).data[bit // 8] ^= 1 << (bit % 8)

    # --- for its files

    def step(self, op: str, path: Path) -> None:
        """Count an operation; crash or fail here if a test asked for it."""
        if self._crash_at is not None and self.operations >= self._crash_at:
            self.operations += 1
            raise SimulatedCrash(f"{op} {path.name}", first=self.operations == self._crash_at + 1)
        self.operations += 1
        error = self.take_fault(op, path)
        if error is not None:
            raise OSError(error, os.strerror(error), str(path))

    def take_fault(self, op: str, path: Path) -> int | None:
        """The errno planted for this operation, None if there is none."""
        for fault in self._faults:
            if fault.op == op and str(path).endswith(fault.suffix):
                if fault.after > 0:
                    fault.after -= 1
                elif fault.times > 0:
                    fault.times -= 1
                    return fault.error
        return None

    def is_named(self, path: Path, inode: _Inode) -> bool:
        """Is this file still what the name means?"""
        return self.exists(path) and self._inode(path) is inode

    def end_max(self, inode: _Inode) -> int:
        """Up to which length a file may grow."""
        return 1 << 62 if self.capacity_bytes is None else inode.size + max(0, self.capacity_bytes - self._used())

    def _used(self) -> int:
        return sum(inode.size for d in self._directories.values() for inode in d.names.values())

    def _directory(self, path: Path) -> _Directory:
        try:
            return self._directories[path]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from None

    def _inode(self, path: Path) -> _Inode:
        try:
            return self._directory(path.parent).names[path.name]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from None
