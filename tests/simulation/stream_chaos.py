"""The faults of the stream and of the vendor's clock, by rate."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import attrs
import trio
import trio.lowlevel

from tests.simulation.market import MINUTE
from tests.simulation.stream import RETRY_S, LiveVendor

if TYPE_CHECKING:
    from tests.simulation.world import World


@attrs.define(eq=False)
class StreamChaos:
    """Owned by the chaos."""

    world: World
    stream: LiveVendor

    def classes(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """Name in `draw.LIVE_CLASSES` -> one strike."""
        return {
            "stream_cut": self._cut,
            "stream_silent": self._silent,
            "stream_hung": self._hung,
            "stream_hole": self._hole,
            "stream_burst": self._burst,
            "stream_rival": self._rival,
            "stream_stands": self._stands,
            "clock_down": self._clock_down,
            "state_death": self._state_death,
            "clock_wrong": self._clock_wrong,
        }

    async def _state_death(self) -> None:
        """The aggregator's days are written, and the process ends inside of the write of their position."""
        self.world.disk.die_at = ("write", 0, "checkpoint")

    async def _for_a_while(self, most_s: float, what: str) -> None:
        self.world.trace(what, reached=what)
        await trio.sleep(0.2 + most_s * self.world.rng("stream").random())

    async def _cut(self) -> None:
        """Every connection ends, and for some time there is no other."""
        rng = self.world.rng("stream")
        self.stream.down_to_s = trio.current_time() + rng.choice((0.0, 0.5, 6.0)) * rng.random()
        self.stream.close_all("closed")
        self.world.trace("stream: cut", reached="stream: cut")
        await trio.lowlevel.checkpoint()

    async def _silent(self) -> None:
        self.stream.silent = True
        await self._for_a_while(4.0, "stream: silent")
        self.stream.silent = False
        if self.world.rng("stream").random() < 0.5:
            self.stream.close_all("died half")

    async def _hung(self) -> None:
        """Somebody may order what is missing meanwhile: then heartbeats come behind its slices."""
        world = self.world
        self.stream.hung = True
        if world.rng("stream").random() < 0.5:
            world.trace("stream: hung for long", reached="stream: hung")
            await trio.sleep(7.5)
            minute_ns = world.now_ns() // MINUTE * MINUTE
            for symbol in world.draw.symbols:
                await world.submit(symbol, world.draw.from_ns, max(minute_ns, world.draw.from_ns + MINUTE))
            await trio.sleep(1.5)
        else:
            await self._for_a_while(14.0, "stream: hung")
        self.stream.hung = False

    async def _hole(self) -> None:
        self.stream.hole = self.world.rng("stream").choice(self.world.draw.symbols)
        await self._for_a_while(1.0, "stream: hole")
        self.stream.hole = ""

    async def _burst(self) -> None:
        self.stream.held = True
        await self._for_a_while(2.0, "stream: held")
        self.stream.held = False

    async def _rival(self) -> None:
        """Somebody else connects with the same key."""
        self.stream.close_all("max_connections", retry_s=RETRY_S)
        self.world.trace("stream: rival", reached="stream: rival")
        await trio.lowlevel.checkpoint()

    async def _stands(self) -> None:
        if self.stream.clock.stands or self.stream.time_down or self.world.vendor_is_down:
            return
        self.stream.turn(stands=True)
        await self._for_a_while(3.0, "vendor's clock stands")
        self.stream.turn(stands=False)

    async def _clock_down(self) -> None:
        if self.stream.clock.stands:
            return
        self.stream.time_down = True
        await self._for_a_while(8.0, "vendor's clock does not answer")
        self.stream.time_down = False

    async def _clock_wrong(self) -> None:
        """Only one that runs as ours does: a recording has no other server that could be wrong."""
        if self.stream.clock.stands or self.stream.clock.rate != 1.0:
            return
        rng = self.world.rng("stream")
        self.stream.time_wrong_s = rng.choice((-600, -60, 60, 600, 86_400))
        await self._for_a_while(13.0, "vendor's clock wrong")
        self.stream.time_wrong_s = 0
