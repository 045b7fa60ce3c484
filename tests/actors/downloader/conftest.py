"""A log in memory that obeys the writer's rules and can die at any append, ticks with real ties, and an oracle.

The oracle reads the log's groups by hand and applies "a slice replaces its interval": it shares no code with the
downloader but the format of frames.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace

import attrs
import numpy as np
import outcome
import pytest
import structlog
import trio

from actors.downloader.downloader import HistoryDownloader
from actors.downloader.fetch import FetchLimits
from actors.downloader.jobs import HistoryJob
from actors.downloader.lane import DownloadLimits
from actors.downloader.memory import MemoryHistory, MemoryJobs, MemoryTicks
from actors.market import schema
from actors.market.coverage import coverage_records
from runtime.actor import ActorContext, Seams, offload_inline
from runtime.backoff import Backoff
from runtime.board import Board
from runtime.clock import NS_PER_MINUTE, NS_PER_S, VirtualClock, parse_instant_ns
from runtime.entropy import SeededEntropy
from runtime.errors import NotConnected
from runtime.log.appender import Appender, AppendRequest
from runtime.log.types import Appended, GroupDraft, ProducerState
from runtime.mailbox import Mailbox

T0 = parse_instant_ns("2014-05-01T10:00Z")
NOW = parse_instant_ns("2014-05-20T00:00Z")
PARTITIONS = 4


class Crash(BaseException):
    """The process is killed here."""


@attrs.define(eq=False)
class MemoryLog:
    """Durable drafts in order, and a writer that a test can kill after any number of them."""

    drafts: list[GroupDraft] = attrs.field(factory=list)
    crash_at: int | None = None
    """Die when this many drafts are durable, before the answer goes out."""
    refuse: Callable[[GroupDraft], Exception | None] = lambda draft: None
    latency_s: float = 0.001
    duplicates: int = 0

    def state(self, producer: str) -> ProducerState:
        own = [d for d in self.drafts if d.producer == producer]
        return ProducerState(sequence=own[-1].sequence, position=own[-1].producer_position) if own else ProducerState()

    async def write(self, inbox: Mailbox[AppendRequest], on_crash: Callable[[], None]) -> None:
        while True:
            request = await inbox.receive()
            await trio.sleep(self.latency_s)
            if request.draft is None:
                request.answer(outcome.Value(None))
                continue
            if (error := self.refuse(request.draft)) is not None:
                request.answer(outcome.Error(error))
                continue
            duplicate = self._commit(request.draft)
            if self.crash_at is not None and len(self.drafts) >= self.crash_at:
                self.crash_at = None
                on_crash()
                await trio.sleep_forever()
            request.answer(
                outcome.Value(Appended(position=len(self.drafts), end_position=0, stamp_ns=0, duplicate=duplicate))
            )

    def _commit(self, draft: GroupDraft) -> bool:
        last = self.state(draft.producer).sequence
        if draft.sequence <= last:
            self.duplicates += 1
            return True
        assert draft.sequence == last + 1, f"{draft.producer}: gap {last} -> {draft.sequence}"
        assert len(draft.producer_position) <= 1024
        assert len({frame.partition for frame in draft.frames}) == 1
        self.drafts.append(draft)
        return False


@attrs.frozen
class Slice:
    """One group as a reader sees it."""

    producer: str
    from_ns: int
    to_ns: int
    rows: tuple[tuple[int, float | None, float | None], ...]
    coverage: object
    position: dict[str, object]


def read(draft: GroupDraft) -> Slice:
    *data, last = draft.frames
    assert last.kind == "coverage"
    (coverage,) = coverage_records(schema.decode(schema.schema_message("coverage"), last.body))
    rows: list[tuple[int, float | None, float | None]] = []
    checksum = 0
    for frame in data:
        batch = schema.decode(schema.schema_message(frame.kind), frame.body)
        assert frame.rows == batch.num_rows
        checksum = schema.add_checksums(checksum, schema.content_checksum(frame.kind, batch))
        rows += list(zip(*(batch.column(name).to_pylist() for name in ("ts_ns", "bid", "ask")), strict=True))
    if coverage.status != "missing":
        assert coverage.rows == len(rows)
        assert coverage.checksum == checksum
        assert data, "a data frame even for no rows"
        assert coverage.status == ("final" if rows else "empty")
    position = json.loads(draft.producer_position)
    return Slice(draft.producer, coverage.from_ns, coverage.to_ns, tuple(rows), coverage, position)


def check_slice(piece: Slice) -> None:
    """Whole minutes, inside one UTC hour, at most 200,000 rows but for a single minute, rows inside."""
    assert piece.from_ns % NS_PER_MINUTE == piece.to_ns % NS_PER_MINUTE == 0
    assert piece.from_ns < piece.to_ns
    assert piece.from_ns // (3600 * NS_PER_S) == (piece.to_ns - 1) // (3600 * NS_PER_S)
    assert len(piece.rows) <= 200_000 or piece.to_ns - piece.from_ns == NS_PER_MINUTE
    times = [row[0] for row in piece.rows]
    assert times == sorted(times)
    assert all(piece.from_ns <= t < piece.to_ns for t in times)


def stored(log: MemoryLog, producer: str) -> Counter[tuple[int, float | None, float | None]]:
    """What a database holds after every slice replaced its interval, in the order of the log."""
    rows: list[tuple[int, float | None, float | None]] = []
    for draft in log.drafts:
        if draft.producer != producer:
            continue
        piece = read(draft)
        if piece.coverage.status == "missing":  # type: ignore[attr-defined]
            continue
        check_slice(piece)
        rows = [row for row in rows if not piece.from_ns <= row[0] < piece.to_ns] + list(piece.rows)
    return Counter(rows)


def covered(log: MemoryLog, producer: str) -> list[tuple[int, int]]:
    """Union of slices, by hand."""
    out: list[tuple[int, int]] = []
    pieces = [read(d) for d in log.drafts if d.producer == producer]
    for start, end in sorted((p.from_ns, p.to_ns) for p in pieces if p.coverage.status != "missing"):  # type: ignore[attr-defined]
        if out and start <= out[-1][1]:
            out[-1] = (out[-1][0], max(end, out[-1][1]))
        else:
            out.append((start, end))
    return out


def check_positions(log: MemoryLog, producer: str) -> None:
    """At every append the position claims exactly what slices up to and including this one cover."""
    seen: list[tuple[int, int]] = []
    for draft in log.drafts:
        if draft.producer == producer:
            piece = read(draft)
            if piece.coverage.status != "missing":  # type: ignore[attr-defined]
                seen.append((piece.from_ns, piece.to_ns))
            for start, end in piece.position["covered"]:  # type: ignore[attr-defined]
                minutes = set(range(start, end, NS_PER_MINUTE))
                for low, high in seen:
                    minutes -= set(range(low, high, NS_PER_MINUTE))
                assert not minutes, f"position claims {sorted(minutes)[:3]} before it is durable"


def make_ticks(seed: int, from_ns: int, to_ns: int, rows: int, *, tie_share: float = 0.3) -> MemoryTicks:
    """Sorted, with groups of equal instants, and with rows that are equal altogether."""
    rng = np.random.default_rng(seed)
    ts = np.sort(rng.integers(from_ns, to_ns, rows))
    for i in np.flatnonzero(rng.random(rows) < tie_share):
        if i:
            ts[i] = ts[i - 1]
    bid = np.round(1.1 + rng.integers(0, 3, rows) / 1e5, 5)
    return MemoryTicks(ts_ns=ts, bid=bid, ask=np.round(bid + 2e-5, 5))


def as_counter(ticks: MemoryTicks, from_ns: int, to_ns: int) -> Counter[tuple[int, float, float]]:
    rows = zip(ticks.ts_ns.tolist(), ticks.bid.tolist(), ticks.ask.tolist(), strict=True)
    return Counter(row for row in rows if from_ns <= row[0] < to_ns)


@attrs.define(kw_only=True, eq=False)
class Rig:
    """One process after another over the same log and jobs."""

    source: Callable[[], MemoryHistory]
    log: MemoryLog = attrs.field(factory=MemoryLog)
    jobs: MemoryJobs = attrs.field(factory=MemoryJobs)
    history: tuple[HistoryJob, ...] = ()
    new_jobs: Mailbox = attrs.field(factory=lambda: Mailbox("jobs", 16))
    limits: DownloadLimits = attrs.field(
        factory=lambda: DownloadLimits(fetch=FetchLimits(backoff=Backoff(initial_s=0.1, max_s=2.0)))
    )
    clock: VirtualClock = attrs.field(factory=lambda: VirtualClock(NOW))
    board: Board = attrs.field(factory=Board)
    ctx: ActorContext | None = None
    crashes: int = 0

    def context(self) -> ActorContext:
        """Of a new incarnation, with a new board."""
        self.board = Board()
        seams = Seams(clock=self.clock, entropy=SeededEntropy(1), offload=offload_inline, board=self.board)
        logger = structlog.wrap_logger(structlog.ReturnLogger(), processors=[lambda *_: ""])
        return ActorContext(name="downloader.history", incarnation=1, seams=seams, log=logger)

    def actor(self, inbox: Mailbox[AppendRequest]) -> HistoryDownloader:
        """A new incarnation."""
        return HistoryDownloader(
            source=self.source(),
            appender=Appender(inbox=inbox, lookup=self.log.state),
            partitions=PARTITIONS,
            history=self.history,
            jobs=self.jobs,
            new_jobs=self.new_jobs,
            limits=self.limits,
        )

    async def run_until(self, done: Callable[[], bool], *, within_s: float = 36_000.0) -> bool:
        """One process. True: `done`; False: it was killed."""
        inbox: Mailbox[AppendRequest] = Mailbox("appends", 8)
        self.ctx = self.context()
        actor = self.actor(inbox)
        killed = False
        with trio.fail_after(within_s):
            async with trio.open_nursery() as nursery:

                def kill() -> None:
                    nonlocal killed
                    killed = True
                    self.crashes += 1
                    nursery.cancel_scope.cancel()

                nursery.start_soon(self.log.write, inbox, kill)
                nursery.start_soon(actor.run, self.ctx)
                began_s = trio.current_time()
                while not done():  # noqa: ASYNC110 - looks at the board, as --until-idle does
                    await trio.sleep(0.01 if trio.current_time() < began_s + 20 else 1.0)
                self.ctx.drain_requested.set()
                await trio.sleep(0.1)
                nursery.cancel_scope.cancel()
        return not killed

    async def run_idle(self, *, within_s: float = 36_000.0) -> None:
        """Incarnations until one comes to the end of its work."""
        while not await self.run_until(lambda: self.board.jobs_idle, within_s=within_s):
            pass


@pytest.fixture
def kit():
    """Everything above, by name."""
    return SimpleNamespace(
        T0=T0,
        NOW=NOW,
        PARTITIONS=PARTITIONS,
        MemoryLog=MemoryLog,
        NotConnected=NotConnected,
        Rig=Rig,
        as_counter=as_counter,
        check_positions=check_positions,
        covered=covered,
        make_ticks=make_ticks,
        read=read,
        stored=stored,
    )
