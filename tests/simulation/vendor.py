"""The vendor as one process reaches it: pages, stream and clock, each behind the fence of the process."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
import trio

from actors.downloader.memory import MemoryHistory, MemoryTicks, MemoryTrades
from actors.downloader.port import LiveStream, Page
from actors.market.symbols import AssetClass
from runtime.errors import RetryableSourceError
from runtime.market_clock import Sample
from tests.simulation.market import NS, kind_of
from tests.simulation.stream import LiveVendor

if TYPE_CHECKING:
    from tests.simulation.fences import Fence
    from tests.simulation.world import World


@attrs.define(eq=False)
class SimVendor:
    """`HistorySource`: each page chain sees the vendor's data of its beginning, up to the vendor's own now."""

    world: World
    fence: Fence
    name: str = "memory"
    under_way: int = 0

    async def pages(self, symbol: str, kind: str, from_ns: int, to_ns: int) -> AsyncIterator[Page]:
        """As the port says."""
        self.fence.check()
        world = self.world
        served = world.served(symbol)
        world.trace(f"vendor {symbol} [{world.minute(from_ns)}, {world.minute(to_ns)})", reached="page chain")
        numbers = np.array(served, np.int64).reshape(-1, 3)
        columns = (numbers[:, 0].copy(), numbers[:, 1] / 1e5, numbers[:, 2] / 1e5)
        ticks = _trades(*columns) if kind_of(symbol) == "trades" else _quotes(*columns)
        chain = _Chain(
            ticks={symbol: ticks},
            name=self.name,
            page_rows=world.draw.page_rows,
            next_fault=world.fate.next_vendor_fault,
        )
        chain.world = world
        self.under_way += 1
        world.watch.look_at("page chains", self.under_way)
        try:
            async with aclosing(chain.pages(symbol, kind, from_ns, to_ns)) as pages:
                async for page in pages:
                    self.fence.check()
                    yield page
        finally:
            self.under_way -= 1
            for fault, times in sorted(chain.fired.items()):
                world.trace.reached[f"vendor: {fault}"] += times

    async def close(self) -> None:
        """Nothing to release."""
        await trio.lowlevel.checkpoint()


class _Chain(MemoryHistory):
    world: World

    async def _travel(self) -> Any:
        self.latency_s = self.world.latency_s(self.world.draw.vendor_latency_s)
        self.world.watch.look_rate("vendor requests")
        return await super()._travel()


def _quotes(ts_ns: Any, bid: Any, ask: Any) -> MemoryTicks:
    return MemoryTicks(ts_ns=ts_ns, bid=bid, ask=ask)


def _trades(ts_ns: Any, price: Any, size: Any) -> MemoryTrades:
    return MemoryTrades(ts_ns=ts_ns, price=price, size=size)


@attrs.frozen(eq=False)
class SimStream:
    """`LiveSource`."""

    vendor: LiveVendor
    fence: Fence
    name: str = "memory"

    async def connect(self, nursery: trio.Nursery, asset_class: AssetClass, symbols: Sequence[str]) -> LiveStream:
        """See the port."""
        del nursery, asset_class
        return await self.vendor.connect(self.fence, symbols)

    def counters(self) -> Mapping[str, int]:
        """Nothing is dropped."""
        return {}


STEADY_S = 8.0
"""Who asked for less has nothing to hold a wrong answer against, and would believe it."""


@attrs.define(eq=False)
class SimTime:
    """`TimeSource`: whole seconds. While the clock stands it answers: how else should anybody know."""

    vendor: LiveVendor
    fence: Fence
    began_s: float = math.inf

    async def server_time(self) -> Sample:
        """See the port."""
        world, clock = self.vendor.world, self.vendor.clock
        sent_s = trio.current_time()
        await self._travel()
        down = self.vendor.time_down or (world.vendor_is_down and world.on_fire)
        if down and not clock.stands:
            raise RetryableSourceError("fault: the clock does not answer")
        self.began_s = min(self.began_s, sent_s)
        wrong_s = self.vendor.time_wrong_s if sent_s - self.began_s >= STEADY_S else 0
        world.trace.reached["vendor's clock: wrong answer"] += bool(wrong_s)
        told_ns = clock.now_ns() // NS * NS + wrong_s * NS
        await self._travel()
        return Sample(sent_s=sent_s, received_s=trio.current_time(), vendor_ns=told_ns)

    async def close(self) -> None:
        """Nothing to release."""
        await trio.lowlevel.checkpoint()

    async def _travel(self) -> None:
        self.fence.check()
        world = self.vendor.world
        await trio.sleep(world.latency_s(world.draw.vendor_latency_s))
        self.fence.check()
