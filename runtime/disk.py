"""The disk seam: the port, the operating system's disk, and the in-memory one for tests and `--test-mode`."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from collections.abc import Sequence
from pathlib import Path

from runtime.disk_memory import MemoryDisk, SimulatedCrash
from runtime.disk_port import Disk, DiskHelpers, File, Lock, write_fully

__all__ = ["Disk", "File", "Lock", "MemoryDisk", "RealDisk", "SimulatedCrash", "write_fully"]

_IOV_MAX = os.sysconf("SC_IOV_MAX")
_FILE_MODE = 0o640
_SYNC_FILE_RANGE = getattr(ctypes.CDLL(None, use_errno=True), "sync_file_range", None)  # Linux
if _SYNC_FILE_RANGE is not None:
    _SYNC_FILE_RANGE.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
_SYNC_FILE_RANGE_WRITE = 2
_UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.ESPIPE, errno.EOPNOTSUPP)


class RealFile:
    """A file descriptor."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def pread(self, size: int, offset: int) -> bytes:
        """Up to `size` bytes from `offset`; fewer only at the end of the file."""
        data = os.pread(self._fd, size, offset)
        while len(data) < size and (more := os.pread(self._fd, size - len(data), offset + len(data))):
            data += more
        return data

    def pwritev(self, buffers: Sequence[bytes], offset: int) -> int:
        """Write in pieces of IOV_MAX buffers; stops at the first short write."""
        if len(buffers) <= _IOV_MAX:
            return os.pwritev(self._fd, buffers, offset)
        written = 0
        for start in range(0, len(buffers), _IOV_MAX):
            piece = buffers[start : start + _IOV_MAX]
            done = os.pwritev(self._fd, piece, offset + written)
            written += done
            if done != sum(map(len, piece)):
                break
        return written

    def size(self) -> int:
        """Bytes, preallocated ones included."""
        return os.fstat(self._fd).st_size

    def truncate(self, size: int) -> None:
        """Cut or extend with zeros."""
        os.ftruncate(self._fd, size)

    def allocate(self, size: int) -> None:
        """posix_fallocate from the beginning."""
        os.posix_fallocate(self._fd, 0, size)

    def start_writeback(self, offset: int, size: int) -> None:
        """sync_file_range without waiting: it takes no error away from the fdatasync that follows."""
        if _SYNC_FILE_RANGE is None:
            return
        failed = _SYNC_FILE_RANGE(self._fd, offset, size, _SYNC_FILE_RANGE_WRITE)
        if failed and ctypes.get_errno() not in _UNSUPPORTED:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def datasync(self) -> None:
        """fdatasync."""
        os.fdatasync(self._fd)

    def sync(self) -> None:
        """fsync."""
        os.fsync(self._fd)

    def close(self) -> None:
        """Close once; a second call does nothing (the number may belong to another file by then)."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)


class RealLock:
    """A held flock."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def version(self) -> object:
        """Names, time of the last change, size."""
        stat = os.fstat(self._fd)
        return stat.st_nlink, stat.st_mtime_ns, stat.st_size

    def release(self) -> None:
        """Close the descriptor, which drops the lock."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)


class RealDisk(DiskHelpers):
    """The operating system's files."""

    def open(self, path: Path, *, write: bool = False, create: bool = False) -> File:
        """os.open, closed on exec."""
        flags = (os.O_RDWR if write else os.O_RDONLY) | (os.O_CREAT if create else 0) | os.O_CLOEXEC
        return RealFile(os.open(path, flags, _FILE_MODE))

    def names(self, directory: Path) -> list[str]:
        """Sorted; empty if there is no such directory."""
        try:
            return sorted(os.listdir(directory))
        except FileNotFoundError:
            return []

    def exists(self, path: Path) -> bool:
        """True for a file or directory."""
        return path.exists()

    def make_directory(self, path: Path) -> None:
        """Every missing level is made and its name synced in its parent."""
        if path.is_dir():
            return
        self.make_directory(path.parent)
        path.mkdir(exist_ok=True)
        self.sync_directory(path.parent)

    def rename(self, old: Path, new: Path) -> None:
        """Atomic within one directory."""
        os.replace(old, new)

    def unlink(self, path: Path) -> None:
        """Remove the name."""
        os.unlink(path)

    def sync_directory(self, path: Path) -> None:
        """fsync of the directory."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def lock(self, path: Path) -> Lock | None:
        """flock, not waiting."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _FILE_MODE)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        except BaseException:
            os.close(fd)
            raise
        return RealLock(fd)

    def free_bytes(self, path: Path) -> int:
        """statvfs, without what is reserved for root."""
        stat = os.statvfs(path)
        return stat.f_bavail * stat.f_frsize

    def used_bytes(self, path: Path) -> int:
        """statvfs, as df shows it."""
        stat = os.statvfs(path)
        return (stat.f_blocks - stat.f_bfree) * stat.f_frsize
