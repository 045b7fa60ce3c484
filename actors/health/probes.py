"""The verdict on the whole process, from what its actors wrote on the board. Pure.

Green means: every promise is kept now. Each reason names the part and, where there is one, the cause; a part that is
fine is never in it. `ready` says whether data is accepted and kept: an outage of a database only degrades, since the
log keeps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any

import attrs

from runtime.board import Board, DependencyState
from runtime.mailbox import Mailbox
from runtime.settings import redact_dsn

_UNWELL = ("BACKING_OFF", "FAILED")
DEAD_AFTER_STALLS = 4
"""An actor that is stalled for this many times the limit: the process makes no progress, restart it."""


class Status(StrEnum):
    """One word."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"


@attrs.frozen(kw_only=True)
class Verdict:
    """The answer of /healthz."""

    service: str
    status: Status
    ready: bool
    """Accepts data and keeps it durably."""
    live: bool
    """Makes progress, whatever its dependencies do."""
    dependencies: Mapping[str, str]
    reasons: tuple[str, ...]
    seconds_until_loss: float | None

    def to_json(self) -> dict[str, object]:
        """As CONTRACT names it."""
        return {
            "service": self.service,
            "status": self.status.value,
            "ready": self.ready,
            "dependencies": dict(self.dependencies),
            "reasons": list(self.reasons),
            "seconds_until_loss": self.seconds_until_loss,
        }


@attrs.frozen(kw_only=True)
class Probes:
    """The rules with their limits."""

    service: str
    stalled_after_s: float
    inboxes: Mapping[str, Mailbox[Any]] = attrs.field(factory=dict)
    """Actor -> its inbox: work that waits there must move."""

    def judge(self, board: Board, now_s: float) -> Verdict:
        """The verdict at monotonic `now_s`."""
        unhealthy = list(self._log_reasons(board))
        stalled = dict(self._stalled(board, now_s))
        degraded = [
            *([f"log: {board.log.warning}"] if board.log and board.log.warning and not board.log.error else []),
            *self._dependency_reasons(board),
            *self._child_reasons(board),
            *(f"{actor}: work is waiting, no progress for {age_s:.0f} s" for actor, age_s in stalled.items()),
            *self._history_reasons(board),
        ]
        status = Status.UNHEALTHY if unhealthy else Status.DEGRADED if degraded else Status.HEALTHY
        return Verdict(
            service=self.service,
            status=status,
            ready=not unhealthy,
            live=all(age_s < DEAD_AFTER_STALLS * self.stalled_after_s for age_s in stalled.values()),
            dependencies={name: d.state.value for name, d in sorted(board.dependencies.items())},
            reasons=tuple(redact_dsn(reason) for reason in (*unhealthy, *degraded)),
            seconds_until_loss=board.log.seconds_until_loss if board.log is not None else None,
        )

    def _log_reasons(self, board: Board) -> Iterator[str]:
        """Why nothing can be accepted."""
        if board.log is None:
            yield "log: not open yet"
        elif board.log.error:
            yield f"log: {board.log.error}"
        for path, child in board.children.items():
            if path.endswith("/buffer") and child.state in _UNWELL:
                yield f"buffer: {_unwell(child.state, child.last_exit)}"

    def _dependency_reasons(self, board: Board) -> Iterator[str]:
        for name, dependency in sorted(board.dependencies.items()):
            if dependency.state is DependencyState.DOWN:
                yield f"{name}: down{f', {dependency.reason}' if dependency.reason else ''}"
            elif dependency.state is DependencyState.UNKNOWN:
                yield f"{name}: not known yet"

    def _history_reasons(self, board: Board) -> Iterator[str]:
        """A backfill that the vendor refused is set aside and told to who asked; the standing history is a promise."""
        for key, job in sorted(board.jobs.items()):
            if job.error and key.startswith("history/"):
                yield f"{job.symbol} {job.kind}: {job.error}"

    def _child_reasons(self, board: Board) -> Iterator[str]:
        for path, child in board.children.items():
            if child.state in _UNWELL and not path.endswith("/buffer"):
                yield f"{path.rpartition('/')[2]}: {_unwell(child.state, child.last_exit)}"

    def _stalled(self, board: Board, now_s: float) -> Iterator[tuple[str, float]]:
        """Actors that have work and do none; one that never did any yet is still starting."""
        end = board.log.end_position if board.log is not None else 0
        behind = {name for name, c in board.consumers.items() if c.committed_position < end and not c.caught_up}
        waiting = {name for name, inbox in self.inboxes.items() if inbox.statistics().depth}
        for actor in sorted(behind | waiting):
            age_s = board.progress_age_s(actor, now_s)
            if age_s is not None and age_s > self.stalled_after_s:
                yield actor, age_s


def _unwell(state: str, last_exit: str) -> str:
    word = "waits for its restart" if state == "BACKING_OFF" else "failed"
    return f"{word}{f' ({last_exit})' if last_exit else ''}"
