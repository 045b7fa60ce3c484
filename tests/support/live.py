"""A process of buffer, live and history downloader over a log in memory, a market with a stream, and an oracle.

The oracle knows only the market's rows. It reads the log's groups by hand, once in physical order as the aggregator
does, and once as a delivery with two lanes that may lag behind one another as far as `after_offset` allows.
"""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import attrs
import numpy as np
import structlog
import trio

from actors.buffer.buffer import Buffer
from actors.buffer.memory import MemoryCommitLog
from actors.downloader.behind import ConfirmRules
from actors.downloader.downloader import HistoryDownloader
from actors.downloader.fetch import FetchLimits
from actors.downloader.jobs import HistoryJob
from actors.downloader.lane import DownloadLimits
from actors.downloader.live import LiveDownloader
from actors.downloader.live_group import LiveLimits
from actors.downloader.memory import MemoryHistory, MemoryJobs, MemoryTicks
from actors.downloader.memory_live import MemoryLive, MemoryMarket, MemoryTime, StreamScript
from actors.downloader.seam import Seam
from actors.market import schema
from actors.market.coverage import Coverage, coverage_records
from runtime.actor import ActorContext, Seams, offload_inline
from runtime.backoff import Backoff
from runtime.board import Board
from runtime.clock import NS_PER_HOUR, NS_PER_MINUTE, NS_PER_S, VirtualClock, parse_instant_ns
from runtime.entropy import SeededEntropy
from runtime.log.appender import Appender, AppendRequest
from runtime.log.types import Group
from runtime.mailbox import Mailbox
from runtime.market_clock import MarketClock

EUR = "C:EURUSD"
T0 = parse_instant_ns("2014-05-01T10:00Z")
"""A Thursday: the market is open."""
N = 4
Row = tuple[int, float, float]


class Crash(BaseException):
    """The process is killed here."""


@attrs.define(kw_only=True)
class CrashingLog(MemoryCommitLog):
    """Dies at the n-th commit, before or after it is durable."""

    crash_at: int | None = None
    durable: bool = True

    def commit(self, drafts, *, use_reserve=False):
        crash = self.crash_at is not None and len(self.commits) + 1 >= self.crash_at
        if crash:
            self.crash_at = None
            if self.durable:
                super().commit(drafts, use_reserve=use_reserve)
            raise Crash
        return super().commit(drafts, use_reserve=use_reserve)


def walk(seed: int, from_ns: int, to_ns: int, rows: int) -> MemoryTicks:
    """Rows at any nanosecond, some of them at the same one."""
    rng = np.random.default_rng(seed)
    ts_ns = np.sort(rng.integers(from_ns, to_ns, rows))
    ties = np.flatnonzero(rng.random(rows) < 0.1)
    ts_ns[ties[ties > 0]] = ts_ns[ties[ties > 0] - 1]
    bid = np.round(1.1 + rng.integers(0, 50, rows) / 1e5, 5)
    return MemoryTicks(ts_ns=np.sort(ts_ns), bid=bid, ask=np.round(bid + 2e-5, 5))


def truth(ticks: MemoryTicks, from_ns: int, to_ns: int) -> Counter[Row]:
    rows = zip(ticks.ts_ns.tolist(), ticks.bid.tolist(), ticks.ask.tolist(), strict=True)
    return Counter(row for row in rows if from_ns <= row[0] < to_ns)


