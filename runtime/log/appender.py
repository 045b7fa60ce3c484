"""How a producer appends: hand a draft to the buffer's mailbox, wait for its commit.

The mailbox is bounded, so a slow disk is felt by the producer (backpressure up to the vendor). A producer that is
cancelled only stops waiting; the write goes on.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
import outcome
import trio

from runtime.log.types import Appended, GroupDraft, ProducerState
from runtime.mailbox import Mailbox


@attrs.define(eq=False)
class AppendRequest:
    """A draft on its way to the writer, with the place for its answer."""

    draft: GroupDraft
    done: trio.Event = attrs.field(factory=trio.Event)
    result: outcome.Outcome[Appended] | None = None

    def answer(self, result: outcome.Outcome[Appended]) -> None:
        """Called once by the buffer."""
        self.result = result
        self.done.set()

    async def wait(self) -> Appended:
        """Block until durable (or refused); raises what the writer raised."""
        await self.done.wait()
        assert self.result is not None
        return self.result.unwrap()


@attrs.frozen(kw_only=True)
class Appender:
    """Lent by the tree to every producer."""

    inbox: Mailbox[AppendRequest]
    lookup: Callable[[str], ProducerState]
    """From the open log: last sequence and position of a producer."""

    def resume(self, producer: str) -> ProducerState:
        """Where `producer` stood, as the log remembers it."""
        return self.lookup(producer)

    async def submit(self, draft: GroupDraft) -> AppendRequest:
        """Queue a draft (blocks while the mailbox is full); await `.wait()` for its durability.

        Drafts of one producer become durable in the order they were submitted, so several may be under way.
        """
        request = AppendRequest(draft)
        await self.inbox.send(request)
        return request

    async def append(self, draft: GroupDraft) -> Appended:
        """Queue a draft and wait until it is durable."""
        return await (await self.submit(draft)).wait()
