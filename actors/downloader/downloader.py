"""The history downloader: standing history and one-shot backfills, each (symbol, kind) in a lane of its own.

Lanes run side by side within a bound. Nothing is remembered outside of the log: the job store only says what was asked.
"""

from __future__ import annotations

import attrs
import trio

from actors.downloader.behind import Behind, ConfirmRules
from actors.downloader.jobs import BackfillJob, CancelJob, HistoryJob
from actors.downloader.lane import DownloadLimits, Lane, RejectedSink
from actors.downloader.ledger import JobLedger
from actors.downloader.port import HistorySource, JobStore
from actors.downloader.producer import HistoryProducer
from actors.downloader.seam import Seam
from actors.downloader.slices import Feed
from actors.market.symbols import feeds, parse_symbol, partition_of
from runtime.actor import ActorContext
from runtime.log.appender import Appender
from runtime.mailbox import Mailbox
from runtime.market_clock import MarketClock

CLOSE_S_MAX = 5.0
HEARTBEAT_S = 5.0


@attrs.frozen(kw_only=True)
class HistoryDownloader:
    """Fetch what is wanted and not covered."""

    source: HistorySource
    """Made for this incarnation, closed at its end."""
    appender: Appender
    partitions: int
    """n of the log: history lies in n..2n-1."""
    history: tuple[HistoryJob, ...]
    """Kinds that an asset class lacks are not asked for."""
    jobs: JobStore
    new_jobs: Mailbox[BackfillJob | CancelJob]
    """Told to a running process; they are in the store by then, or out of it."""
    limits: DownloadLimits = attrs.field(factory=DownloadLimits)
    rejected: RejectedSink | None = None
    market: MarketClock | None = None
    """The market's clock, with a live stream beside us; None: there is none, the wall clock holds."""
    seam: Seam | None = None
    """What the live side and we tell each other; with `market`."""
    rules: ConfirmRules = attrs.field(factory=ConfirmRules)

    async def run(self, ctx: ActorContext) -> None:
        """Work until drained. Raises: LogError when another writer used the sequence of one of our producers."""
        ctx.board.jobs_idle = False
        ctx.ready()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._stop_when_drained, ctx, nursery.cancel_scope)
                await _Crew(actor=self, ctx=ctx).work()
        finally:
            with ctx.shielded(CLOSE_S_MAX):
                await self.source.close()

    async def _stop_when_drained(self, ctx: ActorContext, scope: trio.CancelScope) -> None:
        await ctx.drain_requested.wait()
        scope.cancel()


@attrs.define(kw_only=True, eq=False)
class _Crew:
    """All lanes of one incarnation."""

    actor: HistoryDownloader
    ctx: ActorContext
    ledger: JobLedger = attrs.field(init=False)
    lanes: dict[tuple[str, str], Lane] = attrs.field(factory=dict)
    loaded: bool = False
    slots: trio.CapacityLimiter = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.ledger = JobLedger(self.ctx.board, self.actor.jobs)
        self.slots = trio.CapacityLimiter(self.actor.limits.lanes_at_once)

    async def work(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._heartbeat)
            for job in self.actor.history:
                if job.kind in parse_symbol(job.symbol).kinds:
                    self._lane(nursery, job.symbol, job.kind).wake(job.wanted())
            for backfill in await self.actor.jobs.load():
                await self._take_on(nursery, backfill)
            self.loaded = True
            self._publish_idle()
            while True:
                order = await self.actor.new_jobs.receive()
                if isinstance(order, CancelJob):
                    self._cancel(order.id)
                else:
                    await self._take_on(nursery, order)

    async def _heartbeat(self) -> None:
        """To have nothing to do is progress too."""
        while True:
            if self._idle():
                self.ctx.progress()
            await trio.sleep(HEARTBEAT_S)

    async def _take_on(self, nursery: trio.Nursery, job: BackfillJob) -> None:
        if self.ledger.knows(job.id):
            return
        try:
            pairs = feeds(job.symbols, job.kinds)
        except ValueError as exc:
            self.ctx.log.warning("backfill_refused", job=job.id, reason=str(exc))
            await self.actor.jobs.failed(job.id, str(exc))
            return
        self.ledger.begin(job.id, pairs)
        for symbol, kind in pairs:
            lane = self._lane(nursery, symbol, kind)
            lane.wake(job.wanted(lane.behind.available_to_ns()))

    def _cancel(self, job_id: str) -> None:
        self.ledger.cancel(job_id)
        for (symbol, kind), lane in self.lanes.items():
            for wanted in lane.drop(job_id):
                self.ledger.cancel_part(symbol, kind, wanted)
        self.ctx.log.info("backfill_cancelled", job=job_id)
        self._publish_idle()

    def _lane(self, nursery: trio.Nursery, symbol: str, kind: str) -> Lane:
        if (symbol, kind) not in self.lanes:
            self.lanes[symbol, kind] = self._new_lane(symbol, kind)
            nursery.start_soon(self.lanes[symbol, kind].run)
        return self.lanes[symbol, kind]

    def _new_lane(self, symbol: str, kind: str) -> Lane:
        actor, limits = self.actor, self.actor.limits
        producer = HistoryProducer(
            actor.appender,
            f"history/{symbol}/{kind}",
            under_way_max=limits.appends_under_way_max,
            on_durable=lambda covers: lane.durable(covers),
            on_wait=self.ctx.progress,
        )
        feed = Feed(
            symbol=symbol,
            kind=kind,
            source=actor.source.name,
            partition=partition_of(symbol, actor.partitions, history=True),
            live_partition=partition_of(symbol, actor.partitions, history=False),
        )
        lane = Lane(
            feed=feed,
            source=actor.source,
            producer=producer,
            ledger=self.ledger,
            behind=self._behind(symbol, kind),
            limits=limits,
            slots=self.slots,
            ctx=self.ctx,
            on_change=self._publish_idle,
            rejected=actor.rejected,
        )
        return lane

    def _behind(self, symbol: str, kind: str) -> Behind:
        actor = self.actor
        standing = [job for job in actor.history if (job.symbol, job.kind) == (symbol, kind)]
        is_live = actor.seam is not None and bool(standing)
        return Behind(
            clock=self.ctx.clock,
            rules=actor.rules,
            minute_settle_s=actor.limits.settle_s,
            market=actor.market if is_live else None,
            seam=actor.seam.feed(symbol, kind) if actor.seam is not None and is_live else None,
            relative=any(job.relative for job in standing),
        )

    def _idle(self) -> bool:
        return self.loaded and all(lane.idle for lane in self.lanes.values())

    def _publish_idle(self) -> None:
        """Nobody else may say idle: a job that waits in the mailbox counts as work."""
        self.ctx.board.jobs_idle = self._idle() and not self.actor.new_jobs.statistics().depth
