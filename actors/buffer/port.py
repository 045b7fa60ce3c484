"""What the buffer needs of the log. Implemented by `runtime.log.log.Log`; the fake is memory.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from runtime.log.losses import Lost
from runtime.log.recovery import Damage
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

    @property
    def start_position(self) -> int: ...
    @property
    def room_bytes(self) -> int:
        """Bytes that can be accepted whoever fills the disk."""
        ...

    @property
    def upkeep_due(self) -> bool:
        """`upkeep` has something to do now."""
        ...

    def upkeep(self, *, verified: int = 0, pressed: bool = False) -> None:
        """Trim, seal, make the next segment ready. Sync: in a worker thread of its own, beside `commit`.

        Raises: LogFull (no space for the next segment), LogSyncFailed (fatal).
        """
        ...

    @property
    def damage(self) -> Sequence[Damage]:
        """Durable ranges found rotten, in the order they were found."""
        ...

    def lost_of(self, damage: Damage) -> Lost:
        """What was in it, its bytes put aside. Sync."""
        ...

    def space(self) -> tuple[int, int]:
        """(bytes used, bytes free for us) of the volume. Sync."""
        ...

    def commit(self, drafts: Sequence[GroupDraft], *, use_reserve: bool = False) -> tuple[list[Appended], list[Group]]:
        """Write all drafts and sync once; answers in the order of the drafts. Sync: in a worker thread.

        `use_reserve`: into the space kept back for the record of a loss.

        Raises: LogFull (nothing was written), LogSyncFailed (fatal), InvariantViolation (a draft breaks the rules).
        """
        ...

    def offer(self, groups: Sequence[Group]) -> None:
        """Give freshly committed groups to the consumers at the head. On the Trio thread, never blocks."""
        ...
