"""A seeded market without end: the quotes of any hour as a pure function of (seed, symbol, hour).

Nothing is carried from hour to hour. The price is a slow path plus noise that is zero at both ends of the hour, so it
is continuous over the border although each hour is made alone. The slow path is value noise: random values at the
corners of cells of 1 h ... 512 d, joined by a smooth polynomial. Sines would do, but their last digit differs between
machines; here only exact operations are used, so a seed gives the same bytes everywhere.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import attrs
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from actors.embedded.simulator.feed import Instants, Part, Quotes
from actors.embedded.simulator.hashing import Floats, combine, draws, unit
from actors.embedded.simulator.session import fx_open, roll_hour_utc
from actors.embedded.simulator.symbols import UNIVERSE, Instrument
from runtime.clock import NS_PER_DAY, NS_PER_HOUR, parse_instant_ns

BEGIN_NS = parse_instant_ns("2000-01-01")
"""The market's first tick is of this hour."""

_NS_PER_MS = 1_000_000
_SECONDS = 3600
_SLOW_PATH = ((12_288, 0.06), (1_536, 0.03), (192, 0.012), (24, 0.004), (6, 0.0015), (1, 0.0007))
"""(cell in hours, amplitude as a share of the price)."""
_ACTIVITY = (
    *(0.55, 0.6, 0.6, 0.55, 0.5, 0.55, 0.8, 1.3, 1.5, 1.3, 1.1, 1.1),  # UTC 00-11: Asia, then London opens
    *(1.5, 1.8, 1.9, 1.7, 1.4, 1.1, 0.9, 0.8, 0.7, 0.5, 0.5, 0.5),  # UTC 12-23: New York over London, then quiet
)
_BURST_SHARE, _BURST_FACTOR = 0.02, 8.0
_ROLL_SPREAD_FACTOR, _ROLL_SECONDS = 6.0, 300
_LANES = {name: lane for lane, name in enumerate(("minute", "burst", "count", "ms", "step", "spread"))}


