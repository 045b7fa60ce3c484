"""The decisions of one lane of a delivery: what is new, what is a duplicate, what goes into one write, how far we are.

Pure: no I/O, no clock. A lane is a consumer's groups on their way: read -> pending -> written -> verified.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import attrs

from actors.bridge.port import SinkBatch
from runtime.errors import InvariantViolation, RetryableSinkError
from runtime.log.types import Frame, Group


@attrs.frozen(kw_only=True)
class Coalescing:
    """How groups are put together into one write."""

    rows_min: int = 5_000
    """From here on a batch goes out at once: 5k-10k rows are the knee of both databases (DRIVERS 6.4, 7.3)."""
    linger_s: float = 0.05
    """Longest wait for more rows before a smaller batch goes out."""
    rows_max: int = 100_000
    """A batch is closed before it would pass this; one group alone may."""
    bytes_max: int = 8 << 20
    """The same in bytes of compressed bodies."""


class LogHole(RetryableSinkError):
    """The log goes on behind what the sink expects: frames in between are gone here. Never skipped."""


@attrs.frozen(kw_only=True)
class _Pending:
    group: Group
    rows: int
    """Rows of kinds that the sink stores."""
    bytes: int


@attrs.define(kw_only=True)
class Lane:
    """One consumer's groups on their way into one sink, since one connection was opened.

    `marks`: next offset that the sink expects, per partition. `verified`: the same for what was read back.
    """

    stores: frozenset[str]
    marks: dict[int, int]
    verified: dict[int, int]
    start_position: int
    """Where reading began: everything before it is committed and verified."""
    duplicates: int = 0
    _sent: dict[int, int] = attrs.field(factory=dict)
    _pending: deque[_Pending] = attrs.field(factory=deque)
    _unverified: deque[_Pending] = attrs.field(factory=deque)
    _pending_rows: int = 0
    _pending_bytes: int = 0
    _unverified_rows: int = 0
    _seen_rows: int = 0
    _seen_bytes: int = 0
    _read_to: int = -1

    def __attrs_post_init__(self) -> None:
        self._sent = dict(self.marks)
        self._read_to = self.start_position

    def __repr__(self) -> str:
        return (
            f"<Lane {self.pending_rows} rows pending, {self.unverified_rows} unverified, at {self.committed_position}>"
        )

    def offer(self, groups: Iterable[Group]) -> None:
        """Take what was read, in order. Frames below the marks are duplicates: not written, but still to be verified.

        Raises: LogHole when an offset is beyond the expected one, InvariantViolation when a mark cuts a group in two.
        """
        for group in groups:
            new = self._new_partitions(group)
            if new:
                self._pending.append(self._measure(_only(group, new)))
                self._pending_rows += self._pending[-1].rows
                self._pending_bytes += self._pending[-1].bytes
                self._seen_rows += self._pending[-1].rows
            old = {f.partition for f in group.frames if f.partition not in new and f.offset >= self._verified_at(f)}
            if old:
                self._to_verify(self._measure(_only(group, old)))
            self.duplicates += sum(f.rows for f in group.frames if f.partition not in new and f.kind in self.stores)
            self._read_to = group.end_position
            self._seen_bytes += group.end_position - group.position

    def is_due(self, limits: Coalescing) -> bool:
        """True when the pending groups fill a batch."""
        return self._pending_rows >= limits.rows_min or self._pending_bytes >= limits.bytes_max

    def take(self, limits: Coalescing) -> SinkBatch | None:
        """The next batch of pending groups (at least one), None when there is none. They stay pending until `wrote`."""
        chosen: list[_Pending] = []
        rows = size = 0
        for item in self._pending:
            if chosen and (rows + item.rows > limits.rows_max or size + item.bytes > limits.bytes_max):
                break
            chosen.append(item)
            rows += item.rows
            size += item.bytes
        if not chosen:
            return None
        groups = tuple(item.group for item in chosen)
        return SinkBatch(groups=groups, marks=_moves(groups, self.marks))

    def wrote(self, batch: SinkBatch) -> None:
        """The sink has `batch`, the oldest pending groups: move the marks."""
        for partition, (low, high) in batch.marks.items():
            if self.marks.get(partition, 0) != low:
                raise InvariantViolation(f"partition {partition}: mark {self.marks.get(partition, 0)} is not {low}")
            self.marks[partition] = high
        for group in batch.groups:
            item = self._pending.popleft()
            if item.group is not group:
                raise InvariantViolation(f"group at {group.position} was written out of turn")
            self._pending_rows -= item.rows
            self._pending_bytes -= item.bytes
            self._to_verify(item)

    def take_unverified(self, rows_max: int) -> tuple[Group, ...]:
        """The oldest written groups that were not read back, up to about `rows_max` rows."""
        chosen: list[Group] = []
        rows = 0
        for item in self._unverified:
            if chosen and rows + item.rows > rows_max:
                break
            chosen.append(item.group)
            rows += item.rows
        return tuple(chosen)

    def read_back(self, groups: tuple[Group, ...]) -> None:
        """These groups, the oldest unverified ones, were found whole."""
        for group in groups:
            item = self._unverified.popleft()
            self._unverified_rows -= item.rows
            for frame in group.frames:
                self.verified[frame.partition] = max(self._verified_at(frame), frame.offset + 1)

    @property
    def pending_rows(self) -> int:
        """Rows for this sink that were read and not written."""
        return self._pending_rows

    @property
    def pending_bytes(self) -> int:
        """Bytes of bodies that were read and not written."""
        return self._pending_bytes

    def rows_in(self, log_bytes: int) -> int:
        """About how many rows for this sink stand in so many bytes of log, going by what was read so far."""
        return round(log_bytes * self._seen_rows / self._seen_bytes) if self._seen_bytes else 0

    @property
    def has_pending(self) -> bool:
        """Groups wait to be written, perhaps without a row for this sink."""
        return bool(self._pending)

    @property
    def unverified_rows(self) -> int:
        """Rows written and not read back."""
        return self._unverified_rows

    @property
    def has_unverified(self) -> bool:
        """Groups wait to be read back."""
        return bool(self._unverified)

    @property
    def committed_position(self) -> int:
        """Everything before it is in the sink."""
        return self._pending[0].group.position if self._pending else self._read_to

    @property
    def verified_position(self) -> int:
        """Everything before it was read back."""
        oldest = self._unverified[0].group.position if self._unverified else self._read_to
        return min(oldest, self.committed_position)

    def _verified_at(self, frame: Frame) -> int:
        return self.verified.get(frame.partition, 0)

    def _new_partitions(self, group: Group) -> set[int]:
        """Partitions whose part of the group the sink lacks; moves what is expected next of them."""
        new: set[int] = set()
        old: set[int] = set()
        for frame in group.frames:
            expected = self._sent.get(frame.partition, 0)
            if frame.offset > expected:
                raise LogHole(
                    f"partition {frame.partition}: the log goes on at offset {frame.offset} (position "
                    f"{group.position}), the sink expects {expected}: the frames in between are gone from this log"
                )
            if frame.offset < expected:
                old.add(frame.partition)
            else:
                new.add(frame.partition)
                self._sent[frame.partition] = frame.offset + 1
        if new & old:
            raise InvariantViolation(f"a mark cuts the group at {group.position} in two: partitions {new & old}")
        return new

    def _measure(self, group: Group) -> _Pending:
        rows = sum(frame.rows for frame in group.frames if frame.kind in self.stores)
        return _Pending(group=group, rows=rows, bytes=sum(len(frame.body) for frame in group.frames))

    def _to_verify(self, item: _Pending) -> None:
        self._unverified.append(item)
        self._unverified_rows += item.rows


def _only(group: Group, partitions: set[int]) -> Group:
    """The group cut to `partitions`, each part whole."""
    if all(frame.partition in partitions for frame in group.frames):
        return group
    return attrs.evolve(group, frames=tuple(f for f in group.frames if f.partition in partitions))


def _moves(groups: tuple[Group, ...], marks: dict[int, int]) -> dict[int, tuple[int, int]]:
    moves: dict[int, tuple[int, int]] = {}
    for group in groups:
        for frame in group.frames:
            low, _ = moves.get(frame.partition, (marks.get(frame.partition, 0), 0))
            moves[frame.partition] = (low, frame.offset + 1)
    return moves
