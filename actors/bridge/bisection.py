"""Which rows of a batch the sink refuses, found by asking for halves; and how many may be put aside. Pure.

DESIGN 3: poison is bisected, exactly the bad rows are put aside. DESIGN 2: more than 1 % refused in a window is not
poison but an outage: a column was renamed, a constraint is wrong.
"""

from __future__ import annotations

from collections import deque

import attrs

Span = tuple[int, int]
"""Rows [from, to) of a batch."""


@attrs.frozen(kw_only=True)
class PoisonLimits:
    """Up to here refused rows are put aside; beyond, the sink counts as down."""

    share: float = 0.01
    """Of the rows delivered within the window."""
    rows_free: int = 10
    """So many are allowed in any window: a quiet market has no hundred rows an hour."""
    all_of: int = 4
    """A batch of at least so many rows of a kind, all of them refused, is no matter of rows."""
    window_s: float = 3600.0
    batch_rows_max: int = 100
    """Of one batch, whatever the share: each costs some 2 log2(rows) questions."""
    questions_max: int = 3_000
    """For one batch: rows that are only refused together would be asked for one by one."""


@attrs.define
class Bisection:
    """Ask `next`, tell `answer`, until there is nothing more to ask."""

    rows: int
    found_max: int
    questions_max: int
    found: dict[int, str] = attrs.field(factory=dict)
    """Number of a row that is refused by itself -> why."""
    _open: list[Span] = attrs.field(init=False)
    _asked: int = 0

    def __attrs_post_init__(self) -> None:
        self._open = [(0, self.rows)] if self.rows else []

    @property
    def next(self) -> Span | None:
        """The rows to ask for; None: it is over."""
        if not self._open or self.gave_up:
            return None
        return self._open[-1]

    @property
    def gave_up(self) -> bool:
        """More than allowed was found, or asked."""
        return len(self.found) > self.found_max or self._asked >= self.questions_max

    def answer(self, error: str) -> None:
        """Of the sink about `next`: why it refuses them, "" = it would take them."""
        low, high = self._open.pop()
        self._asked += 1
        if error and high - low == 1:
            self.found[low] = error
        elif error:
            middle = (low + high) // 2
            self._open += [(middle, high), (low, middle)]


@attrs.define
class Allowance:
    """How many rows may be put aside now. Times are monotonic seconds."""

    limits: PoisonLimits
    _minutes: deque[tuple[int, int, int]] = attrs.field(factory=deque)
    """(minute, rows delivered, rows put aside)."""

    def note(self, now_s: float, *, delivered: int = 0, put_aside: int = 0) -> None:
        """Count."""
        minute = int(now_s // 60)
        if self._minutes and self._minutes[-1][0] == minute:
            _, rows, aside = self._minutes.pop()
            delivered, put_aside = delivered + rows, put_aside + aside
        self._minutes.append((minute, delivered, put_aside))
        while self._minutes[0][0] < minute - self.limits.window_s // 60:
            self._minutes.popleft()

    def room(self, now_s: float, batch_rows: int) -> int:
        """Rows that may still be put aside, those of a batch of `batch_rows` that is being delivered counted in."""
        self.note(now_s)
        delivered = sum(rows for _, rows, _ in self._minutes) + batch_rows
        aside = sum(rows for _, _, rows in self._minutes)
        limits = self.limits
        room = max(limits.rows_free, int(limits.share * delivered)) - aside
        return max(0, min(limits.batch_rows_max, room))
