"""What the buffer needs of the log. Implemented by `runtime.log.log.Log`; the fake is memory.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from runtime.log.types import Appended, Group, GroupDraft, ProducerState


class CommitLog(Protocol):
    """The writing side of the open log. Lent by the tree, so it outlives an incarnation of the buffer."""

    @property
    def log_id(self) -> str: ...
    @property
    def end_position(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    @property
    def segments(self) -> int: ...
    @property
    def records_accepted(self) -> int: ...

    @property
    def needs_reopen(self) -> bool:
        """True after a commit that did not end: the tail must be recovered before the next one."""
        ...

    def producer(self, name: str) -> ProducerState:
        """Last sequence and position of a producer, durable."""
        ...

    def producers(self) -> Mapping[str, ProducerState]:
        """Of all of them."""
        ...

    def log_end_offset(self, partition: int) -> int:
        """The next offset of a partition."""
        ...

    def reopen(self) -> None:
        """Recover the tail. Sync: in a worker thread."""
        ...

    def commit(self, drafts: Sequence[GroupDraft]) -> tuple[list[Appended], list[Group]]:
        """Write all drafts and sync once; answers in the order of the drafts. Sync: in a worker thread.

        Raises: LogFull (nothing was written), LogSyncFailed (fatal), InvariantViolation (a draft breaks the rules).
        """
        ...

    def offer(self, groups: Sequence[Group]) -> None:
        """Give freshly committed groups to the consumers at the head. On the Trio thread, never blocks."""
        ...
