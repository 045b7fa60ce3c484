"""What people are shown of one live feed: the last tick and the pace. No decision depends on it."""

from __future__ import annotations

import math

import attrs

from actors.downloader.port import Ticks
from runtime.board import LiveState

PACE_S = 10.0
"""The pace is an average over about so long."""


@attrs.define(kw_only=True, eq=False)
class LiveFacts:
    """Fed with what the stream brings, before it is validated. Times in monotonic seconds."""

    began_s: float
    _last: Ticks | None = None
    _heard_s: float = 0.0
    _rows: int = 0
    """Since the last look."""
    _looked_s: float = attrs.field(init=False)
    _pace: float = 0.0

    def __attrs_post_init__(self) -> None:
        self._looked_s = self.began_s

    def saw(self, ticks: Ticks, now_s: float) -> None:
        """At least one row came."""
        self._last, self._heard_s = ticks, now_s
        self._rows += len(ticks.ts_ns)

    def look(self, now_s: float) -> LiveState | None:
        """The state at `now_s`; None before the first tick. Call it at steady intervals."""
        past_s = now_s - self._looked_s
        if past_s > 0:
            self._pace += (1.0 - math.exp(-past_s / PACE_S)) * (self._rows / past_s - self._pace)
            self._rows, self._looked_s = 0, now_s
        if self._last is None:
            return None
        known = 1.0 - math.exp(-max(now_s - self.began_s, 0.001) / PACE_S)  # the average began with nothing
        columns = self._last.numbers[:2] if self._last.kind == "quotes" else self._last.numbers[:1]
        return LiveState(
            symbol=self._last.symbol,
            kind=self._last.kind,
            prices=tuple(float(column[-1]) for column in columns),
            ts_ns=int(self._last.ts_ns[-1]),
            heard_s=self._heard_s,
            ticks_per_s=self._pace / known,
        )
