"""The seams of one incarnation of the process, each behind its fence.

A crash is not a cancellation: cancelling runs `finally`, kill -9 does not. So at a crash the fence goes up first; from
then on whatever the dying tasks still do to disk, databases, vendor, job store or threads raises `Dead` and has no
effect. Only then they are cancelled.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
import numpy as np
import trio

from actors.bridge.memory_db import MemoryDatabase
from actors.bridge.port import Sink, SinkBatch, SinkFactory, VerifyResult, WriteResult
from actors.downloader.jobs import BackfillJob
from actors.downloader.memory import MemoryHistory, MemoryJobs, MemoryTicks
from actors.downloader.port import Page
from runtime.actor import Actor, ActorContext, Seams
from runtime.disk_memory import MemoryDisk, SimulatedCrash
from runtime.errors import RetryableSinkError
from runtime.log.types import Group
from supervisors.engine.watchdog import owner_of

if TYPE_CHECKING:
    from tests.simulation.process import Process
    from tests.simulation.world import World

T = TypeVar("T")


class Dead(Exception):
    """A task of a process that is gone touched the world."""


class PlantedBug(Exception):
    """A crash of one actor, by order of the seed."""


@attrs.define(eq=False)
class Fence:
    """Between one incarnation of the process and the world."""

    number: int
    dead: bool = False
    refused: int = 0
    """Attempts after death: the fence was needed."""
    scopes: set[trio.CancelScope] = attrs.field(factory=set)

    def check(self) -> None:
        """Raises: Dead."""
        if self.dead:
            self.refused += 1
            raise Dead(f"process {self.number} is gone")

    @contextmanager
    def thread(self) -> Iterator[None]:
        """A worker thread runs: cancellation waits for it, kill -9 does not."""
        with trio.CancelScope(shield=True) as scope:
            self.scopes.add(scope)
            try:
                yield
            finally:
                self.scopes.discard(scope)


class SimDisk(MemoryDisk):
    """The machine's disk; survives processes. Tells the world when an operation is the last one of a process."""

    def __init__(self, world: World, *, seed: int) -> None:
        super().__init__(seed=seed)
        self.world = world
        self.bug_after: int | None = None
        self._is_watched = False

    @contextmanager
    def watched(self) -> Iterator[None]:
        """The oracle looks: no fault strikes, nothing is counted."""
        self._is_watched = True
        try:
            yield
        finally:
            self._is_watched = False

    def step(self, op: str, path: Path) -> None:
        """As the parent; a planted bug is an exception that nobody expects from a disk."""
        if self._is_watched:
            return
        if self.bug_after is not None:
            self.bug_after -= 1
            if self.bug_after < 0:
                self.bug_after = None
                self.world.trace(f"bug in {op} {path.name}", reached="bug in a disk operation")
                raise PlantedBug(f"in {op} of {path.name}")
        try:
            super().step(op, path)
        except SimulatedCrash:
            self.world.dies_in_disk(op, path)
            raise

    def take_fault(self, op: str, path: Path) -> int | None:
        """As the parent, with a line in the trace when a fault really fired."""
        error = super().take_fault(op, path)
        if error is not None:
            self.world.trace(f"disk fault {op} {path.name} errno {error}", reached=f"disk: {op} failed")
        return error


class FencedDisk:
    """The disk as one process sees it, every call behind the fence. Open files die by themselves (`MemoryDisk.life`)."""

    def __init__(self, disk: SimDisk, fence: Fence) -> None:
        self._disk, self._fence = disk, fence

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._disk, name)

        def fenced(*args: Any, **kwargs: Any) -> Any:
            self._fence.check()
            return call(*args, **kwargs)

        return fenced


@attrs.define(eq=False)
class Threads:
    """`Offload`: the time before and after is virtual, the work itself happens inline, in one instant."""

    world: World
    fence: Fence

    async def __call__(self, fn: Callable[[], T], *, limiter: trio.CapacityLimiter | None = None) -> T:
        """As `trio.to_thread.run_sync`: not abandoned on cancel."""
        del limiter
        world, fence = self.world, self.fence
        await trio.lowlevel.checkpoint()
        fence.check()
        owner = owner_of(trio.lowlevel.current_task()).rpartition("/")[2]
        before_s, after_s = world.thread_times_s()
        with fence.thread():
            await trio.sleep(before_s)
            fence.check()
            world.perhaps_bug(owner, "before")
            try:
                result = fn()
            except SimulatedCrash:
                raise Dead("in mid-operation") from None
            await trio.sleep(after_s)
        fence.check()
        world.perhaps_bug(owner, "after")
        return result


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


