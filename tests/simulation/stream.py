"""The vendor's live side: its clock, its stream and what goes wrong with both. Outlives processes.

It notes what the oracle has to know: ticks of which nobody can tell that they are missing (`excused`), until an hour is
confirmed; and what was sent on the connection that is up now.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs
import numpy as np
import trio

from actors.downloader.port import Alive, Ticks
from runtime.errors import RetryableSourceError
from tests.simulation.market import NS, Market, Tick, kind_of, on_stream

if TYPE_CHECKING:
    from tests.simulation.fences import Fence
    from tests.simulation.world import World

BEAT_S = 0.4
"""How often the server sends."""
PONG_S = 10.0
"""The client gives up when a ping is not answered for so long."""
RETRY_S = 12.0
"""What the one-connection rule costs (the real adapter: 60 s)."""
NOTICED_S = 15.0
"""Within so long anybody who asks has noticed that the vendor's clock stands, or runs again."""


class VendorClock:
    """The vendor's time: runs at a rate, may stand."""

    def __init__(self, start_ns: int, rate: float, *, stands: bool) -> None:
        self.rate = rate
        self._base_ns, self._base_s = start_ns, 0.0
        self._rate_now = 0.0 if stands else rate

    def now_ns(self) -> int:
        """Its time."""
        return self._base_ns + round((trio.current_time() - self._base_s) * self._rate_now * NS)

    @property
    def stands(self) -> bool:
        """It does not move."""
        return self._rate_now == 0.0

    def run(self) -> None:
        """On."""
        self._turn(self.rate)

    def stand(self) -> None:
        """Still."""
        self._turn(0.0)

    def _turn(self, rate: float) -> None:
        self._base_ns, self._base_s, self._rate_now = self.now_ns(), trio.current_time(), rate


