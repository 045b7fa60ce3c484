"""Candles: each is a function of the ticks that the other database shows, recomputed by a loop of twenty lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from actors.market.flags import Flag
from tests.simulation.market import NS, Candle, Known, candles, good, kind_of
from tests.simulation.oracle import demand, shown_of

if TYPE_CHECKING:
    from actors.bridge.memory_db import MemoryDatabase
    from tests.simulation.ledger import Ledger
    from tests.simulation.market import Market

DAY_NS = 86_400 * NS
MINUTES_AROUND = 1440


@attrs.define(eq=False)
class CandleOracle:
    """One per run."""

    market: Market
    ledger: Ledger
    confirm: bool = True
    _expected: dict[str, dict[tuple[str, str, int], Candle]] = attrs.field(factory=dict)
    _seen: int = 0

    def look(self, database: MemoryDatabase) -> None:
        """The key store: each new final candle, where the vendor never changed its mind, is the market's."""
        tables = database.state.candles
        if len(tables) < self._seen:
            self._seen = 0
        for table in tables[self._seen :] if self.confirm else ():
            for row in table.to_pylist():
                if row["final"]:
                    self._look_at(row)
        self._seen = len(tables)

    def _look_at(self, row: dict[str, Any]) -> None:
        symbol, key, start = row["symbol"], (row["timeframe"], row["basis"], row["ts_ns"]), row["ts_ns"]
        changes = [c for c in self.market.changes if c.symbol == symbol]
        if any(start < c.to_ns and c.from_ns < start + DAY_NS for c in changes):
            return  # judged at the end
        expected = self._first(symbol).get(key)
        demand(shown_candle(row) == expected, f"S7: {symbol} {key} is {shown_candle(row)}, not {expected}")

    def _first(self, symbol: str) -> dict[tuple[str, str, int], Candle]:
        if symbol not in self._expected:
            ns = 60 * NS
            low, high = self.market.from_ns // ns - MINUTES_AROUND, self.market.to_ns // ns + MINUTES_AROUND
            everything = set(range(low, high))
            ticks = good(self.market.versions[symbol][0])
            self._expected[symbol] = candles(kind_of(symbol), ticks, Known(sliced=everything, final=everything))
        return self._expected[symbol]

    def look_at_cursor(self, database: MemoryDatabase, verified: dict[int, int]) -> None:
        """S5: what a cursor calls verified is in the key store."""
        stored = self.frames(database)
        for group in self.ledger.groups:
            for frame in group.frames:
                if frame.kind == "candles" and frame.rows and frame.offset < verified.get(frame.partition, 0):
                    where = (frame.partition, frame.offset)
                    demand(where in stored, f"S5: the candles of frame {where} are called verified and are not stored")

    def frames(self, database: MemoryDatabase) -> set[tuple[int, int]]:
        """(partition, offset) of every frame that has rows in the key store."""
        found: set[tuple[int, int]] = set()
        for table in database.state.candles:
            found.update(zip(table["log_partition"].to_pylist(), table["log_offset"].to_pylist(), strict=True))
        return found

    def final(self, ticks: MemoryDatabase, keys: MemoryDatabase) -> None:
        """S7: every candle is a function of the ticks that the other database shows."""
        found: dict[str, dict[tuple[str, str, int], Candle]] = {}
        for row in keys.candles_latest():
            demand(not row["flags"] & Flag.GONE, "a candle that is gone is shown")
            found.setdefault(row["symbol"], {})[row["timeframe"], row["basis"], row["ts_ns"]] = shown_candle(row)
        for symbol in self.market.symbols:
            known = self.ledger.facts.of(symbol).known
            expected = candles(kind_of(symbol), shown_of(ticks, symbol), known)
            mine = found.get(symbol, {})
            wrong = sorted(key for key in expected.keys() | mine.keys() if expected.get(key) != mine.get(key))
            text = [(key, mine.get(key), expected.get(key)) for key in wrong[:3]]
            demand(not wrong, f"S7: {symbol}: {len(wrong)} candles differ (key, shown, recomputed): {text}")
        records = [
            sorted((r.stamp_ns, r.record.symbol, r.record.from_ns) for r in set(d.state.coverage))
            for d in (ticks, keys)
        ]
        demand(records[0] == records[1], "the two databases hold different coverage")


def shown_candle(row: dict[str, Any]) -> Candle:
    """As the oracle writes it."""
    traded = (round(row["volume"], 9), round(row["vwap"], 9)) if row["basis"] == "last" else ()
    return (row["open"], row["high"], row["low"], row["close"], row["ticks"], row["final"], *traded)
