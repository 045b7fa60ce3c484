"""The two lanes of a delivery and whose turn it is: live first, history at least a tenth (DESIGN 2). Pure.

Batches are written one after the other in the order in which they are taken, so what was taken earlier is in the sink
when a batch gets there.
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from actors.bridge.plan import Coalescing, Lane
from actors.bridge.port import SinkBatch
from actors.bridge.rows import coverage_of
from actors.market.symbols import partition_of
from runtime.log.types import Group

HISTORY_SHARE = 0.1
"""Of the rows, while both lanes have some."""
LIVE_ROWS_MAX = 20_000
"""Of one live batch. Behind the knee of both databases (5k-10k rows) larger ones gain little, and all rows wait."""
BESIDE_LIVE_ROWS_MAX = 30_000
"""A history batch is no larger while live is busy, for live rows wait until it is written. Not smaller either: a
transaction has about ten round trips, and each waits for the interpreter while pages are decoded beside it (seen:
25,000 rows/s with 10,000)."""
BUSY_S = 1.0
"""Live is busy so long after it had rows."""


@attrs.frozen(kw_only=True)
class Turn:
    """One batch and the lane it was taken from."""

    lane: Lane
    batch: SinkBatch


@attrs.define(kw_only=True)
class Lanes:
    """Both lanes since one connection was opened. Times are monotonic seconds."""

    live: Lane
    history: Lane
    partitions_live: int
    _owed_rows: float = 0.0
    """What history is to get before live goes on; below 0: what it had too much."""
    _live_rows_at_s: float = float("-inf")
    _after: tuple[int, dict[int, int]] = (-1, {})
    """(position, needs) of the history group that was looked at last."""

    def __iter__(self) -> Iterator[Lane]:
        return iter((self.live, self.history))

    def due_at_s(self, limits: Coalescing) -> float:
        """From when on `take` gives something, as things stand: -inf = now, inf = not before something is read."""
        return min(self.live.due_at_s(limits), self._history_due_at_s(limits))

    def take(self, limits: Coalescing, now_s: float) -> Turn | None:
        """The next batch that is due; None: nothing is."""
        live_due = self.live.due_at_s(limits) <= now_s
        history_due = self._history_due_at_s(limits) <= now_s
        if not history_due:
            self._owed_rows = 0.0
        if live_due and not (history_due and self._owed_rows >= self._worth(limits)):
            return self._take_live(limits, now_s, beside_history=history_due)
        return self._take_history(limits, now_s, beside_live=live_due) if history_due else None

    def take_any(self, limits: Coalescing, now_s: float) -> Turn | None:
        """The next batch, due or not: at the end."""
        if self.live.has_waiting:
            return self._take_live(limits, now_s, beside_history=False)
        return self._take_history(limits, now_s, beside_live=False)

    def is_live_busy(self, now_s: float) -> bool:
        """Live rows wait or came a moment ago: nothing should take long now."""
        return self.live.waiting_rows > 0 or now_s - self._live_rows_at_s < BUSY_S

    # --- all together

    @property
    def marks(self) -> dict[int, int]:
        """Next offset that the sink expects, per partition."""
        return self.live.marks | self.history.marks

    @property
    def verified(self) -> dict[int, int]:
        """The same for what was read back."""
        return self.live.verified | self.history.verified

    @property
    def committed_position(self) -> int:
        """Everything before it is in the sink."""
        return min(self.live.committed_position, self.history.committed_position)

    @property
    def verified_position(self) -> int:
        """Everything before it was read back."""
        return min(self.live.verified_position, self.history.verified_position)

    @property
    def lag_rows(self) -> int:
        """Rows that were read and are not in the sink."""
        return self.live.lag_rows + self.history.lag_rows

    @property
    def has_waiting(self) -> bool:
        """Groups were read and not taken."""
        return self.live.has_waiting or self.history.has_waiting

    @property
    def has_unverified(self) -> bool:
        """Groups wait to be read back."""
        return self.live.has_unverified or self.history.has_unverified

    # --- whose turn

    def _worth(self, limits: Coalescing) -> int:
        """History's next batch in rows, as far as it makes sense to wait for it."""
        return min(self.history.waiting_rows, limits.rows_min)

    def _take_live(self, limits: Coalescing, now_s: float, *, beside_history: bool) -> Turn | None:
        had_rows = self.live.waiting_rows > 0
        batch = self.live.take(_at_most(limits, LIVE_ROWS_MAX), now_s)
        if batch is None:
            return None
        if had_rows:
            self._live_rows_at_s = now_s
        if beside_history:
            self._owed_rows += _weight(batch) * HISTORY_SHARE / (1 - HISTORY_SHARE)
        return Turn(lane=self.live, batch=batch)

    def _take_history(self, limits: Coalescing, now_s: float, *, beside_live: bool) -> Turn | None:
        if self.is_live_busy(now_s):
            limits = _at_most(limits, BESIDE_LIVE_ROWS_MAX)
        batch = self.history.take(limits, now_s, is_ripe=self._is_ripe)
        if batch is None:
            return None
        if beside_live:
            self._owed_rows -= _weight(batch)
        return Turn(lane=self.history, batch=batch)

    def _history_due_at_s(self, limits: Coalescing) -> float:
        group = self.history.next_group
        return float("inf") if group is None or not self._is_ripe(group) else self.history.due_at_s(limits)

    def _is_ripe(self, group: Group) -> bool:
        """True when all live rows that the group's slices replace go before it."""
        if self.live.taken_position >= group.position:
            return True  # what a slice comes after was appended before it
        if self._after[0] != group.position:
            self._after = (group.position, after_marks(group, self.partitions_live))
        return all(self.live.taken(partition) > offset for partition, offset in self._after[1].items())


def after_marks(group: Group, partitions_live: int) -> dict[int, int]:
    """Live partition -> the offset that must be in the sink before the group is."""
    needs: dict[int, int] = {}
    for row in coverage_of(group):
        record = row.record
        if record.is_slice and record.after_offset is not None:
            partition = partition_of(record.symbol, partitions_live, history=False)
            needs[partition] = max(record.after_offset, needs.get(partition, -1))
    return needs


def _at_most(limits: Coalescing, rows: int) -> Coalescing:
    return attrs.evolve(limits, rows_max=min(limits.rows_max, rows))


def _weight(batch: SinkBatch) -> int:
    """Rows, or groups when there are more of them: marks cost a write too."""
    return max(len(batch.groups), sum(frame.rows for group in batch.groups for frame in group.frames))
