"""Plausible bugs of a restart decision, planted to show that the differential test finds them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest import mock

import attrs
import msgspec

from supervisors.engine import restart, supervisor
from supervisors.engine.child import Restart, RestartIntensity, Strategy
from supervisors.engine.restart import Decision, RestartWindow, Verdict

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
}


@contextmanager
def planted(name: str) -> Iterator[None]:
    """The engine with one of the `MUTANTS`."""
    with MUTANTS[name]():  # type: ignore[attr-defined]
        yield
