"""What the log and everyone else may ask of a disk. Every call blocks: use it in a worker thread (`ctx.offload`).

Errors are the operating system's own (`OSError` with its errno); who calls knows what ENOSPC or EIO means there.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol


class File(Protocol):
    """One open file. `pread` may be called from several threads at once, the rest by one owner."""

    def pread(self, size: int, offset: int) -> bytes:
        """Up to `size` bytes from `offset`; fewer only at the end of the file."""
        ...

    def pwritev(self, buffers: Sequence[bytes], offset: int) -> int:
        """Write all buffers one behind the other; returns the bytes written, fewer than asked = no space."""
        ...

    def size(self) -> int:
        """Bytes, preallocated ones included."""
        ...

    def truncate(self, size: int) -> None:
        """Cut or extend with zeros."""
        ...

    def allocate(self, size: int) -> None:
        """Guarantee space for the first `size` bytes; unwritten ones read as zeros. ENOSPC comes here, not later."""
        ...

    def start_writeback(self, offset: int, size: int) -> None:
        """Let the disk begin with these bytes while we do something else. Promises nothing; a sync must follow."""
        ...

    def datasync(self) -> None:
        """fdatasync: content (and the length needed to read it) is safe when it returns."""
        ...

    def sync(self) -> None:
        """fsync: content and metadata are safe when it returns."""
        ...

    def close(self) -> None:
        """Release the handle; syncs nothing."""
        ...


class Lock(Protocol):
    """An exclusive advisory lock, held until released or until the process ends, however it ends."""

    def version(self) -> object:
        """A value that differs once the locked file was written to, or lost its name. Cheap: asked at each commit."""
        ...

    def release(self) -> None:
        """Let the next one in."""
        ...


class Disk(Protocol):
    """One volume's directories and files."""

    def open(self, path: Path, *, write: bool = False, create: bool = False) -> File:
        """Open for reading, or reading and writing. A new file's name is safe only after `sync_directory`."""
        ...

    def names(self, directory: Path) -> list[str]:
        """Names in a directory, sorted; empty if there is no such directory."""
        ...

    def exists(self, path: Path) -> bool:
        """True for a file or directory."""
        ...

    def make_directory(self, path: Path) -> None:
        """Create with its parents, each name synced; fine if it exists."""
        ...

    def rename(self, old: Path, new: Path) -> None:
        """Within one directory, atomically over an existing `new`; safe only after `sync_directory`."""
        ...

    def unlink(self, path: Path) -> None:
        """Remove a file's name; safe only after `sync_directory`."""
        ...

    def sync_directory(self, path: Path) -> None:
        """fsync of a directory: its names are safe when it returns."""
        ...

    def lock(self, path: Path) -> Lock | None:
        """flock on `path` (created when missing), without waiting; None if somebody else holds it."""
        ...

    def free_bytes(self, path: Path) -> int:
        """What an ordinary user may still write on the volume of `path`."""
        ...

    def used_bytes(self, path: Path) -> int:
        """What is taken of the volume of `path`, by whomever."""
        ...

    def read_bytes(self, path: Path) -> bytes:
        """The whole of a small file."""
        ...

    def write_atomic(self, path: Path, data: bytes) -> None:
        """Replace `path` as a whole: readers and crashes see the old or the new content, after return the new."""
        ...


class DiskHelpers:
    """What follows from the primitives, the same on every disk."""

    def read_bytes(self: Disk, path: Path) -> bytes:
        """The whole of a small file."""
        file = self.open(path)
        try:
            return file.pread(file.size(), 0)
        finally:
            file.close()

    def write_atomic(self: Disk, path: Path, data: bytes) -> None:
        """Temporary file, fsync, rename, fsync of the directory."""
        temporary = path.with_name(path.name + ".tmp")
        file = self.open(temporary, write=True, create=True)
        try:
            file.truncate(0)
            write_fully(file, [data], 0)
            file.sync()
        finally:
            file.close()
        self.rename(temporary, path)
        self.sync_directory(path.parent)


def write_fully(file: File, buffers: Sequence[bytes], offset: int) -> None:
    """`pwritev` where a short write is an error: raises OSError(ENOSPC)."""
    wanted = sum(map(len, buffers))
    written = file.pwritev(buffers, offset)
    if written != wanted:
        raise OSError(errno.ENOSPC, f"only {written} of {wanted} bytes were written")
