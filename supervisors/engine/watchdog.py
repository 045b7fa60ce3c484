"""Who does not move, and who holds the event loop (4.3, 4.11).

A process whose loop turns is not yet a process that works. So each actor with a `progress_timeout_s` has to show *work
done* (`ctx.progress()`) within it, unless it says that it holds nothing (`ctx.waiting("input")`). A miss ends it by the
ladder and counts as a crash. systemd's watchdog is fed only while `late_actors` is empty and the root answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import trio

from runtime.errors import ActorStalled
from supervisors.engine.child import ChildSpec
from supervisors.engine.events import Event, EventKind
from supervisors.engine.host import HOST_TASK, Host
from supervisors.engine.life import Life, climb, stack_of

LOOK_S = 0.5
EXCUSED_HOLD_S = 1.0
"""While somebody holds the loop for longer nobody can show progress: afterwards everybody's deadline counts anew."""
HOLD_S = 0.05
"""One step of one task may take this long before it is reported."""


def late_s(spec: ChildSpec, life: Life, host: Host) -> float:
    """By how many seconds the actor is past its progress deadline; <= 0 = fine."""
    if spec.progress_timeout_s is None or not life.is_ready or life.asked or spec.id in host.seams.board.waits:
        return -math.inf
    now_s = host.seams.clock.monotonic_s()
    age_s = now_s - max(life.ready_s, host.loop_back_s)
    progress_age_s = host.seams.board.progress_age_s(spec.id, now_s)
    if progress_age_s is not None:  # an earlier incarnation's last sign is older than this one's start
        age_s = min(age_s, progress_age_s)
    return age_s - spec.progress_timeout_s


def late_actors(host: Host) -> tuple[str, ...]:
    """Ids of the actors past their deadline now, for systemd's STATUS= and for health."""
    return tuple(spec.id for life, spec in host.lives.items() if life.blame or late_s(spec, life, host) > 0)


async def end_stalled(host: Host) -> None:
    """For ever: look at every actor, end the stalled ones and report those whose own tasks outlive them."""
    while True:
        before_s = host.seams.clock.monotonic_s()
        await trio.sleep(LOOK_S)
        now_s = host.seams.clock.monotonic_s()
        if now_s - before_s > LOOK_S + EXCUSED_HOLD_S:
            host.loop_back_s = now_s
        for life, spec in tuple(host.lives.items()):
            if life.leak_s is not None:
                life.leak_s += LOOK_S
                if life.leak_s > spec.cancel_grace_s:
                    host.report_unstoppable(life)
            if life.blame is None and late_s(spec, life, host) > 0:
                life.blame = ActorStalled(f"{life.path} made no progress for {spec.progress_timeout_s} s")
                host.report(
                    Event(
                        kind=EventKind.STALLED,
                        path=life.path,
                        incarnation=life.number,
                        detail=f"{life.blame}; it hangs in {stack_of(life)}",
                    )
                )
                host.kids.start_soon(_end, life, spec, host)


async def _end(life: Life, spec: ChildSpec, host: Host) -> None:
    # Its supervisor learns of the end like of any other; until then it goes on with the siblings.
    ended = await climb(
        life, grace_s=spec.shutdown_grace_s, cancel_grace_s=spec.cancel_grace_s, deadline_s=host.deadline_s
    )
    if not ended:
        host.report_unstoppable(life)


class LoopHold(trio.abc.Instrument):
    """Names the actor whose task held the event loop for longer than `hold_s` in one step.

    Costs a third of Trio's checkpoints (measured), so it is added on demand: `trio.lowlevel.add_instrument`. It tells
    afterwards; while the loop is held only a thread or systemd's watchdog can see it.
    """

    def __init__(
        self, monotonic_s: Callable[[], float], on_hold: Callable[[str, float], None], *, hold_s: float = HOLD_S
    ) -> None:
        """`on_hold(task name, seconds)` is called on the Trio thread; `monotonic_s` must not be a virtual clock."""
        self._monotonic_s = monotonic_s
        self._on_hold = on_hold
        self._hold_s = hold_s
        self._since_s: float | None = None

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """A task gets the loop."""
        del task
        self._since_s = self._monotonic_s()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """It gives it back. The first event of a new instrument is this one, with no `before`."""
        if self._since_s is None:
            return
        held_s = self._monotonic_s() - self._since_s
        if held_s > self._hold_s:
            self._on_hold(owner_of(task), held_s)


def owner_of(task: trio.lowlevel.Task) -> str:
    """The path of the actor a task works for: the name of its outermost ancestor below the tree's host."""
    name = task.name
    while task.parent_nursery is not None:
        parent = task.parent_nursery.parent_task
        if parent.name == HOST_TASK:
            return task.name
        task = parent
    return name
