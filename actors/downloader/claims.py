"""What was said by the vendor's clock, kept for an hour: when it turns out to have been wrong, it is taken back. Pure.

Two things are said by it: "everything up to here is over" (a heartbeat, or the end of what history asked for), and
"from here on the stream was subscribed" (a seam). A clock that was ahead makes the first false, one that was behind the
second. Only clocks that run as ours does are judged: a recording's rate changes as it likes.
"""

from __future__ import annotations

import math
from collections import deque

import attrs

from actors.downloader.jobs import ceil_minute, floor_minute
from runtime.clock import NS_PER_S
from runtime.log.types import Interval
from runtime.market_clock import STEP_NS, MarketClock

KEPT_S = 3_600.0
"""Older ones are believed: two clocks may drift apart by a few tenths of a second meanwhile, not by more."""
BUCKET_S = 10.0
SEAMS_MAX = 64


@attrs.frozen
class _Over:
    """Of one bucket."""

    first_s: float
    to_ns: int
    """The highest."""
    lead_ns: int
    """The largest difference between what was said and our monotonic time."""


@attrs.define(eq=False)
class Claims:
    """Of one feed."""

    _over: dict[int, _Over] = attrs.field(factory=dict)
    """At most KEPT_S / BUCKET_S."""
    _seams: deque[tuple[int, float]] = attrs.field(factory=lambda: deque(maxlen=SEAMS_MAX))

    def over(self, to_ns: int, at_s: float) -> None:
        """It was said at `at_s` (monotonic) that everything before `to_ns` is over."""
        bucket = math.floor(at_s / BUCKET_S)
        old = self._over.get(bucket, _Over(at_s, to_ns, to_ns - round(at_s * NS_PER_S)))
        lead_ns = max(old.lead_ns, to_ns - round(at_s * NS_PER_S))
        self._over[bucket] = _Over(min(old.first_s, at_s), max(old.to_ns, to_ns), lead_ns)

    def begun(self, seam_ns: int, at_s: float) -> None:
        """A session that was subscribed at `at_s` has all from `seam_ns` on."""
        self._seams.append((seam_ns, at_s))

    def review(self, market: MarketClock, now_s: float) -> list[Interval]:
        """Whole minutes that were claimed by a wrong clock, as far as that is certain now; each is told once."""
        if not market.steady:
            return []
        early = [key for key, one in self._over.items() if self._was_early(one, market)]
        wrong = [
            (floor_minute(market.bounds_ns(one.first_s)[0]), ceil_minute(one.to_ns))
            for one in (self._over.pop(key) for key in early)
        ]
        late = [one for one in self._seams if one[0] < market.bounds_ns(one[1])[0] - STEP_NS]
        wrong += [(floor_minute(seam_ns), ceil_minute(market.bounds_ns(at_s)[1])) for seam_ns, at_s in late]
        self._seams = deque((one for one in self._seams if one not in late and one[1] > now_s - KEPT_S), SEAMS_MAX)
        self._over = {key: one for key, one in self._over.items() if one.first_s > now_s - KEPT_S}
        return wrong

    @staticmethod
    def _was_early(one: _Over, market: MarketClock) -> bool:
        return one.lead_ns > market.bounds_ns(one.first_s)[1] - round(one.first_s * NS_PER_S) + STEP_NS