@attrs.define(eq=False)
class LiveVendor:
    """One for the seed."""

    world: World
    market: Market
    clock: VendorClock
    down_to_s: float = 0.0
    """No connection before."""
    silent: bool = False
    """Nothing is sent, pings are answered; what was not sent never comes."""
    hung: bool = False
    """Nothing is sent, not even answers to pings; when it ends early, all of it comes."""
    held: bool = False
    """Rows wait, and come at once."""
    hole: str = ""
    """Rows of this symbol are never sent; nothing else tells."""
    time_down: bool = False
    time_wrong_s: int = 0
    """So far off is the server that answers who has asked for a while; the market goes on by the true time."""
    begins_with_us: bool = False
    """The clock stands until the first subscription."""
    excused: dict[str, Counter[Tick]] = attrs.field(factory=dict)
    """symbol -> ticks, as the stream would send them, that may lack until their hour is confirmed."""
    late: dict[str, set[Tick]] = attrs.field(factory=dict)
    """symbol -> ticks that come late, on the stream and in the pages."""
    connections: list[Connection] = attrs.field(factory=list)
    connects: int = 0
    _arrivals: dict[str, list[tuple[int, int, Tick]]] = attrs.field(factory=dict)
    """symbol -> (when it comes, by the vendor's clock; its place in the market; the tick), ascending."""

    def __attrs_post_init__(self) -> None:
        live = self.world.draw.live
        assert live is not None
        self.begins_with_us = live.stands_at_first
        rng, share = self.world.rng("late"), self.world.draw.rates["late"]
        for symbol in self.market.symbols:
            late = self.late[symbol] = set()
            self.excused[symbol] = Counter()
            arrivals = []
            for place, tick in enumerate(self.market.served(symbol)):
                delay_ns = rng.randrange(live.late_s * NS) if share and rng.random() < share else 0
                if delay_ns and tick[1] > 0:
                    late.add(tick)
                    self.excused[symbol][on_stream(tick)] += 1
                arrivals.append((tick[0] + delay_ns, place, tick))
            self._arrivals[symbol] = sorted(arrivals)

    def served(self, symbol: str) -> list[Tick]:
        """What pages show now: what has come, in time order."""
        shown = sorted((place, tick) for _, place, tick in self._due(symbol, 0, self.clock.now_ns()))
        return [tick for _, tick in shown]

    def due(self, symbol: str, from_ns: int, to_ns: int) -> list[Tick]:
        """Ticks that come in [from, to), by the vendor's clock, in that order."""
        return [tick for _, _, tick in self._due(symbol, from_ns, to_ns)]

    def _due(self, symbol: str, from_ns: int, to_ns: int) -> list[tuple[int, int, Tick]]:
        arrivals = self._arrivals[symbol]
        low, high = (bisect.bisect_left(arrivals, at_ns, key=lambda one: one[0]) for at_ns in (from_ns, to_ns))
        return arrivals[low:high]

    def excuse(self, symbol: str, ticks: Sequence[Tick]) -> None:
        """Nobody can know that these are missing."""
        self.excused[symbol].update(on_stream(tick) for tick in ticks if tick[1] > 0)

    def turn(self, *, stands: bool) -> None:
        """The vendor's clock stands, or runs again; for some seconds everybody is wrong about it."""
        now_ns = self.clock.now_ns()
        for symbol in self.market.symbols:
            self.excuse(symbol, self.due(symbol, now_ns, now_ns + round(NOTICED_S * self.clock.rate) * NS))
        self.begins_with_us = False
        if stands:
            self.clock.stand()
        else:
            self.clock.run()

    def streamed(self) -> set[str]:
        """Symbols that a connection is up for."""
        return {s for c in self.connections if not c.ended and not c.fence.dead for s in c.symbols}

    def close_all(self, why: str, *, retry_s: float | None = None) -> None:
        """Every connection ends."""
        for connection in self.connections:
            connection.ended = why
            connection.retry_s = retry_s

    def heal(self) -> None:
        """Nothing goes wrong any more."""
        self.silent = self.hung = self.held = self.time_down = False
        self.time_wrong_s = 0
        self.hole, self.down_to_s = "", 0.0
        for connection in self.connections:
            if connection.refused:  # it is not asked again before the next connection
                connection.ended = "closed"
        if self.clock.stands:
            self.turn(stands=False)

    async def connect(self, fence: Fence, symbols: Sequence[str]) -> Connection:
        """Raises: RetryableSourceError."""
        world = self.world
        fence.check()
        world.watch.look_rate("stream connections")
        await trio.sleep(BEAT_S)
        fence.check()
        now_s = trio.current_time()
        if now_s < self.down_to_s or self.hung or (world.vendor_is_down and world.on_fire):
            raise RetryableSourceError("fault: no connection")
        if self.begins_with_us:
            self.begins_with_us = False
            self.clock.run()
        self.connects += 1
        for other in self.connections:  # one connection for each key: the older one goes
            if not other.fence.dead and set(symbols) & set(other.symbols):
                other.ended, other.retry_s = "max_connections", RETRY_S
        refused = {}
        if world.on_fire:
            share, rng = world.draw.rates["topic_refused"], world.rng("topics")
            refused = {symbol: "fault: unknown topic" for symbol in symbols if rng.random() < share}
        connection = Connection(self, fence, [symbol for symbol in symbols if symbol not in refused], refused)
        self.connections = [c for c in self.connections if not c.ended and not c.fence.dead] + [connection]
        what = "connect" if self.connects == 1 else "reconnect"
        world.trace(f"stream {what} {connection.symbols}", reached=f"stream {what}")
        if refused:
            world.trace.reached["stream: topic refused"] += 1
        return connection


