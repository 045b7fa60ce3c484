"""One incarnation of a child: one task, one cancel scope, one outcome; and the ladder that ends it.

Trio cannot kill. So a stop is a ladder (SUPERVISION 2.3): ask, cancel with a reason, cancel the registered shields,
report it as unstoppable and go on with the siblings.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

import trio

from runtime.errors import ActorStalled
from supervisors.engine.exits import ExitKind, ExitReason, classify

SHIELD_GRACE_S = 0.5
"""Rung 3: what a child gets after its registered shields were cancelled."""
LEAK_LOOK_S = 0.01
SLICE_S = 0.25
STACK_TASKS_MAX = 5


class Life:
    """The child boundary: whatever the body does, exactly one `on_end` call says how it ended, and nothing escapes."""

    __slots__ = (
        "_ask",
        "_body",
        "_on_end",
        "_outages",
        "asked",
        "blame",
        "done",
        "exit",
        "forced",
        "is_fatal",
        "is_ignored",
        "is_ready",
        "is_told",
        "leak_s",
        "number",
        "path",
        "ready_s",
        "scope",
        "settled",
        "shields",
        "task",
    )

    def __init__(
        self,
        path: str,
        number: int,
        body: Callable[[Life], Awaitable[None]],
        *,
        on_end: Callable[[Life], None],
        outages: tuple[type[BaseException], ...] = (),
    ) -> None:
        self.path = path
        self.number = number
        self.scope = trio.CancelScope()
        self.settled = trio.Event()
        """Ready or ended: the start handshake is over."""
        self.done = trio.Event()
        self.exit: ExitReason | None = None
        self.is_ready = False
        self.ready_s = 0.0
        self.is_fatal = False
        """Its end must not be answered by a restart: the process has to stop."""
        self.is_ignored = False
        """The factory had nothing to run (OTP's `ignore`)."""
        self.blame: ActorStalled | None = None
        """Set by the watchdog: however it ends now, it was a crash."""
        self.asked = False
        self.forced = False
        self.leak_s: float | None = None
        """The body has ended, tasks it left behind have not: for how long the watchdog has seen that."""
        self.is_told = False
        """Reported as unstoppable."""
        self.task: trio.lowlevel.Task | None = None
        self.shields: set[trio.CancelScope] = set()
        self._ask: Callable[[], None] | None = None
        self._body = body
        self._on_end = on_end
        self._outages = outages

    def __repr__(self) -> str:
        state = str(self.exit) if self.exit else "ready" if self.is_ready else "starting"
        return f"<Life {self.path}#{self.number} {state}>"

    def mark_ready(self) -> None:
        """The body has started; later calls mean nothing."""
        if self.is_ready:
            return
        self.ready_s = trio.current_time()
        self.is_ready = True
        self.settled.set()

    def on_ask(self, ask: Callable[[], None]) -> None:
        """How the body wants to be asked to stop; a question asked earlier is repeated now."""
        self._ask = ask
        if self.asked:
            ask()

    def ask_to_stop(self) -> None:
        """Rung 1."""
        self.asked = True
        if self._ask is not None:
            self._ask()

    def force(self, reason: str) -> None:
        """Rung 2."""
        self.asked = self.forced = True
        self.scope.cancel(reason=reason)

    async def main(self) -> None:
        """The task. Swallows everything, cancellation from the host included: the task ends here anyway."""
        self.task = trio.lowlevel.current_task()
        error: BaseException | None = None
        try:
            with self.scope:
                try:
                    await self._body(self)
                finally:
                    await self._end_leaked_tasks()
        except BaseException as exc:  # noqa: BLE001 - the one place that catches everything: the child boundary
            error = exc
        # They are empty now; but a leaked nursery, were it only known, would make Trio fail this task after we can
        # catch it, and so cancel every sibling. There is no public way to forget one; a nursery of our own around every
        # body would cost each start a second task.
        for nursery in self.task._child_nurseries:  # noqa: SLF001
            nursery._closed = True  # noqa: SLF001 - who still holds it is told when it wants to start something
        self.task._child_nurseries.clear()  # noqa: SLF001
        self.exit = classify(error, asked=self.asked, forced=self.forced, outages=self._outages)
        if self.blame is not None and self.exit.kind is not ExitKind.CRASHED:
            self.exit = ExitReason(ExitKind.CRASHED, self.blame)
        del error  # or this frame and the traceback would keep each other alive
        self.settled.set()
        self.done.set()
        self._on_end(self)

    async def _end_leaked_tasks(self) -> None:
        """Cancel what runs in nurseries that were entered and never left, and wait: this life ends after them.

        Leaving our scope then raises, which is the report. Tasks that do not end are found by the watchdog.
        """
        if self.task is None or not self.task.child_nurseries:
            return
        self.leak_s = 0.0
        with trio.CancelScope(shield=True):
            while any(nursery.child_tasks for nursery in self.task.child_nurseries):
                for nursery in self.task.child_nurseries:
                    nursery.cancel_scope.cancel(reason=f"{self.path} ended and left this nursery open")
                await trio.sleep(LEAK_LOOK_S)
        self.leak_s = None


async def climb(
    life: Life, *, grace_s: float, cancel_grace_s: float, deadline_s: Callable[[], float] = lambda: math.inf
) -> bool:
    """End `life` rung by rung; False = it did not end. `deadline_s()` (Trio time) bounds all rungs together."""
    life.ask_to_stop()
    if grace_s > 0:
        await _wait(life, grace_s, deadline_s())
    if not life.done.is_set():
        life.force(f"{life.path} did not stop within {grace_s} s" if grace_s > 0 else f"{life.path} is stopped")
        await _wait(life, cancel_grace_s, deadline_s())
    if not life.done.is_set() and life.shields:
        for shield in tuple(life.shields):
            shield.cancel(reason=f"{life.path} held a shield while it had to stop")
        await _wait(life, SHIELD_GRACE_S, deadline_s())
    return life.done.is_set()


async def _wait(life: Life, timeout_s: float, deadline_s: float) -> None:
    """In slices: while somebody holds the loop nobody can end, so of that time no more than one slice counts."""
    left_s = timeout_s
    while left_s > 0 and not life.done.is_set() and (now_s := trio.current_time()) < deadline_s:
        slice_s = min(left_s, SLICE_S)
        with trio.move_on_at(min(now_s + slice_s, deadline_s)):
            await life.done.wait()
        left_s -= slice_s


def stack_of(life: Life) -> str:
    """Where the child hangs, innermost frame last: `actors/x.py:12 run > actors/y.py:7 write`.

    Where it waits for tasks of its own, the first of them goes on: that one is what it hangs in.
    """
    if life.task is None:
        return "not started"
    frames: list[str] = []
    task: trio.lowlevel.Task | None = life.task
    for _ in range(STACK_TASKS_MAX):
        if task is None:
            break
        for frame, line in task.iter_await_frames():
            parts = frame.f_code.co_filename.split("/")
            if "trio" not in parts and parts[-3:-1] != ["supervisors", "engine"]:  # what is always there says nothing
                frames.append(f"{'/'.join(parts[-3:])}:{line} {frame.f_code.co_name}")
        inner = [child for nursery in task.child_nurseries for child in nursery.child_tasks]
        task = min(inner, key=lambda child: child.name, default=None)
    return " > ".join(frames) or "its own start"
