"""The market of a seed: what the oracle knows. Shares no code with the product; prices are integers of 1e-5."""

from __future__ import annotations

import random
from collections.abc import Iterator

import attrs

NS = 1_000_000_000
MINUTE = 60 * NS
HOUR = 3600 * NS
TIMEFRAMES = {"1m": 1, "5m": 5, "15m": 15, "1h": 60, "4h": 240, "1d": 1440}
Tick = tuple[int, int, int]
"""(ts_ns, bid, ask); a bid that is not positive is a row that the product has to refuse."""


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
        per_hour = rng.choice((2, 20, 60, 150))
        silent = rng.choice((0.0, 0.2, 0.6))
        bad = rng.choice((0.0, 0.0, 0.02))
        bid = 100_000 + rng.randrange(30_000)
        hour_ns = from_ns - from_ns % HOUR
        while hour_ns < to_ns:
            count = 0 if rng.random() < silent else rng.randrange(2 * per_hour)
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


def candles(
    ticks: list[Tick], covered: set[int]
) -> dict[tuple[str, str, int], tuple[float, float, float, float, int, bool]]:
    """(timeframe, basis, start) -> (open, high, low, close, ticks, final), as UPSTREAM 5 says, one tick at a time.

    `covered`: the minutes (since the epoch) that final slices cover. A minute is shown when it has ticks, a longer candle
    once its last minute is covered; it is final when all of them are.
    """
    found: dict[tuple[str, str, int], list[int]] = {}
    for ts, bid, ask in ticks:
        for basis, price in (("bid", 2 * bid), ("ask", 2 * ask), ("mid", bid + ask)):
            for timeframe, minutes in TIMEFRAMES.items():
                key = (timeframe, basis, ts - ts % (minutes * MINUTE))
                bar = found.setdefault(key, [price, price, price, price, 0])
                bar[1], bar[2], bar[3], bar[4] = max(bar[1], price), min(bar[2], price), price, bar[4] + 1
    out = {}
    for (timeframe, basis, start), bar in found.items():
        inside = range(start // MINUTE, start // MINUTE + TIMEFRAMES[timeframe])
        if timeframe == "1m" or inside[-1] in covered:
            prices = [price / 200_000 for price in bar[:4]]
            out[timeframe, basis, start] = (*prices, bar[4], all(minute in covered for minute in inside))
    return out
