"""Who may ask, and how often: keys and the request budget of notes UPSTREAM 1.2 and 1.7."""

from __future__ import annotations

import attrs

WINDOW_S = 60.0
KEYS_MAX = 1_000


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
    """Requests per key and minute; a key's minute begins with its first request. 0 is unlimited."""

    requests_per_minute: int
    _windows: dict[str, tuple[float, int]] = attrs.field(factory=dict, init=False)
    """Per key: start of its minute on a monotonic clock, requests since."""

    def take(self, key: str, now_s: float) -> float:
        """Count one request: 0.0 when it may pass, else the seconds until the minute ends. Refused ones count not."""
        if not self.requests_per_minute:
            return 0.0
        start_s, used = self._windows.get(key, (now_s, 0))
        if now_s - start_s >= WINDOW_S:
            start_s, used = now_s, 0
        if used >= self.requests_per_minute:
            return start_s + WINDOW_S - now_s
        if len(self._windows) >= KEYS_MAX and key not in self._windows:
            self._windows.clear()  # keys come from outside: generous rather than unbounded
        self._windows[key] = (start_s, used + 1)
        return 0.0
