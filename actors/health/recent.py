"""The last candles of each series, in memory, for people to look at. Nothing is ever computed from them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import attrs
import pyarrow as pa
import trio

from actors.market.flags import Flag
from actors.market.schema import decode
from runtime.board import OpenBars
from runtime.log.types import Group

BARS_PER_SERIES = 240
BARS_MAX = 40_000
"""Of all series together, some 15 MB: with many symbols each has fewer."""
BARS_MIN = 30
SERIES_MAX = 4_000
NS_PER_DAY = 86_400_000_000_000
BASES = ("mid", "last", "bid", "ask")
"""What is shown when nobody asked for a basis, in this order."""
_COLUMNS = ["symbol", "timeframe", "basis", "ts_ns", "open", "high", "low", "close", "volume", "ticks", "final"]
_COLUMNS += ["flags", "revision", "origin"]

Series = tuple[str, str, str]
"""(symbol, timeframe, basis)."""


@attrs.frozen(kw_only=True)
class Bar:
    """One candle. Prices in quote currency."""

    ts_ns: int
    open: float
    high: float
    low: float
    close: float
    volume: float | None
    ticks: int
    final: bool
    revision: int
    is_open: bool = False
    """Not in the log yet."""

    def to_json(self) -> dict[str, Any]:
        """`ts` in ms, as scripts count time."""
        fields = attrs.asdict(self)
        return {"ts": fields.pop("ts_ns") // 1_000_000, **fields}


@attrs.define
class RecentCandles:
    """Fed with groups of the log; of each bar it keeps the newest revision."""

    lock: trio.Lock = attrs.field(factory=trio.Lock)
    """Held while `take` runs in a worker thread and while anybody looks."""
    _series: dict[Series, dict[int, Bar]] = attrs.field(factory=dict)

    def take(self, groups: Iterable[Group]) -> None:
        """Note the candles of these groups. CPU-bound: some ms per group of hundreds of bars."""
        for group in groups:
            for frame in group.frames:
                if frame.kind == "candles" and frame.rows:
                    self._note(decode(frame.schema, frame.body))

    def names(self, opened: Iterable[OpenBars] = ()) -> dict[str, dict[str, list[str]]]:
        """Symbol -> timeframe -> bases that there are, open ones included."""
        found: dict[str, dict[str, list[str]]] = {}
        here = [key for key, bars in self._series.items() if bars]
        here += [(o.symbol, bar.timeframe, bar.basis) for o in opened for bar in o.bars]
        for symbol, timeframe, basis in here:
            bases = found.setdefault(symbol, {}).setdefault(timeframe, [])
            if basis not in bases:
                bases.append(basis)
        return found

    def bars(self, series: Series, opened: OpenBars | None, limit: int) -> list[Bar]:
        """The newest `limit` bars in order of time; an open one in place of what the log has of it.

        What lies before a long hole (history that is not there yet) is left out: it would squeeze the chart.
        """
        known = dict(self._series.get(series, {}))
        for bar in _open(series, opened):
            known[bar.ts_ns] = bar
        found = [known[ts_ns] for ts_ns in sorted(known)[-limit:] if known[ts_ns].ticks]
        holes = [i for i in range(1, len(found)) if found[i].ts_ns - found[i - 1].ts_ns > _hole_ns(series[1])]
        return found[holes[-1] :] if holes else found

    @property
    def _room(self) -> int:
        """Bars per series."""
        return max(BARS_MIN, min(BARS_PER_SERIES, BARS_MAX // max(1, len(self._series))))

    def _note(self, batch: pa.RecordBatch) -> None:
        touched: set[Series] = set()
        for row in batch.select(_COLUMNS).to_pylist():
            if row["origin"] != "ticks":
                continue
            series = (row["symbol"], row["timeframe"], row["basis"])
            if series not in self._series and len(self._series) >= SERIES_MAX:
                continue
            bars = self._series.setdefault(series, {})
            before = bars.get(row["ts_ns"])
            if before is None or before.revision <= row["revision"]:
                bars[row["ts_ns"]] = _bar(row)
                touched.add(series)
        for series in touched:
            bars = self._series[series]
            for ts_ns in sorted(bars)[: -self._room]:
                del bars[ts_ns]


def _hole_ns(timeframe: str) -> int:
    """Longer than a weekend and its holidays, and than ten bars of a day."""
    return (15 if timeframe == "1d" else 5) * NS_PER_DAY


def _bar(row: dict[str, Any]) -> Bar:
    return Bar(
        ts_ns=row["ts_ns"], open=row["open"], high=row["high"], low=row["low"], close=row["close"],
        volume=row["volume"], ticks=0 if row["flags"] & Flag.GONE else row["ticks"], final=row["final"],
        revision=row["revision"],
    )  # fmt: skip


def _open(series: Series, opened: OpenBars | None) -> Iterator[Bar]:
    symbol, timeframe, basis = series
    if opened is None or opened.symbol != symbol:
        return
    for bar in opened.bars:
        if (bar.timeframe, bar.basis) == (timeframe, basis):
            yield Bar(
                ts_ns=bar.ts_ns, open=bar.open, high=bar.high, low=bar.low, close=bar.close, volume=bar.volume,
                ticks=bar.ticks, final=False, revision=0, is_open=True,
            )  # fmt: skip
