"""The supervision tree as data: what a child is, how a supervisor treats its children. OTP's names where OTP has one.

A spec checks itself when it is made: a bad field is a `ConfigError` naming field and value (OTP's R3 and R5), so a tree
that can be written down can be started. `check_tree` adds what only the whole tree shows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from enum import StrEnum

import attrs

from runtime.actor import Actor
from runtime.backoff import Backoff
from runtime.errors import ConfigError


class Restart(StrEnum):
    """When a child that ended is started again (R13)."""

    PERMANENT = "permanent"
    """After every end."""
    TRANSIENT = "transient"
    """Only after a crash; after a normal end its spec stays, idle."""
    TEMPORARY = "temporary"
    """Never; its spec goes with it."""


class Strategy(StrEnum):
    """Whom the failure of one child restarts (R16)."""

    ONE_FOR_ONE = "one_for_one"
    ONE_FOR_ALL = "one_for_all"
    REST_FOR_ONE = "rest_for_one"


class AutoShutdown(StrEnum):
    """Whether a supervisor stops when significant children have ended by themselves (R28)."""

    NEVER = "never"
    ANY_SIGNIFICANT = "any_significant"
    ALL_SIGNIFICANT = "all_significant"


def _require(ok: bool, error: str, spec_id: object, field: str, value: object, wanted: str) -> None:
    if not ok:
        raise ConfigError(f"{error}: {spec_id!r}: {field} must be {wanted}, not {value!r}")


def _check_id(spec_id: object) -> None:
    ok = isinstance(spec_id, str) and spec_id != "" and "/" not in spec_id
    _require(ok, "missing_id", spec_id, "id", spec_id, "a non-empty string without '/'")


def _check_seconds(spec_id: str, field: str, value: float, error: str) -> None:
    ok = _is_number(value) and 0 <= value < math.inf
    _require(ok, error, spec_id, field, value, "a number of seconds >= 0 (nothing here waits for ever)")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@attrs.frozen(kw_only=True)
class RestartIntensity:
    """The budget that all children of one supervisor share: more than `restarts_max` within `period_s` escalates (R17).

    Tuning (sup_princ, "Tuning the intensity and period"): restarts_max is the burst you accept, restarts_max / period_s
    the rate you can stand; the intensities from a child up to the root multiply.
    """

    restarts_max: int
    period_s: float
    whole_seconds: bool = False
    """True = OTP's clock (R18): times are cut to whole seconds before they are compared."""

    def __attrs_post_init__(self) -> None:
        """Raises: ConfigError invalid_intensity, invalid_period."""
        most, period_s = self.restarts_max, self.period_s
        ok = isinstance(most, int) and not isinstance(most, bool) and most >= 0
        _require(ok, "invalid_intensity", "intensity", "restarts_max", most, "an integer >= 0")
        ok = _is_number(period_s) and 0 < period_s < math.inf
        _require(ok, "invalid_period", "intensity", "period_s", period_s, "a positive, finite number of seconds")


@attrs.frozen
class ChildSpec:
    """How to start, restart and stop one actor."""

    id: str
    start: Callable[[], Actor | None]
    """Makes a new actor for each incarnation, in the child's own task; None = nothing to run here (OTP's `ignore`)."""
    restart: Restart = attrs.field(default=Restart.PERMANENT, kw_only=True)
    shutdown_grace_s: float = attrs.field(default=5.0, kw_only=True)
    """Rung 1: how long it may drain. 0 = cancel at once (OTP's `brutal_kill`)."""
    cancel_grace_s: float = attrs.field(default=2.0, kw_only=True)
    """Rung 2: how long it may clean up after being cancelled."""
    start_timeout_s: float = attrs.field(default=30.0, kw_only=True)
    """No `ctx.ready()` within this time is a failed start."""
    backoff: Backoff | None = attrs.field(default=None, kw_only=True)
    """None = restart at once, as OTP does."""
    progress_timeout_s: float | None = attrs.field(default=None, kw_only=True)
    """Running, outside `ctx.waiting`, without `ctx.progress()` for so long = stalled: a crash. None = never."""
    significant: bool = attrs.field(default=False, kw_only=True)
    outages: tuple[type[BaseException], ...] = attrs.field(default=(), kw_only=True)
    """Errors that mean "a dependency is down": waited out under `backoff`, never counted, no group restart."""

    def __attrs_post_init__(self) -> None:
        """Raises: ConfigError missing_id, missing_start, invalid_…, bad_combination."""
        _check_id(self.id)
        _require(callable(self.start), "missing_start", self.id, "start", self.start, "a callable that makes an Actor")
        _check_common(self)
        _check_seconds(self.id, "shutdown_grace_s", self.shutdown_grace_s, "invalid_shutdown")
        _check_seconds(self.id, "cancel_grace_s", self.cancel_grace_s, "invalid_shutdown")
        _check_seconds(self.id, "start_timeout_s", self.start_timeout_s, "invalid_start_timeout")
        if self.progress_timeout_s is not None:
            _check_seconds(self.id, "progress_timeout_s", self.progress_timeout_s, "invalid_progress_timeout")
        ok = not self.outages or self.backoff is not None
        _require(ok, "bad_combination", self.id, "backoff", None, "given when outages are, or the wait would spin")


