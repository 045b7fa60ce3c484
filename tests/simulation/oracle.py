"""What readers of the two databases must see, at every instant and at the end. Knows the market of the seed only.

S2 conserved, S3 once, S4 nothing invented or altered, S8 every hole named, S5 marks; candles: `candle_oracle.py`. Reads
through the readers' views of the memory sinks, right after every change of their state, in the middle of any fault.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from tests.simulation.facts import Minutes, missing_in
from tests.simulation.market import MINUTE, Tick, good, kind_of, on_stream
from tests.simulation.trace import SimulationFailed

if TYPE_CHECKING:
    from actors.bridge.memory_db import MemoryDatabase
    from tests.simulation.ledger import Ledger
    from tests.simulation.market import Market
    from tests.simulation.stream import LiveVendor

ByMinute = dict[int, list[Tick]]
NO_TICKS: list[Tick] = []


@attrs.define(eq=False)
class Oracle:
    """One per run."""

    market: Market
    ledger: Ledger
    stream: LiveVendor | None = None
    confirm: bool = True
    _fine: dict[str, dict[int, tuple[list[Tick], bool, bool, bool]]] = attrs.field(factory=dict)
    """symbol -> minute -> what was judged last, and was fine."""
    _known_minutes: dict[str, ByMinute] = attrs.field(factory=dict)

    # --- at every change

    def look_at_ticks(self, database: MemoryDatabase, log_id: str) -> None:
        """The row store: `v_quotes` and `v_trades` against the market, wherever it is known."""
        state = database.state
        marks = state.marks.get(log_id, {})
        records = self.ledger.below("coverage", marks)
        demand(
            len(state.coverage) == records,
            f"S2: {records} coverage records below the marks, {len(state.coverage)} stored",
        )
        minutes = self.stored(database)
        for kind in sorted({kind_of(symbol) for symbol in self.market.symbols}):
            table = database.ticks(kind)
            accepted = self.ledger.below(kind, marks)
            there = table.num_rows + state.replaced.get(kind, 0)
            demand(there == accepted, f"S2: {accepted} {kind} accepted below the marks, {there} stored or replaced")
            identity = table["accepted_at"].to_numpy().astype(object) * (1 << 32) + table["seq"].to_numpy()
            demand(len(set(identity.tolist())) == len(identity), "S3: a reader sees a row twice")
            shown = shown_ticks(table, kind)
            for symbol in self.market.symbols:
                if kind_of(symbol) == kind:
                    self._compare(symbol, shown.get(symbol, []), minutes.get(symbol, Minutes()))
            demand(shown.keys() <= set(self.market.symbols), f"S4: rows of {shown.keys()}")

    def stored(self, database: MemoryDatabase) -> dict[str, Minutes]:
        """symbol -> what the stored coverage says."""
        found: dict[str, Minutes] = {}
        for row in sorted(set(database.state.coverage), key=lambda row: row.stamp_ns):
            found.setdefault(row.record.symbol, Minutes()).learn(row.record)
        return found

    def _compare(self, symbol: str, shown: list[Tick], minutes: Minutes) -> None:
        """Minute by minute; what was fine and did not change still is."""
        mine = by_minute(shown)
        fine, market = self._fine.setdefault(symbol, {}), self._known(symbol)
        changed = self.changed_minutes(symbol)
        for minute in sorted(mine.keys() | minutes.sliced | minutes.beaten):
            rows = mine.get(minute, NO_TICKS)
            state = (rows, minute in minutes.sliced, minute in minutes.final, minute in minutes.beaten)
            if fine.get(minute) == state:
                continue
            if minute in changed:
                self._changed(symbol, minute, rows, covered=state[1])
            else:
                known = market.get(minute, NO_TICKS)
                why = self._live(symbol, known, *state) if self.stream else _history(known, rows, state[1])
                demand(not why, f"S4: {symbol}, minute {minute}: {why}")
                fine[minute] = state

    def _live(self, symbol: str, market: list[Tick], rows: list[Tick], sliced: bool, final: bool, beaten: bool) -> str:
        """Below a slice: the pages' rows; while it is not final a late one may lack, and one that was still to come when
        the vendor's clock stood and nobody had noticed. Else what the stream sent: never more; and where a session calls itself contiguous all, but for what nobody could know of."""
        assert self.stream is not None
        if sliced:
            if rows == market:
                return ""
            all_of, mine = Counter(market), Counter(rows)
            late, excused = self.stream.late[symbol], self.stream.excused[symbol]
            known = not mine - all_of and all(t in late or on_stream(t) in excused for t in all_of - mine)
            return "" if known and not (final and self.confirm) else difference(rows, market)
        sent, mine = Counter(map(on_stream, market)), Counter(rows)
        if mine - sent:
            return difference(rows, [on_stream(t) for t in market])
        if beaten and sent - mine - self.stream.excused[symbol]:
            return f"contiguous, and lacks {list(sent - mine - self.stream.excused[symbol])[:3]}"
        return ""

    def _changed(self, symbol: str, minute: int, rows: list[Tick], *, covered: bool) -> None:
        versions = [good(ticks) for ticks in self.market.versions[symbol]]
        choices = [[t for t in v if t[0] // MINUTE == minute] for v in versions]
        fine = rows in choices if covered else not rows
        demand(fine or is_spliced(rows, choices), f"S4: {symbol}, changed minute {minute}: {rows} of {choices}")

    def _known(self, symbol: str) -> ByMinute:
        if symbol not in self._known_minutes:
            self._known_minutes[symbol] = by_minute(good(self.market.versions[symbol][0]))
        return self._known_minutes[symbol]

    # --- at the end

    def final_ticks(self, database: MemoryDatabase, wanted: dict[str, tuple[int, int]], refused: set[str]) -> None:
        """Everything that was wanted is there, in its newest version; a hole is named."""
        minutes = self.stored(database)
        for symbol, (from_ns, to_ns) in wanted.items():
            own = minutes.get(symbol, Minutes())
            inside = range(from_ns // MINUTE, to_ns // MINUTE)
            holes = missing_in(own, inside)
            demand(
                not holes,
                f"S8: {symbol}: {len(holes)} minutes are neither covered nor called missing: {holes[:5]}",
            )
            if symbol in refused or self.stream is not None:
                continue
            mine = shown_of(database, symbol)
            newest = [t for t in good(self.market.served(symbol)) if t[0] // MINUTE in own.sliced]
            demand(mine == newest, f"S4 at the end: {symbol}: {difference(mine, newest)}")

    def confirmed(self, database: MemoryDatabase, wanted: dict[str, tuple[int, int]], refused: set[str]) -> None:
        """What has settled is final, and exactly the market's."""
        minutes = self.stored(database)
        for symbol, (from_ns, to_ns) in wanted.items():
            if symbol in refused:
                continue
            open_ = set(range(from_ns // MINUTE, to_ns // MINUTE)) - minutes[symbol].final
            demand(not open_, f"S8: {symbol}: {len(open_)} minutes were not confirmed: {sorted(open_)[:5]}")
            mine = [t for t in shown_of(database, symbol) if from_ns <= t[0] < to_ns]
            market = [t for t in good(self.market.served(symbol)) if from_ns <= t[0] < to_ns]
            demand(mine == market, f"S4 confirmed: {symbol}: {difference(mine, market)}")

    def arrived(self, database: MemoryDatabase, symbol: str, sent: list[Tick], to_ns: int) -> None:
        """No live row is lost: all that the connection which is up was given is there, the late ones too."""
        there = Counter(on_stream(tick) for tick in shown_of(database, symbol))
        lacking = Counter(on_stream(tick) for tick in sent if tick[0] < to_ns) - there
        demand(not lacking, f"S1: {symbol}: sent on the connection that is up, and not there: {sorted(lacking)[:3]}")

    def changed_minutes(self, symbol: str) -> set[int]:
        """Minutes of which there is more than one version."""
        return {
            minute
            for change in self.market.changes
            if change.symbol == symbol
            for minute in range(change.from_ns // MINUTE, -(-change.to_ns // MINUTE))
        }


def _history(market: list[Tick], rows: list[Tick], covered: bool) -> str:
    expected = market if covered else NO_TICKS
    return "" if rows == expected else difference(rows, expected)


def by_minute(ticks: list[Tick]) -> ByMinute:
    """Grouped, in their order."""
    found: ByMinute = {}
    for tick in ticks:
        found.setdefault(tick[0] // MINUTE, []).append(tick)
    return found


def shown_of(database: MemoryDatabase, symbol: str) -> list[Tick]:
    """What readers see of one symbol."""
    kind = kind_of(symbol)
    return shown_ticks(database.ticks(kind), kind).get(symbol, [])


def shown_ticks(table: Any, kind: str) -> dict[str, list[Tick]]:
    """symbol -> ticks in the order of the view, prices as integers of 1e-5."""
    names = ("bid", "ask") if kind == "quotes" else ("price", "size")
    found: dict[str, list[Tick]] = {}
    one, two = (np.rint(table[name].to_numpy() * 1e5).astype(np.int64).tolist() for name in names)
    for symbol, *tick in zip(table["symbol"].to_pylist(), table["ts_ns"].to_pylist(), one, two, strict=True):
        found.setdefault(symbol, []).append((tick[0], tick[1], tick[2]))
    return found


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
