"""Time of the machine, and the count of steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from tests.simulation.market import NS

if TYPE_CHECKING:
    from tests.simulation.world import World

STEPS_MAX = 600_000


class SimClock:
    """Wall time that somebody sets, over Trio's virtual time."""

    def __init__(self, start_ns: int) -> None:
        self.start_ns = start_ns
        self.jump_ns = 0

    def true_ns(self) -> int:
        """What it would say if nobody had set it; the vendor's, where there is no stream."""
        return self.start_ns + round(trio.current_time() * NS)

    def wall_ns(self) -> int:
        return self.true_ns() + self.jump_ns

    def monotonic_s(self) -> float:
        return trio.current_time()


class Steps(trio.abc.Instrument):
    """Counts steps of tasks; springs the trap at the n-th; ends what runs for ever."""

    def __init__(self, world: World) -> None:
        self.world = world

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        del task
        world = self.world
        world.steps += 1
        trap = world.step_trap
        if trap is not None and world.steps >= trap[0]:
            world.step_trap = None
            trap[1]()
        if world.steps > STEPS_MAX and not world.failure:
            world.fails(f"more than {STEPS_MAX} steps: a livelock", quietly=True)
