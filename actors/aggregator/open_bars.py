"""The candles that are not in the log yet, for people to look at. Pure; nothing is ever computed from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from actors.aggregator.day import Day, DayKey, Mark
from actors.aggregator.store import DayStore
from actors.aggregator.stream import Stream
from actors.aggregator.views import View, look_open
from actors.market.candles import BASES_OF, MINUTES_PER_DAY
from runtime.board import OpenBar, OpenBars

PER_SERIES_MAX = 5
"""Newest open candles per timeframe and basis: more are open only while a stream is silent without proof."""


def open_bars(store: DayStore, symbol: str, *, timeframes: Sequence[str], bases: Sequence[str]) -> OpenBars:
    """What is open of a symbol, from the days in memory."""
    streams = {kind: store.streams[symbol, kind] for kind in BASES_OF if (symbol, kind) in store.streams}
    found = [bar for kind, stream in streams.items() for bar in _of_stream(store, symbol, kind, stream, timeframes)]
    shown = [bar for bar in found if bar.basis in bases]
    shown.sort(key=lambda bar: (timeframes.index(bar.timeframe), bases.index(bar.basis), bar.ts_ns))
    marks = [stream.watermark_ns for stream in streams.values() if stream.watermark_ns is not None]
    return OpenBars(symbol=symbol, watermark_ns=min(marks, default=None), bars=tuple(shown))


def _of_stream(store: DayStore, symbol: str, kind: str, stream: Stream, timeframes: Sequence[str]) -> Iterator[OpenBar]:
    newest: dict[tuple[str, str], list[OpenBar]] = {}
    for number in sorted(stream.open_days):
        day = store.peek(DayKey(symbol, kind, number))
        if day is not None:
            for view in _open_views(day, stream, timeframes):
                series = newest.setdefault((view.timeframe, view.basis), [])
                series += _bars(view)
                del series[:-PER_SERIES_MAX]
    for series in newest.values():
        yield from series


def _open_views(day: Day, stream: Stream, timeframes: Sequence[str]) -> Iterator[View]:
    """Everything open lies between the watermark and the last minute that live touched."""
    low = stream.closed_to(day.key.day)
    live = np.flatnonzero(day.marks[low:] & Mark.LIVE)
    if len(live) and low < MINUTES_PER_DAY:
        high = low + int(live[-1]) + 1
        for timeframe in timeframes:
            yield from look_open(day, timeframe, low, high, closed_to=low)


def _bars(view: View) -> list[OpenBar]:
    """Rows as Python objects: a handful per symbol, some times a second."""
    view = view.take(np.arange(len(view)) >= len(view) - PER_SERIES_MAX)
    bars, vwap = view.bars, view.bars.vwap
    return [
        OpenBar(
            timeframe=view.timeframe,
            basis=view.basis,
            ts_ns=int(bars.ts_ns[i]),
            open=float(bars.open[i]),
            high=float(bars.high[i]),
            low=float(bars.low[i]),
            close=float(bars.close[i]),
            volume=float(bars.volume[i]),
            vwap=None if np.isnan(vwap[i]) else float(vwap[i]),
            ticks=int(bars.ticks[i]),
            source=str(view.source[i]),
        )
        for i in range(len(view))
    ]
