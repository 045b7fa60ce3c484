"""The synthetic crypto market: like `synthetic.py`, trades instead of quotes, never closed."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import attrs
import numpy as np

from actors.embedded.simulator.feed import Part, Trades
from actors.embedded.simulator.hashing import combine, draws
from actors.embedded.simulator.symbols import UNIVERSE, Instrument
from actors.embedded.simulator.synthetic import BEGIN_NS, bridge, decimal_text, slow_path, tick_times
from runtime.clock import NS_PER_HOUR

IDS_PER_HOUR = 1_000_000
SIZE_DECIMALS = 5
_SIZE_SPAN = 50_000
_LANE_SIDE, _LANE_SIZE, _LANE_NS = 64, 65, 66


@attrs.frozen(kw_only=True)
class SyntheticTrades:
    """Trades of any hour as a pure function of (seed, symbol, hour); ids rise, with jumps from hour to hour."""

    seed: int
    rate: float = 1.0
    only: frozenset[str] = frozenset()
    """Symbols to offer; empty means all."""

    @property
    def description(self) -> str:
        """For people."""
        return f"synthetic crypto market, seed {self.seed}"

    @property
    def symbols(self) -> tuple[str, ...]:
        """Every symbol with trades."""
        every = (one.symbol for one in UNIVERSE if one.kind == "trades")
        return tuple(symbol for symbol in every if not self.only or symbol in self.only)

    def parts(self, symbol: str, from_ns: int, to_ns: int, *, descending: bool = False) -> Iterator[Part]:
        """The hours that touch [from_ns, to_ns)."""
        del symbol
        hours = range(max(from_ns, BEGIN_NS) // NS_PER_HOUR, -(-to_ns // NS_PER_HOUR))
        for hour in reversed(hours) if descending else hours:
            yield Part(from_ns=hour * NS_PER_HOUR, to_ns=(hour + 1) * NS_PER_HOUR)

    def trades(self, symbol: str, part: Part) -> Trades:
        """The hour's trades, also those later than now."""
        instrument = next(one for one in UNIVERSE if one.symbol == symbol)
        return _hour(self.seed, instrument, part.from_ns, self.rate)


def _hour(seed: int, instrument: Instrument, start_ns: int, rate: float) -> Trades:
    root = combine(seed, zlib.crc32(instrument.symbol.encode()))
    hour = start_ns // NS_PER_HOUR
    key = combine(root, hour)
    ms = tick_times(key, start_ns, instrument.ticks_per_s * rate)
    count = len(ms)
    mid = slow_path(root, start_ns, ms) * (instrument.price * 10**instrument.decimals)
    mid += bridge(key, count, instrument.step_points)
    buys = draws(key, _LANE_SIDE, count) < 0.5
    price = np.floor(mid + np.where(buys, 0.5, -0.5) * instrument.spread_points).astype(np.int64)
    part = draws(key, _LANE_SIZE, count)
    size = 1 + np.floor(part * part * part * part * _SIZE_SPAN).astype(np.int64)  # many small ones, few large
    within = np.floor(draws(key, _LANE_NS, count) * 1_000_000).astype(np.int64)
    return Trades(
        ts_ns=start_ns + np.sort(ms * 1_000_000 + within),
        price=decimal_text(price, instrument.decimals),
        size=decimal_text(size, SIZE_DECIMALS),
        trade_id=hour * IDS_PER_HOUR + np.arange(count, dtype=np.int64),
        condition=np.where(buys, 2, 1).astype(np.int64),
    )
