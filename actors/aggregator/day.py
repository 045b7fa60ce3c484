"""One symbol, kind and UTC day of minute bars, dense, and its file format. Pure.

Every timeframe divides the UTC day, so a day is all that any of its candles is made of.
"""

from __future__ import annotations

import enum
import json
import zlib
from collections.abc import Iterable

import attrs
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from actors.market.candles import BASES_OF, MINUTES_PER_DAY, NS_PER_MINUTE, Bars, merge

COLUMNS: dict[str, str] = {
    "open": "<f8",
    "high": "<f8",
    "low": "<f8",
    "close": "<f8",
    "volume": "<f8",
    "notional": "<f8",
    "ticks": "<i8",
    "flags": "<i4",
    "first_ns": "<i8",
    "last_ns": "<i8",
}
"""Of `Bars`, each as an array of (bases, 1440); all zero where a minute has no tick."""
_MAGIC = b"HOLDFAST-DAY-2\n"
MIXED = -1
"""Index of the source `mixed`."""
Array = npt.NDArray[np.generic]
Marks = npt.NDArray[np.uint8]


class Mark(enum.IntFlag):
    """What is known of a minute. Numbers are in day files."""

    SLICE = 1 << 0  # fetched whole by a slice, provisional or final
    FINAL = 1 << 1  # by a final slice, and no live row has come since
    LIVE = 1 << 2  # live rows or a heartbeat touched it, at any time: it is put out when the watermark passes its end
    FINAL_LIVE = 1 << 3  # a heartbeat covers it whole and nothing will confirm it


FINALS = Mark.FINAL | Mark.FINAL_LIVE


@attrs.frozen
class DayKey:
    """Which day: `day` counts from 1970-01-01 UTC."""

    symbol: str
    kind: str
    day: int

    @property
    def start_ns(self) -> int:
        """Its midnight."""
        return self.day * MINUTES_PER_DAY * NS_PER_MINUTE


@attrs.define(eq=False)
class Day:
    """All minutes of one day, for every basis of its kind. Owned by the store; changed in place."""

    key: DayKey
    columns: dict[str, Array]
    marks: Marks
    """Per minute: bits of `Mark`."""
    source: npt.NDArray[np.int16]
    """Per minute: index into `sources` of where its ticks come from; MIXED also where it has none."""
    sources: list[str]
    applied: int = 0
    """End position of the last input that changed it. A replay skips what ends there or before: live rows add up."""

    @classmethod
    def empty(cls, key: DayKey) -> Day:
        """A day of which nothing is known."""
        shape = (len(BASES_OF[key.kind]), MINUTES_PER_DAY)
        return cls(
            key=key,
            columns={name: np.zeros(shape, kind) for name, kind in COLUMNS.items()},
            marks=np.zeros(MINUTES_PER_DAY, np.uint8),
            source=np.full(MINUTES_PER_DAY, MIXED, np.int16),
            sources=[],
        )

    @property
    def bases(self) -> tuple[str, ...]:
        """In the order of the arrays' first axis."""
        return BASES_OF[self.key.kind]

    def replace(self, low: int, high: int, source: str, bars: Iterable[Bars], *, final: bool) -> None:
        """Minutes [low, high) hold exactly `bars` (one per basis, inside the interval), from `source`: a slice."""
        kept = self.marks[low:high] & Mark.LIVE
        self.marks[low:high] = kept | (Mark.SLICE | Mark.FINAL if final else Mark.SLICE)
        self.source[low:high] = self._source_index(source)
        for array in self.columns.values():
            array[:, low:high] = 0
        for row, one in enumerate(bars):
            self._put(row, self._minutes(one), one)

    def fold(self, source: str | None, bars: Iterable[Bars]) -> None:
        """Add live ticks that arrived after everything the day holds: `bars` per basis; `source` None when mixed."""
        index = MIXED if source is None else self._source_index(source)
        empty = np.asarray(self.columns["ticks"].sum(axis=0) == 0)
        for row, one in enumerate(bars):
            minutes = self._minutes(one)
            self.marks[minutes] = self.marks[minutes] & ~np.uint8(Mark.FINAL) | Mark.LIVE
            self.source[minutes] = np.where(empty[minutes] | (self.source[minutes] == index), index, MIXED)
            self._put(row, minutes, merge(self._at(row, minutes), one))

    def marked(self, low: int, high: int, bit: int) -> bool:
        """All minutes of [low, high) have the bit."""
        return bool((self.marks[low:high] & bit).all())

    def mark(self, low: int, high: int, bit: int) -> None:
        """Give the minutes [low, high) a bit."""
        self.marks[low:high] |= np.uint8(bit)

    def bars(self, row: int, low: int, high: int) -> Bars:
        """The minutes of [low, high) that have ticks, for the basis number `row`."""
        minutes = low + np.flatnonzero(self.columns["ticks"][row, low:high])
        return self._at(row, minutes)

    def source_names(self, indexes: npt.NDArray[np.int16]) -> npt.NDArray[np.object_]:
        """Names for indexes into `sources`."""
        return np.array([*self.sources, "mixed"], dtype=object)[indexes]

    def _at(self, row: int, minutes: npt.NDArray[np.intp]) -> Bars:
        picked = {name: array[row, minutes] for name, array in self.columns.items()}
        return Bars(ts_ns=self.key.start_ns + minutes * NS_PER_MINUTE, **picked)

    def _put(self, row: int, minutes: npt.NDArray[np.intp], bars: Bars) -> None:
        for name, array in self.columns.items():
            array[row, minutes] = getattr(bars, name)

    def _minutes(self, bars: Bars) -> npt.NDArray[np.intp]:
        return np.asarray((bars.ts_ns - self.key.start_ns) // NS_PER_MINUTE)

    def _source_index(self, source: str) -> int:
        if source not in self.sources:
            self.sources.append(source)
        return self.sources.index(source)


def encode_day(day: Day) -> bytes:
    """The content of a day's file: magic, header line, zstd of the arrays, CRC-32 of all that."""
    arrays = b"".join(array.tobytes() for array in (*day.columns.values(), day.marks, day.source))
    header = {"symbol": day.key.symbol, "kind": day.key.kind, "day": day.key.day, "sources": day.sources}
    header["applied"] = day.applied
    packed: bytes = pa.compress(arrays, codec="zstd", asbytes=True)
    body = _MAGIC + json.dumps(header | {"bytes": len(arrays)}).encode() + b"\n" + packed
    return body + zlib.crc32(body).to_bytes(4, "little")


def decode_day(key: DayKey, data: bytes) -> Day | None:
    """The inverse of `encode_day`; None when the bytes are not an intact file of this day."""
    body, check = data[:-4], data[-4:]
    if not body.startswith(_MAGIC) or zlib.crc32(body).to_bytes(4, "little") != check:
        return None
    line, _, packed = body[len(_MAGIC) :].partition(b"\n")
    header = json.loads(line)
    if (header["symbol"], header["kind"], header["day"]) != (key.symbol, key.kind, key.day):
        return None
    arrays = pa.decompress(packed, decompressed_size=header["bytes"], codec="zstd", asbytes=True)
    day = Day.empty(key)
    targets = [*day.columns.values(), day.marks, day.source]
    if len(arrays) != sum(array.nbytes for array in targets):
        return None
    at = 0
    for array in targets:
        array[...] = np.frombuffer(arrays, array.dtype, array.size, at).reshape(array.shape)
        at += array.nbytes
    day.sources.extend(header["sources"])
    day.applied = header["applied"]
    return day
