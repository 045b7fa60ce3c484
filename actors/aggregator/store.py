"""The days in memory, bounded, and their files: how the aggregator's state survives.

Three rules make a crash between any two steps harmless. A day file is written only after every output of the inputs
in it is durable. The checkpoint is written after all day files; the watermarks are inside it, so they are exactly as
old as the position. A day knows the last input that changed it. So a day file may be *newer* than the checkpoint: the
replay skips for this day what ends there or before (live rows add up, they must not be added twice), and no output is
lost or doubled, because every change up to that day file is below the position that the log returns, where outputs
are suppressed.

Everything here blocks: call it through `ctx.offload`.
"""

from __future__ import annotations

import zlib
from collections import OrderedDict
from pathlib import Path
from typing import Final
from urllib.parse import quote

import attrs
import msgspec

from actors.aggregator.day import Day, DayKey, decode_day, encode_day
from actors.aggregator.stream import NO_STREAM, Stream
from runtime.disk_port import Disk

_CHECKPOINT: Final = "checkpoint.json"
_FORMAT: Final = 2


class _StreamRecord(msgspec.Struct, frozen=True):
    symbol: str
    kind: str
    watermark_ns: int | None
    open_days: list[int]

    @classmethod
    def of(cls, symbol: str, kind: str, stream: Stream) -> _StreamRecord:
        return cls(symbol, kind, stream.watermark_ns, sorted(stream.open_days))

    def stream(self) -> Stream:
        return Stream(watermark_ns=self.watermark_ns, open_days=frozenset(self.open_days))


class _Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One line of JSON; a second line holds its CRC-32."""

    format: int
    log_id: str
    code: int
    input: int
    """All inputs below this position are in the day files and in `streams`."""
    streams: list[_StreamRecord]


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
    streams: dict[tuple[str, str], Stream] = attrs.field(factory=dict, init=False)
    """Live streams by (symbol, kind), as of the last input applied."""

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
        self._forget()
        self.disk.make_directory(self.directory)
        record = self._read_checkpoint()
        if record is None or record.input > log_end:
            self.discard()
            return 0
        self.streams.update({(each.symbol, each.kind): each.stream() for each in record.streams})
        return record.input

    def discard(self) -> None:
        """Remove all state: the checkpoint first, so that a half-done removal is not taken for a state."""
        self._forget()
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

    def peek(self, key: DayKey) -> Day | None:
        """The day if it is in memory."""
        return self._days.get(key)

    def stream(self, symbol: str, kind: str) -> Stream:
        """The live stream, from its last heartbeat."""
        return self.streams.get((symbol, kind), NO_STREAM)

    def touched(self, day: Day, input_end: int) -> None:
        """The day was changed by the input that ends there."""
        day.applied = input_end
        self._dirty.add(day.key)

    def write_days(self, keys: list[DayKey]) -> None:
        """Write these days' files. Only when all outputs of their inputs are durable. Raises: OSError."""
        for key in keys:
            self.disk.write_atomic(self._path(key), encode_day(self._days[key]))
            self._dirty.discard(key)

    def write_checkpoint(self, position: int) -> None:
        """All inputs below `position` are in the day files. Raises: OSError."""
        streams = [_StreamRecord.of(*key, stream) for key, stream in sorted(self.streams.items())]
        record = _Checkpoint(format=_FORMAT, log_id=self.log_id, code=self.code, input=position, streams=streams)
        body = msgspec.json.encode(record)
        self.disk.write_atomic(self.directory / _CHECKPOINT, body + b"\n%08x\n" % zlib.crc32(body))

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

    def _forget(self) -> None:
        self._days.clear()
        self._dirty.clear()
        self.streams.clear()

    def checkpoint_input(self) -> int:
        """Of the checkpoint on disk; 0 without a usable one."""
        record = self._read_checkpoint()
        return 0 if record is None else record.input

    def _read_checkpoint(self) -> _Checkpoint | None:
        """None when there is none, or it is damaged, of another format, another log or other code."""
        try:
            body, check, _ = self.disk.read_bytes(self.directory / _CHECKPOINT).split(b"\n")
            record = msgspec.json.decode(body, type=_Checkpoint)
        except (FileNotFoundError, ValueError):  # msgspec's errors are ValueErrors
            return None
        known = (record.format, record.log_id, record.code) == (_FORMAT, self.log_id, self.code)
        return record if known and check == b"%08x" % zlib.crc32(body) else None


def checkpoint_of(disk: Disk, directory: Path, log_id: str, code: int) -> int:
    """Below it the log is not needed for the aggregator's state; 0 without one of this log and code. Blocking."""
    store = DayStore(disk=disk, directory=directory, log_id=log_id, code=code, days_max=1)
    return store.checkpoint_input()