class FencedJobs(MemoryJobs):
    """The job store of the machine as one process reaches it."""

    def __init__(self, store: MemoryJobs, fence: Fence) -> None:
        self._store, self._fence = store, fence

    @property
    def jobs(self) -> list[BackfillJob]:  # type: ignore[override]
        self._fence.check()
        return self._store.jobs

    async def load(self) -> list[BackfillJob]:
        await trio.lowlevel.checkpoint()
        self._fence.check()
        return await self._store.load()

    async def done(self, job_id: str) -> None:
        await trio.lowlevel.checkpoint()
        self._fence.check()
        await self._store.done(job_id)

    async def failed(self, job_id: str, reason: str) -> None:
        await trio.lowlevel.checkpoint()
        self._fence.check()
        await self._store.failed(job_id, reason)


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
        served = [tick for tick in world.market.served(symbol) if tick[0] < world.clock.true_ns()]
        world.trace(f"vendor {symbol} [{world.minute(from_ns)}, {world.minute(to_ns)})", reached="page chain")
        numbers = np.array(served, np.int64).reshape(-1, 3)
        ticks = MemoryTicks(ts_ns=numbers[:, 0].copy(), bid=numbers[:, 1] / 1e5, ask=numbers[:, 2] / 1e5)
        chain = _Chain(
            ticks={symbol: ticks}, name=self.name, page_rows=world.draw.page_rows, next_fault=world.next_vendor_fault
        )
        chain.world = world
        self.under_way += 1
        world.look_at("page chains", self.under_way)
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
        self.world.look_rate("vendor requests")
        return await super()._travel()


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

    async def open(self, log_id: str) -> dict[int, int] | None:
        self.world.look_rate(f"connections to {self.name}")
        await self._travel()
        marks = await self.inner.open(log_id)
        self.world.opened(self.name)
        self.world.trace(f"{self.name} open -> {marks}")
        await self._travel()
        return marks

    async def confirmed(self, verified: dict[int, int]) -> dict[int, int]:
        return await self.inner.confirmed(verified)

    async def prepare(self, batch: SinkBatch) -> None:
        await self.inner.prepare(batch)

    async def write(self, batch: SinkBatch) -> WriteResult:
        await self._travel()
        self.world.look_rate(f"writes to {self.name}")
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

    async def verify(self, groups: tuple[Group, ...]) -> VerifyResult:
        await self._travel()
        result = await self.inner.verify(groups)
        if result.mismatches:
            self.world.trace(f"{self.name} read back: {result.mismatches[0].what}", reached="read-back found less")
        return result

    async def totals(self, log_id: str, marks: dict[int, int]) -> Any:
        await self._travel()
        return await self.inner.totals(log_id, marks)

    async def audit(self, from_ns: int, to_ns: int) -> VerifyResult:
        await self._travel()
        return await self.inner.audit(from_ns, to_ns)

    async def close(self) -> None:
        await self.inner.close()

    async def _travel(self) -> None:
        self.fence.check()
        await trio.sleep(self.world.latency_s(self.world.draw.sink_latency_s))
        self.fence.check()


@attrs.define(eq=False)
class Watched:
    """An actor that can be made to crash at whatever await it stands."""

    inner: Actor
    name: str
    process: Process

    async def run(self, ctx: ActorContext) -> None:
        """As the actor; raises PlantedBug when the world wanted it."""
        process = self.process
        process.planted.discard(self.name)
        process.fence.check()
        with trio.CancelScope() as scope:
            process.scopes[self.name], process.contexts[self.name] = scope, ctx
            await self.inner.run(ctx)
        if self.name in process.planted:
            process.planted.discard(self.name)
            raise PlantedBug(f"in {self.name}")
