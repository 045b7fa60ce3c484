"""A delivery over a log in memory, and what a reader of the sink sees of it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import attrs
import pytest
import structlog
import trio

from actors.bridge.delivery import Delivery
from actors.bridge.memory import Memory
from actors.bridge.memory_db import MemoryDatabase
from runtime.actor import ActorContext, Seams, offload_inline
from runtime.board import Board
from runtime.clock import VirtualClock
from runtime.entropy import SeededEntropy
from tests.support.bridge import T0, Consumers, LogBuilder, MemoryCursor

TICK_STORES = frozenset({"quotes", "trades", "coverage"})
BAR_STORES = frozenset({"candles", "coverage"})


@attrs.define
class Rig:
    """One delivery and everything around it that survives its restart."""

    log: LogBuilder
    db: MemoryDatabase
    stores: frozenset[str]
    consumer: Consumers = attrs.field(init=False)
    cursor: MemoryCursor = attrs.field(factory=MemoryCursor)
    board: Board = attrs.field(factory=Board)
    sink: Memory = attrs.field(init=False)
    settings: dict = attrs.field(factory=dict)

    def __attrs_post_init__(self) -> None:
        self.consumer = Consumers(self.log)
        self.sink = Memory(database=self.db, stores=self.stores)

    @property
    def state(self):
        return self.board.consumers.get("bridge.memory")

    def running(self) -> AbstractAsyncContextManager[ActorContext]:
        """The delivery runs inside; at the end it is drained."""
        return self._running()

    @asynccontextmanager
    async def _running(self):
        clock = VirtualClock(T0)
        seams = Seams(clock=clock, entropy=SeededEntropy(1), offload=offload_inline, board=self.board)
        ctx = ActorContext(name="bridge.memory", incarnation=1, seams=seams, log=structlog.get_logger())
        actor = Delivery(sink=self.sink, consumers=self.consumer.both, cursor=self.cursor, **self.settings)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(actor.run, ctx)
            yield ctx
            ctx.drain_requested.set()

    async def wait(self, done: Callable[[], bool], within_s: float = 60) -> None:
        with trio.fail_after(within_s):
            while not done():  # noqa: ASYNC110 (what is looked at sets no event)
                await trio.sleep(0.01)

    async def wait_verified(self, within_s: float = 60) -> None:
        await self.wait(lambda: self.state is not None and self.state.verified_position == self.log.end, within_s)


@pytest.fixture
def tick_rig() -> Rig:
    """A sink with marks of its own."""
    return Rig(LogBuilder(), MemoryDatabase(keeps_marks=True), TICK_STORES)


@pytest.fixture
def bar_rig() -> Rig:
    """A keyed sink."""
    return Rig(LogBuilder(), MemoryDatabase(keeps_marks=False), BAR_STORES)
