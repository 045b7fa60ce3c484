"""One lane: everything that is fetched for one (symbol, kind), one thing at a time.

So no two fetches of one (symbol, kind, hour) ever race. A lane resumes from the log, asks `plan` what is next, and
appends slices with the position that covers them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import attrs
import trio

from actors.downloader.fetch import Chains, FetchLimits
from actors.downloader.jobs import Wanted, Work, floor_minute, is_done, missing, plan, spans
from actors.downloader.ledger import JobLedger
from actors.downloader.port import HistorySource, Page
from actors.downloader.producer import Covers, HistoryProducer
from actors.downloader.slices import Feed, SliceCutter, coverage_frames, slice_frames
from actors.market.coverage import Coverage
from runtime.actor import ActorContext
from runtime.clock import NS_PER_DAY, NS_PER_MINUTE, NS_PER_S
from runtime.errors import NotConnected, PermanentSourceError
from runtime.log.types import FrameDraft

FLUSH_S_MAX = 10.0
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


@attrs.define(kw_only=True, eq=False)
class Lane:
    """Runs until cancelled. `wanted` and `wake` are its inbox."""

    feed: Feed
    source: HistorySource
    producer: HistoryProducer
    ledger: JobLedger
    limits: DownloadLimits
    slots: trio.CapacityLimiter
    """Shared by all lanes: how many download at the same time."""
    ctx: ActorContext
    on_change: Callable[[], None]
    """Called when `idle` changed."""
    rejected: RejectedSink | None = None
    wanted: list[Wanted] = attrs.field(factory=list)
    idle: bool = False
    _retry_at_s: dict[str, float] = attrs.field(factory=dict, init=False)
    """Job -> monotonic time before which it is not tried: refused for good."""
    _changed: trio.Event = attrs.field(factory=trio.Event, init=False)

    def wake(self, wanted: Wanted) -> None:
        """One more thing to do."""
        self.wanted.append(wanted)
        self._set_idle(False)
        self._changed.set()

    async def run(self) -> None:
        """Work, or wait for work. Raises: LogError when another writer used our sequence."""
        await self._resume()
        try:
            while True:
                await self._note_done()
                work = plan(self.producer.position, self._due(), self._available_to_ns())
                if work is None:
                    await self._wait_for_work()
                    continue
                async with self.slots:
                    await self._do(work)
        finally:
            # Drained or cancelled: what is queued becomes durable anyway; waiting lets the board tell the truth.
            with self.ctx.shielded(FLUSH_S_MAX):
                await self._flush_quietly()

    async def _resume(self) -> None:
        """From the log; a buffer that is just restarting is waited for."""
        while True:
            try:
                return await self.producer.resume()
            except NotConnected as exc:
                self.ctx.log.warning("history_waits_for_buffer", producer=self.producer.name, reason=str(exc))
                self.ctx.progress()
                await trio.sleep(BUFFER_RETRY_S)

    async def _flush_quietly(self) -> None:
        try:
            await self.producer.flush()
        except NotConnected:
            return  # its outcome is found in the log at the next start

    def _due(self) -> list[Wanted]:
        now_s = self.ctx.clock.monotonic_s()
        self._retry_at_s = {job: at_s for job, at_s in self._retry_at_s.items() if at_s > now_s}
        return [wanted for wanted in self.wanted if wanted.job not in self._retry_at_s]

    def _available_to_ns(self) -> int:
        """Exclusive end of what can be asked for: minutes that are over and have settled."""
        return floor_minute(self.ctx.clock.wall_ns() - round(self.limits.settle_s * NS_PER_S))

    async def _note_done(self) -> None:
        """Take note of jobs that the log says are done."""
        for wanted in list(self.wanted):
            if is_done(self.producer.position, wanted):
                self.wanted.remove(wanted)
                await self.ledger.finish(self.feed.symbol, self.feed.kind, wanted)

    async def _wait_for_work(self) -> None:
        """Until a job comes, the next minute has settled, or a refused job is due again."""
        self._changed = trio.Event()
        self._set_idle(True)
        with trio.move_on_after(self._wait_s()):
            await self._changed.wait()
        self._set_idle(False)

    def _wait_s(self) -> float:
        waits_s = [at_s - self.ctx.clock.monotonic_s() for at_s in self._retry_at_s.values()]
        next_ns = self._available_to_ns() + NS_PER_MINUTE
        if any(missing(self.producer.position, wanted, next_ns) for wanted in self._due()):
            settled_ns = next_ns + round(self.limits.settle_s * NS_PER_S)
            waits_s.append((settled_ns - self.ctx.clock.wall_ns()) / NS_PER_S)
        elif self._due():
            waits_s.append(NS_PER_MINUTE / NS_PER_S)  # what is wanted lies further in the future
        return max(min(waits_s, default=math.inf), 0.0)

    def _set_idle(self, idle: bool) -> None:
        self.idle = idle
        self.on_change()

    async def _do(self, work: Work) -> None:
        """One piece of work; ends early when the vendor refuses it or the buffer goes away."""
        self.ledger.start(self.feed.symbol, self.feed.kind, work, available_to_ns=self._available_to_ns())
        try:
            refused = await self._fetch(work)
            if refused is not None:
                await self._give_up(work.wanted, refused)
        except NotConnected:
            await trio.sleep(BUFFER_RETRY_S)
            await self._resume()

    async def _fetch(self, work: Work) -> PermanentSourceError | None:
        """Append the slices of `work`; None when all are durable, else what the vendor said for good.

        Raises: NotConnected when the buffer goes away.
        """
        chains = Chains(
            source=self.source,
            symbol=self.feed.symbol,
            kind=self.feed.kind,
            limits=self.limits.fetch,
            ctx=self.ctx,
        )
        lost: NotConnected | None = None
        async with chains.open(list(spans(work.intervals, self.limits.span_ns))) as each:
            try:
                async for from_ns, to_ns, pages in each:
                    cutter = SliceCutter(self.feed.kind, from_ns, to_ns)
                    async for result in pages:
                        await self._append(work.wanted, cutter, result.unwrap())
            except PermanentSourceError as exc:
                return exc
            except NotConnected as exc:
                lost = exc
        if lost is not None:  # raised outside of the nursery, which would wrap it
            raise lost
        return None

    async def _append(self, wanted: Wanted, cutter: SliceCutter, page: Page) -> None:
        if self.rejected is not None and page.rejected is not None and page.rejected.num_rows:
            await self.rejected(self.feed.symbol, self.feed.kind, page)
        ready = cutter.push(page)
        if not ready:
            return
        feed = self.feed
        framed: Sequence[tuple[FrameDraft, ...]] = await self.ctx.offload(
            lambda: [slice_frames(feed, piece) for piece in ready]
        )
        for piece, frames in zip(ready, framed, strict=True):
            covers = Covers(wanted=wanted, from_ns=piece.from_ns, to_ns=piece.to_ns, rows=piece.rows.num_rows)
            await self.producer.append(frames, covers)
        await self.producer.flush()
        self.ctx.progress()

    async def _give_up(self, wanted: Wanted, refused: PermanentSourceError) -> None:
        """The vendor will not give it: said in the ledger of coverage (P4) and on the board."""
        reason = str(refused)
        self.ctx.log.error("history_refused", symbol=self.feed.symbol, kind=self.feed.kind, reason=reason)
        if not wanted.refetch:  # what is fetched again is known already
            await self._note_missing(wanted, reason)
        if wanted.job:
            self.wanted.remove(wanted)
        else:
            self._retry_at_s[wanted.job] = self.ctx.clock.monotonic_s() + self.limits.permanent_retry_s
        await self.ledger.fail(self.feed.symbol, self.feed.kind, wanted, reason)

    async def _note_missing(self, wanted: Wanted, reason: str) -> None:
        """A coverage record for each interval that stays unknown."""
        for from_ns, to_ns in missing(self.producer.position, wanted, self._available_to_ns()):
            record = Coverage(
                symbol=self.feed.symbol,
                kind=self.feed.kind,
                source=self.feed.source,
                from_ns=from_ns,
                to_ns=to_ns,
                status="missing",
                reason=reason,
            )
            await self.producer.append(coverage_frames(self.feed.partition, record), None)
        await self.producer.flush()
