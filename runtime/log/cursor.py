"""Cursor files: where a consumer stands, durable. Two slots; losing one costs a second of re-delivery."""

from __future__ import annotations

import contextlib
import errno
import re
import struct
from pathlib import Path

import attrs

from runtime.disk_port import Disk
from runtime.errors import InvariantViolation, LogFull, LogSyncFailed
from runtime.log.slots import SlotFile, newest_slot
from runtime.log.suspect import write_suspect

DIRECTORY = "cursors"
_HEAD = struct.Struct("<16sQI")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})
"""Errors of a full or read-only volume: an outage of the disk, not damage."""


@attrs.frozen(kw_only=True)
class Cursor:
    """Offsets are the next ones: everything below is done."""

    position: int = 0
    """Physical: everything below it is done, whatever its partition."""
    committed: dict[int, int] = attrs.field(factory=dict)
    """partition -> next offset that the sink has not said yes to."""
    verified: dict[int, int] = attrs.field(factory=dict)
    """partition -> next offset not yet read back; never above `committed`."""


class CursorFile:
    """The cursor of one consumer. One owner; blocking calls."""

    def __init__(self, disk: Disk, directory: Path, name: str, *, log_id: str, partitions_total: int) -> None:
        if not _NAME.fullmatch(name):
            raise InvariantViolation(f"cursor name {name!r} must match {_NAME.pattern}")
        self.name = name
        self._log_id = bytes.fromhex(log_id)
        self._partitions = partitions_total
        self._disk = disk
        self._directory = directory
        self._slots = SlotFile(disk, directory / DIRECTORY / name)
        self.durable_position = 0
        """Of the last cursor that this process made durable: the log may be cut below it."""

    def load(self) -> Cursor:
        """The newest valid state; Cursor() if there is none: start from the oldest frame, never from the newest.

        It is written once more: what is read may never have become durable (the process was killed before the sync, or
        the sync failed). Raises LogSyncFailed.
        """
        payload = self._slots.load()
        found = None if payload is None else unpack_cursor(payload)
        if found is None or found[0] != self._log_id.hex():
            return Cursor()
        with contextlib.suppress(LogFull):  # then nothing is trimmed by it
            self.store(found[1])
        return found[1]

    def store(self, cursor: Cursor) -> None:
        """Durable when it returns. Raises LogFull, LogSyncFailed."""
        for partition, offset in cursor.verified.items():
            if offset > cursor.committed.get(partition, 0):
                raise InvariantViolation(f"cursor {self.name}: verified {offset} of {partition} is above committed")
        # A sink that lost rows steps back: from the beginning of the write on, only the lower one is promised.
        self.durable_position = min(self.durable_position, cursor.position)
        try:
            self._slots.store(_pack(self._log_id, cursor, self._partitions))
        except OSError as error:
            if error.errno in NO_SPACE:
                raise LogFull(f"cursor {self.name}: {error}") from error
            what = f"cursor {self.name}"
            write_suspect(self._disk, self._directory, what=what, durable_upto=self.durable_position, error=error)
            raise LogSyncFailed(f"{what}: {error}") from error
        self.durable_position = cursor.position

    def close(self) -> None:
        """Release the handle."""
        self._slots.close()


def _pack(log_id: bytes, cursor: Cursor, partitions: int) -> bytes:
    offsets = [marks.get(p, 0) for marks in (cursor.committed, cursor.verified) for p in range(partitions)]
    return _HEAD.pack(log_id, cursor.position, partitions) + struct.pack(f"<{len(offsets)}Q", *offsets)


def unpack_cursor(payload: bytes) -> tuple[str, Cursor]:
    """(log_id, cursor) of a valid slot."""
    log_id, position, count = _HEAD.unpack_from(payload)
    offsets = struct.unpack_from(f"<{2 * count}Q", payload, _HEAD.size)
    committed = dict(enumerate(offsets[:count]))
    verified = dict(enumerate(offsets[count:]))
    return log_id.hex(), Cursor(position=position, committed=committed, verified=verified)


def read_cursors(disk: Disk, directory: Path, log_id: str) -> dict[str, Cursor]:
    """All cursors of this log by name, without opening them for writing."""
    cursors = {}
    for name in disk.names(directory / DIRECTORY):
        if not name.endswith(".tmp"):
            newest = newest_slot(disk.read_bytes(directory / DIRECTORY / name))
            if newest is not None:
                owner, cursor = unpack_cursor(newest[1])
                if owner == log_id:
                    cursors[name] = cursor
    return cursors
