"""What an actor is and what one incarnation of it is handed.

An actor is a frozen attrs class with one `async run(ctx)`: fields are collaborators and limits, state is in locals,
so a restart is a new object that resumes from the log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

import attrs
import outcome
import structlog
import trio

from runtime.board import Board
from runtime.clock import Clock
from runtime.entropy import Entropy
from runtime.metrics import Metrics

T = TypeVar("T")


class Offload(Protocol):
    """Runs blocking work away from the Trio thread."""

    async def __call__(self, fn: Callable[[], T], *, limiter: trio.CapacityLimiter | None = None) -> T:
        """Run `fn()` in a worker thread and return its result. Not abandoned on cancel: `fn` must be bounded."""
        ...


async def offload_to_thread(fn: Callable[[], T], *, limiter: trio.CapacityLimiter | None = None) -> T:
    """The production `Offload`: `trio.to_thread.run_sync`, but with a place free, which is nearly always, it takes that
    without a turn of the scheduler and copies no context. A third of a hop's time, felt in every commit of the log."""
    places = limiter or trio.to_thread.current_default_thread_limiter()
    await trio.lowlevel.checkpoint_if_cancelled()
    borrower = object()
    try:
        places.acquire_on_behalf_of_nowait(borrower)
    except trio.WouldBlock:
        return await trio.to_thread.run_sync(fn, limiter=places)
    try:
        return await _in_cached_thread(fn)
    finally:
        places.release_on_behalf_of(borrower)


async def _in_cached_thread(fn: Callable[[], T]) -> T:
    task, token = trio.lowlevel.current_task(), trio.lowlevel.current_trio_token()

    def deliver(result: outcome.Outcome[T]) -> None:
        token.run_sync_soon(trio.lowlevel.reschedule, task, result)

    trio.lowlevel.start_thread_soon(fn, deliver)
    value: T = await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED)
    return value


async def offload_inline(fn: Callable[[], T], *, limiter: trio.CapacityLimiter | None = None) -> T:
    """The simulated `Offload`: one checkpoint, then inline, so that a seed decides everything."""
    del limiter
    await trio.lowlevel.checkpoint()
    return fn()


@attrs.frozen(kw_only=True)
class Seams:
    """The process-wide seams: everything an actor may reach for that is not its own collaborator."""

    clock: Clock
    entropy: Entropy
    offload: Offload
    board: Board
    metrics: Metrics = attrs.field(factory=Metrics)


@attrs.define(kw_only=True)
class ActorContext:
    """Handed to one incarnation; never outlives it."""

    name: str
    incarnation: int
    seams: Seams
    log: structlog.stdlib.BoundLogger
    drain_requested: trio.Event = attrs.field(factory=trio.Event)
    """Set by the supervisor when it stops the child: finish what you hold, take nothing new, return."""
    _on_ready: Callable[[], None] = attrs.field(default=lambda: None)
    shields: set[trio.CancelScope] = attrs.field(factory=set, repr=False)
    """The shielded scopes open now: the supervisor cancels them when the child ignores everything else."""

    @property
    def clock(self) -> Clock:
        """The clock seam."""
        return self.seams.clock

    @property
    def entropy(self) -> Entropy:
        """The randomness seam."""
        return self.seams.entropy

    @property
    def offload(self) -> Offload:
        """The thread seam."""
        return self.seams.offload

    @property
    def board(self) -> Board:
        """Where actors publish what others may look at."""
        return self.seams.board

    @property
    def metrics(self) -> Metrics:
        """Counters and histograms that only the actor itself can feed."""
        return self.seams.metrics

    def ready(self) -> None:
        """Say once that the start is done; the supervisor starts the next child only then.

        Only local guarantees (configuration, files, memory) may precede it: a dependency that is down must not
        block the start.
        """
        self._on_ready()

    @contextmanager
    def shielded(self, timeout_s: float) -> Iterator[trio.CancelScope]:
        """Awaits inside survive cancellation for at most `timeout_s`: the only way to take a shield.

        The scope is registered, so that the supervisor's last rung can still end it.
        """
        with trio.move_on_after(timeout_s, shield=True) as scope:
            self.shields.add(scope)
            try:
                yield scope
            finally:
                self.shields.discard(scope)

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Inside, this actor holds nothing and waits for `what` (input, a dependency): no progress is expected."""
        self.board.wait_begins(self.name, what)
        try:
            yield
        finally:
            self.board.wait_ends(self.name, self.clock.monotonic_s())

    def progress(self) -> None:
        """Work was done (a batch moved, an outage was waited for): feeds the progress watchdog."""
        self.board.progress(self.name, self.clock.monotonic_s())


class Actor(Protocol):
    """One unit of supervised work."""

    async def run(self, ctx: ActorContext) -> None:
        """Work until done, cancelled or `ctx.drain_requested`. Any exception is a crash."""
        ...
