"""The days in memory, bounded, and their files: how the aggregator's state survives.

Two rules make a crash between any two steps harmless. A day file is written only after every output of the inputs in
it is durable; the checkpoint file is written after all day files. So a day file may be *newer* than the checkpoint:
the replay then applies slices to a day that already holds them, or later ones. That gives the same state, because a
slice replaces what its interval holds, and no output is lost or doubled, because every change up to that day file is
below the position that the log returns, where outputs are suppressed.

Everything here blocks: call it through `ctx.offload`.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path
from typing import Final
from urllib.parse import quote

import attrs

from actors.aggregator.day import Day, DayKey, decode_day, encode_day
from runtime.disk_port import Disk

_CHECKPOINT: Final = "checkpoint.json"


@attrs.define(eq=False, kw_only=True)
class DayStore:
    """Least recently used days stay in files. One owner at a time."""

    disk: Disk
    directory: Path
    log_id: str
    code: int
    """Version of the code that computes days; the state of another one is discarded."""
    days_max: int
    """Days in memory, 0.25 MB each; `full` above it."""
    _days: OrderedDict[DayKey, Day] = attrs.field(factory=OrderedDict, init=False)
    _dirty: set[DayKey] = attrs.field(factory=set, init=False)

    @property
    def full(self) -> bool:
        """True: `write_dirty` and `evict` before more days come in."""
        return len(self._days) > self.days_max

    @property
    def dirty(self) -> list[DayKey]:
        """Days that differ from their file."""
        return sorted(self._dirty, key=attrs.astuple)

    def open(self, log_end: int) -> int:
        """The input position to go on from; 0, with all state removed, when there is no usable checkpoint."""
        self._days.clear()
        self._dirty.clear()
        self.disk.make_directory(self.directory)
        position = self._read_checkpoint()
        if position is None or position > log_end:
            self.discard()
            return 0
        return position

    def discard(self) -> None:
        """Remove all state: the checkpoint first, so that a half-done removal is not taken for a state."""
        self._days.clear()
        self._dirty.clear()
        names = self.disk.names(self.directory)
        for name in sorted(names, key=lambda name: name != _CHECKPOINT):
            self.disk.unlink(self.directory / name)
            if name == _CHECKPOINT:
                self.disk.sync_directory(self.directory)
        self.disk.sync_directory(self.directory)

    def get(self, key: DayKey) -> Day | None:
        """The day, from memory, its file, or new; None when its file is damaged."""
        day = self._days.get(key)
        if day is None:
            day = self._load(key)
            if day is None:
                return None
            self._days[key] = day
        self._days.move_to_end(key)
        return day

    def touched(self, key: DayKey) -> None:
        """The day was changed."""
        self._dirty.add(key)

    def write_days(self, keys: list[DayKey]) -> None:
        """Write these days' files. Only when all outputs of their inputs are durable. Raises: OSError."""
        for key in keys:
            self.disk.write_atomic(self._path(key), encode_day(self._days[key]))
            self._dirty.discard(key)

    def write_checkpoint(self, position: int) -> None:
        """All inputs below `position` are in the day files. Raises: OSError."""
        record = {"format": 1, "log_id": self.log_id, "code": self.code, "input": position}
        self.disk.write_atomic(self.directory / _CHECKPOINT, json.dumps(record).encode())

    def evict(self) -> None:
        """Forget unchanged days, the least recently used first, down to half of the bound."""
        for key in [key for key in self._days if key not in self._dirty]:
            if len(self._days) <= self.days_max // 2:
                break
            del self._days[key]

    def _load(self, key: DayKey) -> Day | None:
        try:
            data = self.disk.read_bytes(self._path(key))
        except FileNotFoundError:
            return Day.empty(key)
        return decode_day(key, data)

    def _path(self, key: DayKey) -> Path:
        return self.directory / f"{quote(key.symbol, safe='')}.{key.kind}.{key.day}.day"

    def _read_checkpoint(self) -> int | None:
        try:
            record = json.loads(self.disk.read_bytes(self.directory / _CHECKPOINT))
        except (FileNotFoundError, ValueError):
            return None
        wanted = {"format": 1, "log_id": self.log_id, "code": self.code}
        if not isinstance(record, dict) or wanted.items() - record.items() or not isinstance(record.get("input"), int):
            return None
        return int(record["input"])


def checkpoint_of(disk: Disk, directory: Path, log_id: str, code: int) -> int:
    """Below it the log is not needed for the aggregator's state; 0 without one of this log and code. Blocking."""
    try:
        record = json.loads(disk.read_bytes(directory / _CHECKPOINT))
    except (FileNotFoundError, ValueError):
        return 0
    if not isinstance(record, dict) or (record.get("log_id"), record.get("code")) != (log_id, code):
        return 0
    return int(record.get("input", 0))


def durable_checkpoint(disk: Disk, directory: Path, log_id: str, code: int) -> int:
    """`checkpoint_of` as a power cut would leave it at least; 0 when the disk does not say so. Blocking.

    What is read may have been renamed by a killed process that did not come to the sync of the directory; the content
    of the file was synced before.
    """
    position = checkpoint_of(disk, directory, log_id, code)
    if position:
        try:
            disk.sync_directory(directory)
        except OSError:
            return 0
    return position
