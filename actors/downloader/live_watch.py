"""How far a session is contiguous, and when its silence is suspicious. Pure but for the clocks lent to it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import attrs

from actors.market.calendar import sessions
from runtime.clock import NS_PER_S
from runtime.market_clock import MarketClock

LAG_S_MAX = 2.0
"""Data that is older than this when it comes was held back by the vendor: then only it proves anything."""
QUIET_S = 5.0
"""A vendor that sends nothing for so long holds nothing back."""


@attrs.define(kw_only=True, eq=False)
class Contiguity:
    """Of one connection. An answered ping proves what was sent before it; a delayed stream proves only its events."""

    market: MarketClock
    safety_s: float
    """A tick may need this long from the market to the vendor's stream."""
    _proven_s: float = -math.inf
    _newest_ns: int = 0
    _data_s: float = -math.inf
    _lags: bool = False

    def alive(self, sent_s: float) -> None:
        """A ping sent then was answered, behind all that came before."""
        self._proven_s = max(self._proven_s, sent_s)

    def saw(self, newest_ns: int, now_s: float) -> None:
        """Data came; a late tick says nothing about the others."""
        self._data_s = now_s
        if newest_ns > self._newest_ns:
            self._newest_ns = newest_ns
            self._lags = newest_ns < self.market.bounds_ns(now_s - LAG_S_MAX)[0]

    def to_ns(self, now_s: float) -> int:
        """Everything before it came; whole seconds. Silence without proof moves nothing."""
        if self._proven_s == -math.inf:
            return 0
        to_ns = self.market.bounds_ns(self._proven_s - self.safety_s)[0]
        if self._lags and now_s - self._data_s < QUIET_S:
            to_ns = min(to_ns, self._newest_ns)
        return to_ns - to_ns % NS_PER_S


@attrs.frozen(kw_only=True)
class SilenceLimits:
    """When no data is too long; both must have passed."""

    market_s: float = 120.0
    """Of open hours, by the market's clock; three times the longest silence that ended by itself if that is more."""
    market_s_max: float = 1800.0
    real_s: float = 5.0


@attrs.define(kw_only=True, eq=False)
class Silence:
    """Of one asset class, over all its connections."""

    symbols: Sequence[str]
    limits: SilenceLimits = attrs.field(factory=SilenceLimits)
    _since_ns: int = 0
    _since_s: float = 0.0
    _longest_s: float = 0.0
    _strikes: int = 0
    """Reconnects for silence that no data came after."""

    def began(self, now_ns: int, now_s: float) -> None:
        """A session is up."""
        self._since_ns, self._since_s = now_ns, now_s

    def heard(self, now_ns: int, now_s: float) -> None:
        """Data came."""
        if now_ns - self._since_ns > self._longest_s * NS_PER_S:  # open hours are never more; asked for each frame
            self._longest_s = max(self._longest_s, min(self._open_s(now_ns), self.limits.market_s_max / 3))
        self._strikes = 0
        self.began(now_ns, now_s)

    def overdue(self, now_ns: int, now_s: float) -> str:
        """Why the connection is not to be believed any more, or "". Asks for a reconnect, so counts a strike."""
        if now_s - self._since_s < self.limits.real_s:
            return ""
        silent_s = self._open_s(now_ns)
        patience_s = max(self.limits.market_s, 3 * self._longest_s) * 2.0 ** min(self._strikes, 10)
        if silent_s <= min(patience_s, self.limits.market_s_max):
            return ""
        self._strikes += 1
        return f"no tick for {silent_s:.0f} s of open market"

    def _open_s(self, now_ns: int) -> float:
        """Open hours since the last data, of the symbol that was open longest."""
        longest_ns = 0
        for symbol in self.symbols:
            try:
                hours = sessions(symbol, self._since_ns, now_ns)
            except ValueError:
                continue  # no calendar: its silence says nothing
            longest_ns = max(longest_ns, sum(end - start for start, end in hours))
        return longest_ns / NS_PER_S
