"""Fakes of the live ports: a market whose time runs at a chosen rate, its stream with faults, its clock.

The stream sends what the REST fake holds (times cut to milliseconds) as the market's clock passes it, and misbehaves by
script: it ends, falls silent with and without pings, leaves rows out, delays some, repeats old ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import attrs
import numpy as np
import numpy.typing as npt
import trio

from actors.downloader.memory import MemoryTicks, MemoryTrades
from actors.downloader.port import Alive, Ticks
from actors.market.symbols import AssetClass
from runtime.clock import NS_PER_S
from runtime.errors import PermanentSourceError, RetryableSourceError
from runtime.market_clock import Sample

NS_PER_MS = 1_000_000
LATER_NS = 2**62


@attrs.define(kw_only=True, eq=False)
class MemoryMarket:
    """The vendor: rows, and a clock that starts when it is first looked at."""

    ticks: Mapping[str, MemoryTicks | MemoryTrades]
    start_ns: int
    rate: float = 1.0
    _began_s: float | None = None

    def now_ns(self) -> int:
        """The vendor's time."""
        now_s = trio.current_time()
        if self._began_s is None:
            self._began_s = now_s
        return self.start_ns + round((now_s - self._began_s) * self.rate * NS_PER_S)


@attrs.define(kw_only=True, eq=False)
class MemoryTime:
    """`TimeSource` of the market; whole seconds, as the vendor tells."""

    market: MemoryMarket
    latency_s: float = 0.01
    down: Callable[[], bool] = lambda: False
    wrong_s: Callable[[], float] = lambda: 0.0
    """How far the clock is off that answers; the market goes on by the true one."""

    async def server_time(self) -> Sample:
        """See the port."""
        sent_s = trio.current_time()
        await trio.sleep(self.latency_s)
        if self.down():
            raise RetryableSourceError("fault: the clock does not answer")
        told_ns = (self.market.now_ns() + round(self.wrong_s() * NS_PER_S)) // NS_PER_S * NS_PER_S
        await trio.sleep(self.latency_s)
        return Sample(sent_s=sent_s, received_s=trio.current_time(), vendor_ns=told_ns)

    async def close(self) -> None:
        """Nothing to release."""
        await trio.lowlevel.checkpoint()


@attrs.frozen(kw_only=True)
class StreamScript:
    """What goes wrong, in market time unless said; each fired fault is counted."""

    ends_ns: tuple[int, ...] = ()
    """The connection is closed when the market's clock passes it."""
    silent_ns: tuple[tuple[int, int], ...] = ()
    """Nothing is sent, pings are answered; what was not sent never comes: a connection that died half."""
    hung_ns: tuple[tuple[int, int], ...] = ()
    """Nothing is sent, not even answers to pings."""
    hole_ns: tuple[tuple[int, int], ...] = ()
    """Rows of these instants are never sent; nothing else tells."""
    late_share: float = 0.0
    late_ns: int = 0
    """This share of the rows comes up to so much later."""
    replay_rows: int = 0
    """The newest so many rows of each symbol are sent again at the beginning of each connection but the first."""
    refused: Mapping[str, str] = attrs.field(factory=dict)
    auth_failed: bool = False
    evictions: int = 0
    """So many connections end at once with max_connections."""
    seed: int = 0


@attrs.define(kw_only=True, eq=False)
class MemoryLive:
    """`LiveSource` over a market."""

    market: MemoryMarket
    script: StreamScript = attrs.field(factory=StreamScript)
    name: str = "memory"
    beat_s: float = 0.05
    """How often the server sends."""
    pong_s: float = 10.0
    fired: Counter[str] = attrs.field(factory=Counter)
    connections: list[float] = attrs.field(factory=list)
    """When each was asked for (Trio time)."""
    _arrivals: dict[str, npt.NDArray[np.int64]] = attrs.field(factory=dict)

    def counters(self) -> Mapping[str, int]:
        """Nothing is dropped."""
        return {}

    async def connect(self, nursery: trio.Nursery, asset_class: AssetClass, symbols: Sequence[str]) -> MemoryConnection:
        """See the port."""
        del nursery, asset_class
        self.connections.append(trio.current_time())
        await trio.sleep(self.beat_s)
        if self.script.auth_failed:
            raise PermanentSourceError("fault: authentication failed")
        if self.fired["max_connections"] < self.script.evictions:
            self.fired["max_connections"] += 1
            raise RetryableSourceError("fault: max_connections", retry_after_s=60.0)
        taken = [symbol for symbol in symbols if symbol in self.market.ticks and symbol not in self.script.refused]
        refused = {
            symbol: self.script.refused.get(symbol, "unknown topic") for symbol in symbols if symbol not in taken
        }
        return MemoryConnection(self, taken, refused, self.market.now_ns(), replays=len(self.connections) > 1)

    def arrivals(self, symbol: str) -> npt.NDArray[np.int64]:
        """When the stream sends each row, by the market's clock; LATER_NS = never."""
        if symbol not in self._arrivals:
            ts_ns = self.market.ticks[symbol].ts_ns
            seed = 2 * (self.script.seed + len(self._arrivals))
            late = _draws(seed, len(ts_ns)) < self.script.late_share
            delay = (_draws(seed + 1, len(ts_ns)) * self.script.late_ns).astype(np.int64)
            arrival = ts_ns + np.where(late, delay, 0)
            for from_ns, to_ns in self.script.hole_ns:
                arrival[(ts_ns >= from_ns) & (ts_ns < to_ns)] = LATER_NS
            self._arrivals[symbol] = arrival
        return self._arrivals[symbol]


