"""Who may ask, and how often: keys and the request budget of notes UPSTREAM 1.2 and 1.7."""

from __future__ import annotations

from collections import Counter

import attrs

WINDOW_S = 60


@attrs.frozen(kw_only=True)
class Keys:
    """Which keys open the door: with no `accepted`, every key that is not refused."""

    accepted: frozenset[str] = frozenset()
    refused: frozenset[str] = frozenset({"wrong"})

    def problem(self, key: str) -> str:
        """What the vendor says about this key; empty when it is good."""
        if not key:
            return "API Key was not provided"
        if key in self.refused or (self.accepted and key not in self.accepted):
            return "Unknown API Key"
        return ""


def key_of(authorization: str, api_key_param: str) -> str:
    """The key of a request: header `Authorization: Bearer KEY`, else parameter `apiKey`."""
    scheme, _, token = authorization.partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token.strip() else api_key_param


@attrs.define(kw_only=True)
class RequestBudget:
    """Requests per key and minute, in fixed windows on a monotonic clock; 0 is unlimited."""

    requests_per_minute: int
    _window: int = attrs.field(default=-1, init=False)
    _used: Counter[str] = attrs.field(factory=Counter, init=False)

    def take(self, key: str, now_s: float) -> float:
        """Count one request: 0.0 when it may pass, else the seconds until the window ends. Refused ones count not."""
        if not self.requests_per_minute:
            return 0.0
        window = int(now_s // WINDOW_S)
        if window != self._window:
            self._window = window
            self._used.clear()  # also what keeps it bounded
        if self._used[key] >= self.requests_per_minute:
            return (window + 1) * WINDOW_S - now_s
        self._used[key] += 1
        return 0.0
