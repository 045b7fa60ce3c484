"""The seams of one incarnation of the process, each behind its fence.

A crash is not a cancellation: cancelling runs `finally`, kill -9 does not. So at a crash the fence goes up first; from
then on whatever the dying tasks still do to disk, databases, vendor, job store or threads raises `Dead` and has no
effect. Only then they are cancelled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
import trio

from actors.downloader.jobs import BackfillJob
from actors.downloader.memory import MemoryJobs
from runtime.actor import Actor, ActorContext
from runtime.disk_memory import MemoryDisk, SimulatedCrash
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
        self.die_at: tuple[str, int, str] | None = None
        """(operation, how many of them are still fine, part of the file's name): the process ends inside of the next."""
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
        if self.die_at is not None and op == self.die_at[0] and self.die_at[2] in path.name:
            self.die_at = (op, self.die_at[1] - 1, self.die_at[2])
            if self.die_at[1] < 0:
                self.die_at = None
                self.crash_after(0)
        try:
            super().step(op, path)
        except SimulatedCrash:
            self.world.death.dies_in_disk(op, path)
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
        before_s, after_s = world.fate.thread_times_s()
        with fence.thread():
            await trio.sleep(before_s)
            fence.check()
            world.fate.perhaps_bug(owner, "before")
            try:
                result = fn()
            except SimulatedCrash:
                raise Dead("in mid-operation") from None
            await trio.sleep(after_s)
        fence.check()
        world.fate.perhaps_bug(owner, "after")
        return result


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
