"""What coverage records say, minute by minute: read from the log by the ledger, from a database by the oracle."""

from __future__ import annotations

from collections.abc import Iterable

import attrs
import numpy as np

from actors.market.coverage import UNCONFIRMED_FINAL, Coverage, coverage_records
from actors.market.schema import decode
from runtime.log.types import Frame, Group
from tests.simulation.market import MINUTE, TIMEFRAMES, Known
from tests.simulation.trace import SimulationFailed

LATENESS_NS = 2 * 10**9
"""The configured default."""


@attrs.define(eq=False)
class Minutes:
    """Of one symbol; minutes since the epoch."""

    sliced: set[int] = attrs.field(factory=set)
    final: set[int] = attrs.field(factory=set)
    beaten: set[int] = attrs.field(factory=set)
    """Whole minutes over which a session called itself contiguous."""
    touched: set[int] = attrs.field(factory=set)
    """By live rows or heartbeats, at any time."""
    missing: set[int] = attrs.field(factory=set)
    reached_ns: int = 0
    """Of the farthest heartbeat."""

    def learn(self, record: Coverage) -> None:
        """One more record, in the order of the log."""
        whole = range(-(-record.from_ns // MINUTE), record.to_ns // MINUTE)
        if record.session is not None:
            self.beaten.update(whole)
            self.touched.update(range(record.from_ns // MINUTE, -(-record.to_ns // MINUTE)))
            self.reached_ns = max(self.reached_ns, record.to_ns)
            if record.reason == UNCONFIRMED_FINAL:
                self.final.update(whole)
        elif record.status in ("final", "empty"):
            self.sliced.update(whole)
            self.final.update(whole)
        elif record.status == "live":
            self.sliced.update(whole)
            self.final.difference_update(whole)
        elif record.status == "missing":
            if not record.reason:
                raise SimulationFailed("S8: missing without a reason")
            self.missing.update(whole)

    @property
    def known(self) -> Known:
        """For the oracle of candles."""
        closed_to = (self.reached_ns - LATENESS_NS) // MINUTE if self.reached_ns else 0
        return Known(sliced=self.sliced, final=self.final, touched=self.touched, closed_to=closed_to)


@attrs.define(eq=False)
class Facts:
    """Of the whole log."""

    symbols: dict[str, Minutes] = attrs.field(factory=dict)

    def of(self, symbol: str) -> Minutes:
        """Its minutes."""
        return self.symbols.setdefault(symbol, Minutes())

    def learn(self, group: Group) -> None:
        """Raises: SimulationFailed when live has a word on minutes that a slice replaced before."""
        if group.producer == "aggregator":
            self._look_at_candles(group)
            return
        for frame in group.frames:
            if frame.kind == "coverage":
                for record in records_of(frame):
                    self._learn(record)
            elif group.producer.startswith("live/") and frame.rows:
                minutes = self.of(group.producer.split("/")[1])
                minutes.touched.update(minutes_of(frame))

    def _look_at_candles(self, group: Group) -> None:
        """S7: no candle is put out before a slice holds its last minute, or the watermark of live passed its end."""
        for frame in group.frames:
            table = decode(frame.schema, frame.body).select(["symbol", "timeframe", "ts_ns"])
            for row in table.to_pylist():
                minutes = self.of(row["symbol"])
                start, length = row["ts_ns"] // MINUTE, TIMEFRAMES[row["timeframe"]]
                last = start + length - 1
                if last in minutes.sliced:
                    continue
                touched = any(minute in minutes.touched for minute in range(start, last + 1))
                if not touched or last >= minutes.known.closed_to:
                    raise SimulationFailed(f"S7: {row} is put out before its time, watermark {minutes.reached_ns}")

    def _learn(self, record: Coverage) -> None:
        minutes = self.of(record.symbol)
        if record.session is not None:
            late = minutes.sliced & set(range(record.from_ns // MINUTE, -(-record.to_ns // MINUTE)))
            if late:
                raise SimulationFailed(f"S8: a heartbeat of {record.symbol} over minutes that a slice replaced: {late}")
        minutes.learn(record)


def records_of(frame: Frame) -> list[Coverage]:
    """The records of a coverage frame."""
    return coverage_records(decode(frame.schema, frame.body))


def minutes_of(frame: Frame) -> set[int]:
    """The minutes of a frame of ticks."""
    times = np.asarray(decode(frame.schema, frame.body).column("ts_ns").to_numpy())
    return set(np.unique(times // MINUTE).tolist())


def is_passing(frame: Frame) -> bool:
    """A heartbeat inside of a minute, alone: no sink keeps it."""
    if frame.kind != "coverage" or frame.rows != 1:
        return False
    (record,) = records_of(frame)
    return record.session is not None and record.to_ns % MINUTE != 0


def missing_in(minutes: Minutes, wanted: Iterable[int]) -> list[int]:
    """Minutes that are neither held by a slice or a session nor called missing."""
    return sorted(set(wanted) - minutes.sliced - minutes.beaten - minutes.missing)