@attrs.frozen(kw_only=True)
class SyntheticMarket:
    """The feed of the embedded default; `rate` scales the ticks per second of every symbol."""

    seed: int
    always_open: bool = True
    """Quote at weekends too: the real market is closed on 48 h of 168, and a first look must show data."""
    rate: float = 1.0
    only: frozenset[str] = frozenset()
    """Symbols to offer; empty means all."""

    @property
    def description(self) -> str:
        """For people."""
        return f"synthetic market, seed {self.seed}" + ("" if self.always_open else ", closed at weekends")

    @property
    def symbols(self) -> tuple[str, ...]:
        """Every pair with quotes."""
        every = (one.symbol for one in UNIVERSE if one.kind == "quotes")
        return tuple(symbol for symbol in every if not self.only or symbol in self.only)

    def is_open(self, instant_ns: int) -> bool:
        """The session of foreign exchange, or always."""
        return self.always_open or fx_open(instant_ns)

    def parts(self, symbol: str, from_ns: int, to_ns: int, *, descending: bool = False) -> Iterator[Part]:
        """The open hours that touch [from_ns, to_ns)."""
        del symbol
        hours = range(max(from_ns, BEGIN_NS) // NS_PER_HOUR, -(-to_ns // NS_PER_HOUR))
        for hour in reversed(hours) if descending else hours:
            start_ns = hour * NS_PER_HOUR
            if self.is_open(start_ns):
                yield Part(from_ns=start_ns, to_ns=start_ns + NS_PER_HOUR)

    def quotes(self, symbol: str, part: Part) -> Quotes:
        """The hour's quotes, also those later than now."""
        instrument = next(one for one in UNIVERSE if one.symbol == symbol)
        return _hour(self.seed, instrument, part.from_ns, self.rate)


def _hour(seed: int, instrument: Instrument, start_ns: int, rate: float) -> Quotes:
    root = combine(seed, zlib.crc32(instrument.symbol.encode()))
    key = combine(root, start_ns // NS_PER_HOUR)
    ms = tick_times(key, start_ns, instrument.ticks_per_s * rate)
    count = len(ms)
    mid = slow_path(root, start_ns, ms) * (instrument.price * 10**instrument.decimals)
    mid += bridge(key, count, instrument.step_points)
    spread = _spread(key, start_ns, ms, instrument.spread_points)
    bid = np.floor(mid - spread / 2).astype(np.int64)
    return Quotes(
        ts_ns=start_ns + ms * _NS_PER_MS,
        bid=decimal_text(bid, instrument.decimals),
        ask=decimal_text(bid + spread, instrument.decimals),
    )


def tick_times(key: int, start_ns: int, ticks_per_s: float) -> Instants:
    """Sorted milliseconds of the hour, int64: a rate with minutes' moods and seconds' bursts; ties where they fall."""
    mood = np.repeat(0.4 + 1.2 * draws(key, _LANES["minute"], 60), 60)
    burst = np.where(draws(key, _LANES["burst"], _SECONDS) < _BURST_SHARE, _BURST_FACTOR, 1.0)
    wanted = ticks_per_s * _ACTIVITY[start_ns % NS_PER_DAY // NS_PER_HOUR] * mood * burst
    counts = np.floor(wanted + draws(key, _LANES["count"], _SECONDS)).astype(np.int64)
    seconds = np.repeat(np.arange(_SECONDS, dtype=np.int64), counts)
    within = np.floor(draws(key, _LANES["ms"], len(seconds)) * 1000).astype(np.int64)
    return np.sort(seconds * 1000 + within)


def slow_path(root: int, start_ns: int, ms: Instants) -> Floats:
    """Factor on the central price, about 0.9 ... 1.1; an hour lies in one cell of every size."""
    hour = start_ns // NS_PER_HOUR
    total = np.ones(len(ms))
    for cell_h, amplitude in _SLOW_PATH:
        cell, first_h = divmod(hour, cell_h)
        left, right = (2 * unit(combine(root, cell_h, corner)) - 1 for corner in (cell, cell + 1))
        x = (first_h + ms / 3_600_000.0) / cell_h
        total += amplitude * (left + (right - left) * (x * x * (3 - 2 * x)))
    return total


def bridge(key: int, count: int, step_points: float) -> Floats:
    """A random walk in points that is back at zero with the hour's last tick."""
    if not count:
        return np.zeros(0)
    lane = 16 + _LANES["step"]
    bell = sum((draws(key, lane + k, count) for k in range(1, 4)), start=draws(key, lane, count)) - 2.0  # sd 0.577
    steps = np.floor(bell * (step_points * 1.73 * 1000)).astype(np.int64)
    walk = np.cumsum(steps)  # whole thousandths of a point: exact in any order of summation
    drift: Floats = walk[-1] * (np.arange(1, count + 1) / count)
    return (walk - drift) / 1000.0


def _spread(key: int, start_ns: int, ms: Instants, points: float) -> Instants:
    """Ask minus bid in points, at least 1; wide around 17:00 New York and in quiet hours."""
    hour = start_ns % NS_PER_DAY // NS_PER_HOUR
    wide = points * (1.3 - 0.25 * _ACTIVITY[hour])
    spread = wide * (0.7 + 0.6 * draws(key, _LANES["spread"], len(ms)))
    roll_s = (roll_hour_utc(start_ns) - hour) * 3600
    spread = np.where(np.abs(ms / 1000.0 - roll_s) < _ROLL_SECONDS, spread * _ROLL_SPREAD_FACTOR, spread)
    return np.maximum(1, np.floor(spread + 0.5)).astype(np.int64)


def decimal_text(points: Instants, decimals: int) -> pa.StringArray:
    """Whole points (int64, not negative) as decimal text with all `decimals` digits: 108453, 5 -> `1.08453`."""
    scale = 10**decimals
    whole = pc.cast(pa.array(points // scale), pa.string())
    fraction = pc.utf8_slice_codeunits(pc.cast(pa.array(points % scale + scale), pa.string()), 1)
    return pc.binary_join_element_wise(whole, fraction, ".")