@attrs.define(kw_only=True, eq=False)
class World:
    """What outlives a process, and how the next one is made."""

    market: MemoryMarket
    script: StreamScript = attrs.field(factory=StreamScript)
    history_from_ns: int = T0 - NS_PER_HOUR
    confirm: bool = True
    settle_s: float = 1200.0
    log: CrashingLog = attrs.field(factory=CrashingLog)
    limits: LiveLimits = attrs.field(
        factory=lambda: LiveLimits(backoff=Backoff(initial_s=1.0, max_s=8.0), minute_settle_s=0.5, linger_s=0.4)
    )
    rules: ConfirmRules | None = None
    board: Board = attrs.field(factory=Board)
    lives: list[MemoryLive] = attrs.field(factory=list)
    histories: list[MemoryHistory] = attrs.field(factory=list)
    clock_start_ns: int = parse_instant_ns("2025-01-01")
    """Ours; years from the market's."""
    clock: VirtualClock = attrs.field(default=attrs.Factory(lambda w: VirtualClock(w.clock_start_ns), takes_self=True))
    relative: bool = False
    time: MemoryTime | None = None
    source: Callable[[MemoryHistory], MemoryHistory] = lambda source: source
    contexts: list[ActorContext] = attrs.field(factory=list)
    seam: Seam | None = None
    kinds: dict[str, str] = attrs.field(factory=lambda: {EUR: "quotes"})
    live_restarts: tuple[int, ...] = ()
    """Market times at which the live actor alone is replaced by a new one."""
    seeds: Iterator[int] = attrs.field(factory=itertools.count)
    _live: MemoryLive | None = None

    def context(self, name: str) -> ActorContext:
        seams = Seams(
            clock=self.clock, entropy=SeededEntropy(next(self.seeds)), offload=offload_inline, board=self.board
        )
        logger = structlog.wrap_logger(structlog.ReturnLogger(), processors=[lambda *_: ""])
        ctx = ActorContext(name=name, incarnation=1, seams=seams, log=logger)
        self.contexts.append(ctx)
        return ctx

    async def process(self, done: Callable[[], bool], *, within_s: float = 20_000.0) -> bool:
        """One process until `done`; False: it was killed."""
        inbox: Mailbox[AppendRequest] = Mailbox("appends", 64)
        losses: Mailbox[AppendRequest] = Mailbox("losses", 16)
        appender = Appender(inbox=inbox, lookup=self.log.producer, reserve=losses)
        self.board, self.contexts = Board(), []
        seam = self.seam = Seam(self.log.producer)
        market_clock = MarketClock(self.clock)
        if self._live is None:
            self._live = MemoryLive(market=self.market, script=self.script, beat_s=0.2)  # the vendor outlives us
        live = self._live
        self.lives.append(live)
        history = self.source(MemoryHistory(ticks=self.market.ticks, visible_to_ns=self.market.now_ns, page_rows=700))
        self.histories.append(history)

        def new_live() -> LiveDownloader:
            return LiveDownloader(
                source=live,
                time=self.time or MemoryTime(market=self.market),
                appender=appender,
                partitions=N,
                feeds=tuple(self.kinds.items()),
                seam=seam,
                market=market_clock,
                confirm=self.confirm,
                limits=self.limits,
            )

        async def run_live() -> None:
            for stop_ns in (*self.live_restarts, None):
                with trio.CancelScope() as scope:
                    async with trio.open_nursery() as lives:
                        lives.start_soon(new_live().run, self.context("live"))
                        while stop_ns is None or self.market.now_ns() < stop_ns:  # noqa: ASYNC110
                            await trio.sleep(0.25)
                        scope.cancel()

        rules = self.rules or ConfirmRules(
            confirm=self.confirm, settle_s=self.settle_s, quarantine_retry_s=5.0, order_delay_s=0.5
        )
        download = HistoryDownloader(
            source=history,
            appender=appender,
            partitions=N,
            history=tuple(
                HistoryJob(symbol=s, kind=k, from_ns=self.history_from_ns, to_ns=None, relative=self.relative)
                for s, k in self.kinds.items()
            ),
            jobs=MemoryJobs(),
            new_jobs=Mailbox("jobs", 4),
            limits=DownloadLimits(settle_s=0.5, fetch=FetchLimits(backoff=Backoff(initial_s=0.2, max_s=4.0))),
            market=market_clock,
            seam=seam,
            rules=rules,
        )
        try:
            with trio.fail_after(within_s):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(Buffer(log=self.log, inbox=inbox, reserve=losses).run, self.context("buffer"))
                    nursery.start_soon(download.run, self.context("history"))
                    nursery.start_soon(run_live)
                    while not done():  # noqa: ASYNC110
                        await trio.sleep(0.25)
                    nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            if not group.subgroup(Crash):
                raise
            return False
        return True

    async def until_confirmed(self, to_ns: int) -> None:
        """Processes until one has confirmed everything below."""
        while not await self.process(lambda: self.confirmed(to_ns)):
            pass

    def confirmed(self, to_ns: int) -> bool:
        for symbol, kind in self.kinds.items():
            position = self.log.producer(f"history/{symbol}/{kind}").position
            if not position:
                return False
            told = json.loads(position)
            confirmed = told["covered"] if told["confirmed"] is True else told["confirmed"]
            if not any(a <= self.history_from_ns and to_ns <= b for a, b in confirmed):
                return False
        return not (self.seam and any(self.seam.feed(s, k).orders.owed for s, k in self.kinds.items()))


@attrs.frozen
class Event:
    """One group as a consumer sees it."""

    live: bool
    records: tuple[Coverage, ...]
    rows: tuple[Row, ...]
    last_offset: int
    """Of its last frame."""

    @property
    def slice(self) -> Coverage | None:
        return next((r for r in self.records if r.session is None and r.status in {"final", "empty", "live"}), None)


