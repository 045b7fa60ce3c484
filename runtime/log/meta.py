"""What a log is (META) and who writes it (LOCK: flock plus the epoch of the writer)."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import attrs
import msgspec

from runtime.disk_port import Disk, Lock, write_fully
from runtime.errors import ConfigError, InvariantViolation
from runtime.log.checksum import crc32c
from runtime.log.segment import FORMAT_VERSION, load_segment, segment_base
from runtime.log.slots import SlotFile

META = "META"
LOCK = "LOCK"
_LOCK = struct.Struct("<QQI")


class _Version(msgspec.Struct, frozen=True):
    """What META of any format has."""

    version: int


class Meta(msgspec.Struct, frozen=True, kw_only=True):
    """Made once with the log."""

    log_id: str
    version: int
    partitions: int
    created_ns: int
    start_position: int = 0
    """Nothing below it is kept; moved (durably) before the segments below it are unlinked."""


def load_meta(disk: Disk, directory: Path) -> Meta | None:
    """META, None if it is missing or damaged in both slots. Raises ConfigError for a newer format, of any shape."""
    slots = SlotFile(disk, directory / META)
    payload = slots.load()
    if payload is None:
        return None
    try:
        version = msgspec.json.decode(payload, type=_Version).version
        if version <= FORMAT_VERSION:
            return msgspec.json.decode(payload, type=Meta)
        made = f"the log has format {version}"
    except msgspec.DecodeError:
        made = f"{META} is whole, but of a shape that this program does not know"
    raise ConfigError(
        f"{directory}: {made}, this program knows up to format {FORMAT_VERSION}: "
        "use the version of the program that wrote it, or a newer version"
    )


def meta_of_segments(disk: Disk, directory: Path) -> Meta | None:
    """What META said, from the segments' headers; None when there is no segment. Raises ConfigError if none checks."""
    bases = sorted((base, name) for name in disk.names(directory) if (base := segment_base(name)) is not None)
    headers = [load_segment(disk, directory / name, base).header for base, name in bases]
    header = next((h for h in headers if h is not None), None)
    if not bases:
        return None
    if header is None:
        raise ConfigError(f"{directory}: META is missing or damaged, and no segment's header can replace it")
    return Meta(
        log_id=header.log_id,
        version=FORMAT_VERSION,
        partitions=len(header.offsets) // 2,
        created_ns=header.created_ns,
        start_position=bases[0][0],
    )


def store_meta(disk: Disk, directory: Path, meta: Meta) -> None:
    """Write META durably."""
    slots = SlotFile(disk, directory / META)
    slots.load()
    slots.store(msgspec.json.encode(meta))
    slots.close()


@attrs.define
class WriterLock:
    """The right to write: an flock and an epoch that only goes up."""

    path: Path
    epoch: int
    _disk: Disk
    _lock: Lock
    _version: object = None
    """Of LOCK when it was last found to be ours: looking at that before each write is cheap, reading it is not."""

    def begin_epoch(self, at_least: int) -> int:
        """A new epoch, durable in LOCK, higher than `at_least` and than every earlier one."""
        self.epoch = max(self.epoch, at_least) + 1
        fixed = struct.pack("<QQ", self.epoch, os.getpid())
        file = self._disk.open(self.path, write=True)
        try:
            write_fully(file, [fixed + crc32c(fixed).to_bytes(4, "little")], 0)
            file.sync()
        finally:
            file.close()
        self._disk.sync_directory(self.path.parent)
        self._version = None
        return self.epoch

    def check(self) -> None:
        """Raises InvariantViolation when somebody else began an epoch: we were frozen, or the lock was taken away."""
        version = self._lock.version()
        if version == self._version:
            return
        now = _read_lock(self._disk, self.path)
        if now is None or now[0] != self.epoch:
            raise InvariantViolation(f"{self.path}: our epoch {self.epoch} is over, LOCK says {now}")
        self._version = version

    def release(self) -> None:
        """Let another process in."""
        self._lock.release()


def take_lock(disk: Disk, directory: Path) -> WriterLock:
    """The writer's lock. Raises ConfigError naming the holder."""
    path = directory / LOCK
    lock = disk.lock(path)
    found = _read_lock(disk, path)
    if lock is None:
        holder = f"process {found[1]}" if found else "another process"
        raise ConfigError(f"{directory} is in use by {holder}: stop it, or use another data_dir")
    return WriterLock(path, found[0] if found else 0, disk, lock)


def _read_lock(disk: Disk, path: Path) -> tuple[int, int] | None:
    """(epoch, pid), None if never written or torn (then the segments know the epoch)."""
    try:
        data = disk.read_bytes(path)
    except FileNotFoundError:
        return None
    if len(data) < _LOCK.size:
        return None
    epoch, pid, crc = _LOCK.unpack_from(data)
    return (epoch, pid) if crc32c(data[:16]) == crc else None


def lock_is_damaged(disk: Disk, directory: Path) -> bool:
    """True for a LOCK that was written and does not check. An empty one is the one of a log that was just made."""
    path = directory / LOCK
    return disk.exists(path) and bool(disk.read_bytes(path)) and _read_lock(disk, path) is None