@attrs.define(eq=False)
class Connection:
    """`LiveStream` of one connection."""

    vendor: LiveVendor
    fence: Fence
    symbols: list[str]
    refused: dict[str, str]
    ended: str = ""
    retry_s: float | None = None
    sent: dict[str, list[Tick]] = attrs.field(factory=dict)
    """symbol -> what the client was given."""
    _sent_to_ns: int = 0
    _held: dict[str, list[Tick]] = attrs.field(factory=dict)
    _replays: bool = False
    _hung_s: float = 0.0
    _beat_s: float = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._sent_to_ns = self.vendor.clock.now_ns()
        self._beat_s = trio.current_time() + BEAT_S
        self._replays = self.vendor.connects > 1

    async def receive(self) -> Sequence[Ticks | Alive]:
        """See the port."""
        if self._replays:
            self._replays = False
            if parts := self._replayed():
                return parts
        await trio.sleep_until(self._beat_s)  # the next call goes on waiting, should this one be cancelled
        self._beat_s = max(self._beat_s + BEAT_S, trio.current_time())
        self.fence.check()
        self._die()
        if self.vendor.hung:
            return self._nothing()
        self._hung_s = 0.0
        from_ns, self._sent_to_ns = self._sent_to_ns, self.vendor.clock.now_ns()
        due = {symbol: self.vendor.due(symbol, from_ns, self._sent_to_ns) for symbol in self.symbols}
        alive = Alive(sent_s=trio.current_time())
        return [*self._sent_of(due), alive]

    async def close(self) -> None:
        """Nothing to release."""
        self.ended = self.ended or "closed by us"
        await trio.lowlevel.checkpoint()

    def _die(self) -> None:
        if self.ended:
            self.vendor.world.trace(f"stream ends: {self.ended}")
            raise RetryableSourceError(f"fault: {self.ended}", retry_after_s=self.retry_s)

    def _nothing(self) -> list[Ticks | Alive]:
        self._hung_s += BEAT_S
        if self._hung_s >= PONG_S:
            self.ended = "ping not answered"
            self._die()
        return []

    def _sent_of(self, due: dict[str, list[Tick]]) -> list[Ticks]:
        """What of this is really sent now."""
        vendor, world = self.vendor, self.vendor.world
        parts = []
        for symbol, ticks in due.items():
            if vendor.silent or vendor.hole == symbol:
                vendor.excuse(symbol, ticks)
                if ticks:
                    world.trace.reached["stream: rows never sent"] += len(ticks)
                continue
            waiting = self._held.pop(symbol, [])
            if vendor.held:
                vendor.excuse(symbol, ticks)
                self._held[symbol] = waiting + ticks
            elif waiting or ticks:
                if waiting:
                    world.trace.reached["stream: burst"] += 1
                parts.append(self._ticks(symbol, waiting + ticks))
        return parts

    def _replayed(self) -> list[Ticks | Alive]:
        live = self.vendor.world.draw.live
        assert live is not None
        rows = live.replay_rows
        old = {s: self.vendor.due(s, 0, self._sent_to_ns)[-rows:] for s in self.symbols} if rows else {}
        self.vendor.world.trace.reached["stream: replay"] += bool(old)
        return [self._ticks(symbol, ticks, again=True) for symbol, ticks in old.items() if ticks]

    def _ticks(self, symbol: str, ticks: list[Tick], *, again: bool = False) -> Ticks:
        late = self.vendor.late[symbol]
        self.vendor.world.trace.reached["stream: late tick"] += sum(tick in late for tick in ticks)
        if not again:
            self.sent.setdefault(symbol, []).extend(tick for tick in ticks if tick[1] > 0)
        columns = np.array([on_stream(tick) for tick in ticks], np.int64)
        kind, rows = kind_of(symbol), len(ticks)
        numbers = (columns[:, 1] / 1e5, columns[:, 2] / 1e5)
        texts: tuple[list[str | None], ...] = () if kind == "quotes" else ([None] * rows, [None] * rows)
        return Ticks(
            symbol=symbol,
            kind=kind,
            ts_ns=columns[:, 0].copy(),
            numbers=numbers,
            texts=texts,
            raw=lambda some: [f"{symbol} {ticks[i]}" for i in some],
        )