COLUMNS = {"quotes": ("ts_ns", "bid", "ask"), "trades": ("ts_ns", "price", "size")}


def read(group: Group) -> Event:
    records: list[Coverage] = []
    rows: list[Row] = []
    for frame in group.frames:
        batch = schema.decode(schema.schema_message(frame.kind), frame.body)
        assert frame.rows == batch.num_rows
        if frame.kind == "coverage":
            records += coverage_records(batch)
        else:
            rows += zip(*(batch.column(name).to_pylist() for name in COLUMNS[frame.kind]), strict=True)
    return Event(group.frames[0].partition < N, tuple(records), tuple(rows), group.frames[-1].offset)


def events(log: MemoryCommitLog, feed: str = f"{EUR}/quotes") -> list[Event]:
    found = [read(g) for g in log.groups if g.producer in {f"live/{feed}", f"history/{feed}"}]
    for event in found:
        if piece := event.slice:
            assert not event.live
            assert piece.rows == len(event.rows)
            assert all(piece.from_ns <= row[0] < piece.to_ns for row in event.rows)
            assert piece.from_ns // NS_PER_HOUR == (piece.to_ns - 1) // NS_PER_HOUR
    return found


def apply(stored: list[Row], event: Event) -> list[Row]:
    if piece := event.slice:
        stored = [row for row in stored if not piece.from_ns <= row[0] < piece.to_ns]
    return stored + list(event.rows)


def no_word_after_a_slice(found: Sequence[Event]) -> None:
    """The newest word on a minute is that of a slice, once there is one."""
    replaced: list[tuple[int, int]] = []
    for event in found:
        if event.slice:
            replaced.append((event.slice.from_ns, event.slice.to_ns))
        for record in event.records if event.live else ():
            later = [piece for piece in replaced if piece[0] < record.to_ns and record.from_ns < piece[1]]
            assert not later, f"{record} after {later}"


def physical(found: Sequence[Event]) -> Counter[Row]:
    """What the rows are in the order of the log."""
    stored: list[Row] = []
    for event in found:
        stored = apply(stored, event)
    return Counter(stored)


def two_lanes(found: Sequence[Event], seed: int) -> Counter[Row]:
    """What they are for a delivery whose lanes take turns at random."""
    rng = random.Random(seed)
    lanes = [[e for e in found if not e.live], [e for e in found if e.live]]
    stored: list[Row] = []
    mark = -1  # last applied live offset
    bias = rng.random()
    while lanes[0] or lanes[1]:
        lane = int(rng.random() < bias)
        if not lanes[lane]:
            lane = 1 - lane
        event = lanes[lane][0]
        if event.slice and event.slice.after_offset is not None and event.slice.after_offset > mark:
            assert lanes[1], "waits for a live row that is not there"
            lane, event = 1, lanes[1][0]
        lanes[lane].pop(0)
        stored = apply(stored, event)
        if event.live:
            mark = event.last_offset
    return Counter(stored)


def final(found: Sequence[Event]) -> list[tuple[int, int]]:
    """Union of the final slices, by minute."""
    minutes: set[int] = set()
    for event in found:
        if (piece := event.slice) and piece.status != "live":
            minutes |= set(range(piece.from_ns, piece.to_ns, NS_PER_MINUTE))
    out: list[tuple[int, int]] = []
    for start in sorted(minutes):
        if out and out[-1][1] == start:
            out[-1] = (out[-1][0], start + NS_PER_MINUTE)
        else:
            out.append((start, start + NS_PER_MINUTE))
    return out


def check(world: World, to_ns: int, *, seeds: int = 5, symbol: str = EUR) -> list[Event]:
    """After confirmation: every tick once, and covered, whichever way it is read."""
    found = events(world.log, f"{symbol}/{world.kinds[symbol]}")
    ticks = world.market.ticks[symbol]
    lower = world.history_from_ns
    columns = ticks.columns(0, len(ticks.ts_ns))
    wanted = Counter(
        row for row in zip(ticks.ts_ns.tolist(), *(c.tolist() for c in columns), strict=True) if lower <= row[0] < to_ns
    )

    def upto(rows: Counter[Row]) -> Counter[Row]:
        return Counter({row: n for row, n in rows.items() if lower <= row[0] < to_ns})

    no_word_after_a_slice(found)
    assert upto(physical(found)) == wanted
    for seed in range(seeds):
        assert upto(two_lanes(found, seed)) == wanted, f"two lanes, seed {seed}"
    assert any(a <= lower and to_ns <= b for a, b in final(found)), final(found)
    return found


__all__ = ["NS_PER_S"]
