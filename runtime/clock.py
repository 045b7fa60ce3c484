"""The only place that reads a clock.

Wall time (`wall_ns`, int64 ns UTC) stamps data; monotonic time (`trio.current_time`) drives deadlines and backoff,
so that stepping the wall clock changes neither order nor time-outs. Sleeping is `trio.sleep`, which is virtual
under `trio.testing.MockClock`.
"""

from __future__ import annotations

import datetime
import time
from typing import Protocol

import trio

NS_PER_S = 1_000_000_000
NS_PER_MINUTE = 60 * NS_PER_S
NS_PER_HOUR = 3600 * NS_PER_S
NS_PER_DAY = 24 * NS_PER_HOUR


class Clock(Protocol):
    """Where the time comes from."""

    def wall_ns(self) -> int:
        """Nanoseconds since 1970-01-01T00:00:00Z; may jump."""
        ...

    def monotonic_s(self) -> float:
        """Seconds on a clock that never jumps; only differences mean anything."""
        ...


class SystemClock:
    """The machine's clocks."""

    def wall_ns(self) -> int:
        """Nanoseconds since the epoch, UTC."""
        return time.time_ns()

    def monotonic_s(self) -> float:
        """The running Trio loop's time, or the system's outside of a loop."""
        try:
            return trio.current_time()
        except RuntimeError:
            return time.monotonic()


def boot_monotonic_us() -> int:
    """CLOCK_MONOTONIC in microseconds, as systemd's `MONOTONIC_USEC=` wants it (Trio's time has a random offset)."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


class VirtualClock:
    """Wall time that follows Trio's (mock) time from a chosen start: for tests and simulation."""

    def __init__(self, start_ns: int) -> None:
        self._start_ns = start_ns
        self._t0_s: float | None = None

    def wall_ns(self) -> int:
        """Start plus the Trio time that has passed since the first call."""
        now_s = trio.current_time()
        if self._t0_s is None:
            self._t0_s = now_s
        return self._start_ns + round((now_s - self._t0_s) * NS_PER_S)

    def monotonic_s(self) -> float:
        """The (mock) Trio time."""
        return trio.current_time()


def format_ns(ns: int) -> str:
    """`2014-05-01T00:00:00Z`, with as many fractional digits as the instant needs."""
    seconds, rest = divmod(ns, NS_PER_S)
    text = datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{rest:09d}".rstrip("0") + "Z" if rest else text + "Z"


def parse_instant_ns(text: str) -> int:
    """`2014-05-01`, `2014-05-01T05:00Z`, `2014-05-01T05:00:00.5+02:00` to ns UTC; no zone means UTC.

    Raises: ValueError when it is none of these.
    """
    moment = datetime.datetime.fromisoformat(text.strip())
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    delta = moment - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    return (delta.days * 86400 + delta.seconds) * NS_PER_S + delta.microseconds * 1000
