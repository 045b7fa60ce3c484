"""The buffer: the log's only writer. Group commit, then the answer to each producer, then the offer to consumers.

Being the only writer it also keeps the order of live rows and slices (`seam.py`): drafts are settled right before
their commit, in the same worker thread.
"""

from __future__ import annotations

from contextlib import suppress

import attrs
import msgspec
import outcome
import trio

from actors.buffer.port import CommitLog
from actors.buffer.seam import Ordered, SeamKeeper
from actors.buffer.space import Keeping, SpaceWatch
from runtime.actor import ActorContext
from runtime.errors import LogFull, NotConnected
from runtime.log.appender import AppendRequest
from runtime.log.types import Appended, Group, LiveDraft
from runtime.mailbox import Mailbox

FULL_RETRY_S = 1.0
SLOW_SYNC_S = 1.0
"""A commit that takes longer is named: the disk is about to be somebody's problem (etcd does the same)."""


@attrs.frozen(kw_only=True)
class CommitLimits:
    """When a commit batch closes: whatever comes first."""

    linger_s: float = 0.005
    """How long a batch may wait for as much company as the one before it had."""
    bytes_max: int = 1 << 20
    """Bodies of one commit; a single larger group still goes whole. At 16 producers of 64 KiB, 256 KiB instead means
    half the throughput and twice the p99: most of a sync's time does not depend on its size."""
    groups_max: int = 256


@attrs.define(eq=False)
class _Batch:
    """Requests of one commit, with what the seam made of their drafts."""

    requests: list[AppendRequest]
    seam: SeamKeeper
    _settled: list[Ordered] | None = None

    def settled(self) -> list[Ordered]:
        """The drafts as they go into the log. Settled once, so however often the disk is full they stay the same."""
        if self._settled is None:
            drafts = [request.draft for request in self.requests if request.draft is not None]
            self._settled = self.seam.order(drafts)
        return self._settled


