"""How a producer appends: hand a draft to the buffer's mailbox, wait for its commit.

The mailbox is bounded, so a slow disk is felt by the producer (backpressure up to the vendor). A producer that is
cancelled only stops waiting; the write goes on. A restarted producer therefore asks with `resume`, which goes through
the same mailbox as a barrier: what its former incarnation left there is committed (or refused) before the answer.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
import outcome
import trio

from runtime.log.types import Appended, GroupDraft, LiveDraft, ProducerState
from runtime.mailbox import Mailbox


@attrs.define(eq=False)
class AppendRequest:
    """A draft on its way to the writer, with the place for its answer."""

    draft: GroupDraft | LiveDraft | None
    """None: a barrier, answered when everything queued before it has been."""
    reserved: bool = False
    """May use the space kept back for the record of a loss."""
    _done: trio.Event = attrs.field(factory=trio.Event)
    _result: outcome.Outcome[Appended | None] | None = None

    def answer(self, result: outcome.Outcome[Appended | None]) -> None:
        """Called by the buffer; only the first answer counts."""
        if self._result is None:
            self._result = result
            self._done.set()

    @property
    def answered(self) -> bool:
        """True: `wait` returns, or raises, at once."""
        return self._done.is_set()

    async def wait(self) -> Appended:
        """Block until durable; raises what the writer raised, NotConnected if the buffer went away."""
        appended = await self._answer()
        if appended is None:
            raise AssertionError("a barrier has no answer but its end")
        return appended

    async def wait_barrier(self) -> None:
        """Block until everything queued before this request is answered."""
        await self._answer()

    async def _answer(self) -> Appended | None:
        """May be asked again, also after it raised (an `Outcome` could be unwrapped only once)."""
        await self._done.wait()
        if isinstance(self._result, outcome.Error):
            raise self._result.error
        if isinstance(self._result, outcome.Value):
            answer: Appended | None = self._result.value
            return answer
        raise AssertionError("answered without a result")


@attrs.frozen(kw_only=True)
class Appender:
    """Lent by the tree to every producer."""

    inbox: Mailbox[AppendRequest]
    lookup: Callable[[str], ProducerState]
    """From the open log: last sequence and position of a producer."""
    reserve: Mailbox[AppendRequest] | None = None
    """The way past a full disk."""

    async def resume(self, producer: str) -> ProducerState:
        """Where `producer` stood, as the log remembers it, after everything already queued is settled.

        To be called once by a new incarnation before its first append.
        """
        barrier = AppendRequest(None)
        await self.inbox.send(barrier)
        await barrier.wait_barrier()
        return self.lookup(producer)

    async def submit(self, draft: GroupDraft | LiveDraft) -> AppendRequest:
        """Queue a draft (blocks while the mailbox is full); await `.wait()` for its durability.

        Drafts of one producer become durable in the order they were submitted, so several may be under way. An answer
        with `duplicate=True` means that somebody else used the sequence: the producer must not go on (crash, resume).
        """
        request = AppendRequest(draft)
        await self.inbox.send(request)
        return request

    async def append(self, draft: GroupDraft | LiveDraft) -> Appended:
        """Queue a draft and wait until it is durable."""
        request = AppendRequest(draft)
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            self.inbox.send_nowait(request)  # a turn of the scheduler less: the wait for the answer is one
        except trio.WouldBlock:
            await self.inbox.send(request)
        return await request.wait()

    async def append_loss(self, draft: GroupDraft) -> Appended:
        """Append the record of what is being lost, into space kept back for it: also while the disk is full.

        Small (coverage frames), and under a producer name of its own, since it overtakes what waits for space.
        """
        if self.reserve is None:
            return await self.append(draft)
        request = AppendRequest(draft, reserved=True)
        await self.reserve.send(request)
        return await request.wait()
