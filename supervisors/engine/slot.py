"""A child's place in its supervisor: what survives its incarnations."""

from __future__ import annotations

import attrs
import structlog

from runtime.actor import ActorContext
from runtime.backoff import BackoffCounter
from runtime.board import ChildState
from runtime.errors import InvariantViolation
from supervisors.engine.child import AnySpec, ChildSpec, SupervisorSpec
from supervisors.engine.exits import ExitReason
from supervisors.engine.host import Host
from supervisors.engine.life import Life
from supervisors.engine.restart import ChildView

STARTING, RUNNING, DRAINING = "STARTING", "RUNNING", "DRAINING"
BACKING_OFF, STOPPED, FAILED = "BACKING_OFF", "STOPPED", "FAILED"

ACTOR_LOGGER = "actor"


@attrs.define(eq=False)
class Slot:
    """Owned by one supervisor's loop; nobody else writes it."""

    spec: AnySpec
    path: str
    life: Life | None = None
    """The current incarnation; None = idle or waiting for a restart."""
    is_restarting: bool = False
    """An automatic restart failed or waits: counts as neither running nor idle (R20, R33)."""
    due_s: float | None = None
    """When the decided restart is due (monotonic); None = not decided."""
    todo: tuple[str, ...] = ()
    """Whom the due restart starts, in order."""
    incarnations: int = 0
    restarts: int = 0
    last_exit: str = ""
    started_s: float = 0.0
    """Monotonic; kept for children with a backoff only."""
    state: str = STOPPED
    backoff: BackoffCounter | None = None

    @classmethod
    def of(cls, spec: AnySpec, parent_path: str) -> Slot:
        """An idle slot."""
        counter = BackoffCounter(spec.backoff) if spec.backoff is not None else None
        return cls(spec=spec, path=f"{parent_path}/{spec.id}", backoff=counter)

    @property
    def is_supervisor(self) -> bool:
        """Whether it holds a sub-tree."""
        return isinstance(self.spec, SupervisorSpec)

    def view(self, *, is_due: bool = False) -> ChildView:
        """What the restart decision sees; `is_due`: a sibling's restart, which waits for its backoff, starts it too."""
        is_active = is_due or self.life is not None or self.is_restarting
        return ChildView(self.spec.id, self.spec.restart, is_active, self.spec.significant)

    @property
    def due_siblings(self) -> tuple[str, ...]:
        """Whom its restart starts too when it has waited out its backoff: they were stopped because of it."""
        return () if self.due_s is None else tuple(name for name in self.todo if name != self.spec.id)

    def forget_restart(self) -> None:
        """No automatic restart is pending any more."""
        self.is_restarting, self.due_s, self.todo = False, None, ()

    def bury(self) -> ExitReason:
        """Take the ended incarnation out; how it ended. Raises: InvariantViolation when it has not."""
        if self.life is None or self.life.exit is None:
            raise InvariantViolation(f"{self.path}: {self.life!r} has not ended")
        reason = self.life.exit
        self.life.exit = None  # its traceback holds the task's frame, which holds the life: a cycle for the collector
        self.life, self.last_exit = None, str(reason)
        return reason

    def publish(self, host: Host, state: str, *, retry_in_s: float | None = None) -> None:
        """Remember the state and show it on the board."""
        self.state = state
        host.seams.board.children[self.path] = ChildState(
            path=self.path,
            state=state,
            restarts=self.restarts,
            last_exit=self.last_exit,
            since_ns=host.seams.clock.wall_ns(),
            retry_in_s=retry_in_s,
        )


async def run_actor(spec: ChildSpec, host: Host, life: Life) -> None:
    """The body of a leaf: make the actor and run it; a factory that raises is a failed start like any other."""
    actor = spec.start()
    if actor is None:
        life.is_ignored = True
        return
    ctx = ActorContext(
        name=spec.id,
        incarnation=life.number,
        seams=host.seams,
        log=structlog.stdlib.get_logger(ACTOR_LOGGER, actor=spec.id, incarnation=life.number),
        on_ready=life.mark_ready,
        shields=life.shields,
    )
    life.on_ask(ctx.drain_requested.set)
    await actor.run(ctx)
