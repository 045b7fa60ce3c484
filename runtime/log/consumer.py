"""How a consumer reads: in physical order, at the head from memory, behind it from the files. (Owned by the log.)"""

from __future__ import annotations

from typing import Protocol

from runtime.log.types import Group


class Consumer(Protocol):
    """A named reader of the log with a position of its own. Made by the tree per actor; used by one task at a time."""

    @property
    def name(self) -> str:
        """Who reads."""
        ...

    @property
    def log_id(self) -> str:
        """Of the log it reads."""
        ...

    @property
    def partitions_live(self) -> int:
        """n: live partitions are 0..n-1, history partitions n..2n-1."""
        ...

    @property
    def position(self) -> int:
        """Physical position of the next group that `read` will look at."""
        ...

    def seek(self, position: int) -> None:
        """Go on from `position`: a group border at or after the oldest kept one. 0 = the beginning of the log."""
        ...

    def position_of(self, partition: int, offset: int) -> int:
        """The position of the group that holds (partition, offset); the end of the log if it is not written yet."""
        ...

    def log_end_offset(self, partition: int) -> int:
        """The next offset of a partition: nobody can have been given a frame at or above it."""
        ...

    def end(self) -> int:
        """durable_upto: no reader passes it."""
        ...

    async def read(self, *, bytes_max: int = 4 << 20, wait: bool = True) -> list[Group]:
        """The next whole groups in physical order, at least one, about `bytes_max` of bodies; waits at the head.

        `wait` False: one look, which may find nothing (at the head, or when all it met is of other partitions).
        Advances `position` behind the last group returned. Cancelled while waiting: nothing is consumed.
        """
        ...

    def read_nowait_available(self) -> bool:
        """True when `read` would not wait for new data."""
        ...

    async def wait(self) -> None:
        """Until `read_nowait_available`, which may be news of other partitions only."""
        ...
