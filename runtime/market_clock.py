"""The market clock: now, as the vendor's server sees it. It is time, not market knowledge.

Whatever compares an event time with "now" asks it: a vendor's clock may be seconds off ours, and a recording of 2014
replayed at 500x is the extreme case. It is fed with answers of the vendor that tell its time, never with ticks: a tick
says when something was traded, not what time it is. Deadlines and backoff stay on monotonic time.

One answer is an interval, not a point: it was read at some moment between sending and receiving, and rounded down to
`resolution_ns`. So a run of answers bounds the vendor's clock from both sides, and the estimate is the middle.

An answer may be wrong: one server of many whose clock is off. Of a clock that ran as ours does for a while, an answer
that does not fit is held, not believed, until some in a row agree over half a minute. Meanwhile the bounds hold both.
"""

from __future__ import annotations

from collections import deque

import attrs

from runtime.board import MarketClockState
from runtime.clock import NS_PER_S, Clock

SAMPLES_MAX = 64
"""Answers remembered; older ones say little about now."""
STEADY_ANSWERS = 10
STEADY_S = 5.0
"""So many answers over so long a time, all of one clock that runs as ours does: from then on a step is doubted. A clock
of another rate (a recording) cannot pass for such a one over so long."""
STEP_NS = NS_PER_S
"""Beyond what the answer's rounding and its way allow. Less is followed at once."""
STEP_ANSWERS = 3
STEP_S = 30.0
"""A step is believed when so many answers in a row agree on it over so long a time."""
DOUBT_S_MAX = 90.0
"""After so long without any that fits, and without agreement, the newest are believed: the clock runs otherwise now."""
_DRIFT = 1e-3
"""Two clocks whose rates differ by less are taken to run alike; real ones differ by 1e-4 at most."""


@attrs.frozen(kw_only=True)
class Sample:
    """One answer of the vendor: `vendor_ns` was read between the two monotonic instants."""

    sent_s: float
    received_s: float
    vendor_ns: int
    resolution_ns: int = NS_PER_S
    """The vendor rounds down to it: `serverTime` has whole seconds."""


@attrs.frozen(kw_only=True)
class _Line:
    """The vendor's time as a line over monotonic time, with bounds."""

    at_s: float
    low_ns: int
    high_ns: int
    """The vendor's time at `at_s` lies between them."""
    rate_low: float
    rate: float
    rate_high: float
    """Vendor seconds per second."""


@attrs.define(eq=False)
class MarketClock:
    """Lent by the tree. Pure but for `clock`; every method on the Trio thread, where monotonic time has one base."""

    clock: Clock
    _samples: deque[Sample] = attrs.field(factory=lambda: deque(maxlen=SAMPLES_MAX), init=False)
    _line: _Line | None = attrs.field(default=None, init=False)
    _held: list[Sample] = attrs.field(factory=list, init=False)
    """Answers in a row that do not fit; at most SAMPLES_MAX."""
    _held_since_s: float = attrs.field(default=0.0, init=False)

    def observe(self, sample: Sample) -> None:
        """Take one answer into account. Answers that came out of order (a slow one overtaken) are ignored."""
        newest = self._held[-1:] or list(self._samples)[-1:]
        if newest and sample.sent_s < newest[0].received_s:
            return
        if self._doubts(sample):
            return
        self._samples.append(sample)
        rate = self._line.rate if self._line else 1.0
        kept, self._line = _fit(list(self._samples), rate)
        while len(self._samples) > kept:
            self._samples.popleft()

    def _doubts(self, sample: Sample) -> bool:
        """True: it is held. Else what was held is forgotten, or takes the place of all that was known."""
        if self._line is None or not self._ran_alike or _fits(self._line, sample):
            self._held.clear()
            return False
        self._held_since_s = self._held_since_s if self._held else sample.sent_s
        self._held = [*self._held, sample][-SAMPLES_MAX:]
        agreed = _agreeing(self._held)
        if sample.received_s - agreed[0].sent_s < STEP_S or len(agreed) < STEP_ANSWERS:
            if sample.received_s - self._held_since_s < DOUBT_S_MAX:
                return True
            agreed = self._held
        self._samples.clear()
        self._samples.extend(agreed[:-1])
        self._held = []
        return False

    @property
    def steady(self) -> bool:
        """It ran as ours does for a while, and nothing contradicts it."""
        return self._ran_alike and not self.doubtful

    @property
    def _ran_alike(self) -> bool:
        line, samples = self._line, self._samples
        if line is None or line.rate != 1.0 or len(samples) < STEADY_ANSWERS:
            return False
        return samples[-1].received_s - samples[0].sent_s >= STEADY_S

    @property
    def doubtful(self) -> bool:
        """The last answer does not fit: ask again soon, and begin nothing that depends on the time.

        Not for ever: where no other answer comes, it is forgotten.
        """
        return bool(self._held) and self.clock.monotonic_s() - self._held[-1].received_s < DOUBT_S_MAX

    @property
    def known(self) -> bool:
        """True: the vendor told its time; False: this is our wall clock."""
        return self._line is not None

    @property
    def rate(self) -> float:
        """Vendor seconds per second: 1 for a real vendor, 500 for a recording replayed at 500x, 0 while it stands."""
        return self._line.rate if self._line else 1.0

    @property
    def offset_s(self) -> float:
        """Vendor's time minus our wall clock, now."""
        return (self.now_ns() - self.clock.wall_ns()) / NS_PER_S

    def now_ns(self, monotonic_s: float | None = None) -> int:
        """The best guess, ns UTC, at `monotonic_s` (default: now). May step back a little when answers correct it."""
        if self._line is None:
            return self._wall_ns(monotonic_s)
        low, high = _at(self._line, self._monotonic(monotonic_s))  # in doubt: as it was
        return (low + high) // 2

    def bounds_ns(self, monotonic_s: float | None = None) -> tuple[int, int]:
        """The vendor's time is not before the first and not after the second, ns UTC.

        Ask the first for "is it over yet" (how far live is contiguous), the second for "has it begun" (the seam). In
        doubt they hold what was known and what was answered since, so neither is fooled.
        """
        if self._line is None:
            now_ns = self._wall_ns(monotonic_s)
            return now_ns, now_ns
        at_s = self._monotonic(monotonic_s)
        others = map(_alone, self._held if self.doubtful else ())
        lows, highs = zip(*(_at(line, at_s) for line in (self._line, *others)), strict=True)
        return min(lows), max(highs)

    def elapse_s(self, vendor_ns: int) -> float:
        """Real seconds until the vendor's clock shows `vendor_ns`; 0 when it does, inf while it stands still."""
        missing_s = (vendor_ns - self.now_ns()) / NS_PER_S
        if missing_s <= 0:
            return 0.0
        return missing_s / self.rate if self.rate > 0 else float("inf")

    def state(self) -> MarketClockState | None:
        """For the board; None without an answer."""
        if self._line is None:
            return None
        low, high = self.bounds_ns()
        return MarketClockState(offset_s=self.offset_s, rate=self.rate, error_s=(high - low) / 2 / NS_PER_S)

    def _monotonic(self, monotonic_s: float | None) -> float:
        return self.clock.monotonic_s() if monotonic_s is None else monotonic_s

    def _wall_ns(self, monotonic_s: float | None) -> int:
        ago_s = 0.0 if monotonic_s is None else monotonic_s - self.clock.monotonic_s()
        return self.clock.wall_ns() + round(ago_s * NS_PER_S)


