"""The consumer's side: groups at the head come from memory, older ones from the files; the writer never waits."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import attrs
import trio

from runtime.actor import Offload
from runtime.log.reader import Reader, cut_group, group_bytes
from runtime.log.types import Group


class LogView(Protocol):
    """What a consumer needs to know of its log."""

    @property
    def log_id(self) -> str: ...
    @property
    def partitions(self) -> int: ...
    @property
    def start_position(self) -> int: ...
    @property
    def end_position(self) -> int: ...

    def position_of(self, partition: int, offset: int) -> int: ...

    def log_end_offset(self, partition: int) -> int: ...


@attrs.define(eq=False)
class LogConsumer:
    """Implements `runtime.log.consumer.Consumer`; used by one task at a time, on the Trio thread."""

    name: str
    _log: LogView
    _reader: Reader
    _offload: Offload
    _partitions: frozenset[int] | None
    _tail_bytes_max: int
    _on_close: Callable[[LogConsumer], None]
    _position: int = 0
    _tail: deque[Group] = attrs.field(factory=deque)
    """Contiguous groups, unfiltered; shared objects, so each consumer holds references only."""
    _tail_bytes: int = 0
    _joining: int = -1
    """End of the file read under way: groups that begin there are kept for afterwards."""
    _news: trio.Event = attrs.field(factory=trio.Event)

    @property
    def log_id(self) -> str:
        """Of the log."""
        return self._log.log_id

    @property
    def partitions_live(self) -> int:
        """n: live partitions are 0..n-1, history partitions n..2n-1."""
        return self._log.partitions

    @property
    def position(self) -> int:
        """Position of the next group that `read` will look at."""
        return self._position

    def seek(self, position: int) -> None:
        """Go on from `position`, a group border; below the oldest kept one means that one (0 = the beginning)."""
        self._position = max(position, self._log.start_position)
        self._forget_tail()

    def position_of(self, partition: int, offset: int) -> int:
        """Position of the group that holds (partition, offset); the end of the log if it is not written yet."""
        return self._log.position_of(partition, offset)

    def log_end_offset(self, partition: int) -> int:
        """The next offset of a partition."""
        return self._log.log_end_offset(partition)

    def end(self) -> int:
        """durable_upto: no reader passes it."""
        return self._log.end_position

    def read_nowait_available(self) -> bool:
        """True when groups (perhaps of other partitions) are there to be looked at."""
        return self._position < self._log.end_position

    async def wait(self) -> None:
        """Until `read_nowait_available`."""
        await trio.lowlevel.checkpoint()
        while not self.read_nowait_available():
            await self._news.wait()

    async def read(self, *, bytes_max: int = 4 << 20, wait: bool = True) -> list[Group]:
        """The next whole groups in physical order, at least one, about `bytes_max` of bodies; waits at the head.

        `wait` False: one look, which may find nothing. What was looked at is read, also when it was of no interest.
        Raises: LogCorrupt (the position is not kept any more), InvariantViolation (it is inside a group).
        """
        await trio.lowlevel.checkpoint()
        while True:
            groups = self._from_tail(bytes_max)
            if not groups and self._position < self._log.end_position:
                groups = await self._from_files(bytes_max)
            if groups or not wait:
                return groups
            if self._position >= self._log.end_position:
                await self._news.wait()

    def offer(self, groups: Sequence[Group]) -> None:
        """Freshly durable groups, or none to wake a waiting reader. Never blocks: what does not fit is read later."""
        for group in groups:
            if self._tail:
                expected = self._tail[-1].end_position
            else:
                expected = self._joining if self._joining >= 0 else self._position
            if group.position != expected:
                if self._tail:
                    self._forget_tail()
                continue
            self._tail.append(group)
            self._tail_bytes += group_bytes(group)
            if self._tail_bytes > self._tail_bytes_max and len(self._tail) > 1:
                self._forget_tail()
        self._news.set()
        self._news = trio.Event()

    def close(self) -> None:
        """Stop being offered groups."""
        self._on_close(self)
        self._forget_tail()

    def _from_tail(self, bytes_max: int) -> list[Group]:
        groups: list[Group] = []
        taken = 0
        while self._tail and taken < bytes_max:
            if self._tail[0].position > self._position:
                break  # the files come first
            group = self._tail.popleft()
            self._tail_bytes -= group_bytes(group)
            if group.position < self._position:
                continue
            self._position = group.end_position
            cut = cut_group(group, self._partitions)
            if cut is not None:
                groups.append(cut)
                taken += group_bytes(cut)
        return groups

    async def _from_files(self, bytes_max: int) -> list[Group]:
        start, upto = self._position, self._log.end_position
        if self._tail:
            upto = self._tail[0].position
        else:
            self._joining = upto
        try:
            groups, position = await self._offload(
                lambda: self._reader.read(start, upto, bytes_max=bytes_max, partitions=self._partitions)
            )
        finally:
            self._joining = -1
        self._position = position
        return groups

    def _forget_tail(self) -> None:
        self._tail.clear()
        self._tail_bytes = 0
