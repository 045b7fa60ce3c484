"""The buffer: the log's only writer. Group commit, then the answer to each producer, then the offer to consumers.

Being the only writer it also keeps the order of live rows and slices (`seam.py`): drafts are settled right before
their commit, in the same worker thread.
"""

from __future__ import annotations

import attrs
import outcome
import trio

from actors.buffer.port import CommitLog
from actors.buffer.seam import Ordered, SeamKeeper
from runtime.actor import ActorContext
from runtime.board import LogState
from runtime.errors import LogFull, NotConnected
from runtime.log.appender import AppendRequest
from runtime.log.types import Appended, Group, GroupDraft, LiveDraft
from runtime.mailbox import Mailbox

FULL_RETRY_S = 1.0


@attrs.frozen(kw_only=True)
class CommitLimits:
    """When a commit batch closes: whatever comes first."""

    linger_s: float = 0.005
    """How long the first append of a batch may wait for company; adds to the latency of a lone one."""
    bytes_max: int = 256 * 1024
    """Bodies of one commit; a single larger group still goes whole."""
    groups_max: int = 256


@attrs.frozen(kw_only=True)
class Buffer:
    """Make every queued draft durable in the order it was queued; nothing is answered before its sync returned."""

    log: CommitLog
    inbox: Mailbox[AppendRequest]
    limits: CommitLimits = attrs.field(factory=CommitLimits)

    async def run(self, ctx: ActorContext) -> None:
        """Commit until drained. Raises LogSyncFailed (fatal, exit 74) and InvariantViolation (fatal, exit 70)."""
        self._refuse_leftovers()
        if self.log.needs_reopen:  # a commit of the former incarnation died half way
            await ctx.offload(self.log.reopen)
        log = self.log
        seam = SeamKeeper.rebuilt(log.producers(), log.log_end_offset, lambda name: log.producer(name).sequence)
        self._publish(ctx)
        ctx.ready()
        while batch := await self._collect(ctx):
            await self._commit(batch, seam, ctx)
            ctx.progress()

    def _refuse_leftovers(self) -> None:
        """A restart of the buffer restarts all producers (rest_for_one): nobody waits for what they had queued."""
        while True:
            try:
                request = self.inbox.receive_nowait()
            except trio.WouldBlock:
                return
            request.answer(outcome.Error(NotConnected("the buffer was restarted before this append was committed")))

    async def _collect(self, ctx: ActorContext) -> list[AppendRequest]:
        """The next commit batch; empty when drained."""
        first = await self._first(ctx)
        if first is None:
            return []
        batch = [first]
        size = _bytes(first)
        with trio.move_on_after(self.limits.linger_s):
            while size < self.limits.bytes_max and len(batch) < self.limits.groups_max:
                request = await self.inbox.receive()
                batch.append(request)
                size += _bytes(request)
        return batch

    async def _first(self, ctx: ActorContext) -> AppendRequest | None:
        try:
            return self.inbox.receive_nowait()
        except trio.WouldBlock:
            pass
        if ctx.drain_requested.is_set():
            return None
        got: AppendRequest | None = None
        async with trio.open_nursery() as nursery:

            async def watch_drain() -> None:
                await ctx.drain_requested.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(watch_drain)
            got = await self.inbox.receive()
            nursery.cancel_scope.cancel()
        return got

    async def _commit(self, batch: list[AppendRequest], seam: SeamKeeper, ctx: ActorContext) -> None:
        drafts = [request.draft for request in batch if request.draft is not None]
        try:
            appended = iter(await self._write(drafts, seam, ctx)) if drafts else iter(())
            for request in batch:
                request.answer(outcome.Value(next(appended) if request.draft is not None else None))
        finally:  # a producer must not wait for ever for a buffer that is gone
            for request in batch:
                request.answer(outcome.Error(NotConnected("the buffer ended during this commit")))
            self._publish(ctx)

    async def _write(self, drafts: list[GroupDraft | LiveDraft], seam: SeamKeeper, ctx: ActorContext) -> list[Appended]:
        """One commit; a full disk is an outage that is waited for, with the producers blocked behind it."""
        ordered: list[Ordered] = []

        def settle_and_commit() -> tuple[list[Appended], list[Group]]:
            if not ordered:  # once: what was settled stays so however often the disk is full
                ordered.extend(seam.order(drafts))
            return self.log.commit([one.draft for one in ordered])

        while True:
            try:
                # Shielded by nature: to_thread is not abandoned on cancel, so the write ends before we do.
                started_s = ctx.clock.monotonic_s()
                appended, groups = await ctx.offload(settle_and_commit)
                ctx.metrics.log_synced(ctx.clock.monotonic_s() - started_s)
            except LogFull as exc:
                self._publish(ctx, error=str(exc))
                ctx.log.warning("log_full", reason=str(exc), retry_s=FULL_RETRY_S)
                ctx.progress()
                await trio.sleep(FULL_RETRY_S)
                continue
            self.log.offer(groups)
            _count(groups, ctx)
            return [
                attrs.evolve(answer, refused=one.refused) if one.refused else answer
                for answer, one in zip(appended, ordered, strict=True)
            ]

    def _publish(self, ctx: ActorContext, *, error: str = "") -> None:
        ctx.board.log = LogState(
            log_id=self.log.log_id,
            end_position=self.log.end_position,
            bytes=self.log.bytes,
            segments=self.log.segments,
            records_accepted=self.log.records_accepted,
            error=error,
        )


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
