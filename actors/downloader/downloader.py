"""The history downloader: standing history and one-shot backfills, each (symbol, kind) in a lane of its own.

A lane does one thing at a time, so no two fetches of one (symbol, kind, hour) ever race; lanes run side by side within
a bound. All progress lives in the log: a lane resumes from there, asks `plan` what is next, and appends slices with
the position that covers them.
"""

from __future__ import annotations

from typing import Protocol

import attrs
import trio

from actors.downloader.fetch import Chains, FetchLimits
from actors.downloader.jobs import BackfillJob, HistoryJob, Wanted, Work, floor_minute, is_done, missing, plan, spans
from actors.downloader.ledger import JobLedger
from actors.downloader.port import HistorySource, JobStore, Page
from actors.downloader.producer import Covers, HistoryProducer
from actors.downloader.slices import Feed, SliceCutter, coverage_frames, slice_frames
from actors.market.coverage import Coverage
from actors.market.symbols import parse_symbol, partition_of
from runtime.actor import ActorContext
from runtime.clock import NS_PER_DAY, NS_PER_MINUTE, NS_PER_S, format_ns
from runtime.errors import NotConnected, PermanentSourceError
from runtime.log.appender import Appender
from runtime.log.types import FrameDraft
from runtime.mailbox import Mailbox

CLOSE_S_MAX = 5.0
FLUSH_S_MAX = 10.0
HEARTBEAT_S = 5.0
BUFFER_RETRY_S = 1.0


@attrs.frozen(kw_only=True)
class DownloadLimits:
    """Bounds of the history downloader."""

    lanes_at_once: int = 2
    """(symbol, kind) that download at the same time; times `fetch` this bounds memory."""
    fetch: FetchLimits = attrs.field(factory=FetchLimits)
    appends_under_way_max: int = 32
    """Of one lane, not yet durable."""
    span_ns: int = NS_PER_DAY
    """What one page chain asks for; a divisor or multiple of a day."""
    settle_s: float = 5.0
    """A minute is asked for only this long after it ended."""
    permanent_retry_s: float = 86_400.0
    """Standing history that the vendor refused for good is tried again after this (plans change)."""


class RejectedSink(Protocol):
    """Where rows that our own rules refuse go: the dead-letter log, once it takes them."""

    async def __call__(self, symbol: str, kind: str, page: Page) -> None:
        """Keep `page.rejected`."""
        ...


@attrs.frozen(kw_only=True)
class HistoryDownloader:
    """Fetch what is wanted and not covered; nothing is remembered outside of the log."""

    source: HistorySource
    """Made for this incarnation, closed at its end."""
    appender: Appender
    partitions: int
    """n of the log: history lies in n..2n-1."""
    history: tuple[HistoryJob, ...]
    jobs: JobStore
    new_jobs: Mailbox[BackfillJob]
    """Told to a running process; also in the store by then."""
    limits: DownloadLimits = attrs.field(factory=DownloadLimits)
    rejected: RejectedSink | None = None

    async def run(self, ctx: ActorContext) -> None:
        """Work until drained. Raises LogError, and what the log's writer raises."""
        ctx.board.jobs_idle = False
        ctx.ready()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._stop_when_drained, ctx, nursery.cancel_scope)
                await _Crew(actor=self, ctx=ctx, ledger=JobLedger(ctx.board, self.jobs)).work()
        finally:
            with ctx.shielded(CLOSE_S_MAX):
                await self.source.close()

    async def _stop_when_drained(self, ctx: ActorContext, scope: trio.CancelScope) -> None:
        await ctx.drain_requested.wait()
        scope.cancel()


@attrs.define(kw_only=True, eq=False)
class _Lane:
    """One (symbol, kind)."""

    symbol: str
    kind: str
    producer: HistoryProducer
    wanted: list[Wanted] = attrs.field(factory=list)
    retry_at_s: dict[str, float] = attrs.field(factory=dict)
    """Job -> monotonic time before which it is not tried: refused for good."""
    changed: trio.Event = attrs.field(factory=trio.Event)
    idle: bool = False


