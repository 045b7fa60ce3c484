"""Exact candles: a pure, vectorised fold of ticks, and coarser candles from finer ones (UPSTREAM 5).

Intervals are [T, T + step) on the UTC grid, stamped with their start. Open is the first tick inside, close the last;
ticks of equal time keep the order they were given in, which is the order of the log. Empty intervals give no bar.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from actors.market.decimals import Floats, Ints, exact_products, exact_sums, midpoints

NS_PER_MINUTE = 60 * 1_000_000_000
MINUTES_PER_DAY = 1440
TIMEFRAMES: dict[str, int] = {"1m": 1, "5m": 5, "15m": 15, "1h": 60, "4h": 240, "1d": MINUTES_PER_DAY}
"""Name -> minutes. Each divides the UTC day, so every bar lies inside one."""
QUOTE_BASES: tuple[str, ...] = ("bid", "ask", "mid")
TRADE_BASES: tuple[str, ...] = ("last",)
BASES_OF: dict[str, tuple[str, ...]] = {"quotes": QUOTE_BASES, "trades": TRADE_BASES}
"""Which candles the ticks of a kind give."""

Flags = npt.NDArray[np.int32]


@attrs.frozen(kw_only=True, eq=False)
class Bars:
    """Candles of one symbol, basis and timeframe: n columns of equal length, ascending by start, none of them empty."""

    ts_ns: Ints
    """Start of the interval, ns UTC."""
    open: Floats
    high: Floats
    low: Floats
    close: Floats
    ticks: Ints
    """Rows used, at least 1."""
    flags: Flags
    """Bits of all ticks inside."""
    volume: Floats
    """Sum of sizes, exact in decimal; 0 where the vendor gives none."""
    notional: Floats
    """Sum of price times size, exact in decimal where 15 digits hold it; 0 for quotes."""
    first_ns: Ints
    """Event time of the tick that opened: with it a later batch is merged exactly."""
    last_ns: Ints
    """Event time of the tick that closed."""

    def __len__(self) -> int:
        return len(self.ts_ns)

    @property
    def vwap(self) -> Floats:
        """Volume-weighted mean price inside [low, high]; NaN where nothing was traded."""
        if not self.notional.any():
            return np.full(len(self), np.nan)
        traded = (self.volume > 0) & (self.notional > 0)
        ratio = np.divide(self.notional, self.volume, out=np.full(len(self), np.nan), where=traded)
        return np.asarray(np.clip(ratio, self.low, self.high))


NO_BARS = Bars(
    ts_ns=np.zeros(0, np.int64),
    open=np.zeros(0),
    high=np.zeros(0),
    low=np.zeros(0),
    close=np.zeros(0),
    ticks=np.zeros(0, np.int64),
    flags=np.zeros(0, np.int32),
    volume=np.zeros(0),
    notional=np.zeros(0),
    first_ns=np.zeros(0, np.int64),
    last_ns=np.zeros(0, np.int64),
)


def fold(kind: str, batch: pa.RecordBatch, *, step_ns: int, bases: Sequence[str] | None = None) -> dict[str, Bars]:
    """Candles of a batch of one symbol, per basis that its kind (`quotes` or `trades`) has and `bases` wants.

    Shape:  n rows in the schema of `kind`, in any order (sorted stably by time when they are not) -> m <= n bars.
    Source: UPSTREAM 5; a quote counts for both sides, a one-sided quote for that side only and never for mid.
    """
    wanted = [b for b in BASES_OF[kind] if bases is None or b in bases]
    ts_ns = batch.column("ts_ns").to_numpy()
    order = None if bool((ts_ns[1:] >= ts_ns[:-1]).all()) else np.argsort(ts_ns, kind="stable")
    columns = {field.name: _numbers(batch, field.name, order) for field in batch.schema if _is_number(field)}
    flags = batch.column("flags").to_numpy()
    if order is not None:
        ts_ns, flags = ts_ns[order], flags[order]
    return {basis: _fold_basis(basis, ts_ns, columns, flags, step_ns) for basis in wanted}


def fold_prices(ts_ns: Ints, price: Floats, flags: Flags, size: Floats | None, *, step_ns: int, priced: bool) -> Bars:
    """Candles of one series of prices, none NaN, sorted by time; `priced`: the sizes were traded at these prices."""
    if not len(ts_ns):
        return NO_BARS
    bucket = ts_ns // step_ns
    starts = _run_starts(bucket)
    ends = _run_ends(starts, len(price))
    none = np.zeros(len(starts))
    return Bars(
        ts_ns=bucket[starts] * step_ns,
        open=price[starts],
        high=np.maximum.reduceat(price, starts),
        low=np.minimum.reduceat(price, starts),
        close=price[ends],
        ticks=np.diff(starts, append=len(price)),
        flags=_merge_flags(flags, starts),
        volume=none if size is None else exact_sums(size, starts),
        notional=exact_products(price, size, starts) if priced and size is not None else none,
        first_ns=ts_ns[starts],
        last_ns=ts_ns[ends],
    )


def roll_up(bars: Bars, *, step_ns: int) -> Bars:
    """Coarser candles from finer ones whose grid divides `step_ns`: first, max, min, last, sums."""
    if not len(bars):
        return bars
    bucket = bars.ts_ns // step_ns
    starts = _run_starts(bucket)
    ends = _run_ends(starts, len(bars))
    return Bars(
        ts_ns=bucket[starts] * step_ns,
        open=bars.open[starts],
        high=np.maximum.reduceat(bars.high, starts),
        low=np.minimum.reduceat(bars.low, starts),
        close=bars.close[ends],
        ticks=np.add.reduceat(bars.ticks, starts),
        flags=_merge_flags(bars.flags, starts),
        volume=exact_sums(bars.volume, starts),
        notional=exact_sums(bars.notional, starts),
        first_ns=bars.first_ns[starts],
        last_ns=bars.last_ns[ends],
    )


def merge(earlier: Bars, later: Bars) -> Bars:
    """The candles of both batches of ticks, `later` having arrived after `earlier`; in any order of event times.

    Shape:  both of the same n intervals; `earlier` may have rows without ticks (all else 0), `later` may not.
    Source: UPSTREAM 5.2: ticks are ordered by (event time, arrival), so at equal times the earlier batch opens and the
            later one closes.
    """
    fresh = earlier.ticks == 0
    opens = fresh | (later.first_ns < earlier.first_ns)
    closes = fresh | (later.last_ns >= earlier.last_ns)
    return Bars(
        ts_ns=later.ts_ns,
        open=np.where(opens, later.open, earlier.open),
        high=np.where(fresh, later.high, np.maximum(earlier.high, later.high)),
        low=np.where(fresh, later.low, np.minimum(earlier.low, later.low)),
        close=np.where(closes, later.close, earlier.close),
        ticks=earlier.ticks + later.ticks,
        flags=earlier.flags | later.flags,
        volume=_pair_sums(earlier.volume, later.volume),
        notional=_pair_sums(earlier.notional, later.notional),
        first_ns=np.where(opens, later.first_ns, earlier.first_ns),
        last_ns=np.where(closes, later.last_ns, earlier.last_ns),
    )


def _pair_sums(a: Floats, b: Floats) -> Floats:
    """a + b per row, exact in decimal."""
    return exact_sums(np.stack((a, b), axis=1).ravel(), np.arange(0, 2 * len(a), 2)) if len(a) else a


def _fold_basis(basis: str, ts_ns: Ints, columns: dict[str, Floats | None], flags: Flags, step_ns: int) -> Bars:
    """Candles of one basis: the rows that have its price."""
    if basis == "mid":
        price, size = _mid(columns["bid"], columns["ask"]), None
    elif basis == "last":
        price, size = columns["price"], columns["size"]
    else:
        price, size = columns[basis], columns[basis + "_size"]
    if price is None:
        return NO_BARS
    if (absent := np.isnan(price)).any():
        there = ~absent
        ts_ns, price, flags = ts_ns[there], price[there], flags[there]
        size = None if size is None else size[there]
    if size is not None:
        size = np.nan_to_num(size, nan=0.0)
    return fold_prices(ts_ns, price, flags, size, step_ns=step_ns, priced=basis == "last")


def _mid(bid: Floats | None, ask: Floats | None) -> Floats | None:
    """Exact midpoints; NaN where a side is absent."""
    if bid is None or ask is None:
        return None
    both = ~(np.isnan(bid) | np.isnan(ask))
    if both.all():
        return midpoints(bid, ask)
    price = np.full(len(bid), np.nan)
    price[both] = midpoints(bid[both], ask[both])
    return price


def _is_number(field: pa.Field) -> bool:
    return bool(pa.types.is_floating(field.type))


def _numbers(batch: pa.RecordBatch, name: str, order: npt.NDArray[np.intp] | None) -> Floats | None:
    """The column with NaN for null; None when every value is null."""
    column = batch.column(name)
    if column.null_count == len(column):
        return None
    values = np.asarray(column.to_numpy(zero_copy_only=False))
    return values if order is None else values[order]


def _run_starts(bucket: Ints) -> Ints:
    return np.concatenate((np.zeros(1, np.int64), np.flatnonzero(bucket[1:] != bucket[:-1]) + 1))


def _run_ends(starts: Ints, length: int) -> Ints:
    """Index of the last element of each run."""
    return np.append(starts[1:], length) - 1


def _merge_flags(flags: Flags, starts: Ints) -> Flags:
    if not flags.any():
        return np.zeros(len(starts), np.int32)
    return np.asarray(np.bitwise_or.reduceat(flags, starts))
