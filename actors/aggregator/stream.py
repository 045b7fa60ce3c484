"""What is known of a live stream of one symbol and kind: how far its candles are closed. Pure.

The watermark is moved by heartbeats and by nothing else, so a tick from the future closes nothing, and a quiet market
closes on time. Sources: DESIGN 3, UPSTREAM 5.7.
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from actors.market.candles import MINUTES_PER_DAY, NS_PER_MINUTE


@attrs.frozen(kw_only=True)
class Stream:
    """The state of one live stream. It lives in the checkpoint, so it is exactly as old as the input position."""

    watermark_ns: int | None = None
    """Every live bar that ends at or before it is out; None: no heartbeat yet."""
    open_days: frozenset[int] = frozenset()
    """Days that live touched and whose end the watermark has not passed."""

    def advanced(self, reached_ns: Iterable[int], touched_days: Iterable[int], *, lateness_ns: int) -> Stream:
        """After heartbeats that reach these instants and rows or heartbeats on these days. Never goes back."""
        known = [] if self.watermark_ns is None else [self.watermark_ns]
        watermark_ns = max([*known, *(to_ns - lateness_ns for to_ns in reached_ns)], default=None)
        after = attrs.evolve(self, watermark_ns=watermark_ns)
        days = self.open_days.union(touched_days)
        return attrs.evolve(after, open_days=frozenset(d for d in days if after.closed_to(d) < MINUTES_PER_DAY))

    def closed_to(self, day: int) -> int:
        """The minutes [0, n) of a day lie before the watermark: n = 0 … 1440."""
        if self.watermark_ns is None:
            return 0
        return min(max(self.watermark_ns // NS_PER_MINUTE - day * MINUTES_PER_DAY, 0), MINUTES_PER_DAY)


NO_STREAM = Stream()