@attrs.frozen
class SupervisorSpec:
    """One supervisor and its children, in start order; they stop in reverse."""

    id: str
    strategy: Strategy
    children: tuple[ChildSpec | SupervisorSpec, ...]
    intensity: RestartIntensity | None = RestartIntensity(restarts_max=3, period_s=30.0)
    """None = restart for ever; then every child that is restarted needs a backoff."""
    auto_shutdown: AutoShutdown = attrs.field(default=AutoShutdown.NEVER, kw_only=True)
    restart: Restart = attrs.field(default=Restart.PERMANENT, kw_only=True)
    """In its parent. Giving up ends it like a shutdown, so only a permanent one is restarted then (R19)."""
    backoff: Backoff | None = attrs.field(default=None, kw_only=True)
    significant: bool = attrs.field(default=False, kw_only=True)

    def __attrs_post_init__(self) -> None:
        """Raises: ConfigError invalid_…, duplicate_child_name, bad_combination, missing_backoff, window_unreachable."""
        _check_id(self.id)
        _require_member(self.strategy, Strategy, "invalid_strategy", self.id, "strategy")
        ok = self.intensity is None or isinstance(self.intensity, RestartIntensity)
        _require(ok, "invalid_intensity", self.id, "intensity", self.intensity, "a RestartIntensity or None")
        _require_member(self.auto_shutdown, AutoShutdown, "invalid_auto_shutdown", self.id, "auto_shutdown")
        _check_common(self)
        check_children(self)


AnySpec = ChildSpec | SupervisorSpec


def _require_member(value: object, kind: type[StrEnum], error: str, spec_id: str, field: str) -> None:
    _require(isinstance(value, kind), error, spec_id, field, value, f"one of {[m.value for m in kind]}")


def _check_common(spec: AnySpec) -> None:
    _require_member(spec.restart, Restart, "invalid_restart_type", spec.id, "restart")
    ok = spec.backoff is None or isinstance(spec.backoff, Backoff)
    _require(ok, "invalid_backoff", spec.id, "backoff", spec.backoff, "a Backoff or None")
    _require(
        isinstance(spec.significant, bool), "invalid_significant", spec.id, "significant", spec.significant, "a bool"
    )
    ok = not (spec.significant and spec.restart is Restart.PERMANENT)
    _require(ok, "bad_combination", spec.id, "restart", spec.restart, "transient or temporary when significant")


def check_children(spec: SupervisorSpec) -> None:
    """What the children and the flags say about each other. Raises: ConfigError as listed in `SupervisorSpec`."""
    ok = isinstance(spec.children, tuple)
    _require(ok, "invalid_children", spec.id, "children", spec.children, "a tuple of specs in start order")
    seen: set[str] = set()
    for child in spec.children:
        check_child(spec, child)
        ok = child.id not in seen
        _require(ok, "duplicate_child_name", spec.id, "children", child.id, "a different id for each child")
        seen.add(child.id)


def check_child(parent: SupervisorSpec, child: AnySpec) -> None:
    """Whether `child` may live under `parent` (R5). Raises: ConfigError."""
    ok = isinstance(child, ChildSpec | SupervisorSpec)
    _require(ok, "invalid_child_spec", parent.id, "children", child, "a ChildSpec or a SupervisorSpec")
    ok = not (child.significant and parent.auto_shutdown is AutoShutdown.NEVER)
    _require(ok, "bad_combination", child.id, "significant", True, f"False: {parent.id!r} has auto_shutdown never")
    if child.restart is Restart.TEMPORARY:
        return
    # It would be restarted at once (R29).
    ok = not isinstance(child, SupervisorSpec) or child.auto_shutdown is AutoShutdown.NEVER
    ok = ok or child.restart is not Restart.PERMANENT
    _require(ok, "bad_combination", child.id, "restart", child.restart, "not permanent when auto_shutdown is on")
    _check_backoff(parent, child)


def _check_backoff(parent: SupervisorSpec, child: AnySpec) -> None:
    if parent.intensity is None:
        wanted = f"given, because {parent.id!r} restarts for ever"
        _require(child.backoff is not None, "missing_backoff", child.id, "backoff", None, wanted)
    elif child.backoff is not None:
        # The trap of SUPERVISION 4.1: waits so long that the window forgets the first restart before the last one.
        most, period_s = parent.intensity.restarts_max, parent.intensity.period_s
        waits_s = child.backoff.delay_total_s_max(most)
        wanted = f"such that the first {most} waits fit into {period_s} s (they can take {waits_s:.1f} s)"
        _require(waits_s <= period_s, "window_unreachable", child.id, "backoff", child.backoff, wanted)


def walk(spec: AnySpec, parent_path: str = "") -> Iterator[tuple[str, AnySpec]]:
    """Every node with its path, parents first, in start order."""
    path = f"{parent_path}/{spec.id}" if parent_path else spec.id
    yield path, spec
    if isinstance(spec, SupervisorSpec):
        for child in spec.children:
            yield from walk(child, path)


def check_tree(root: SupervisorSpec) -> None:
    """Actor ids name mailboxes, consumers and metrics: they must be unique in the whole tree. Raises: ConfigError."""
    seen: dict[str, str] = {}
    for path, spec in walk(root):
        if isinstance(spec, SupervisorSpec):
            continue
        other = seen.setdefault(spec.id, path)
        _require(other == path, "duplicate_child_name", path, "id", spec.id, f"unique in the tree; {other} has it")
