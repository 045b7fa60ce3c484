"""What the engine reports, as types with fields (R34); one event is one line for people and one log record.

| OTP's report | event |
|---|---|
| progress | STARTED |
| child_terminated | CRASHED, ENDED (a permanent child's silent end) |
| start_error | START_FAILED |
| shutdown_error | STOP_FAILED |
| shutdown / reached_max_restart_intensity | ESCALATED |
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

import msgspec
import structlog

from runtime.board import Board
from runtime.errors import ConfigError
from supervisors.engine.exits import LEAVES_TOLD_MAX, ExitKind, ExitReason, leaves

LOGGER = "supervisor"


class EventKind(StrEnum):
    """The name of the log record."""

    STARTED = "actor_started"
    START_FAILED = "actor_start_failed"
    ENDED = "actor_ended"
    CRASHED = "actor_crashed"
    STALLED = "actor_stalled"
    LOOP_HELD = "loop_held"
    OUTAGE = "actor_waiting_for_dependency"
    RESTARTING = "actor_restarting"
    STOPPED = "actor_stopped"
    STOP_FAILED = "actor_stop_failed"
    UNSTOPPABLE = "actor_unstoppable"
    ESCALATED = "supervisor_escalated"
    AUTO_SHUTDOWN = "supervisor_auto_shutdown"
    FATAL = "supervisor_fatal"
    TREE_STOPPING = "tree_stopping"


_ERRORS = (EventKind.START_FAILED, EventKind.CRASHED, EventKind.STOP_FAILED, EventKind.ESCALATED)
_CRITICAL = (EventKind.UNSTOPPABLE, EventKind.FATAL)
_WARNINGS = (EventKind.OUTAGE, EventKind.RESTARTING, EventKind.STALLED, EventKind.LOOP_HELD)


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One fact about one node of the tree. Two for each restart: an attrs class takes five times as long to make."""

    kind: EventKind
    path: str
    incarnation: int = 0
    reason: ExitReason | None = None
    delay_s: float | None = None
    """RESTARTING: seconds until the attempt."""
    attempt: int = 0
    budget_left: int | None = None
    decision: str = ""
    """CRASHED, ENDED, OUTAGE: what the supervisor does about it (`restart.Verdict`)."""
    detail: str = ""
    is_quiet: bool = False
    """Of interest for debugging only: a start by hand, whose caller knows (R34)."""

    def __str__(self) -> str:
        parts = [f"{self.kind} {self.path}"]
        if self.incarnation:
            parts.append(f"#{self.incarnation}")
        if self.delay_s is not None:
            parts.append(f"in {self.delay_s:.3f} s")
        if self.reason is not None:
            parts.append(str(self.reason))
        if self.decision:
            parts.append(f"-> {self.decision}")
        if self.detail:
            parts.append(self.detail)
        return " ".join(parts)


Report = Callable[[Event], None]
"""Called on the Trio thread for each event; must neither block nor raise."""


def report_to(board: Board, wall_ns: Callable[[], int]) -> Report:
    """The production report: the board's recent events and one structlog record each, crashes with their traceback."""
    log = structlog.stdlib.get_logger(LOGGER)

    def report(event: Event) -> None:
        board.events.append((wall_ns(), str(event)))
        fields: dict[str, object] = {
            key: value
            for key, value in (
                ("path", event.path),
                ("incarnation", event.incarnation),
                ("delay_s", event.delay_s),
                ("attempt", event.attempt),
                ("budget_left", event.budget_left),
                ("decision", event.decision),
                ("detail", event.detail),
            )
            if value not in (None, "") and (value or key == "budget_left")
        }
        if event.reason is not None:
            fields["reason"] = str(event.reason)
            if event.reason.kind is ExitKind.CRASHED and not _is_for_a_person(event.reason.error):
                fields["exc_info"] = _printable(event.reason.error)
        if event.is_quiet:
            log.debug(event.kind.value, **fields)
        elif event.kind in _CRITICAL:
            log.critical(event.kind.value, **fields)
        elif event.kind in _ERRORS:
            log.error(event.kind.value, **fields)
        elif event.kind in _WARNINGS:
            log.warning(event.kind.value, **fields)
        else:
            log.info(event.kind.value, **fields)

    return report


def _is_for_a_person(error: BaseException | None) -> bool:
    """Something to be mended outside, told in one line: a traceback would only hide it."""
    return error is not None and all(isinstance(leaf, ConfigError) for leaf in leaves(error))


GROUP_DEPTH_MAX = 20


def _printable(error: BaseException | None) -> BaseException | None:
    """`error`, or what is inside as one flat group when it is nested too deep for Python to print."""
    layer: list[BaseException] = [error] if error is not None else []
    for _ in range(GROUP_DEPTH_MAX):
        layer = [inner for one in layer if isinstance(one, BaseExceptionGroup) for inner in one.exceptions]
        if not layer:
            return error
    inside = leaves(error)[:LEAVES_TOLD_MAX] if error is not None else []
    return BaseExceptionGroup("nested too deep to be shown", inside) if inside else None