@attrs.frozen(kw_only=True)
class Buffer:
    """Make every queued draft durable in the order it was queued; nothing is answered before its sync returned."""

    log: CommitLog
    inbox: Mailbox[AppendRequest]
    limits: CommitLimits = attrs.field(factory=CommitLimits)
    keeping: Keeping = attrs.field(factory=Keeping)
    reserve: Mailbox[AppendRequest] | None = None
    """Records of losses, which have space of their own and overtake what waits for space."""

    async def run(self, ctx: ActorContext) -> None:
        """Commit until drained. Raises LogSyncFailed (fatal, exit 74) and InvariantViolation (fatal, exit 70)."""
        self._refuse_leftovers()
        await self._reopen(ctx)
        log = self.log
        seam = SeamKeeper.rebuilt(log.producers(), log.log_end_offset, lambda name: log.producer(name).sequence)
        watch = SpaceWatch(self.log, self.keeping, ctx)
        watch.publish()
        async with trio.open_nursery() as nursery:
            intake = _Intake(self.inbox, self.reserve, ctx)
            nursery.start_soon(watch.run)
            nursery.start_soon(intake.watch_drain)
            nursery.start_soon(intake.watch_reserve)
            ctx.ready()
            company = 1
            while batch := await self._collect(intake, company):
                company = len(batch)
                await self._commit(_Batch(batch, seam), ctx, watch, intake)
                ctx.progress()
            nursery.cancel_scope.cancel()

    async def _reopen(self, ctx: ActorContext) -> None:
        """After a commit of the former incarnation that died half way. A full disk is waited for, holding up no start:
        producers block, consumers read what is there."""
        while self.log.needs_reopen:
            try:
                await ctx.offload(self.log.reopen)
            except LogFull as exc:
                ctx.log.warning("log_full", reason=str(exc), retry_s=FULL_RETRY_S)
                ctx.ready()
                ctx.progress()
                await trio.sleep(FULL_RETRY_S)

    def _refuse_leftovers(self) -> None:
        """What was queued for the former incarnation: its producers ask the log where they stand, and go on."""
        while True:
            try:
                request = self.inbox.receive_nowait()
            except trio.WouldBlock:
                return
            request.answer(outcome.Error(NotConnected("the buffer was restarted before this append was committed")))

    async def _collect(self, intake: _Intake, company: int) -> list[AppendRequest]:
        """The next commit batch; empty when drained.

        `company`: groups of the last one. So many are waited for, no more: a lone producer, who waits for its commit
        before it appends again, would only be held up. What queues during a sync makes the next batch larger.
        """
        batch: list[AppendRequest] = []
        try:
            await self._fill(batch, intake, company)
        except BaseException:  # ended with requests in hand: nobody else would ever answer them
            for request in batch:
                request.answer(outcome.Error(NotConnected("the buffer ended before this append was committed")))
            raise
        return batch

    async def _fill(self, batch: list[AppendRequest], intake: _Intake, company: int) -> None:
        await intake.first(batch)
        size = self._take_waiting(batch, sum(map(_bytes, batch)))
        if not 0 < len(batch) < company:
            return  # without a scope of its own: a lone producer pays for everything that is done here
        with trio.move_on_after(self.limits.linger_s):
            while len(batch) < company and size < self.limits.bytes_max:
                batch.append(await self.inbox.receive())
                size = self._take_waiting(batch, size + _bytes(batch[-1]))

    def _take_waiting(self, batch: list[AppendRequest], size: int) -> int:
        """What is queued already, as far as the batch has room; returns the bytes of the batch."""
        with suppress(trio.WouldBlock):
            while batch and size < self.limits.bytes_max and len(batch) < self.limits.groups_max:
                batch.append(self.inbox.receive_nowait())
                size += _bytes(batch[-1])
        return size

    async def _commit(self, batch: _Batch, ctx: ActorContext, watch: SpaceWatch, intake: _Intake) -> None:
        try:
            if in_turn := self._in_turn(batch.requests):
                await self._write(_Batch(in_turn, batch.seam), ctx, watch, intake)
        finally:  # a producer must not wait for ever for a buffer that is gone
            for request in batch.requests:
                request.answer(outcome.Error(NotConnected("the buffer ended during this commit")))

    def _in_turn(self, batch: list[AppendRequest]) -> list[AppendRequest]:
        """Without appends that came behind one that was refused (by an incarnation that ended): their producer is told
        the same, and asks the log where it stands. Several may be under way when the first is refused."""
        last: dict[str, int] = {}
        kept = []
        for request in batch:
            if (draft := request.draft) is not None:
                before = last.get(draft.producer)
                if before is None:
                    before = self.log.producer(draft.producer).sequence
                if draft.sequence > before + 1:
                    request.answer(outcome.Error(NotConnected("an append before this one was refused")))
                    continue
                last[draft.producer] = max(before, draft.sequence)
            kept.append(request)
        return kept

    async def _write(self, batch: _Batch, ctx: ActorContext, watch: SpaceWatch, intake: _Intake) -> None:
        """Commit and answer; a full disk is an outage that is waited for, with the producers blocked behind it."""
        while True:
            try:
                await self._sync(batch, ctx)
            except LogFull as exc:
                watch.refused(str(exc))
                ctx.log.warning("log_full", reason=str(exc), retry_s=FULL_RETRY_S)
            else:
                watch.committed()
                return
            ctx.progress()
            batch = await self._record_losses(batch, ctx, intake)
            if not batch.requests:
                return
            await trio.sleep(FULL_RETRY_S)

    async def _record_losses(self, batch: _Batch, ctx: ActorContext, intake: _Intake) -> _Batch:
        """Into the space kept back for them; returns what still waits.

        What waits is settled anew behind them: they may have moved the offsets that a slice comes after.
        """
        urgent = [request for request in batch.requests if request.reserved] + intake.take_urgent()
        if not urgent:
            return batch
        try:
            await self._sync(_Batch(urgent, batch.seam), ctx, use_reserve=True)
        except LogFull as exc:
            for request in urgent:
                request.answer(outcome.Error(exc))
        return _Batch([request for request in batch.requests if not request.reserved], batch.seam)

    async def _sync(self, batch: _Batch, ctx: ActorContext, *, use_reserve: bool = False) -> None:
        """One commit, its answers, its offer to the consumers. Raises LogFull, LogSyncFailed, InvariantViolation."""
        appended: list[Appended] = []
        if any(request.draft is not None for request in batch.requests):

            def settle_and_commit() -> tuple[list[Appended], list[Group]]:
                return self.log.commit([one.draft for one in batch.settled()], use_reserve=use_reserve)

            # Shielded by nature: to_thread is not abandoned on cancel, so the write ends before we do.
            started_s = ctx.clock.monotonic_s()
            written, groups = await ctx.offload(settle_and_commit)
            appended = [
                msgspec.structs.replace(answer, refused=one.refused) if one.refused else answer
                for answer, one in zip(written, batch.settled(), strict=True)
            ]
            took_s = ctx.clock.monotonic_s() - started_s
            ctx.metrics.log_synced(took_s)
            if took_s > SLOW_SYNC_S:
                ctx.log.warning("log_sync_slow", seconds=round(took_s, 3))
            self.log.offer(groups)
            _count(groups, ctx)
        answers = iter(appended)
        for request in batch.requests:
            request.answer(outcome.Value(next(answers) if request.draft is not None else None))


