"""How long to wait before the next try: exponential, capped, jittered, reset by a healthy run. Pure.

Formula (pekko RetrySupport.scala:404): delay = min(max_s, initial_s * 2^n) * (1 + jitter * u), u in [0, 1).
"""

from __future__ import annotations

import math

import attrs

_EXPONENT_MAX = 1000
"""2.0 ** 1024 overflows; the cap was reached long before."""


def _positive(_: object, attribute: attrs.Attribute[float], value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"Backoff.{attribute.name} must be a positive number of seconds, not {value!r}")


def _fraction(_: object, attribute: attrs.Attribute[float], value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"Backoff.{attribute.name} must lie in 0..1, not {value!r}")


@attrs.frozen(kw_only=True)
class Backoff:
    """The law of the waits. `attempt` counts from 0 = the first wait after a healthy run."""

    initial_s: float = attrs.field(default=0.5, validator=_positive)
    max_s: float = attrs.field(default=30.0, validator=_positive)
    jitter: float = attrs.field(default=0.2, validator=_fraction)
    """Up to this fraction is added, so that many waiters do not come back at the same instant."""
    reset_after_s: float | None = None
    """A run this long makes the next wait `initial_s` again; None = (initial_s + max_s) / 2."""

    def __attrs_post_init__(self) -> None:
        """Raises: ValueError when the cap is below the first wait or the reset is not positive."""
        if self.max_s < self.initial_s:
            raise ValueError(f"Backoff.max_s {self.max_s!r} is below initial_s {self.initial_s!r}")
        if self.reset_after_s is not None and not self.reset_after_s > 0:
            raise ValueError(f"Backoff.reset_after_s must be positive, not {self.reset_after_s!r}")

    def delay_s(self, attempt: int, uniform: float) -> float:
        """Seconds to wait before try `attempt` (0, 1, …); `uniform` is a draw from [0, 1)."""
        nominal_s = min(self.max_s, self.initial_s * 2.0 ** min(attempt, _EXPONENT_MAX))
        return nominal_s * (1.0 + self.jitter * uniform)

    def is_healthy(self, ran_s: float) -> bool:
        """Whether a run of `ran_s` seconds earns a fresh start."""
        healthy_s = self.reset_after_s if self.reset_after_s is not None else (self.initial_s + self.max_s) / 2
        return ran_s >= healthy_s

    def delay_total_s_max(self, attempts: int) -> float:
        """The longest that the first `attempts` waits can take together."""
        return sum(self.delay_s(n, 1.0) for n in range(min(attempts, 10_000)))


@attrs.define
class BackoffCounter:
    """Counts the tries of one waiter under one law."""

    law: Backoff
    attempt: int = 0

    def next_s(self, uniform: float) -> float:
        """The next wait; the one after it is longer."""
        delay_s = self.law.delay_s(self.attempt, uniform)
        self.attempt += 1
        return delay_s

    def ran(self, ran_s: float) -> None:
        """Tell how long it went well; long enough resets the count."""
        if self.law.is_healthy(ran_s):
            self.attempt = 0

    def reset(self) -> None:
        """It works again: start from the first wait."""
        self.attempt = 0
