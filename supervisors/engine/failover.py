"""Source switching as a supervision directive: which of several sources to use, over fast, back slowly. Pure core.

Used for vendors, routes and tick sources. A switch is no restart and spends no budget; the caller carries it out and
journals it. All times are monotonic seconds handed in.

* *Over*: the active source is down when `fall_n` of its last `fall_of` observations were failures; the most preferred
  source that is not down takes over at once. When all are down, one that answers again (`fall_n` times in a row) while
  the active one does not is better than nothing; else nothing changes: switching would help nobody.
* *Back*: a more preferred source must have been healthy without a break for `rise_after_s`, and the active one must
  have been used for `dwell_s`. Each time a source had to be left, both grow twofold for it (up to `penalty_max`); a
  source that then serves for `forgive_after_s` is forgiven one step.
* *Pin*: a person's choice beats everything, also a source that is down.
"""

from __future__ import annotations

from collections import deque

import attrs

from runtime.errors import ConfigError


@attrs.frozen(kw_only=True)
class FailoverLimits:
    """When to go and when to come back."""

    fall_n: int = 3
    fall_of: int = 5
    rise_after_s: float = 30.0
    dwell_s: float = 60.0
    penalty_max: float = 16.0
    forgive_after_s: float = 3600.0

    def __attrs_post_init__(self) -> None:
        """Raises: ConfigError naming field and value."""
        if not 1 <= self.fall_n <= self.fall_of:
            raise ConfigError(f"failover: fall_n must lie in 1..fall_of ({self.fall_of}), not {self.fall_n}")
        for name in ("rise_after_s", "dwell_s", "forgive_after_s"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"failover: {name} must be >= 0, not {getattr(self, name)!r}")
        if not self.penalty_max >= 1:
            raise ConfigError(f"failover: penalty_max must be >= 1, not {self.penalty_max!r}")


@attrs.frozen(kw_only=True)
class Switch:
    """The directive: use `to` from now on."""

    source: str
    to: str
    reason: str
    at_s: float


@attrs.define(eq=False)
class _Source:
    recent: deque[bool]
    healthy_since_s: float | None = None
    is_down: bool = False
    flaps: int = 0


class Failover:
    """The state of one choice. Feed it observations, ask it after each and at `next_look_s`."""

    def __init__(self, preference: tuple[str, ...], limits: FailoverLimits, *, now_s: float) -> None:
        """`preference`: best first; the first one is active. Raises: ConfigError when empty or with doubles."""
        if not preference or len(set(preference)) != len(preference):
            raise ConfigError(f"failover: the sources must be different and at least one, not {preference!r}")
        self.preference = preference
        self.limits = limits
        self.active = preference[0]
        self.pinned: str | None = None
        self.switches = 0
        self._active_since_s = now_s
        self._forgiven_s = now_s
        self._sources = {name: _Source(deque(maxlen=limits.fall_of)) for name in preference}

    def __repr__(self) -> str:
        marks = [f"{'*' if n == self.active else ''}{n}{'!' if s.is_down else ''}" for n, s in self._sources.items()]
        return f"<Failover {' '.join(marks)} pinned={self.pinned} switches={self.switches}>"

    def observe(self, name: str, ok: bool, now_s: float) -> None:
        """One look at a source: it delivered or answered a probe (`ok`), or it did not in time."""
        source = self._sources[name]
        source.recent.append(ok)
        if not ok:
            source.healthy_since_s = None
            source.is_down = source.is_down or source.recent.count(False) >= self.limits.fall_n
            return
        if source.healthy_since_s is None:
            source.healthy_since_s = now_s
        if source.is_down and now_s - source.healthy_since_s >= self.limits.rise_after_s:
            source.is_down = False
            source.recent.clear()

    def pin(self, name: str | None) -> None:
        """A person's choice; None gives the choice back. Raises: ConfigError for an unknown name."""
        if name is not None and name not in self._sources:
            raise ConfigError(f"failover: {name!r} is no source; there are {list(self.preference)}")
        self.pinned = name

    def decide(self, now_s: float) -> Switch | None:
        """What to do now; None = stay. The switch counts as made."""
        self._forgive(now_s)
        if self.pinned is not None:
            return self._switch(self.pinned, "pinned", now_s) if self.pinned != self.active else None
        if self._sources[self.active].is_down:
            better = self._refuge()
            if better is None:
                return None
            self._sources[self.active].flaps += 1
            return self._switch(better, f"{self.active} is down", now_s)
        for name in self.preference[: self.preference.index(self.active)]:
            if now_s >= self._back_s(name):
                return self._switch(name, f"{name} is preferred and healthy", now_s)
        return None

    def next_look_s(self) -> float | None:
        """When `decide` may answer differently without a new observation; None = never."""
        ahead = self.preference[: self.preference.index(self.active)]
        times_s = [self._back_s(name) for name in ahead]
        return min((t for t in times_s if t != float("inf")), default=None)

    def penalty(self, name: str) -> float:
        """By how much `name` has to prove itself longer than normal."""
        return min(self.limits.penalty_max, 2.0 ** self._sources[name].flaps)

    def _refuge(self) -> str | None:
        """Where to go from an active source that is down."""
        for name in self.preference:
            if not self._sources[name].is_down:
                return name
        if self._sources[self.active].healthy_since_s is not None:
            return None
        return next((name for name in self.preference if self._answers_again(name)), None)

    def _answers_again(self, name: str) -> bool:
        last = list(self._sources[name].recent)[-self.limits.fall_n :]
        return len(last) == self.limits.fall_n and all(last)

    def _back_s(self, name: str) -> float:
        source = self._sources[name]
        if source.is_down or source.healthy_since_s is None:
            return float("inf")
        factor = self.penalty(name)
        return max(
            source.healthy_since_s + self.limits.rise_after_s * factor,
            self._active_since_s + self.limits.dwell_s * factor,
        )

    def _forgive(self, now_s: float) -> None:
        source = self._sources[self.active]
        if source.is_down:
            self._forgiven_s = now_s
        elif now_s - self._forgiven_s >= self.limits.forgive_after_s:
            source.flaps = max(0, source.flaps - 1)
            self._forgiven_s = now_s

    def _switch(self, to: str, reason: str, now_s: float) -> Switch:
        switch = Switch(source=self.active, to=to, reason=reason, at_s=now_s)
        self.active = to
        self.switches += 1
        self._active_since_s = self._forgiven_s = now_s
        return switch
