"""One lane of a delivery: what is new, what is a duplicate, what goes into one write, how far we are.

Pure: no I/O, no clock. A group on its way through a lane is waiting -> in flight -> unverified -> done.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

import attrs
import msgspec

from actors.bridge.port import SinkBatch
from actors.bridge.rows import is_passing
from runtime.errors import InvariantViolation, RetryableSinkError
from runtime.log.losses import LOST
from runtime.log.types import Frame, Group


@attrs.frozen(kw_only=True)
class Coalescing:
    """How groups are put together into one write."""

    rows_min: int = 5_000
    """From here on a batch goes out at once: 5k-10k rows are the knee of both databases (DRIVERS 6.4, 7.3)."""
    linger_s: float = 0.05
    """Smaller batches of a lane go out at most this often; the first rows after a pause go at once."""
    rows_max: int = 100_000
    """A batch is closed before it would pass this; one group alone may."""
    bytes_max: int = 8 << 20
    """The same in bytes of compressed bodies."""


_MARKS_ONLY_LINGERS = 4
"""Nobody waits for a batch that only moves marks: let it collect for this many lingers."""


class LogHole(RetryableSinkError):
    """The log goes on behind what the sink expects: frames in between are gone here. Never skipped."""


@attrs.frozen(kw_only=True)
class _Item:
    group: Group
    rows: int
    """Rows of kinds that the sink stores."""
    bytes: int


class _Queue:
    """Groups in order, with what they weigh together."""

    def __init__(self) -> None:
        self.items: deque[_Item] = deque()
        self.rows = 0
        self.bytes = 0

    def push(self, item: _Item) -> None:
        self.items.append(item)
        self.rows += item.rows
        self.bytes += item.bytes

    def pop(self) -> _Item:
        item = self.items.popleft()
        self.rows -= item.rows
        self.bytes -= item.bytes
        return item

    def pop_this(self, group: Group) -> _Item:
        item = self.pop()
        if item.group is not group:
            raise InvariantViolation(f"group at {group.position} is out of turn, {item.group.position} comes first")
        return item

    @property
    def position(self) -> int | None:
        """Of the oldest."""
        return self.items[0].group.position if self.items else None


class Lane:
    """One consumer's groups on their way into one sink, since one connection was opened."""

    def __init__(
        self, *, stores: frozenset[str], marks: dict[int, int], verified: dict[int, int], start_position: int
    ) -> None:
        self.stores = stores
        self.marks = dict(marks)
        """Next offset that the sink expects, per partition."""
        self.verified = dict(verified)
        """The same for what was read back."""
        self.duplicate_rows = 0
        """Rows for this sink that were read again and dropped."""
        self._offered = dict(marks)
        self._taken = dict(marks)
        self._waiting = _Queue()
        self._flying = _Queue()
        self._unverified = _Queue()
        self._read_to = start_position
        self._seen_rows = 0
        self._seen_bytes = 0
        self._taken_at_s = float("-inf")

    def __repr__(self) -> str:
        rows = f"{self._waiting.rows} waiting, {self._flying.rows} in flight, {self._unverified.rows} unverified"
        return f"<Lane at {self.committed_position}: rows {rows}>"

    def offer(self, groups: Iterable[Group]) -> None:
        """Take what was read, in order. Frames below the marks are duplicates: not written, but perhaps to be verified.

        Raises: LogHole when an offset is beyond the expected one, InvariantViolation when a mark cuts a group in two.
        """
        for group in groups:
            new = self._new_partitions(group)
            if new:
                self._waiting.push(self._weigh(_only(group, new)))
            old = {f.partition for f in group.frames if f.partition not in new and f.offset >= self._verified_at(f)}
            if old:
                self._unverified.push(self._weigh(_only(group, old)))
            rows = self._weigh(group).rows
            self.duplicate_rows += rows - self._weigh(_only(group, new)).rows
            self._seen_rows += rows
            self.look(group.end_position)

    def look(self, position: int) -> None:
        """Everything before `position` was looked at: what is for this lane was offered, the rest is others'."""
        self._seen_bytes += max(0, position - self._read_to)
        self._read_to = max(position, self._read_to)

    def is_full(self, limits: Coalescing) -> bool:
        """True when no more should be read before a batch was taken."""
        return self._waiting.rows >= limits.rows_max or self._waiting.bytes >= limits.bytes_max

    def is_due(self, limits: Coalescing) -> bool:
        """True when the waiting groups are worth a batch of their own."""
        return self._waiting.rows >= limits.rows_min or self._waiting.bytes >= limits.bytes_max

    def due_at_s(self, limits: Coalescing) -> float:
        """From when on a batch should be taken: -inf = now, inf = nothing waits."""
        if not self._waiting.items:
            return float("inf")
        if self.is_due(limits):
            return float("-inf")
        return self._taken_at_s + limits.linger_s * (1 if self._waiting.rows else _MARKS_ONLY_LINGERS)

    def take(
        self, limits: Coalescing, now_s: float = 0.0, *, is_ripe: Callable[[Group], bool] = lambda group: True
    ) -> SinkBatch | None:
        """The next batch of waiting groups, None when none waits. In flight until `wrote`.

        At least one group, and then more as far as `limits` and `is_ripe` allow; the order is never changed.
        """
        chosen: list[Group] = []
        rows = size = 0
        while self._waiting.items:
            item = self._waiting.items[0]
            if chosen and (rows + item.rows > limits.rows_max or size + item.bytes > limits.bytes_max):
                break
            if not is_ripe(item.group):
                break
            self._flying.push(self._waiting.pop())
            chosen.append(item.group)
            rows += item.rows
            size += item.bytes
        if not chosen:
            return None
        self._taken_at_s = now_s
        moves = _moves(chosen, self._taken)
        self._taken.update({partition: high for partition, (_, high) in moves.items()})
        return SinkBatch(groups=tuple(chosen), marks=moves)

    def wrote(self, batch: SinkBatch) -> None:
        """The sink has `batch`, the oldest in flight: move the marks."""
        for partition, (low, high) in batch.marks.items():
            if self.marks.get(partition, 0) != low:
                raise InvariantViolation(f"partition {partition}: mark {self.marks.get(partition, 0)} is not {low}")
            self.marks[partition] = high
        for group in batch.groups:
            self._unverified.push(self._flying.pop_this(group))

    def unverified(self, rows_max: int) -> tuple[Group, ...]:
        """The oldest written groups that were not read back, up to about `rows_max` rows."""
        chosen: list[Group] = []
        rows = 0
        for item in self._unverified.items:
            if chosen and rows + item.rows > rows_max:
                break
            chosen.append(item.group)
            rows += item.rows
        return tuple(chosen)

    def read_back(self, groups: tuple[Group, ...]) -> None:
        """These groups, the oldest unverified ones, were found whole."""
        for group in groups:
            self._unverified.pop_this(group)
            for frame in group.frames:
                self.verified[frame.partition] = max(self._verified_at(frame), frame.offset + 1)

    @property
    def next_group(self) -> Group | None:
        """The oldest that waits."""
        return self._waiting.items[0].group if self._waiting.items else None

    @property
    def taken_position(self) -> int:
        """Everything before it was taken: it is in the sink or will be before anything that is taken from now on."""
        position = self._waiting.position
        return self._read_to if position is None else position

    def taken(self, partition: int) -> int:
        """The same as the next offset of a partition."""
        return self._taken.get(partition, 0)

    @property
    def waiting_rows(self) -> int:
        """Rows for this sink that were read and not taken."""
        return self._waiting.rows

    @property
    def has_waiting(self) -> bool:
        """Groups were read and not taken, perhaps without a row for this sink."""
        return bool(self._waiting.items)

    @property
    def unverified_rows(self) -> int:
        """Rows written and not read back."""
        return self._unverified.rows

    @property
    def has_unverified(self) -> bool:
        """Groups wait to be read back."""
        return bool(self._unverified.items)

    @property
    def lag_rows(self) -> int:
        """Rows for this sink that were read and are not in it yet."""
        return self._waiting.rows + self._flying.rows

    def rows_in(self, log_bytes: int) -> int:
        """About how many rows for this sink stand in so many bytes of log, going by what was read so far."""
        return round(log_bytes * self._seen_rows / self._seen_bytes) if self._seen_bytes else 0

    @property
    def committed_position(self) -> int:
        """Everything before it is in the sink."""
        found = [p for p in (self._flying.position, self._waiting.position) if p is not None]
        return min(found, default=self._read_to)

    @property
    def verified_position(self) -> int:
        """Everything before it was read back."""
        oldest = self._unverified.position
        return self.committed_position if oldest is None else min(oldest, self.committed_position)

    def _verified_at(self, frame: Frame) -> int:
        return self.verified.get(frame.partition, 0)

    def _new_partitions(self, group: Group) -> set[int]:
        """Partitions whose part of the group the sink lacks; moves what is expected next of them."""
        new: set[int] = set()
        old: set[int] = set()
        for frame in group.frames:
            expected = self._offered.get(frame.partition, 0)
            first = frame.prev_offset + 1 if frame.kind == LOST else frame.offset  # one stands for many
            if first > expected:
                raise LogHole(
                    f"partition {frame.partition}: the log goes on at offset {first} (position "
                    f"{group.position}), the sink expects {expected}: the frames in between are gone from this log. "
                    "They were trimmed after this sink had verified them; was it set back to an older copy? Restore a "
                    "newer one; or begin a new log (another pipeline.data_dir, or move the folder `log` away) and take "
                    "over what the sinks hold: pipeline run --adopt"
                )
            if frame.offset < expected:
                old.add(frame.partition)
            else:
                new.add(frame.partition)
                self._offered[frame.partition] = frame.offset + 1
        if new & old:
            raise InvariantViolation(f"a mark cuts the group at {group.position} in two: partitions {new & old}")
        return new

    def _weigh(self, group: Group) -> _Item:
        rows = sum(frame.rows for frame in group.frames if frame.kind in self.stores and not is_passing(frame))
        return _Item(group=group, rows=rows, bytes=sum(len(frame.body) for frame in group.frames))


def _only(group: Group, partitions: set[int]) -> Group:
    """The group cut to `partitions`, each part whole."""
    if all(frame.partition in partitions for frame in group.frames):
        return group
    return msgspec.structs.replace(group, frames=tuple(f for f in group.frames if f.partition in partitions))


def _moves(groups: Iterable[Group], marks: dict[int, int]) -> dict[int, tuple[int, int]]:
    moves: dict[int, tuple[int, int]] = {}
    for group in groups:
        for frame in group.frames:
            low, _ = moves.get(frame.partition, (marks.get(frame.partition, 0), 0))
            moves[frame.partition] = (low, frame.offset + 1)
    return moves
