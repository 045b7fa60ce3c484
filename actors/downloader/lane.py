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

from actors.downloader.behind import Behind, quarantined_of
from actors.downloader.fetch import Chains, FetchLimits
from actors.downloader.jobs import Wanted, Work, is_done, missing, spans
from actors.downloader.ledger import JobLedger
from actors.downloader.live_position import common
from actors.downloader.port import HistorySource, Page
from actors.downloader.producer import Covers, HistoryProducer, Noted
from actors.downloader.slices import Feed, Framed, Slice, SliceCutter, coverage_frames, frame_slice
from actors.market.coverage import REBUILD, Coverage, IntervalSet
from runtime.actor import ActorContext
from runtime.clock import NS_PER_DAY, format_ns
from runtime.errors import NotConnected, PermanentSourceError

FLUSH_S_MAX = 10.0
BUFFER_RETRY_S = 1.0
SHED_RETRY_S = 1.0
BACKLOG_LOOK_S = 0.1
BACKLOG_BYTES_MAX = 64 * 1024 * 1024
"""Of the log that a working reader may be behind (a few million rows). Decoding more would only take the processor from
it, and from what is live; a database that is down holds nobody up: for that the log is there."""
NOTED_DAYS_AT_ONCE = 31
"""Of `missing` records in one group."""


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
    behind: Behind
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
    _told: tuple[str, str] = attrs.field(default=("", ""), init=False)
    """The last refusal that was logged: of which job, and why."""
    _dropped: set[str] = attrs.field(factory=set, init=False)
    """Jobs that were cancelled since the work under way was chosen."""
    _changed: trio.Event = attrs.field(factory=trio.Event, init=False)

    def wake(self, wanted: Wanted) -> None:
        """One more thing to do."""
        self.wanted.append(wanted)
        self._set_idle(False)
        self._changed.set()

    def drop(self, job_id: str) -> list[Wanted]:
        """What was wanted for this job, and is no longer. Work on it ends at its next page: what is fetched stays."""
        dropped = [wanted for wanted in self.wanted if wanted.job == job_id]
        self.wanted = [wanted for wanted in self.wanted if wanted.job != job_id]
        self._dropped.add(job_id)
        self._changed.set()
        return dropped

    async def run(self) -> None:
        """Work, or wait for work. Raises: LogError when another writer used our sequence."""
        await self._resume()
        try:
            while True:
                await self._note_done()
                self._dropped.clear()
                work = self.behind.next_work(self.producer.position, self._due())
                if work is None:
                    await self._wait_for_work()
                    continue
                self._set_idle(False)
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
                await self.producer.resume()
                return self.behind.resumed(self.producer.position)
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

    async def _note_done(self) -> None:
        """Take note of jobs that the log says are done."""
        for wanted in list(self.wanted):
            if self.behind.seam is not None and not wanted.job:
                continue  # behind a live stream there is always more to come
            if wanted in self.wanted and is_done(self.producer.position, wanted, self.behind.live):
                self.wanted.remove(wanted)
                await self.ledger.finish(self.feed.symbol, self.feed.kind, wanted)

    async def _wait_for_work(self) -> None:
        """Until a job comes, the live side says something, the next minute has settled, or a refused job is due."""
        self._changed = trio.Event()
        self._set_idle(True)
        with trio.move_on_after(self._wait_s()):
            await self._woken()
        if self._changed.is_set():
            self._set_idle(False)

    async def _woken(self) -> None:
        seam = self.behind.seam
        if seam is None:
            return await self._changed.wait()
        async with trio.open_nursery() as nursery:

            async def first_of(event: trio.Event) -> None:
                await event.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(first_of, self._changed)
            nursery.start_soon(first_of, seam.changed)

    def _wait_s(self) -> float:
        waits_s = [at_s - self.ctx.clock.monotonic_s() for at_s in self._retry_at_s.values()]
        waits_s.append(self.behind.wait_s(self.producer.position, self._due()))
        return max(min(waits_s, default=math.inf), 0.0)

    def _set_idle(self, idle: bool) -> None:
        self.idle = idle
        self.on_change()

    async def _do(self, work: Work) -> None:
        """One piece of work; ends early when it is cancelled, the vendor refuses it or the buffer goes away."""
        if work.wanted.job in self._dropped:
            return
        self.ledger.start(self.feed.symbol, self.feed.kind, work, available_to_ns=self.behind.available_to_ns())
        try:
            refused = await self._fetch(work)
            if refused is not None:
                await self._give_up(work.wanted, refused)
        except NotConnected:
            await trio.sleep(BUFFER_RETRY_S)
            await self._resume()
        finally:
            self.behind.end()

    async def _fetch(self, work: Work) -> PermanentSourceError | None:
        """Append the slices of `work`; None when all are durable, else what the vendor said for good.

        A job that is cancelled meanwhile ends here, as if all were there.
        Raises: NotConnected when the buffer goes away.
        """
        chains = Chains(
            source=self.source,
            symbol=self.feed.symbol,
            kind=self.feed.kind,
            limits=self.limits.fetch,
            ctx=self.ctx,
        )
        final_to_ns = self.behind.begin(work)
        lost: NotConnected | None = None
        async with chains.open(list(spans(work.intervals, self.limits.span_ns))) as each:
            try:
                async for from_ns, to_ns, pages in each:
                    cutter = SliceCutter(self.feed.kind, from_ns, to_ns)
                    async for result in pages:
                        if work.wanted.job in self._dropped:
                            return None
                        await self._append(work.wanted, cutter, result.unwrap(), final_to_ns)
            except PermanentSourceError as exc:
                return exc
            except NotConnected as exc:
                lost = exc
        if lost is not None:  # raised outside of the nursery, which would wrap it
            raise lost
        return None

    async def _append(self, wanted: Wanted, cutter: SliceCutter, page: Page, final_to_ns: int | None) -> None:
        if self.rejected is not None and page.rejected is not None and page.rejected.num_rows:
            await self.rejected(self.feed.symbol, self.feed.kind, page)
        ready = cutter.push(page)
        if not ready:
            return
        await self._wait_for_room()
        feed = self.feed

        def is_final(piece: Slice) -> bool:
            return final_to_ns is None or piece.to_ns <= final_to_ns

        reason = REBUILD if wanted.rebuild else ""
        framed: Sequence[Framed] = await self.ctx.offload(
            lambda: [frame_slice(feed, piece, final=is_final(piece), reason=reason) for piece in ready]
        )
        settled_ns = self.behind.settled_to_ns() if final_to_ns is None else final_to_ns
        for one in framed:
            await self._append_slice(wanted, one, confirms=one.coverage.to_ns <= settled_ns)
        await self.producer.flush()
        self.ctx.progress()

    async def _wait_for_room(self) -> None:
        """A disk that fills up sheds history first: it can be downloaded again. And readers that work come first."""
        while (state := self.ctx.board.log) is not None and state.shed_backfill:
            with self.ctx.waiting("space on the disk"):
                await trio.sleep(SHED_RETRY_S)
            self.ctx.progress()
        while self.ctx.board.backlog_bytes() > BACKLOG_BYTES_MAX:
            with self.ctx.waiting("readers of the log"):
                await trio.sleep(BACKLOG_LOOK_S)
            self.ctx.progress()

    async def _append_slice(self, wanted: Wanted, framed: Framed, *, confirms: bool) -> None:
        coverage = framed.coverage
        if doubt := self.behind.doubts(self.producer.position, framed):
            self.ctx.log.warning("slice_quarantined", symbol=coverage.symbol, kind=coverage.kind, reason=doubt)
            record = attrs.evolve(coverage, status="quarantined", reason=doubt)
            frames = coverage_frames(self.feed.partition, record)
            return await self.producer.append_note(frames, quarantined=quarantined_of(framed))
        if short := self.behind.short_by(framed):
            told = {"from_": format_ns(coverage.from_ns), "to": format_ns(coverage.to_ns), "rows_fewer": short}
            self.ctx.log.warning("short_answer_believed", symbol=coverage.symbol, kind=coverage.kind, **told)
        covers = Covers(
            wanted=wanted,
            from_ns=coverage.from_ns,
            to_ns=coverage.to_ns,
            rows=coverage.rows,
            confirms=confirms,
            live=self.behind.past,
            told_ns=self.behind.asked_wall_ns,
        )
        await self.producer.append_slice(self.feed, framed, covers)

    def durable(self, covers: Covers) -> None:
        """Told by the producer."""
        self.ledger.durable(self.feed.symbol, self.feed.kind, covers)
        self.behind.durable(covers, self.producer.position)
        if covers.wanted.quiet and not self.behind.leaves_out:
            self.ledger.mend(self.feed.symbol, self.feed.kind, covers.wanted)

    async def _give_up(self, wanted: Wanted, refused: PermanentSourceError) -> None:
        """The vendor will not give it: said in the ledger of coverage (P4) and on the board."""
        reason = str(refused)
        if (wanted.job, reason) != self._told:  # behind a live stream each hour is refused with the same words
            self.ctx.log.error("history_refused", symbol=self.feed.symbol, kind=self.feed.kind, reason=reason)
        self._told = (wanted.job, reason)
        hour = None if wanted.job else self.behind.refused(self.limits.permanent_retry_s)
        if not wanted.refetch:  # what is fetched again is known already
            await self._note_missing(wanted, reason, within=hour)
        if wanted.job in self._dropped:
            return
        if wanted.job:
            self.wanted.remove(wanted)
        elif hour is None:
            self._retry_at_s[wanted.job] = self.ctx.clock.monotonic_s() + self.limits.permanent_retry_s
        await self.ledger.fail(self.feed.symbol, self.feed.kind, wanted, reason)

    async def _note_missing(self, wanted: Wanted, reason: str, *, within: tuple[int, int] | None) -> None:
        """A coverage record for each UTC day that stays unknown, a month's at a time; what is said already is not."""
        unknown = missing(self.producer.position, wanted, self.behind.available_to_ns(), self.behind.live)
        if within is not None:
            unknown = list(common(IntervalSet(unknown), [within]))
        days = self.producer.position.unsaid(unknown, reason)
        for at in range(0, len(days), NOTED_DAYS_AT_ONCE):
            some = tuple(days[at : at + NOTED_DAYS_AT_ONCE])
            records = [self._missing(from_ns, to_ns, reason) for from_ns, to_ns in some]
            frames = coverage_frames(self.feed.partition, *records)
            await self.producer.append_note(frames, noted=Noted(intervals=some, reason=reason))
        await self.producer.flush()

    def _missing(self, from_ns: int, to_ns: int, reason: str) -> Coverage:
        return Coverage(
            symbol=self.feed.symbol,
            kind=self.feed.kind,
            source=self.feed.source,
            from_ns=from_ns,
            to_ns=to_ns,
            status="missing",
            reason=reason,
        )