@attrs.define(eq=False)
class MemoryConnection:
    """`LiveStream` of one connection."""

    _source: MemoryLive
    _symbols: list[str]
    refused: Mapping[str, str]
    _sent_to_ns: int
    """All that was due before it was sent, or never will be."""
    _replays: bool = attrs.field(kw_only=True)
    _silent_s: float = 0.0

    async def receive(self) -> Sequence[Ticks | Alive]:
        """See the port."""
        if self._replays and self._source.script.replay_rows:
            self._replays = False
            self._source.fired["replay"] += 1
            return self._replayed()
        await trio.sleep(self._source.beat_s)
        now_ns, script = self._source.market.now_ns(), self._source.script
        for end_ns in script.ends_ns:
            if self._sent_to_ns <= end_ns < now_ns:
                self._source.fired["end"] += 1
                raise RetryableSourceError("fault: closed with 1006")
        if _inside(script.hung_ns, now_ns):
            return await self._hang()
        self._silent_s = 0.0
        from_ns, self._sent_to_ns = self._sent_to_ns, now_ns
        if _inside(script.silent_ns, now_ns):
            self._source.fired["silent"] += 1
            return [Alive(sent_s=trio.current_time())]
        sent = [part for symbol in self._symbols if (part := self._due(symbol, from_ns, now_ns)) is not None]
        return [*sent, Alive(sent_s=trio.current_time())]

    async def close(self) -> None:
        """Nothing to release."""
        await trio.lowlevel.checkpoint()

    async def _hang(self) -> Sequence[Ticks | Alive]:
        self._source.fired["hung"] += 1
        self._silent_s += self._source.beat_s
        if self._silent_s >= self._source.pong_s:
            raise RetryableSourceError("ping not answered")
        return []

    def _due(self, symbol: str, from_ns: int, to_ns: int) -> Ticks | None:
        arrival = self._source.arrivals(symbol)
        rows = np.flatnonzero((arrival >= from_ns) & (arrival < to_ns))
        return self._ticks(symbol, rows[np.argsort(arrival[rows], kind="stable")]) if len(rows) else None

    def _replayed(self) -> list[Ticks | Alive]:
        parts = []
        for symbol in self._symbols:
            arrival = self._source.arrivals(symbol)
            rows = np.flatnonzero(arrival < self._sent_to_ns)[-self._source.script.replay_rows :]
            parts += [self._ticks(symbol, rows)] if len(rows) else []
        return list(parts)

    def _ticks(self, symbol: str, rows: npt.NDArray[np.intp]) -> Ticks:
        held = self._source.market.ticks[symbol]
        first, stop = int(rows.min()), int(rows.max()) + 1
        which = rows - first
        return Ticks(
            symbol=symbol,
            kind=held.kind,
            ts_ns=held.ts_ns[rows] // NS_PER_MS * NS_PER_MS,
            numbers=tuple(column[which] for column in held.columns(first, stop)),
            texts=tuple([texts[i] for i in which] for texts in held.texts(first, stop)),
            raw=lambda some: [f"row {rows[i]}" for i in some],
        )


def _inside(intervals: Sequence[tuple[int, int]], at_ns: int) -> bool:
    return any(from_ns <= at_ns < to_ns for from_ns, to_ns in intervals)


def _draws(seed: int, rows: int) -> npt.NDArray[np.float64]:
    """Uniform in [0, 1), a function of the seed: the finaliser of splitmix64."""
    x = np.arange(1, rows + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed + 1)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    return np.asarray((x ^ (x >> np.uint64(31))) >> np.uint64(11)) / float(2**53)
