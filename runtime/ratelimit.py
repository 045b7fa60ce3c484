"""One request budget per key, shared by everyone who uses the key in this process.

The decision is pure (`Budget`, a sliding window: never more than n requests in any `window_s`, however the server
aligns its own windows); `RateLimit` adds the waiting. A 429 drains the budget for all users of the key: nobody asks
again inside the window (UPSTREAM 1.7, 1.13: retries inside it only burn the next window's calls).
"""

from __future__ import annotations

from collections import deque

import attrs
import trio


@attrs.frozen(kw_only=True)
class BudgetLimits:
    """What a key may do."""

    requests_max: int | None = None
    """Requests in any `window_s`; None = unlimited."""
    window_s: float = 60.0
    drained_wait_s: float = 12.0
    """Least wait after a 429 without Retry-After: one slot of a 5-per-minute plan."""
    drained_wait_s_max: float = 900.0
    """A longer Retry-After is cut to this: asking too early costs one request, a typo of a proxy a day."""

    def __attrs_post_init__(self) -> None:
        if self.requests_max is not None and self.requests_max < 1:
            raise ValueError(f"requests_max must be at least 1 (or None = unlimited), not {self.requests_max}")


class Budget:
    """Pure core: takes monotonic seconds, says how long to wait. Never awaits, never reads a clock."""

    def __init__(self, limits: BudgetLimits) -> None:
        self.limits = limits
        self._taken: deque[float] = deque()  # monotonic s of each request in the window, bounded by requests_max
        self._closed_until_s = float("-inf")

    def __repr__(self) -> str:
        return f"<Budget {len(self._taken)}/{self.limits.requests_max or 'unlimited'} in {self.limits.window_s:g} s>"

    def take(self, now_s: float) -> float:
        """0 = one request is taken and may go out; otherwise seconds to wait before asking again (nothing taken)."""
        if now_s < self._closed_until_s:
            return self._closed_until_s - now_s
        if self.limits.requests_max is None:
            return 0.0
        self._forget(now_s)
        if len(self._taken) < self.limits.requests_max:
            self._taken.append(now_s)
            return 0.0
        return self._window_rest_s(now_s)

    def drain(self, now_s: float, retry_after_s: float | None = None) -> float:
        """The vendor said 429: close until its Retry-After, or until the window's end. Returns the seconds to wait."""
        if retry_after_s is None:
            self._forget(now_s)
            wait_s = max(self.limits.drained_wait_s, self._window_rest_s(now_s))
        else:
            wait_s = min(max(retry_after_s, 0.0), self.limits.drained_wait_s_max)
        self._closed_until_s = max(self._closed_until_s, now_s + wait_s)
        return wait_s

    def _forget(self, now_s: float) -> None:
        while self._taken and self._taken[0] + self.limits.window_s <= now_s:
            self._taken.popleft()

    def _window_rest_s(self, now_s: float) -> float:
        """Until the oldest request in the window leaves it; 0 when there is none."""
        return max(self._taken[0] + self.limits.window_s - now_s, 1e-3) if self._taken else 0.0


class RateLimit:
    """The shared budget with waiting; first come, first served."""

    def __init__(self, limits: BudgetLimits | None = None) -> None:
        self._budget = Budget(limits or BudgetLimits())
        self._turn = trio.Lock()

    def __repr__(self) -> str:
        return f"<RateLimit {self._budget!r}>"

    async def acquire(self) -> None:
        """Wait until one request may go out, and take it. Cancelled while waiting: nothing is taken."""
        async with self._turn:
            while (wait_s := self._budget.take(trio.current_time())) > 0:  # noqa: ASYNC110 - waits for time itself
                await trio.sleep(wait_s)

    def change(self, limits: BudgetLimits) -> None:
        """Other limits from now on; what was taken stays taken. Who waits looks again when his wait is over."""
        self._budget.limits = limits

    def drain(self, retry_after_s: float | None = None) -> float:
        """A 429 came: nobody sends before the returned seconds have passed."""
        return self._budget.drain(trio.current_time(), retry_after_s)
