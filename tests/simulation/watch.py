"""S13 and S9: what supervisors tell is judged; nothing spins."""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING

import attrs
import trio

from runtime.errors import LogSyncFailed, RestartIntensityExceeded, StartFailed
from supervisors.engine.child import SupervisorSpec, walk
from supervisors.engine.events import Event, EventKind
from supervisors.engine.exits import leaves
from supervisors.tree import build_spec
from tests.simulation.fences import Dead, PlantedBug

if TYPE_CHECKING:
    from tests.simulation.process import Process
    from tests.simulation.world import World

RATE_MAX = {"connections to": 12, "writes to": 120, "vendor requests": 3000, "stream connections": 8}
"""Per virtual second: what is above is a hot loop."""
BACKLOG_FACTOR = 4
"""Where a backlog is worked off in batches of one group, as fast as the sink takes them (seed 595)."""
ORDERED = (PlantedBug, Dead, LogSyncFailed, RestartIntensityExceeded, StartFailed)
"""Ends that we caused, or that are the answer to one."""


@attrs.define(eq=False)
class Watch:
    """One per run; outlives processes."""

    world: World
    most: Counter[str] = attrs.field(factory=Counter)
    _ends: dict[str, deque[float]] = attrs.field(factory=dict)
    _rates: dict[str, deque[float]] = attrs.field(factory=dict)

    def supervised(self, process: Process, event: Event) -> None:
        """S13: nothing crashes but by our order, nobody gives up within its budget."""
        if process.fence.dead:
            return
        self.world.trace(
            f"{event.kind} {event.path} {type(_first(event)).__name__ if event.reason else ''}",
            reached=f"event {event.kind}",
        )
        if event.kind in (EventKind.UNSTOPPABLE, EventKind.STALLED):
            self.world.fails(f"S13: {event}", quietly=True)
        parent = event.path.rpartition("/")[0]
        now_s = trio.current_time()
        if event.kind in (EventKind.CRASHED, EventKind.ENDED, EventKind.START_FAILED):
            self._ends.setdefault(parent, deque()).append(now_s)
            self._judge_end(event)
        if event.kind is EventKind.ESCALATED:
            self._judge_escalation(event, now_s)

    def _judge_end(self, event: Event) -> None:
        errors = list(leaves(event.reason.error)) if event.reason and event.reason.error else []
        for error in errors:
            if not isinstance(error, ORDERED):
                text = _traceback(error)
                self.world.fails(
                    f"S13: {event.path} crashed by itself: {type(error).__name__}: {error}{text}", quietly=True
                )

    def _judge_escalation(self, event: Event, now_s: float) -> None:
        spec = self._supervisor(event.path)
        assert spec.intensity is not None
        recent = [at for at in self._ends.get(event.path, ()) if at >= now_s - spec.intensity.period_s - 1e-6]
        if len(recent) <= spec.intensity.restarts_max:
            why = f"S13: {event.path} gave up after {len(recent)} ends in {spec.intensity.period_s} s"
            self.world.fails(why, quietly=True)
        self._ends.pop(event.path, None)

    def _supervisor(self, path: str) -> SupervisorSpec:
        for found, spec in walk(build_spec(self.world.settings, None, test_mode=True)):
            if found == path and isinstance(spec, SupervisorSpec):
                return spec
        raise AssertionError(path)

    def look_rate(self, what: str) -> None:
        """S9: nothing spins."""
        times = self._rates.setdefault(what, deque())
        now_s = trio.current_time()
        times.append(now_s)
        while times[0] < now_s - 1.0:
            times.popleft()
        limit = next(most for prefix, most in RATE_MAX.items() if what.startswith(prefix))
        if self.world.draw.live is not None and self.world.draw.live.backlog_s:
            limit *= BACKLOG_FACTOR
        if len(times) > limit:
            self.world.fails(f"S9: more than {limit} {what} in a second", quietly=True)

    def look_at(self, what: str, value: int) -> None:
        """Remember the highest."""
        self.most[what] = max(self.most[what], value)


def _first(event: Event) -> BaseException | None:
    return next(iter(leaves(event.reason.error)), None) if event.reason and event.reason.error else None


def _traceback(error: BaseException) -> str:
    import traceback

    return "\n" + "".join(traceback.format_exception(error)[-12:])
