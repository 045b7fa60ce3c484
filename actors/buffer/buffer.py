"""The buffer: the log's only writer. Group commit, then the answer to each producer, then the offer to consumers.

Being the only writer it also keeps the order of live rows and slices (`seam.py`): drafts are settled right before
their commit, in the same worker thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress

import attrs
import outcome
import trio

from actors.buffer.port import CommitLog
from actors.buffer.seam import Ordered, SeamKeeper
from actors.buffer.space import Keeping, SpaceWatch
from runtime.actor import ActorContext
from runtime.errors import LogFull, NotConnected
from runtime.log.appender import AppendRequest
from runtime.log.types import Appended, Group, GroupDraft, LiveDraft
from runtime.mailbox import Mailbox

FULL_RETRY_S = 1.0
SLOW_SYNC_S = 1.0
"""A commit that takes longer is named: the disk is about to be somebody's problem (etcd does the same)."""


@attrs.frozen(kw_only=True)
class CommitLimits:
    """When a commit batch closes: whatever comes first."""

    linger_s: float = 0.005
    """How long a batch may wait for as much company as the one before it had."""
    bytes_max: int = 256 * 1024
    """Bodies of one commit; a single larger group still goes whole."""
    groups_max: int = 256


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
            nursery.start_soon(watch.run)
            ctx.ready()
            company = 1
            while batch := await self._collect(ctx, company):
                company = len(batch)
                await self._commit(_Batch(batch, seam), ctx, watch)
                ctx.progress()
            nursery.cancel_scope.cancel()

    async def _reopen(self, ctx: ActorContext) -> None:
        """After a commit of the former incarnation that died half way.

        A full disk is waited for, and holds up no start: producers block, consumers read what is there.
        """
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

    async def _collect(self, ctx: ActorContext, company: int) -> list[AppendRequest]:
        """The next commit batch; empty when drained.

        `company`: groups of the last one. So many are waited for, no more: a lone producer, who waits for its commit
        before it appends again, would only be held up. What queues during a sync makes the next batch larger.
        """
        batch: list[AppendRequest] = []
        try:
            await self._fill(batch, ctx, company)
        except BaseException:  # ended with requests in hand: nobody else would ever answer them
            for request in batch:
                request.answer(outcome.Error(NotConnected("the buffer ended before this append was committed")))
            raise
        return batch

    async def _fill(self, batch: list[AppendRequest], ctx: ActorContext, company: int) -> None:
        await self._first(ctx, batch)
        size = sum(map(_bytes, batch))
        with trio.move_on_after(self.limits.linger_s if batch else 0.0):
            while batch and size < self.limits.bytes_max and len(batch) < self.limits.groups_max:
                try:
                    request = self.inbox.receive_nowait()
                except trio.WouldBlock:
                    if len(batch) >= company:
                        break
                    request = await self.inbox.receive()
                batch.append(request)
                size += _bytes(request)

    async def _first(self, ctx: ActorContext, batch: list[AppendRequest]) -> None:
        batch += self._urgent()
        with suppress(trio.WouldBlock):
            batch.append(self.inbox.receive_nowait())
        if batch or ctx.drain_requested.is_set():
            return
        with ctx.waiting("appends"):
            await self._receive(ctx, batch)

    async def _receive(self, ctx: ActorContext, got: list[AppendRequest]) -> None:
        """Into `got`; nothing when drained."""
        async with trio.open_nursery() as nursery:

            async def watch_drain() -> None:
                await ctx.drain_requested.wait()
                nursery.cancel_scope.cancel()

            async def watch(inbox: Mailbox[AppendRequest]) -> None:
                got.append(await inbox.receive())
                nursery.cancel_scope.cancel()

            nursery.start_soon(watch_drain)
            nursery.start_soon(watch, self.inbox)
            if self.reserve is not None:
                nursery.start_soon(watch, self.reserve)

    def _urgent(self) -> list[AppendRequest]:
        got: list[AppendRequest] = []
        if self.reserve is not None:
            with suppress(trio.WouldBlock):
                while True:
                    got.append(self.reserve.receive_nowait())
        return got

    async def _commit(self, batch: _Batch, ctx: ActorContext, watch: SpaceWatch) -> None:
        requests = list(batch.requests)
        try:
            await self._write(batch, ctx, watch)
        finally:  # a producer must not wait for ever for a buffer that is gone
            for request in requests:
                request.answer(outcome.Error(NotConnected("the buffer ended during this commit")))
            watch.publish()

    async def _write(self, batch: _Batch, ctx: ActorContext, watch: SpaceWatch) -> None:
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
            await self._record_losses(batch, ctx)
            if not batch.requests:
                return
            await trio.sleep(FULL_RETRY_S)

    async def _record_losses(self, batch: _Batch, ctx: ActorContext) -> None:
        """Into the space kept back for them; what still waits stays in the batch."""
        urgent = [request for request in batch.requests if request.reserved] + self._urgent()
        if urgent:
            try:
                await self._sync(batch.of(urgent), ctx, use_reserve=True)
            except LogFull as exc:
                for request in urgent:
                    request.answer(outcome.Error(exc))
        batch.requests = [request for request in batch.requests if not request.reserved]

    async def _sync(self, batch: _Batch, ctx: ActorContext, *, use_reserve: bool = False) -> None:
        """One commit, its answers, its offer to the consumers. Raises LogFull, LogSyncFailed, InvariantViolation."""
        appended: list[Appended] = []
        if batch.has_drafts:
            # Shielded by nature: to_thread is not abandoned on cancel, so the write ends before we do.
            started_s = ctx.clock.monotonic_s()
            appended, groups = await ctx.offload(lambda: self.log.commit(batch.settle(), use_reserve=use_reserve))
            took_s = ctx.clock.monotonic_s() - started_s
            ctx.metrics.log_synced(took_s)
            if took_s > SLOW_SYNC_S:
                ctx.log.warning("log_sync_slow", seconds=round(took_s, 3))
            self.log.offer(groups)
            _count(groups, ctx)
        for request, answer in batch.answers(appended):
            request.answer(outcome.Value(answer))


@attrs.define(eq=False)
class _Batch:
    """Requests of one commit. Live rows are cut once, however often the disk is full; marks are made for each try."""

    requests: list[AppendRequest]
    _seam: SeamKeeper
    _cut: dict[AppendRequest, Ordered] = attrs.field(factory=dict)

    @property
    def has_drafts(self) -> bool:
        """False: barriers only."""
        return any(request.draft is not None for request in self.requests)

    def of(self, requests: list[AppendRequest]) -> _Batch:
        """Others, over the same seam."""
        return _Batch(requests, self._seam)

    def settle(self) -> list[GroupDraft]:
        """As they go into the log. In a worker thread."""
        wanted = [(request, request.draft) for request in self.requests if request.draft is not None]
        drafts = [self._cut[request].draft if request in self._cut else draft for request, draft in wanted]
        ordered = self._seam.order(drafts)
        for (request, draft), one in zip(wanted, ordered, strict=True):
            if isinstance(draft, LiveDraft):
                self._cut.setdefault(request, one)
        return [one.draft for one in ordered]

    def answers(self, appended: Sequence[Appended]) -> Iterator[tuple[AppendRequest, Appended | None]]:
        """Each request with its answer; barriers have none."""
        rest = iter(appended)
        for request in self.requests:
            if request.draft is None:
                yield request, None
                continue
            answer, cut = next(rest), self._cut.get(request)
            yield request, attrs.evolve(answer, refused=cut.refused) if cut is not None and cut.refused else answer


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
