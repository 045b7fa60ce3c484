"""A bounded, named inbox over a Trio memory channel: the only way actors hand work to each other.

Made by the tree and lent to actors, so it survives a restart of both ends: neither end closes it on a crash.
"""

from __future__ import annotations

import math
from typing import Generic, TypeVar

import attrs
import trio

T = TypeVar("T")


@attrs.frozen(kw_only=True)
class MailboxStatistics:
    """A look at one mailbox."""

    name: str
    depth: int
    capacity: int
    depth_max: int
    """The deepest it ever was."""
    waiting_senders: int


class Mailbox(Generic[T]):
    """Bounded FIFO of batches; `send` blocks when full, which is the backpressure."""

    def __init__(self, name: str, capacity: int) -> None:
        if not 0 < capacity < math.inf:
            raise ValueError(f"mailbox {name}: capacity must be a positive number, not {capacity}")
        self.name = name
        self.capacity = capacity
        self._depth_max = 0
        self._send, self._receive = trio.open_memory_channel[T](capacity)

    def __repr__(self) -> str:
        return f"<Mailbox {self.name} {self.statistics().depth}/{self.capacity}>"

    async def send(self, item: T) -> None:
        """Put `item`, waiting while full. Cancelled while waiting: nothing was put."""
        await self._send.send(item)
        self._note()

    def send_nowait(self, item: T) -> None:
        """Put `item` or raise trio.WouldBlock."""
        self._send.send_nowait(item)
        self._note()

    async def receive(self) -> T:
        """Take the oldest item, waiting for one."""
        return await self._receive.receive()

    def receive_nowait(self) -> T:
        """Take the oldest item or raise trio.WouldBlock."""
        return self._receive.receive_nowait()

    def statistics(self) -> MailboxStatistics:
        """Depth, bound and high-water mark."""
        s = self._send.statistics()
        return MailboxStatistics(
            name=self.name,
            depth=s.current_buffer_used,
            capacity=self.capacity,
            depth_max=self._depth_max,
            waiting_senders=s.tasks_waiting_send,
        )

    def _note(self) -> None:
        self._depth_max = max(self._depth_max, self._send.statistics().current_buffer_used)
