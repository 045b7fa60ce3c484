"""Plausible bugs of a restart decision, planted to show that the differential test finds them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from unittest import mock

import attrs
import msgspec

from supervisors.engine import restart, supervisor
from supervisors.engine.child import AutoShutdown, Restart, RestartIntensity, Strategy
from supervisors.engine.restart import ChildView, Decision, RestartWindow, Verdict

Plant = Callable[[], object]


def _one_more_restart() -> object:
    class Generous(RestartWindow):
        def __init__(self, intensity: RestartIntensity | None) -> None:
            more = intensity and attrs.evolve(intensity, restarts_max=intensity.restarts_max + 1)
            super().__init__(more)

    return mock.patch.object(supervisor, "RestartWindow", Generous)


def _never_forgets() -> object:
    class Elephant(RestartWindow):
        def __init__(self, intensity: RestartIntensity | None) -> None:
            super().__init__(intensity and attrs.evolve(intensity, period_s=1e9))

    return mock.patch.object(supervisor, "RestartWindow", Elephant)


def _group_counts_each() -> object:
    real = restart.decide_restart

    def greedy(failed, children, *, policy, window, now_s) -> Decision:
        decision = real(failed, children, policy=policy, window=window, now_s=now_s)
        if any(not window.spend(now_s) for _ in decision.stop):
            return Decision(verdict=Verdict.GIVE_UP)
        return decision

    return mock.patch.object(restart, "decide_restart", greedy)


def _retries_are_free() -> object:
    real = restart.decide_restart

    def free(failed, children, *, policy, window, now_s) -> Decision:
        return real(failed, children, policy=policy, window=RestartWindow(None), now_s=now_s)

    return mock.patch.object(supervisor, "decide_restart", free)


def _changed(change: Callable[[Decision], Decision]) -> object:
    real = restart.decide_restart

    def changed(failed, children, *, policy, window, now_s) -> Decision:
        return change(real(failed, children, policy=policy, window=window, now_s=now_s))

    return _both(changed)


def _both(replacement: object) -> object:
    return mock.patch.multiple(restart, decide_restart=replacement)


def _stops_in_start_order() -> object:
    return _changed(lambda d: msgspec.structs.replace(d, stop=d.stop[::-1]))


def _temporary_siblings_stay() -> object:
    return _changed(lambda d: msgspec.structs.replace(d, remove=()))


def _rest_is_all_after_only() -> object:
    real = restart.restart_scope

    def scope(strategy, ids, failed):
        found = real(strategy, ids, failed)
        return (failed, *found[2:]) if strategy is Strategy.REST_FOR_ONE else found

    return mock.patch.object(restart, "restart_scope", scope)


def _shutdown_is_a_crash() -> object:
    def must(kind_of_restart, kind):
        return kind_of_restart is Restart.PERMANENT or (kind_of_restart is Restart.TRANSIENT and kind.value != "normal")

    return mock.patch.object(restart, "must_restart", must)


def _idle_siblings_stay_idle() -> object:
    real = restart.decide_restart

    def lazy(failed, children, *, policy, window, now_s) -> Decision:
        decision = real(failed, children, policy=policy, window=window, now_s=now_s)
        active = {c.id for c in children if c.is_active} | {failed}
        return msgspec.structs.replace(decision, start=tuple(i for i in decision.start if i in active))

    return mock.patch.object(restart, "decide_restart", lazy)


def _shuts_down_when(rule: Callable[[ChildView, list[ChildView], AutoShutdown], bool]) -> object:
    """`rule(ended, the others, auto_shutdown)` in place of the engine's."""

    def shuts_down(ended: ChildView, children: Sequence[ChildView], auto: AutoShutdown) -> bool:
        return rule(ended, [c for c in children if c.id != ended.id], auto)

    return mock.patch.object(restart, "_shuts_down", shuts_down)


def _auto_shutdown(
    *, every: Callable[[list[ChildView]], bool], only_significant: bool = True, any_is_every: bool = False
) -> object:
    """The engine's rule, but for the named part; `every(others)`: all significant ones have ended."""

    def rule(ended: ChildView, others: list[ChildView], auto: AutoShutdown) -> bool:
        if auto is AutoShutdown.NEVER or (only_significant and not ended.significant):
            return False
        return every(others) if auto is AutoShutdown.ALL_SIGNIFICANT or any_is_every else True

    return _shuts_down_when(rule)


def _right(others: list[ChildView]) -> bool:
    return not any(c.significant and c.is_active for c in others)


MUTANTS: dict[str, Plant] = {
    "one restart more than allowed": _one_more_restart,
    "the window never forgets": _never_forgets,
    "a group restart counts once per sibling": _group_counts_each,
    "retries of a failed restart are free": _retries_are_free,
    "siblings stop in start order": _stops_in_start_order,
    "temporary siblings come back idle": _temporary_siblings_stay,
    "rest_for_one forgets the next sibling": _rest_is_all_after_only,
    "a shutdown restarts a transient child": _shutdown_is_a_crash,
    "a group restart leaves idle siblings idle": _idle_siblings_stay_idle,
    "all_significant: one is enough": lambda: _auto_shutdown(every=lambda others: True),
    "all_significant: never": lambda: _auto_shutdown(every=lambda others: False),
    "all_significant: idle ones keep it up": lambda: _auto_shutdown(every=lambda o: not any(c.significant for c in o)),
    "all_significant: insignificant ones keep it up": lambda: _auto_shutdown(
        every=lambda others: not any(c.is_active for c in others)
    ),
    "any_significant: all must have ended": lambda: _auto_shutdown(every=_right, any_is_every=True),
    "auto_shutdown: insignificant ones count too": lambda: _auto_shutdown(every=_right, only_significant=False),
}


@contextmanager
def planted(name: str) -> Iterator[None]:
    """The engine with one of the `MUTANTS`."""
    with MUTANTS[name]():  # type: ignore[attr-defined]
        yield