@attrs.define(eq=False)
class _Intake:
    """Where requests come from. Its tasks live as long as the incarnation: a nursery per commit would cost as much as
    the commit itself."""

    _inbox: Mailbox[AppendRequest]
    _reserve: Mailbox[AppendRequest] | None
    _ctx: ActorContext
    _urgent: list[AppendRequest] = attrs.field(factory=list)
    _waits: bool = False

    async def watch_drain(self) -> None:
        """End the wait for input when the supervisor asks for it."""
        await self._ctx.drain_requested.wait()
        self._wake()

    async def watch_reserve(self) -> None:
        """Records of losses overtake what waits in the inbox. Few: who sends one waits for its answer."""
        try:
            while self._reserve is not None:
                request = await self._reserve.receive()
                self._urgent.append(request)  # not in one expression: the list is another one after the wait
                self._wake()
        finally:
            for request in self.take_urgent():
                request.answer(outcome.Error(NotConnected("the buffer ended before this append was committed")))

    async def first(self, batch: list[AppendRequest]) -> None:
        """Put at least one request into `batch` (maybe `_wake`'s); none when drained."""
        batch += self.take_urgent()
        with suppress(trio.WouldBlock):
            batch.append(self._inbox.receive_nowait())
        if not batch and not self._ctx.drain_requested.is_set():
            self._waits = True
            try:
                with self._ctx.waiting("appends"):  # or the watchdog would call it stalled
                    batch.append(await self._inbox.receive())
            finally:
                self._waits = False
            batch += self.take_urgent()

    def take_urgent(self) -> list[AppendRequest]:
        """What came by the way past a full disk."""
        got, self._urgent = self._urgent, []
        return got

    def _wake(self) -> None:
        """By a barrier that nobody waits for. (A cancel scope around each wait is felt in every commit.)"""
        if self._waits:
            with suppress(trio.WouldBlock):  # full: then it is woken already
                self._inbox.send_nowait(AppendRequest(None))


def _count(groups: list[Group], ctx: ActorContext) -> None:
    """Rows that became durable, by who made them: the vendor's, or the aggregator's own."""
    for group in groups:
        own = group.producer == "aggregator"
        source = "aggregator" if own else ctx.board.facts.get("vendor", "unknown")
        for frame in group.frames:
            ctx.metrics.accepted(source=source, kind=frame.kind, rows=frame.rows)


def _bytes(request: AppendRequest) -> int:
    draft = request.draft
    if draft is None:
        return 0
    return draft.bytes if isinstance(draft, LiveDraft) else sum(len(frame.body) for frame in draft.frames)
