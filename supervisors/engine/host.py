"""What the supervisors of one tree share: where child tasks live, how the whole tree stops, what went fatally wrong.

All child tasks, of every level, live in one nursery inside a Trio *system task*. So they do not see the cancellation of
whoever awaits the tree (the ordered stop does its work first), no child's end can cancel a sibling, and a child that
will not stop does not keep its supervisor, or `run_tree`, from returning.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import trio

from runtime.actor import Seams
from runtime.errors import InvariantViolation, UnstoppableChild
from supervisors.engine.child import ChildSpec
from supervisors.engine.events import Event, EventKind, Report
from supervisors.engine.exits import describe, find_fatal
from supervisors.engine.life import Life, stack_of

if TYPE_CHECKING:
    from supervisors.engine.supervisor import Supervisor

HOST_TASK = "supervision tree"
CUT_SHARE = 0.2
CUT_S_MAX = 3.0
"""The last part of the shutdown deadline, in which everything still running is cancelled at once."""


class Host:
    """Shared by all supervisors of one tree; owned by `run_tree`."""

    def __init__(
        self,
        seams: Seams,
        report: Report,
        *,
        stop: trio.Event,
        fatal: tuple[type[BaseException], ...],
        shutdown_deadline_s: float,
    ) -> None:
        self.seams = seams
        self.stop = stop
        """Set by who owns the tree."""
        self.report = report
        self.error: BaseException | None = None
        """The first fatal error: what `run_tree` raises after the ordered stop."""
        self.supervisors: dict[str, Supervisor] = {}
        """The living supervisors by path, for admin calls."""
        self.stop_asked = trio.Event()
        self.is_ordered = False
        """The stop was wanted from outside before anything else led to it: then nobody's budget matters any more."""
        self.is_cut = False
        """The deadline is near: nothing is started any more, everything is cancelled."""
        self._deadline_s = math.inf
        self._fatal = (*fatal, KeyboardInterrupt, SystemExit)
        self._shutdown_deadline_s = shutdown_deadline_s
        self.loop_back_s = -math.inf
        """When (monotonic) the event loop last came back from somebody who held it for long."""
        self.lives: dict[Life, ChildSpec] = {}
        """The actors that run now."""
        self._stuck: dict[str, Life] = {}
        """By path, as a supervisor that is started anew does not know what its predecessor left."""
        self._release = trio.Event()
        self._closed = trio.Event()
        self._kids: trio.Nursery | None = None
        self._root: Life | None = None

    async def open(self) -> None:
        """Start the system task that holds the nursery."""
        opened = trio.Event()
        trio.lowlevel.spawn_system_task(self._hold, opened, name=HOST_TASK)
        await opened.wait()

    async def _hold(self, opened: trio.Event) -> None:
        try:
            async with trio.open_nursery() as self._kids:
                opened.set()
                await self._release.wait()
        finally:
            self._closed.set()

    def spawn(self, life: Life, spec: ChildSpec | None) -> None:
        """Run `life` in a task of its own; `spec` is None for a supervisor."""
        if spec is not None:
            self.lives[life] = spec
        self.kids.start_soon(life.main, name=life.path)

    @property
    def kids(self) -> trio.Nursery:
        """The nursery of all child tasks. Raises: InvariantViolation when the host is not open."""
        if self._kids is None:
            raise InvariantViolation("the host of the tree is not open")
        return self._kids

    def path_of(self, actor_id: str) -> str | None:
        """Where an actor with this id runs, if one does."""
        return next((life.path for life in self.lives if life.path.rpartition("/")[2] == actor_id), None)

    def forget(self, life: Life) -> None:
        """It ended; look whether the whole process must."""
        self.lives.pop(life, None)
        fatal = find_fatal(life.exit.error, self._fatal) if life.exit else None
        if fatal is not None:
            life.is_fatal = True
            self.fail(fatal, life.path)

    def fail(self, error: BaseException, path: str) -> None:
        """Something after which the tree must stop; the first one is what `run_tree` raises."""
        if self.error is None:
            self.error = error
        self.report(Event(kind=EventKind.FATAL, path=path, detail=describe(error)))
        self.ask_to_stop(f"fatal: {path}")

    def run_root(self, path: str, body: Callable[[Life], Awaitable[None]]) -> Life:
        """Start the root supervisor."""
        self._root = Life(path, 1, body, on_end=self.forget)
        self.spawn(self._root, None)
        if self.stop_asked.is_set():
            self._root.ask_to_stop()
        return self._root

    def report_unstoppable(self, life: Life) -> None:
        """Rung 5: name it, once, and have the process end with code 70."""
        if life.is_told:
            return
        life.is_told = True
        self._stuck[life.path] = life
        stack = stack_of(life)
        detail = f"hangs in {stack}"
        self.report(Event(kind=EventKind.UNSTOPPABLE, path=life.path, incarnation=life.number, detail=detail))
        self.fail(UnstoppableChild(f"{life.path} did not stop; it hangs in {stack}"), life.path)

    def is_stuck(self, path: str) -> bool:
        """An unstoppable incarnation still lives there: no twin may be started."""
        life = self._stuck.get(path)
        return life is not None and not life.done.is_set()

    def ask_to_stop(self, why: str, *, ordered: bool = False) -> None:
        """Begin the ordered stop of the whole tree; the deadline counts from the first call."""
        if self.stop_asked.is_set():
            return
        self.is_ordered = ordered or self.stop.is_set()  # it may be set, and not have been noticed in this tick
        self._deadline_s = trio.current_time() + self._shutdown_deadline_s
        self.stop_asked.set()
        self.report(Event(kind=EventKind.TREE_STOPPING, path=self._root.path if self._root else "", detail=why))
        if self._root is not None:
            self._root.ask_to_stop()

    def deadline_s(self) -> float:
        """When (Trio time) the last rung of every ladder ends; inf while the tree is not stopping."""
        return self._deadline_s

    async def cut_at_deadline(self) -> None:
        """Shortly before the deadline order gives way: cancel every actor at once."""
        await self.stop_asked.wait()
        await trio.sleep_until(self._deadline_s - min(CUT_S_MAX, CUT_SHARE * self._shutdown_deadline_s))
        self.is_cut = True
        for life in tuple(self.lives):
            life.force("the shutdown deadline is near")

    def leftovers(self) -> tuple[str, ...]:
        """After `close`: paths of the children that did not end. While there is one, `trio.run` cannot return."""
        if self._kids is None or self._closed.is_set():
            return ()
        return tuple(sorted({task.name for task in self._kids.child_tasks}))

    async def close(self) -> None:
        """Leave the nursery; a child that did not stop keeps it, then this returns without it."""
        self._release.set()
        if self._kids is not None and self._kids.child_tasks:
            self._kids.cancel_scope.cancel(reason="the supervision tree has ended")
            with trio.move_on_after(0.1):
                await self._closed.wait()
        else:
            await self._closed.wait()
