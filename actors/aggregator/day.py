"""One symbol, kind and UTC day of minute bars, dense, and its file format. Pure.

Every timeframe divides the UTC day, so a day is all that any of its candles is made of.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable

import attrs
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from actors.market.candles import BASES_OF, MINUTES_PER_DAY, NS_PER_MINUTE, Bars

COLUMNS: dict[str, str] = {
    "open": "<f8",
    "high": "<f8",
    "low": "<f8",
    "close": "<f8",
    "volume": "<f8",
    "notional": "<f8",
    "ticks": "<i8",
    "flags": "<i4",
}
"""Of `Bars`, each as an array of (bases, 1440); all zero where a minute has no tick."""
_MAGIC = b"HOLDFAST-DAY-1\n"
Array = npt.NDArray[np.generic]


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
    """All minutes of one day, for every basis of its kind. Owned by the store; changed in place by slices."""

    key: DayKey
    columns: dict[str, Array]
    covered: npt.NDArray[np.bool_]
    """Per minute: a final slice covers it."""
    source: npt.NDArray[np.int16]
    """Per minute: index into `sources` of the slice that covers it; -1 where none does."""
    sources: list[str]

    @classmethod
    def empty(cls, key: DayKey) -> Day:
        """A day of which nothing is known."""
        shape = (len(BASES_OF[key.kind]), MINUTES_PER_DAY)
        return cls(
            key=key,
            columns={name: np.zeros(shape, kind) for name, kind in COLUMNS.items()},
            covered=np.zeros(MINUTES_PER_DAY, np.bool_),
            source=np.full(MINUTES_PER_DAY, -1, np.int16),
            sources=[],
        )

    @property
    def bases(self) -> tuple[str, ...]:
        """In the order of the arrays' first axis."""
        return BASES_OF[self.key.kind]

    def replace(self, low: int, high: int, source: str, bars: Iterable[Bars]) -> None:
        """Minutes [low, high) hold exactly `bars` (one per basis, inside the interval), from `source`."""
        if source not in self.sources:
            self.sources.append(source)
        self.covered[low:high] = True
        self.source[low:high] = self.sources.index(source)
        for array in self.columns.values():
            array[:, low:high] = 0
        for row, one in enumerate(bars):
            minutes = (one.ts_ns - self.key.start_ns) // NS_PER_MINUTE
            for name, array in self.columns.items():
                array[row, minutes] = getattr(one, name)

    def bars(self, row: int, low: int, high: int) -> Bars:
        """The minutes of [low, high) that have ticks, for the basis number `row`."""
        minutes = low + np.flatnonzero(self.columns["ticks"][row, low:high])
        picked = {name: array[row, minutes] for name, array in self.columns.items()}
        return Bars(ts_ns=self.key.start_ns + minutes * NS_PER_MINUTE, **picked)

    def source_names(self, indexes: npt.NDArray[np.int16]) -> npt.NDArray[np.object_]:
        """Names for indexes into `sources`; -1 is `mixed`."""
        return np.array([*self.sources, "mixed"], dtype=object)[indexes]


def encode_day(day: Day) -> bytes:
    """The content of a day's file: magic, header line, zstd of the arrays, CRC-32 of all that."""
    arrays = b"".join(array.tobytes() for array in (*day.columns.values(), day.covered, day.source))
    header = {"symbol": day.key.symbol, "kind": day.key.kind, "day": day.key.day, "sources": day.sources}
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
    targets = [*day.columns.values(), day.covered, day.source]
    if len(arrays) != sum(array.nbytes for array in targets):
        return None
    at = 0
    for array in targets:
        array[...] = np.frombuffer(arrays, array.dtype, array.size, at).reshape(array.shape)
        at += array.nbytes
    day.sources.extend(header["sources"])
    return day