@attrs.define(kw_only=True, eq=False)
class _Crew:
    """All lanes of one incarnation."""

    actor: HistoryDownloader
    ctx: ActorContext
    ledger: JobLedger
    lanes: dict[tuple[str, str], _Lane] = attrs.field(factory=dict)
    loaded: bool = False
    slots: trio.CapacityLimiter = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.slots = trio.CapacityLimiter(self.actor.limits.lanes_at_once)

    async def work(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._heartbeat)
            for job in self.actor.history:
                self._lane(nursery, job.symbol, job.kind).wanted.append(job.wanted())
            for backfill in await self.actor.jobs.load():
                await self._take_on(nursery, backfill)
            self.loaded = True
            self._publish_idle()
            while True:
                await self._take_on(nursery, await self.actor.new_jobs.receive())

    async def _heartbeat(self) -> None:
        """To have nothing to do is progress too."""
        while True:
            if self.loaded and all(lane.idle for lane in self.lanes.values()):
                self.ctx.progress()
            await trio.sleep(HEARTBEAT_S)

    async def _take_on(self, nursery: trio.Nursery, job: BackfillJob) -> None:
        if self.ledger.knows(job.id):
            return
        try:
            pairs = _pairs(job)
        except ValueError as exc:
            self.ctx.log.warning("backfill_refused", job=job.id, reason=str(exc))
            await self.actor.jobs.failed(job.id, str(exc))
            return
        self.ledger.begin(job.id, pairs)
        for symbol, kind in pairs:
            lane = self._lane(nursery, symbol, kind)
            lane.wanted.append(job.wanted())
            lane.idle = False
            lane.changed.set()
        self._publish_idle()

    def _lane(self, nursery: trio.Nursery, symbol: str, kind: str) -> _Lane:
        key = (symbol, kind)
        if key not in self.lanes:
            producer = HistoryProducer(
                self.actor.appender,
                f"history/{symbol}/{kind}",
                under_way_max=self.actor.limits.appends_under_way_max,
                on_durable=lambda covers: self.ledger.durable(symbol, kind, covers),
                on_wait=self.ctx.progress,
            )
            self.lanes[key] = _Lane(symbol=symbol, kind=kind, producer=producer)
            nursery.start_soon(self._run_lane, self.lanes[key])
        return self.lanes[key]

    async def _run_lane(self, lane: _Lane) -> None:
        await self._resume(lane)
        try:
            while True:
                await self._settle_done(lane)
                work = plan(lane.producer.position, self._due(lane), self._available_to_ns())
                if work is None:
                    await self._wait_for_work(lane)
                    continue
                self._publish_idle()
                async with self.slots:
                    await self._do(lane, work)
        finally:
            # Drained or cancelled: what is queued becomes durable anyway; waiting lets the board tell the truth.
            with self.ctx.shielded(FLUSH_S_MAX):
                await _flush_quietly(lane.producer)

    async def _resume(self, lane: _Lane) -> None:
        """From the log; a buffer that is just restarting is waited for."""
        while True:
            try:
                return await lane.producer.resume()
            except NotConnected as exc:
                self.ctx.log.warning("history_waits_for_buffer", producer=lane.producer.name, reason=str(exc))
                self.ctx.progress()
                await trio.sleep(BUFFER_RETRY_S)

    def _due(self, lane: _Lane) -> list[Wanted]:
        now_s = self.ctx.clock.monotonic_s()
        lane.retry_at_s = {job: at_s for job, at_s in lane.retry_at_s.items() if at_s > now_s}
        return [wanted for wanted in lane.wanted if wanted.job not in lane.retry_at_s]

    def _available_to_ns(self) -> int:
        """Exclusive end of what can be asked for: minutes that are over and have settled."""
        return floor_minute(self.ctx.clock.wall_ns() - round(self.actor.limits.settle_s * NS_PER_S))

    async def _settle_done(self, lane: _Lane) -> None:
        """Take note of jobs that the log says are done."""
        for wanted in list(lane.wanted):
            if is_done(lane.producer.position, wanted):
                lane.wanted.remove(wanted)
                await self.ledger.finish(lane.symbol, lane.kind, wanted)

    async def _wait_for_work(self, lane: _Lane) -> None:
        """Until a job comes, the next minute has settled, or a refused job is due again."""
        lane.idle = True
        self._publish_idle()
        lane.changed = trio.Event()
        waits_s = [at_s - self.ctx.clock.monotonic_s() for at_s in lane.retry_at_s.values()]
        if any(missing(lane.producer.position, w, self._available_to_ns() + NS_PER_MINUTE) for w in self._due(lane)):
            settled_ns = self._available_to_ns() + NS_PER_MINUTE + round(self.actor.limits.settle_s * NS_PER_S)
            waits_s.append((settled_ns - self.ctx.clock.wall_ns()) / NS_PER_S)
        elif any(w.to_ns is None or w.to_ns > self._available_to_ns() for w in self._due(lane)):
            waits_s.append(NS_PER_MINUTE / NS_PER_S)  # what is wanted lies in the future
        with trio.move_on_after(max(min(waits_s), 0.0) if waits_s else float("inf")):
            await lane.changed.wait()
        lane.idle = False

    def _publish_idle(self) -> None:
        idle = self.loaded and all(lane.idle for lane in self.lanes.values())
        self.ctx.board.jobs_idle = idle and not self.actor.new_jobs.statistics().depth

    async def _do(self, lane: _Lane, work: Work) -> None:
        """One piece of work; ends early when the vendor refuses it or the buffer goes away."""
        self.ledger.start(lane.symbol, lane.kind, work, available_to_ns=self._available_to_ns())
        chains = Chains(
            source=self.actor.source, symbol=lane.symbol, kind=lane.kind, limits=self.actor.limits.fetch, ctx=self.ctx
        )
        pieces = list(spans(work.intervals, self.actor.limits.span_ns))
        try:
            refused = await self._fetch(lane, work, chains, pieces)
            if refused is not None:
                await self._give_up(lane, work, refused)
        except NotConnected:
            await trio.sleep(BUFFER_RETRY_S)
            await self._resume(lane)

    async def _fetch(
        self, lane: _Lane, work: Work, chains: Chains, pieces: list[tuple[int, int]]
    ) -> PermanentSourceError | None:
        """Append the slices of `pieces`; None when all are durable, else what the vendor said for good.

        Raises: NotConnected when the buffer goes away.
        """
        lost: NotConnected | None = None
        async with chains.open(pieces) as each:
            try:
                async for from_ns, to_ns, pages in each:
                    cutter = SliceCutter(lane.kind, from_ns, to_ns)
                    async for result in pages:
                        await self._append(lane, work, cutter, result.unwrap())
            except PermanentSourceError as exc:
                return exc
            except NotConnected as exc:  # raised outside of the nursery, which would wrap it
                lost = exc
        if lost is not None:
            raise lost
        return None

    async def _append(self, lane: _Lane, work: Work, cutter: SliceCutter, page: Page) -> None:
        if self.actor.rejected is not None and page.rejected is not None and page.rejected.num_rows:
            await self.actor.rejected(lane.symbol, lane.kind, page)
        ready = cutter.push(page)
        if not ready:
            return
        feed = self._feed(lane)
        framed: list[tuple[FrameDraft, ...]] = await self.ctx.offload(lambda: [slice_frames(feed, s) for s in ready])
        for piece, frames in zip(ready, framed, strict=True):
            covers = Covers(wanted=work.wanted, from_ns=piece.from_ns, to_ns=piece.to_ns, rows=piece.rows.num_rows)
            await lane.producer.append(frames, covers)
        await lane.producer.flush()
        self.ctx.progress()

    def _feed(self, lane: _Lane) -> Feed:
        return Feed(
            symbol=lane.symbol,
            kind=lane.kind,
            source=self.actor.source.name,
            partition=partition_of(lane.symbol, self.actor.partitions, history=True),
        )

    async def _give_up(self, lane: _Lane, work: Work, refused: PermanentSourceError) -> None:
        """The vendor will not give it: said on the board, and in the ledger of coverage (P4)."""
        self.ctx.log.error(
            "history_refused", symbol=lane.symbol, kind=lane.kind, job=work.wanted.job, reason=str(refused)
        )
        await self._note_missing(lane, work.wanted, str(refused))
        if work.wanted.job:
            lane.wanted.remove(work.wanted)
        else:
            lane.retry_at_s[work.wanted.job] = self.ctx.clock.monotonic_s() + self.actor.limits.permanent_retry_s
        await self.ledger.fail(lane.symbol, lane.kind, work.wanted, str(refused))

    async def _note_missing(self, lane: _Lane, wanted: Wanted, reason: str) -> None:
        """A coverage record for each interval that stays unknown. A refetch leaves nothing unknown: it was there."""
        if wanted.refetch:
            return
        feed = self._feed(lane)
        for from_ns, to_ns in missing(lane.producer.position, wanted, self._available_to_ns()):
            record = Coverage(
                symbol=feed.symbol,
                kind=feed.kind,
                source=feed.source,
                from_ns=from_ns,
                to_ns=to_ns,
                status="missing",
                reason=reason,
            )
            await lane.producer.append(coverage_frames(feed.partition, record), None)
            self.ctx.log.warning("history_missing", symbol=feed.symbol, start=format_ns(from_ns), end=format_ns(to_ns))
        await lane.producer.flush()


def _pairs(job: BackfillJob) -> list[tuple[str, str]]:
    """Every (symbol, kind) that exists: kinds that an asset class lacks are not asked for. Raises: ValueError."""
    pairs = [(symbol, kind) for symbol in job.symbols for kind in job.kinds if kind in parse_symbol(symbol).kinds]
    if not pairs:
        raise ValueError(f"none of {', '.join(job.symbols)} has {', '.join(job.kinds)}")
    return list(dict.fromkeys(pairs))


async def _flush_quietly(producer: HistoryProducer) -> None:
    try:
        await producer.flush()
    except NotConnected:
        return  # its outcome is found in the log at the next start
