"""What readers are told about a day: the candles of a timeframe, and how they changed. Pure.

A candle is out when a slice covers its last minute, or when live touched it and the watermark passed its end. It is
final when final slices (or contiguous live that nothing confirms) cover all of it. Both are functions of the day and
the watermark alone, so any order of inputs that ends in the same ticks ends in the same candles. What is out stays
out: a slice never unmarks live, and the watermark never goes back.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import numpy as np
import numpy.typing as npt

from actors.aggregator.day import COLUMNS, FINALS, MIXED, Day, Mark
from actors.market.candles import NO_BARS, NS_PER_MINUTE, TIMEFRAMES, Bars, roll_up
from actors.market.flags import Flag

_NO_NAMES = np.zeros(0, dtype=object)
_NO_BITS = np.zeros(0, dtype=np.bool_)
_SHOWN = [name for name in COLUMNS if name not in {"first_ns", "last_ns"}]
"""What a candle shows of its bar: a revision that changes nothing else is none."""
Bools = npt.NDArray[np.bool_]


@attrs.frozen(kw_only=True, eq=False)
class View:
    """Candles of one timeframe and basis as a reader sees them: columns of equal length, ascending by start."""

    timeframe: str
    basis: str
    bars: Bars = NO_BARS
    final: Bools = _NO_BITS
    source: npt.NDArray[np.object_] = _NO_NAMES

    def __len__(self) -> int:
        return len(self.bars)

    def take(self, rows: Bools) -> View:
        """The candles where `rows` is True."""
        columns = {name: getattr(self.bars, name)[rows] for name in ("ts_ns", *COLUMNS)}
        return attrs.evolve(self, bars=Bars(**columns), final=self.final[rows], source=self.source[rows])


def look(day: Day, timeframe: str, low: int, high: int, *, closed_to: int) -> list[View]:
    """One view per basis: the candles of `timeframe` that are out and have a minute of [low, high) in them.

    `closed_to`: the minutes of the day that lie before the watermark.
    """
    low, out, whole = _judge(day, timeframe, low, high, closed_to)
    if not out.any():  # nothing has come to its end: the usual case of live rows, and cheap
        return [View(timeframe=timeframe, basis=basis) for basis in day.bases]
    return _views(day, timeframe, low, out, whole)


def look_again(day: Day, timeframe: str, low: int, high: int, *, closed_to: int) -> list[View]:
    """As `look`, and where an interval is out without a candle, that there is none: nothing said before counts."""
    seen = look(day, timeframe, low, high, closed_to=closed_to)
    low, out, _ = _judge(day, timeframe, low, high, closed_to)
    starts_ns = day.key.start_ns + (low + np.flatnonzero(out) * TIMEFRAMES[timeframe]) * NS_PER_MINUTE
    found = []
    for view in seen:
        absent = np.setdiff1d(starts_ns, view.bars.ts_ns, assume_unique=True)
        found += [view, _none_at(view, absent)]
    return [view for view in found if len(view)]


def look_open(day: Day, timeframe: str, low: int, high: int, *, closed_to: int) -> list[View]:
    """The candles that live touched and that are not out yet; never final."""
    low, out, whole = _judge(day, timeframe, low, high, closed_to)
    live = (day.marks[low : low + len(out) * TIMEFRAMES[timeframe]] & Mark.LIVE).reshape(len(out), -1).any(axis=1)
    return _views(day, timeframe, low, ~out & live, np.zeros_like(whole))


def _judge(day: Day, timeframe: str, low: int, high: int, closed_to: int) -> tuple[int, Bools, Bools]:
    """The first minute of the first interval that has a minute of [low, high), and per interval: is it out, is it
    covered by what is final."""
    length = TIMEFRAMES[timeframe]
    low, high = low // length * length, -(-high // length) * length
    marks = day.marks[low:high].reshape(-1, length)
    passed = np.arange(low + length, high + length, length) <= closed_to
    out = (marks[:, -1] & Mark.SLICE > 0) | (passed & (marks & Mark.LIVE > 0).any(axis=1))
    return low, out, np.asarray((marks & FINALS > 0).all(axis=1))


def _views(day: Day, timeframe: str, low: int, wanted: Bools, final: Bools) -> list[View]:
    """The candles of the wanted intervals, which follow each other from minute `low` on."""
    length = TIMEFRAMES[timeframe]
    views = []
    for row, basis in enumerate(day.bases):
        minutes = day.bars(row, low, low + len(wanted) * length)
        bars = roll_up(minutes, step_ns=length * NS_PER_MINUTE) if length > 1 else minutes
        nth = ((bars.ts_ns - day.key.start_ns) // NS_PER_MINUTE - low) // length
        source = day.source_names(_one_source(day, minutes, bars))
        view = View(timeframe=timeframe, basis=basis, bars=bars, final=final[nth], source=source)
        views.append(view.take(wanted[nth]))
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
    return np.where(least == most, least, np.int16(MIXED))


def _same(old: View, i: npt.NDArray[np.intp], new: View, j: npt.NDArray[np.intp]) -> Bools:
    same = (old.final[i] == new.final[j]) & (old.source[i] == new.source[j])
    for name in _SHOWN:
        same &= getattr(old.bars, name)[i] == getattr(new.bars, name)[j]
    return np.asarray(same, np.bool_)


def _none_at(view: View, starts_ns: npt.NDArray[np.int64]) -> View:
    """Rows that say: no candle starts there. Nobody knows what prices it once had."""
    rows = len(starts_ns)
    columns = {name: np.zeros(rows, kind) for name, kind in COLUMNS.items()}
    source = np.full(rows, "mixed", dtype=object)
    return _gone(
        attrs.evolve(view, bars=Bars(ts_ns=starts_ns, **columns), final=np.zeros(rows, np.bool_), source=source)
    )


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
