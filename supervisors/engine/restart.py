"""The restart decision: whom to restart, or escalate. Pure: takes the time, never awaits, logs or reads a clock.

OTP's `do_restart/3`, `restart/2` and `add_restart/1` (supervisor.erl) in one table and one window; the shell
(supervisor.py) has no policy of its own.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from enum import StrEnum

import attrs
import msgspec

from supervisors.engine.child import AutoShutdown, Restart, RestartIntensity, Strategy
from supervisors.engine.exits import ExitKind


class RestartWindow:
    """The budget of one supervisor: the restarts decided in the closed window [now - period_s, now] (R17, R18).

    Each time is put in and taken out once, so a decision costs O(1) (OTP walks a list).
    """

    def __init__(self, intensity: RestartIntensity | None) -> None:
        self._intensity = intensity
        self._times_s: deque[float] = deque(maxlen=None if intensity is None else intensity.restarts_max + 1)

    def __repr__(self) -> str:
        return f"<RestartWindow {self._intensity} {list(self._times_s)}>"

    def spend(self, now_s: float) -> bool:
        """Count one restart attempt at monotonic `now_s`; False = the budget is exceeded, give up."""
        if self._intensity is None:
            return True
        self._times_s.append(self._cut(now_s))
        self._forget(now_s)
        return len(self._times_s) <= self._intensity.restarts_max

    def left(self, now_s: float) -> int | None:
        """How many restarts the budget still allows at `now_s`; None = any number."""
        if self._intensity is None:
            return None
        self._forget(now_s)
        return max(0, self._intensity.restarts_max - len(self._times_s))

    def _forget(self, now_s: float) -> None:
        if self._intensity is not None:
            oldest_s = self._cut(now_s) - self._intensity.period_s
            while self._times_s and self._times_s[0] < oldest_s:
                self._times_s.popleft()

    def _cut(self, now_s: float) -> float:
        return math.floor(now_s) if self._intensity and self._intensity.whole_seconds else now_s


class ChildView(msgspec.Struct, frozen=True):
    """What the decision needs to know of one child, in start order. Made anew for each decision, so cheap to make."""

    id: str
    restart: Restart
    is_active: bool = True
    """Running or waiting for its restart; False = idle."""
    significant: bool = False


@attrs.frozen
class Policy:
    """How one supervisor treats its children."""

    strategy: Strategy
    auto_shutdown: AutoShutdown = AutoShutdown.NEVER


class Verdict(StrEnum):
    """What to do about an end."""

    RESTART = "restart"
    WAIT = "wait"
    """Outage: start this child alone again after its backoff; no budget spent."""
    LEAVE = "leave"
    """Not restarted; the spec stays, idle."""
    REMOVE = "remove"
    """Not restarted; the spec goes."""
    GIVE_UP = "give_up"
    """Budget exceeded: stop all children and end (R19)."""
    SHUT_DOWN = "shut_down"
    """Automatic shutdown (R28)."""


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict and, for RESTART, who it touches."""

    verdict: Verdict
    stop: tuple[str, ...] = ()
    """Siblings to stop first, in this order (reverse start order)."""
    remove: tuple[str, ...] = ()
    """Those of `stop` that are temporary: they go and are not started again (R14)."""
    start: tuple[str, ...] = ()
    """Whom to start then, in this order: every kept spec in scope, idle ones included (R16)."""


def restart_scope(strategy: Strategy, ids: Sequence[str], failed: str) -> tuple[str, ...]:
    """The children, in start order, that the failure of `failed` concerns."""
    match strategy:
        case Strategy.ONE_FOR_ONE:
            return (failed,)
        case Strategy.ONE_FOR_ALL:
            return tuple(ids)
        case Strategy.REST_FOR_ONE:
            return tuple(ids[ids.index(failed) :])


def must_restart(restart: Restart, kind: ExitKind) -> bool:
    """R13 as a table: permanent always, transient after a crash, temporary never."""
    match restart:
        case Restart.PERMANENT:
            return True
        case Restart.TRANSIENT:
            return not kind.is_silent
        case Restart.TEMPORARY:
            return False


def decide_exit(
    kind: ExitKind,
    failed: str,
    children: Sequence[ChildView],
    *,
    policy: Policy,
    window: RestartWindow,
    now_s: float,
) -> Decision:
    """Child `failed` ended by itself with `kind`. Spends the budget only when it restarts."""
    child = next(c for c in children if c.id == failed)
    if kind is ExitKind.OUTAGE and child.restart is not Restart.TEMPORARY:
        return Decision(verdict=Verdict.WAIT, start=(failed,))
    if must_restart(child.restart, kind):
        return decide_restart(failed, children, policy=policy, window=window, now_s=now_s)
    if _shuts_down(child, children, policy.auto_shutdown):
        return Decision(verdict=Verdict.SHUT_DOWN)
    return Decision(verdict=Verdict.REMOVE if child.restart is Restart.TEMPORARY else Verdict.LEAVE)


def decide_restart(
    failed: str,
    children: Sequence[ChildView],
    *,
    policy: Policy,
    window: RestartWindow,
    now_s: float,
) -> Decision:
    """One automatic attempt to restart `failed`, the first one or a retry: each spends one unit, whatever its scope."""
    if not window.spend(now_s):
        return Decision(verdict=Verdict.GIVE_UP)
    if policy.strategy is Strategy.ONE_FOR_ONE:
        return Decision(verdict=Verdict.RESTART, start=(failed,))
    in_scope = restart_scope(policy.strategy, [c.id for c in children], failed)
    scope = [c for c in children if c.id in in_scope]
    stop = [c for c in reversed(scope) if c.id != failed]
    return Decision(
        verdict=Verdict.RESTART,
        stop=tuple(c.id for c in stop),
        remove=tuple(c.id for c in stop if c.restart is Restart.TEMPORARY),
        start=tuple(c.id for c in scope if c.restart is not Restart.TEMPORARY),
    )


def _shuts_down(ended: ChildView, children: Sequence[ChildView], auto_shutdown: AutoShutdown) -> bool:
    if not ended.significant:
        return False
    match auto_shutdown:
        case AutoShutdown.NEVER:
            return False
        case AutoShutdown.ANY_SIGNIFICANT:
            return True
        case AutoShutdown.ALL_SIGNIFICANT:
            return not any(c.significant and c.is_active for c in children if c.id != ended.id)
