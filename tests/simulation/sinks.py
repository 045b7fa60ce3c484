"""The databases as one process reaches them: behind its fence, slow, and read by the oracle after every change."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any

import attrs
import trio

from actors.bridge.memory_db import MemoryDatabase
from actors.bridge.port import Sink, SinkBatch, SinkFactory, VerifyResult, WriteResult
from actors.bridge.refused import Refused
from runtime.actor import Seams
from runtime.errors import RetryableSinkError
from runtime.log.types import Group

if TYPE_CHECKING:
    from tests.simulation.fences import Fence
    from tests.simulation.world import World


class FencedDatabase:
    """A `MemoryDatabase` as one process reaches it; every new state is looked at by a reader at once."""

    def __init__(self, world: World, fence: Fence, name: str) -> None:
        self._world, self._fence, self._name = world, fence, name

    def __getattr__(self, name: str) -> Any:
        self._fence.check()
        return getattr(self._world.databases[self._name], name)

    @property
    def state(self) -> Any:
        """The whole content."""
        self._fence.check()
        return self._world.databases[self._name].state

    @state.setter
    def state(self, state: Any) -> None:
        self._fence.check()
        database: MemoryDatabase = self._world.databases[self._name]
        database.state = state
        self._world.changed(self._name)


@attrs.define(eq=False)
class SlowSinks:
    """A `SinkFactory` around the memory one: everything takes time, before and after its effect."""

    inner: SinkFactory
    world: World
    fence: Fence

    @property
    def sink_name(self) -> str:
        return self.inner.sink_name

    @property
    def stores(self) -> frozenset[str]:
        return self.inner.stores

    def __call__(self, seams: Seams) -> AbstractAsyncContextManager[Sink]:
        return self._connect(seams)

    @asynccontextmanager
    async def _connect(self, seams: Seams) -> AsyncIterator[Sink]:
        async with self.inner(seams) as sink:
            self.world.connections[self.sink_name] = sink
            yield _SlowSink(sink, self.world, self.fence)


@attrs.define(eq=False)
class _SlowSink:
    inner: Sink
    world: World
    fence: Fence

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def stores(self) -> frozenset[str]:
        return self.inner.stores

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    async def open(self, log_id: str) -> dict[int, int] | None:
        self.world.watch.look_rate(f"connections to {self.name}")
        await self._travel()
        marks = await self.inner.open(log_id)
        self.world.opened(self.name)
        self.world.trace(f"{self.name} open -> {marks}")
        await self._travel()
        return marks

    async def reached(self) -> dict[int, int]:
        return await self.inner.reached()

    async def confirmed(self, verified: dict[int, int]) -> dict[int, int]:
        return await self.inner.confirmed(verified)

    async def prepare(self, batch: SinkBatch) -> None:
        await self.inner.prepare(batch)

    async def write(self, batch: SinkBatch) -> WriteResult:
        await self._travel()
        self.world.watch.look_rate(f"writes to {self.name}")
        try:
            result = await self.inner.write(batch)
        except RetryableSinkError as exc:
            what = {"the answer was lost": "an answer was lost", "crashed": "a write broke in the middle"}
            for sign, reached in what.items():
                if sign in str(exc):
                    self.world.trace(f"{self.name}: {exc}", reached=reached)
            raise
        self.world.trace(f"{self.name} wrote {result.rows_stored} rows, replaced {result.rows_replaced}")
        await self._travel()
        return result

    async def verify(self, groups: tuple[Group, ...], refused: Refused) -> VerifyResult:
        await self._travel()
        result = await self.inner.verify(groups, refused)
        if result.mismatches:
            self.world.trace(f"{self.name} read back: {result.mismatches[0].what}", reached="read-back found less")
        return result

    async def _travel(self) -> None:
        self.fence.check()
        await trio.sleep(self.world.latency_s(self.world.draw.sink_latency_s))
        self.fence.check()