def _at(line: _Line, at_s: float) -> tuple[int, int]:
    """The bounds at a monotonic instant."""
    elapsed_s = at_s - line.at_s
    slow, fast = sorted((line.rate_low * elapsed_s, line.rate_high * elapsed_s))
    return line.low_ns + round(slow * NS_PER_S), line.high_ns + round(fast * NS_PER_S)


def _fits(line: _Line, sample: Sample) -> bool:
    """No step of more than STEP_NS lies between them."""
    low, _ = _at(line, sample.sent_s)
    _, high = _at(line, sample.received_s)
    return low - STEP_NS <= sample.vendor_ns + sample.resolution_ns and sample.vendor_ns <= high + STEP_NS


def _alone(sample: Sample) -> _Line:
    """What one answer says of a clock that runs as ours does."""
    return _bounds([sample], 1.0, 1.0, 1.0)


def _agreeing(held: list[Sample]) -> list[Sample]:
    """The newest of them that show one clock which runs as ours does, steps aside."""
    newest, agreed = held[-1], 1
    for older in reversed(held[:-1]):
        if not _fits(_alone(older), newest):
            break
        agreed += 1
    return held[-agreed:]


def _fit(samples: list[Sample], rate_before: float) -> tuple[int, _Line]:
    """How many of the newest samples lie on one line, and the line. Older ones are of a clock that was stepped."""
    newest = samples[-1]
    low, high = float("-inf"), float("inf")
    kept = 1
    for older in reversed(samples[:-1]):
        slower, faster = _slopes(older, newest)
        if max(low, slower) > min(high, faster) + _DRIFT or faster < 0:
            break
        low, high = max(low, slower), min(high, faster)
        kept += 1
    if kept == 1:
        low = high = rate_before
    rate = _plain(low, high)
    if rate in (0.0, 1.0):
        low = high = rate
    return kept, _bounds(samples[-kept:], max(low, 0.0), rate, max(high, 0.0))


def _slopes(first: Sample, last: Sample) -> tuple[float, float]:
    """The slowest and the fastest clock that gives both answers."""
    longest, shortest = last.received_s - first.sent_s, last.sent_s - first.received_s
    least = last.vendor_ns - first.vendor_ns - first.resolution_ns
    most = last.vendor_ns + last.resolution_ns - first.vendor_ns
    slowest = least / NS_PER_S / (longest if least > 0 else max(shortest, 1e-9))
    fastest = most / NS_PER_S / (max(shortest, 1e-9) if most > 0 else longest)
    return slowest, fastest


def _plain(low: float, high: float) -> float:
    """The rate between the bounds: that of a real vendor or of a standing clock where they allow it."""
    for plain in (1.0, 0.0):
        if low - _DRIFT <= plain <= high + _DRIFT:
            return plain
    return max(0.0, (low + high) / 2)


def _bounds(samples: list[Sample], rate_low: float, rate: float, rate_high: float) -> _Line:
    """The narrowest interval at the newest answer that all answers allow."""
    at_s = samples[-1].received_s
    lows = [s.vendor_ns + round(rate_low * (at_s - s.received_s) * NS_PER_S) for s in samples]
    highs = [s.vendor_ns + s.resolution_ns + round(rate_high * (at_s - s.sent_s) * NS_PER_S) for s in samples]
    low, high = sorted((max(lows), min(highs)))  # crossed when the clocks drift: a few us, either order will do
    return _Line(at_s=at_s, low_ns=low, high_ns=high, rate_low=rate_low, rate=rate, rate_high=rate_high)
