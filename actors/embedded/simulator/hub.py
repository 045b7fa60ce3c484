"""The stream's heart: every few milliseconds, what has happened in the market since goes to whoever subscribed.

One `Lane` per asset class. The pump moves all lanes to the same instant, fires the faults that are due and leaves the
sending to the connections' own tasks, so that no client can hold up another.
"""

from __future__ import annotations

import attrs
import trio

from actors.embedded.simulator.disturb import Span
from actors.embedded.simulator.fault_book import FaultBook, Fired, Moment
from actors.embedded.simulator.feed import Part
from actors.embedded.simulator.hashing import combine, unit
from actors.embedded.simulator.lane import Connection, Lane
from actors.embedded.simulator.market_time import MarketTime
from actors.embedded.simulator.outbox import Outbox
from actors.embedded.simulator.pages import Rows
from actors.embedded.simulator.stream_session import Heard
from runtime.clock import NS_PER_S
from runtime.errors import ConfigError

STEP_S = 0.02
AHEAD_S = 1.5
"""Parts that will be needed within so many real seconds are made in advance."""
CUT_BYTES_MAX = 4_096


@attrs.define(kw_only=True, eq=False)
class Hub:
    """All lanes, their clock and their faults."""

    time: MarketTime
    lanes: tuple[Lane, ...]
    faults: FaultBook = attrs.field(factory=FaultBook)
    step_s: float = STEP_S
    buffer_bytes: int = Outbox().bytes_max
    auth_timeout_s: float = 10.0
    refuse_new: bool = False
    """The other variant of the one-connection rule."""
    quirks: bool = True

    @property
    def rest_down(self) -> bool:
        """Whether an outage takes the pages down too."""
        return any(fired.fault.rest for lane in self.lanes for fired in lane.refuse)

    async def run(self) -> None:
        """Pump until cancelled."""
        now_ns = self.time.due_ns()
        for lane in self.lanes:
            lane.position_ns = now_ns
        self.time.lead_s = 2 * self.step_s
        self.time.given(now_ns)
        async with trio.open_nursery() as nursery:
            while True:
                await self.step(nursery)
                await trio.sleep(self.step_s)

    async def step(self, nursery: trio.Nursery) -> None:
        """Move every lane to now."""
        to_ns = self.time.due_ns()
        if self.time.running:
            self._fire(self.moment(to_ns))
        for lane in self.lanes:
            now = self.moment(to_ns)
            self._expire(lane, now)
            lane.kill_slow(now.real_s)
            for span in await self._due(lane, to_ns):
                for piece in lane.disturber.send(span):
                    lane.deliver(piece)
            for span in lane.disturber.release(now, lane.wanted()):
                lane.deliver(span)
            lane.position_ns = max(lane.position_ns, to_ns)
            self._prepare(lane, to_ns, nursery)
        self.time.given(to_ns)

    def moment(self, market_ns: int) -> Moment:
        """Now, for the faults."""
        events = {lane.asset.name: lane.counts.events for lane in self.lanes}
        return Moment(real_s=self.time.clock.monotonic_s(), market_ns=market_ns, events=events)

    def heard(self, lane: Lane, connection: Connection, heard: Heard, *, came_back: bool) -> None:
        """Put the answers into the outbox; a first subscription starts the market, a repeated one may be replayed."""
        for answer in heard.answers:
            connection.outbox.put(answer)
        if heard.added:
            self.time.begin()
            for span in lane.disturber.again(heard.added) if came_back else ():
                lane.give(connection, span, span.texts())

    async def _due(self, lane: Lane, to_ns: int) -> list[Span]:
        """Rows of (position, to_ns] of the symbols that somebody wants."""
        found: list[Span] = []
        from_ns = lane.position_ns + 1
        for symbol in lane.wanted():
            for part in lane.feed.parts(symbol, from_ns, to_ns + 1):
                rows = await self._rows(lane, symbol, part)
                if rows is None:
                    continue
                start, stop = rows.ts_ns.searchsorted((from_ns, to_ns + 1)).tolist()
                if start < stop:
                    found.append(Span(symbol=symbol, rows=rows, start=start, stop=stop))
        return found

    def _prepare(self, lane: Lane, now_ns: int, nursery: trio.Nursery) -> None:
        ahead_ns = now_ns + round(AHEAD_S * self.time.speed * NS_PER_S)
        for symbol in lane.wanted():
            for part in lane.feed.parts(symbol, now_ns, ahead_ns):
                key = (symbol, part.from_ns)
                if not lane.cache.has(symbol, part) and key not in lane.coming | lane.broken:
                    lane.coming.add(key)
                    nursery.start_soon(self._load, lane, symbol, part)

    async def _load(self, lane: Lane, symbol: str, part: Part) -> None:
        try:
            await self._rows(lane, symbol, part)
        finally:
            lane.coming.discard((symbol, part.from_ns))

    async def _rows(self, lane: Lane, symbol: str, part: Part) -> Rows | None:
        """None for a part that cannot be read: the pages answer 500 for it and say why, the stream goes on."""
        key = (symbol, part.from_ns)
        if key in lane.broken:
            return None
        try:
            return await lane.cache.get(symbol, part)
        except ConfigError:
            lane.broken.add(key)
            return None

    def _fire(self, now: Moment) -> None:
        for fired in self.faults.due(now):
            for lane in self.lanes:
                if fired.touches(lane.asset.name):
                    self._act(lane, fired)

    def _act(self, lane: Lane, fired: Fired) -> None:
        fault = fired.fault
        there = [one for one in lane.connections if not one.leaving]
        if fault.fault in ("gap", "late", "replay", "silence", "burst"):
            lane.disturber.add(fired)
            return
        fired.connections += len(there)
        act = {"disconnect": self._disconnect, "abort": self._cut, "silence-no-ping": self._mute}[fault.fault]
        act(lane, fired, there)

    def _disconnect(self, lane: Lane, fired: Fired, there: list[Connection]) -> None:
        for one in there:
            if fired.fault.code == 1006:
                one.abort()
            else:
                one.finish(fired.fault.code)
        if fired.until_real_s is not None or fired.until_market_ns is not None:
            lane.refuse.append(fired)
        else:
            fired.over = True

    def _cut(self, lane: Lane, fired: Fired, there: list[Connection]) -> None:
        del lane
        for index, one in enumerate(there):
            count = fired.fault.bytes
            if count is None:
                count = 1 + int(unit(combine(self.faults.draw_key(fired.number), index)) * CUT_BYTES_MAX)
            if one.wire is not None:
                one.wire.cut_after(count, reset=fired.fault.reset)
            else:
                one.abort()
        fired.over = True

    def _mute(self, lane: Lane, fired: Fired, there: list[Connection]) -> None:
        for one in there:
            if one.wire is not None:
                one.wire.mute()
        lane.muted.append((fired, there))

    def _expire(self, lane: Lane, now: Moment) -> None:
        lane.disturber.expire(now)
        for fired in lane.refuse:
            fired.over = fired.ends(now)
        lane.refuse = [fired for fired in lane.refuse if not fired.over]
        for fired, silenced in lane.muted:
            fired.over = fired.ends(now)
            for one in silenced if fired.over else ():
                one.abort()
        lane.muted = [(fired, silenced) for fired, silenced in lane.muted if not fired.over]
