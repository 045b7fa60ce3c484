"""What readers are told about a day: the candles of a timeframe, and how they changed. Pure.

A minute is shown when it has ticks. A coarser candle is shown once final coverage reaches its end; it is final when
final slices cover all of it. Both are functions of the day alone, so any order of slices ends in the same candles.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import numpy as np
import numpy.typing as npt

from actors.aggregator.day import COLUMNS, Day
from actors.market.candles import NO_BARS, NS_PER_MINUTE, TIMEFRAMES, Bars, roll_up
from actors.market.flags import Flag

_NO_NAMES = np.zeros(0, dtype=object)
_NO_BITS = np.zeros(0, dtype=np.bool_)


@attrs.frozen(kw_only=True, eq=False)
class View:
    """Candles of one timeframe and basis as a reader sees them: columns of equal length, ascending by start."""

    timeframe: str
    basis: str
    bars: Bars = NO_BARS
    final: npt.NDArray[np.bool_] = _NO_BITS
    source: npt.NDArray[np.object_] = _NO_NAMES

    def __len__(self) -> int:
        return len(self.bars)

    def take(self, rows: npt.NDArray[np.bool_]) -> View:
        """The candles where `rows` is True."""
        columns = {name: getattr(self.bars, name)[rows] for name in ("ts_ns", *COLUMNS)}
        return attrs.evolve(self, bars=Bars(**columns), final=self.final[rows], source=self.source[rows])


def look(day: Day, timeframe: str, low: int, high: int) -> list[View]:
    """One view per basis: the candles of `timeframe` that have a minute of [low, high) in them."""
    length = TIMEFRAMES[timeframe]
    low, high = low // length * length, -(-high // length) * length
    covered = day.covered[low:high].reshape(-1, length)
    if length > 1 and not covered[:, -1].any():  # no candle of it has come to its end: the usual case, and cheap
        return [View(timeframe=timeframe, basis=basis) for basis in day.bases]
    whole = np.asarray(covered.all(axis=1))
    views = []
    for row, basis in enumerate(day.bases):
        minutes = day.bars(row, low, high)
        bars = roll_up(minutes, step_ns=length * NS_PER_MINUTE) if length > 1 else minutes
        at = (bars.ts_ns - day.key.start_ns) // NS_PER_MINUTE
        nth = (at - low) // length
        source = day.source_names(_one_source(day, minutes, bars))
        view = View(timeframe=timeframe, basis=basis, bars=bars, final=whole[nth], source=source)
        views.append(view if length == 1 else view.take(covered[nth, -1]))
    return views


def changes(before: Sequence[View], after: Sequence[View]) -> list[View]:
    """The candles that lead from `before` to `after`: new and changed ones, and those that vanished, as gone."""
    found = []
    for old, new in zip(before, after, strict=True):
        if not len(old):
            found.append(new)
            continue
        _, in_old, in_new = np.intersect1d(old.bars.ts_ns, new.bars.ts_ns, assume_unique=True, return_indices=True)
        differs = np.ones(len(new), np.bool_)
        differs[in_new] = ~_same(old, in_old, new, in_new)
        vanished = np.ones(len(old), np.bool_)
        vanished[in_old] = False
        found += [new.take(differs), _gone(old.take(vanished))]
    return [view for view in found if len(view)]


def _one_source(day: Day, minutes: Bars, bars: Bars) -> npt.NDArray[np.int16]:
    """Per candle the source that all its minutes share, else -1."""
    if not len(bars):
        return np.zeros(0, np.int16)
    sources = day.source[(minutes.ts_ns - day.key.start_ns) // NS_PER_MINUTE]
    if len(bars) == len(minutes):
        return sources
    starts = np.searchsorted(minutes.ts_ns, bars.ts_ns)
    least, most = np.minimum.reduceat(sources, starts), np.maximum.reduceat(sources, starts)
    return np.where(least == most, least, np.int16(-1))


def _same(old: View, i: npt.NDArray[np.intp], new: View, j: npt.NDArray[np.intp]) -> npt.NDArray[np.bool_]:
    same = (old.final[i] == new.final[j]) & (old.source[i] == new.source[j])
    for name in COLUMNS:
        same &= getattr(old.bars, name)[i] == getattr(new.bars, name)[j]
    return np.asarray(same, np.bool_)


def _gone(view: View) -> View:
    """Rows that say: there is no such candle any more. Prices are those taken back; nothing was measured now."""
    none, rows = np.zeros(len(view)), len(view)
    gone = attrs.evolve(
        view.bars,
        ticks=np.zeros(rows, np.int64),
        flags=np.full(rows, int(Flag.GONE), np.int32),
        volume=none,
        notional=none,
    )
    return attrs.evolve(view, bars=gone)
