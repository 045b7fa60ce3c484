"""What readers of the two databases must see, at every instant and at the end. Knows the market of the seed only.

S2 conserved, S3 once, S4 nothing invented or altered, S7 candles, S8 every hole named, S5 marks. Reads through the
readers' views of the memory sinks, right after every change of their state, in the middle of any fault.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from actors.market.flags import Flag
from tests.simulation.market import MINUTE, Tick, candles, good
from tests.simulation.trace import SimulationFailed

if TYPE_CHECKING:
    from actors.bridge.memory_db import MemoryDatabase
    from tests.simulation.ledger import Ledger
    from tests.simulation.market import Market

Shown = tuple[float, float, float, float, int, bool]


@attrs.define(eq=False)
class Oracle:
    """One per run."""

    market: Market
    ledger: Ledger
    _expected: dict[str, dict[tuple[str, str, int], Shown]] = attrs.field(factory=dict)
    _seen_candles: int = 0

    # --- at every change

    def look_at_ticks(self, database: MemoryDatabase, log_id: str) -> None:
        """The row store: `v_quotes` against the market, wherever a slice says that it is known."""
        state = database.state
        table = database.ticks("quotes")
        marks = state.marks.get(log_id, {})
        accepted = self.ledger.below("quotes", marks)
        there = table.num_rows + state.replaced.get("quotes", 0)
        demand(there == accepted, f"S2: {accepted} quotes accepted below the marks, {there} stored or replaced")
        records = self.ledger.below("coverage", marks)
        demand(
            len(state.coverage) == records,
            f"S2: {records} coverage records below the marks, {len(state.coverage)} stored",
        )
        identity = table["accepted_at"].to_numpy().astype(object) * (1 << 32) + table["seq"].to_numpy()
        demand(len(set(identity.tolist())) == len(identity), "S3: a reader sees a row twice")
        shown = shown_ticks(table)
        covered = covered_minutes(state.coverage)
        for symbol in self.market.symbols:
            self._compare(symbol, shown.get(symbol, []), covered.get(symbol, set()))
        demand(shown.keys() <= set(self.market.symbols), f"S4: rows of {shown.keys()}")

    def _compare(self, symbol: str, shown: list[Tick], covered: set[int]) -> None:
        versions = [good(ticks) for ticks in self.market.versions[symbol]]
        changed = self.changed_minutes(symbol)
        known = [t for t in versions[0] if (m := t[0] // MINUTE) in covered and m not in changed]
        kept = [t for t in shown if t[0] // MINUTE not in changed] if changed else shown
        if kept != known:
            raise SimulationFailed(f"S4: {symbol}: {difference(kept, known)}")
        for minute in sorted(changed):
            rows = [t for t in shown if t[0] // MINUTE == minute]
            choices = [[t for t in v if t[0] // MINUTE == minute] for v in versions]
            fine = rows in choices if minute in covered else not rows
            demand(fine or is_spliced(rows, choices), f"S4: {symbol}, changed minute {minute}: {rows} of {choices}")

    def look_at_candles(self, database: MemoryDatabase) -> None:
        """The key store: each new final candle, where the vendor never changed its mind, is the market's."""
        tables = database.state.candles
        if len(tables) < self._seen_candles:
            self._seen_candles = 0
        for table in tables[self._seen_candles :]:
            for row in table.to_pylist():
                self._look_at_candle(row)
        self._seen_candles = len(tables)

    def _look_at_candle(self, row: dict[str, Any]) -> None:
        symbol, key = row["symbol"], (row["timeframe"], row["basis"], row["ts_ns"])
        expected = self._first(symbol)
        if any(
            row["ts_ns"] < c.to_ns and c.from_ns < row["ts_ns"] + 86_400 * 10**9
            for c in self.market.changes
            if c.symbol == symbol
        ):
            return  # judged at the end
        if row["final"]:
            demand(
                shown_candle(row) == expected.get(key),
                f"S7: {symbol} {key} is {shown_candle(row)}, not {expected.get(key)}",
            )

    def _first(self, symbol: str) -> dict[tuple[str, str, int], Shown]:
        if symbol not in self._expected:
            everything = set(range(self.market.from_ns // MINUTE - 1440, self.market.to_ns // MINUTE + 1440))
            self._expected[symbol] = candles(good(self.market.versions[symbol][0]), everything)
        return self._expected[symbol]

    def look_at_cursor(self, database: MemoryDatabase, verified: dict[int, int]) -> None:
        """S5: what a cursor calls verified is in the key store."""
        stored = self.candle_frames(database)
        for group in self.ledger.groups:
            for frame in group.frames:
                if frame.kind == "candles" and frame.rows and frame.offset < verified.get(frame.partition, 0):
                    where = (frame.partition, frame.offset)
                    demand(where in stored, f"S5: the candles of frame {where} are called verified and are not stored")

    def candle_frames(self, database: MemoryDatabase) -> set[tuple[int, int]]:
        """(partition, offset) of every frame that has rows in the key store."""
        found: set[tuple[int, int]] = set()
        for table in database.state.candles:
            found.update(zip(table["log_partition"].to_pylist(), table["log_offset"].to_pylist(), strict=True))
        return found

    # --- at the end

    def final_ticks(self, database: MemoryDatabase, wanted: dict[str, tuple[int, int]], refused: set[str]) -> None:
        """Everything that was wanted is there, in its newest version; a hole is named."""
        shown, covered = shown_ticks(database.ticks("quotes")), covered_minutes(database.state.coverage)
        for symbol, (from_ns, to_ns) in wanted.items():
            minutes = covered.get(symbol, set())
            holes = (
                set(range(from_ns // MINUTE, to_ns // MINUTE))
                - minutes
                - missing_minutes(database.state.coverage, symbol)
            )
            demand(
                not holes,
                f"S8: {symbol}: {len(holes)} minutes are neither covered nor called missing: {sorted(holes)[:5]}",
            )
            if symbol in refused:
                continue
            newest = [t for t in good(self.market.served(symbol)) if t[0] // MINUTE in minutes]
            mine = shown.get(symbol, [])
            demand(mine == newest, f"S4 at the end: {symbol}: {difference(mine, newest)}")

    def final_candles(self, ticks: MemoryDatabase, keys: MemoryDatabase) -> None:
        """S7: every candle is a function of the ticks that the other database shows."""
        shown, covered = shown_ticks(ticks.ticks("quotes")), covered_minutes(ticks.state.coverage)
        found: dict[str, dict[tuple[str, str, int], Shown]] = {}
        for row in keys.candles_latest():
            demand(not row["flags"] & Flag.GONE, "a candle that is gone is shown")
            found.setdefault(row["symbol"], {})[row["timeframe"], row["basis"], row["ts_ns"]] = shown_candle(row)
        for symbol in self.market.symbols:
            expected = candles(shown.get(symbol, []), covered.get(symbol, set()))
            mine = found.get(symbol, {})
            wrong = sorted(key for key in expected.keys() | mine.keys() if expected.get(key) != mine.get(key))
            text = [(key, mine.get(key), expected.get(key)) for key in wrong[:3]]
            demand(not wrong, f"S7: {symbol}: {len(wrong)} candles differ (key, shown, recomputed): {text}")
        records = [
            sorted((r.stamp_ns, r.record.symbol, r.record.from_ns) for r in set(d.state.coverage))
            for d in (ticks, keys)
        ]
        demand(records[0] == records[1], "the two databases hold different coverage")

    def changed_minutes(self, symbol: str) -> set[int]:
        """Minutes of which there is more than one version."""
        return {
            minute
            for change in self.market.changes
            if change.symbol == symbol
            for minute in range(change.from_ns // MINUTE, -(-change.to_ns // MINUTE))
        }


def shown_ticks(table: Any) -> dict[str, list[Tick]]:
    """symbol -> ticks in the order of the view, prices as integers of 1e-5."""
    found: dict[str, list[Tick]] = {}
    bid = np.rint(table["bid"].to_numpy() * 1e5).astype(np.int64).tolist()
    ask = np.rint(table["ask"].to_numpy() * 1e5).astype(np.int64).tolist()
    for symbol, *tick in zip(table["symbol"].to_pylist(), table["ts_ns"].to_pylist(), bid, ask, strict=True):
        found.setdefault(symbol, []).append((tick[0], tick[1], tick[2]))
    return found


def covered_minutes(coverage: Any) -> dict[str, set[int]]:
    """symbol -> minutes inside a slice."""
    found: dict[str, set[int]] = {}
    for record in {row.record for row in coverage if row.record.status in ("final", "empty")}:
        found.setdefault(record.symbol, set()).update(range(record.from_ns // MINUTE, record.to_ns // MINUTE))
    return found


def missing_minutes(coverage: Any, symbol: str) -> set[int]:
    """Minutes that are called missing, with a reason."""
    found: set[int] = set()
    for row in coverage:
        r = row.record
        if r.symbol == symbol and r.status == "missing":
            demand(bool(r.reason), "S8: missing without a reason")
            found.update(range(r.from_ns // MINUTE, r.to_ns // MINUTE))
    return found


def shown_candle(row: dict[str, Any]) -> Shown:
    return (row["open"], row["high"], row["low"], row["close"], row["ticks"], row["final"])


def is_spliced(rows: list[Tick], choices: list[list[Tick]]) -> bool:
    """A chain that was broken in mid-minute and went on after the change: an older beginning, a newer end."""
    for i, old in enumerate(choices):
        for new in choices[i + 1 :]:
            for at in sorted({t[0] for t in (*old, *new)}):
                if rows == [t for t in old if t[0] < at] + [t for t in new if t[0] >= at]:
                    return True
    return False


def difference(mine: list[Tick], expected: list[Tick]) -> str:
    """The first few rows that are too many or too few."""
    extra, lacking = list(mine), []
    for tick in expected:
        try:
            extra.remove(tick)
        except ValueError:
            lacking.append(tick)
    order = "" if extra or lacking else "; the same rows in another order"
    return f"{len(mine)} rows instead of {len(expected)}, too many {extra[:3]}, lacking {lacking[:3]}{order}"


def demand(true: bool, what: str) -> None:
    """Raises: SimulationFailed."""
    if not true:
        raise SimulationFailed(what)
