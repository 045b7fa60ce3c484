"""The market of a seed: what the oracle knows. Shares no code with the product; prices are integers of 1e-5."""

from __future__ import annotations

import random
from collections.abc import Iterator

import attrs

NS = 1_000_000_000
MINUTE = 60 * NS
HOUR = 3600 * NS
TIMEFRAMES = {"1m": 1, "5m": 5, "15m": 15, "1h": 60, "4h": 240, "1d": 1440}
MS = 1_000_000
Tick = tuple[int, int, int]
"""(ts_ns, bid, ask) or (ts_ns, price, size); a price that is not positive is a row that the product has to refuse."""
Candle = tuple[float | bool, ...]
"""open, high, low, close, ticks, final; of trades also volume and vwap."""


def kind_of(symbol: str) -> str:
    """Currencies have quotes, coins have trades."""
    return "quotes" if symbol.startswith("C:") else "trades"


def on_stream(tick: Tick) -> Tick:
    """As the stream sends it: times are cut to milliseconds."""
    return (tick[0] - tick[0] % MS, *tick[1:])


@attrs.frozen(kw_only=True)
class Shape:
    """How a symbol trades."""

    per_hour: int
    silent: float
    """Share of the hours without a tick."""


@attrs.frozen(kw_only=True)
class Change:
    """The vendor changes its mind about [from_ns, to_ns) of a symbol: version number `version` of it."""

    symbol: str
    from_ns: int
    to_ns: int
    version: int


@attrs.define
class Market:
    """Every version of every symbol's ticks. `now` versions are those that the vendor serves."""

    seed: int
    symbols: tuple[str, ...]
    from_ns: int
    to_ns: int
    per_hour: int | None = None
    """Of every symbol; None: by the seed."""
    versions: dict[str, list[list[Tick]]] = attrs.field(factory=dict, init=False)
    changes: list[Change] = attrs.field(factory=list, init=False)

    def __attrs_post_init__(self) -> None:
        for symbol in self.symbols:
            self.versions[symbol] = [list(self._ticks(symbol, self.from_ns, self.to_ns, 0))]

    def change(self, symbol: str, from_ns: int, to_ns: int) -> Change:
        """A new version with other ticks in the interval."""
        version = len(self.versions[symbol])
        kept = [tick for tick in self.versions[symbol][-1] if not from_ns <= tick[0] < to_ns]
        kept += self._ticks(symbol, from_ns, to_ns, version)
        self.versions[symbol].append(sorted(kept, key=lambda tick: tick[0]))
        self.changes.append(Change(symbol=symbol, from_ns=from_ns, to_ns=to_ns, version=version))
        return self.changes[-1]

    def served(self, symbol: str) -> list[Tick]:
        """What the vendor answers from now on."""
        return self.versions[symbol][-1]

    def _ticks(self, symbol: str, from_ns: int, to_ns: int, version: int) -> Iterator[Tick]:
        """In time order; some share their instant, some are equal in everything, some hours are silent."""
        rng = random.Random(f"{self.seed}/{symbol}/{version}")
        shape = Shape(per_hour=rng.choice((2, 20, 60, 150)), silent=rng.choice((0.0, 0.2, 0.6)))
        if self.per_hour is not None:
            shape = Shape(per_hour=self.per_hour, silent=0.0)
        bad = rng.choice((0.0, 0.0, 0.02))
        bid = 100_000 + rng.randrange(30_000)
        hour_ns = from_ns - from_ns % HOUR
        while hour_ns < to_ns:
            count = 0 if rng.random() < shape.silent else rng.randrange(2 * shape.per_hour)
            times = sorted(rng.randrange(HOUR // 1000) * 1000 for _ in range(count))
            for at, offset in enumerate(times):
                if at and rng.random() < 0.1:
                    offset = times[at] = times[at - 1]
                bid += 0 if rng.random() < 0.3 else rng.randrange(-9, 10)
                tick = (hour_ns + offset, bid, bid + rng.randrange(1, 16))
                if from_ns <= tick[0] < to_ns:
                    yield (tick[0], -1, tick[2]) if rng.random() < bad else tick
            hour_ns += HOUR


def good(ticks: list[Tick]) -> list[Tick]:
    """Those that are to be accepted."""
    return [tick for tick in ticks if tick[1] > 0]


@attrs.frozen(kw_only=True)
class Known:
    """What the log says of a symbol, in minutes since the epoch."""

    sliced: frozenset[int] | set[int]
    """Inside a slice, provisional or final."""
    final: frozenset[int] | set[int]
    """Nothing more is expected of them."""
    touched: frozenset[int] | set[int] = frozenset()
    """Live rows or heartbeats reached into them."""
    closed_to: int = 0
    """Minutes before it are closed by the watermark."""


def candles(kind: str, ticks: list[Tick], known: Known) -> dict[tuple[str, str, int], Candle]:
    """(timeframe, basis, start) -> candle, as UPSTREAM 5 says, one tick at a time.

    A candle is shown when a slice holds its last minute, or when live touched it and the watermark passed its end; it is
    final when all of its minutes are.
    """
    found: dict[tuple[str, str, int], list[int]] = {}
    for ts, one, two in ticks:
        quotes = (("bid", 2 * one), ("ask", 2 * two), ("mid", one + two))
        for basis, price in quotes if kind == "quotes" else (("last", 2 * one),):
            for timeframe, minutes in TIMEFRAMES.items():
                key = (timeframe, basis, ts - ts % (minutes * MINUTE))
                bar = found.get(key)
                if bar is None:
                    bar = found[key] = [price, price, price, price, 0, 0, 0]
                elif price > bar[1]:
                    bar[1] = price
                elif price < bar[2]:
                    bar[2] = price
                bar[3], bar[4] = price, bar[4] + 1
                bar[5], bar[6] = bar[5] + two, bar[6] + one * two
    out: dict[tuple[str, str, int], Candle] = {}
    for (timeframe, basis, start), bar in found.items():
        inside = range(start // MINUTE, start // MINUTE + TIMEFRAMES[timeframe])
        closed = inside[-1] < known.closed_to and any(minute in known.touched for minute in inside)
        if inside[-1] in known.sliced or closed:
            prices = [price / 200_000 for price in bar[:4]]
            traded = (round(bar[5] / 1e5, 9), round(bar[6] / bar[5] / 1e5, 9)) if kind == "trades" else ()
            out[timeframe, basis, start] = (*prices, bar[4], all(m in known.final for m in inside), *traded)
    return out
