"""Trades from a recording of Binance's stream: a folder of `btcusdt_YYYYMMDD.gz` (notes DATA 4).

Lines are `recv_ns {"stream":"btcusdt@trade","data":{…}}`; other streams are passed over. The time is the exchange's
`T`. Served as `X:BTCUSDT`: a quote currency is part of the symbol. Everything is read at the start, because the name of
a file does not tell the span of its trades.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import attrs
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from actors.embedded.simulator.feed import Part, Trades
from runtime.errors import ConfigError

TRADES_MAX = 5_000_000
"""Of all files together, about 400 MB: a recording is kept in memory."""
FILE = re.compile(r"([a-z0-9]{5,20})_\d{8}\.gz")
_DECIMAL = r"^(0|[1-9][0-9]*)(\.[0-9]+)?$"
_NS_PER_MS = 1_000_000


class _Trade(msgspec.Struct):
    t: int
    p: str
    q: str
    T: int
    m: bool


class _Line(msgspec.Struct):
    data: _Trade


@attrs.frozen(kw_only=True, eq=False)
class BinanceCapture:
    """The trades of every file, one part per file."""

    folder: Path
    held: dict[str, list[tuple[Part, Trades]]]
    """Per symbol, in time order."""

    @property
    def description(self) -> str:
        """For people."""
        return f"recording {self.folder}"

    @property
    def symbols(self) -> tuple[str, ...]:
        """Every symbol that has trades."""
        return tuple(self.held)

    @property
    def first_ns(self) -> int:
        """The first trade."""
        return min(parts[0][0].from_ns for parts in self.held.values())

    def restricted(self, symbols: frozenset[str]) -> BinanceCapture:
        """The same with only these symbols."""
        return attrs.evolve(self, held={symbol: parts for symbol, parts in self.held.items() if symbol in symbols})

    def parts(self, symbol: str, from_ns: int, to_ns: int, *, descending: bool = False) -> Iterator[Part]:
        """The files that touch [from_ns, to_ns)."""
        parts = [part for part, _ in self.held[symbol] if part.from_ns < to_ns and part.to_ns > from_ns]
        return reversed(parts) if descending else iter(parts)

    def trades(self, symbol: str, part: Part) -> Trades:
        """The file's trades in order of their time."""
        return next(trades for held, trades in self.held[symbol] if held == part)


def capture_files(folder: Path) -> list[Path]:
    """The files of `folder` that are named like a capture, in order."""
    return sorted(path for path in folder.iterdir() if FILE.fullmatch(path.name) and path.is_file())


def open_capture(folder: Path) -> BinanceCapture:
    """Read all of it. Blocking, about 1 s per 100,000 lines. Raises: ConfigError naming the file."""
    held: dict[str, list[tuple[Part, Trades]]] = {}
    total = 0
    for path in capture_files(folder):
        trades = _read(path)
        total += len(trades.ts_ns)
        if total > TRADES_MAX:
            raise ConfigError(f"recording {folder}: more than {TRADES_MAX} trades; name a folder with fewer files")
        if len(trades.ts_ns):
            part = Part(from_ns=int(trades.ts_ns[0]), to_ns=int(trades.ts_ns[-1]) + 1)
            symbol = f"X:{path.name.partition('_')[0].upper()}"
            held.setdefault(symbol, []).append((part, trades))
    for symbol, parts in held.items():
        parts.sort(key=lambda one: one[0].from_ns)
        for (before, _), (after, _) in pairwise(parts):
            if after.from_ns < before.to_ns:
                raise ConfigError(f"recording {folder}: two files of {symbol} overlap in time")
    if not held:
        raise ConfigError(f"recording {folder}: no trade in it (lines with a stream …@trade)")
    return BinanceCapture(folder=folder, held=held)


def _read(path: Path) -> Trades:
    decoder = msgspec.json.Decoder(_Line)
    trades: list[_Trade] = []
    number = 0
    try:
        with gzip.open(path) as lines:
            for number, line in enumerate(lines, 1):  # noqa: B007 - named in the error
                if b'@trade"' in line:
                    trades.append(decoder.decode(line.partition(b" ")[2]).data)
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"recording file {path}: {error}") from error
    except msgspec.DecodeError as error:
        raise ConfigError(f"recording file {path}: line {number}: {error}") from error
    ts_ns = np.array([trade.T for trade in trades], np.int64) * _NS_PER_MS
    order = np.argsort(ts_ns, kind="stable")
    price, size = (
        _plain(pa.array([getattr(trades[i], name) for i in order], pa.string()), path) for name in ("p", "q")
    )
    return Trades(
        ts_ns=ts_ns[order],
        price=price,
        size=size,
        trade_id=np.array([trade.t for trade in trades], np.int64)[order],
        condition=np.where(np.array([trade.m for trade in trades], bool)[order], 1, 2).astype(np.int64),
    )


def _plain(decimals: pa.StringArray, path: Path) -> pa.StringArray:
    """`61837.63000000` as `61837.63`: the vendor's numbers have no trailing zeros."""
    if not pc.all(pc.match_substring_regex(decimals, _DECIMAL), min_count=0).as_py():
        raise ConfigError(f"recording file {path}: a price or size that is no decimal number")
    short = pc.replace_substring_regex(decimals, pattern=r"(\.[0-9]*?)0+$", replacement=r"\1")
    return pc.utf8_rtrim(short, characters=".")
