"""A log in memory with a writer that may die at any step, and what a reader sees of the candles in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from decimal import Decimal
from pathlib import Path

import attrs
import numpy as np
import outcome
import structlog
import trio

from actors.aggregator.aggregator import Aggregator, AggregatorSpec
from actors.aggregator.core import CODE_VERSION, Core
from actors.aggregator.store import DayStore
from actors.market import schema
from actors.market.candles import NS_PER_MINUTE, TIMEFRAMES
from actors.market.coverage import UNCONFIRMED_FINAL, Coverage, coverage_batch
from actors.market.flags import Flag
from actors.market.rules import validate_quotes, validate_trades
from runtime.actor import ActorContext, Seams, offload_to_thread
from runtime.board import Board
from runtime.clock import VirtualClock
from runtime.disk import Disk
from runtime.disk_memory import MemoryDisk, SimulatedCrash
from runtime.entropy import SeededEntropy
from runtime.log.appender import Appender, AppendRequest
from runtime.log.types import Appended, Frame, FrameDraft, Group, GroupDraft, ProducerState
from runtime.mailbox import Mailbox

MINUTE = NS_PER_MINUTE
HOUR = 60 * MINUTE
DAY = 24 * HOUR
T0 = 1_398_902_400 * 10**9
"""2014-05-01T00:00:00Z."""
EUR = "C:EURUSD"
HISTORY = 3
LIVE = 1
LATENESS_S = 2
LATENESS_NS = LATENESS_S * 10**9
STATE = Path("/state")
QUIET = structlog.wrap_logger(structlog.ReturnLogger(), processors=[])
BASES = ("bid", "ask", "mid")


class Killed(Exception):
    """kill -9: everything in memory is gone."""


def quotes(rows: Iterable[tuple[int, float, float]], *, symbol: str = EUR, source: str = "polygon"):
    """(ts_ns, bid, ask) as accepted rows."""
    ts, bid, ask = np.array(list(rows), dtype=object).reshape(-1, 3).T
    bid, ask = bid.astype(float), ask.astype(float)
    got = validate_quotes(
        symbol, source, ts.astype(np.int64), bid, ask, now_ns=T0 + 10**18, raw=lambda r: [""] * len(r)
    )
    assert not got.rejected.num_rows
    return got.rows


def trades(rows: Iterable[tuple[int, float, float]], *, symbol: str = "X:BTCUSD", source: str = "polygon"):
    """(ts_ns, price, size) as accepted rows."""
    ts, price, size = np.array(list(rows), dtype=object).reshape(-1, 3).T
    price, size = price.astype(float), size.astype(float)
    ts = ts.astype(np.int64)
    return validate_trades(symbol, source, ts, price, size, now_ns=T0 + 10**18, raw=lambda r: [""] * len(r)).rows


def slice_frames(
    from_ns: int,
    to_ns: int,
    batch,
    *,
    kind: str = "quotes",
    symbol: str = EUR,
    source: str = "polygon",
    final: bool = True,
    reason: str = "",
):
    """The frames of a slice, as the downloader makes them."""
    status = ("final" if batch.num_rows else "empty") if final else "live"
    cover = Coverage(
        symbol=symbol,
        kind=kind,
        source=source,
        from_ns=from_ns,
        to_ns=to_ns,
        status=status,
        rows=batch.num_rows,
        reason=reason,
    )
    return _drafts([*schema.encode(kind, batch), *schema.encode("coverage", coverage_batch([cover]))], HISTORY)


def live_frames(
    batch=None,
    beat: tuple[int, int] | None = None,
    *,
    kind: str = "quotes",
    symbol: str = EUR,
    source: str = "polygon",
    reason: str = "",
):
    """The frames of a live group: rows, a heartbeat [from, to), or both."""
    parts = []
    if batch is not None:
        parts += schema.encode(kind, batch)
    if beat is not None:
        cover = Coverage(
            symbol=symbol,
            kind=kind,
            source=source,
            from_ns=beat[0],
            to_ns=beat[1],
            status="live",
            session="s1",
            market_clock_ns=beat[1] + 10**9,
            reason=reason,
        )
        parts += schema.encode("coverage", coverage_batch([cover]))
    return _drafts(parts, LIVE)


def _drafts(parts, partition: int) -> tuple[FrameDraft, ...]:
    return tuple(
        FrameDraft(
            partition=partition,
            kind=part.kind,
            body=part.body,
            rows=part.rows,
            event_time_ns_min=part.event_time_ns_min,
            event_time_ns_max=part.event_time_ns_max,
        )
        for part in parts
    )


@attrs.define
class MemoryLog:
    """Durable groups, whatever dies around them."""

    log_id: str = "log-1"
    groups: list[Group] = attrs.field(factory=list)
    producers: dict[str, ProducerState] = attrs.field(factory=dict)
    grown: trio.Event = attrs.field(factory=trio.Event)
    offsets: dict[int, int] = attrs.field(factory=dict)

    @property
    def end(self) -> int:
        return self.groups[-1].end_position if self.groups else 0

    def append(
        self, frames: tuple[FrameDraft, ...], producer: str = "history", *, draft: GroupDraft | None = None
    ) -> Appended:
        """One group; a repeated sequence is answered as a duplicate."""
        known = self.producers.get(producer, ProducerState())
        sequence = draft.sequence if draft else known.sequence + 1
        if sequence <= known.sequence:
            return Appended(position=-1, end_position=-1, stamp_ns=-1, duplicate=True)
        assert sequence == known.sequence + 1
        position, stamp_ns = self.end, T0 + 100 * DAY + len(self.groups) * 1000
        made = []
        for index, frame in enumerate(frames):
            offset = self.offsets[frame.partition] = self.offsets.get(frame.partition, -1) + 1
            made.append(
                Frame(
                    offset=offset,
                    prev_offset=-1,
                    schema=schema.schema_message(frame.kind),
                    group_index=index,
                    partition=frame.partition,
                    kind=frame.kind,
                    body=frame.body,
                    rows=frame.rows,
                    event_time_ns_min=frame.event_time_ns_min,
                    event_time_ns_max=frame.event_time_ns_max,
                )
            )
        end = position + sum(len(frame.body) + 100 for frame in made)
        self.producers[producer] = ProducerState(sequence=sequence, position=draft.producer_position if draft else b"")
        self.groups.append(
            Group(
                log_id=self.log_id,
                position=position,
                end_position=end,
                stamp_ns=stamp_ns,
                producer=producer,
                sequence=sequence,
                producer_position=self.producers[producer].position,
                frames=tuple(made),
            )
        )
        self.grown.set()
        self.grown = trio.Event()
        return Appended(position=position, end_position=end, stamp_ns=stamp_ns, duplicate=False)

    def outputs(self) -> list[Group]:
        """What the aggregator appended."""
        return [group for group in self.groups if group.producer == "aggregator"]

    def rows(self) -> list[dict]:
        """All candle rows, in order."""
        return [row for group in self.outputs() for row in group_rows(group)]


def group_rows(group: Group | Iterable) -> list[dict]:
    """Candle rows of a group, or of drafts."""
    frames = group.frames if hasattr(group, "frames") else group
    message = schema.schema_message("candles")
    return [row for frame in frames for row in schema.decode(message, frame.body).to_pylist()]


@attrs.define
class MemoryConsumer:
    """Reads a MemoryLog, some groups at a time."""

    log: MemoryLog
    groups_per_read: int = 3
    name: str = "aggregator"
    partitions_live: int = 2
    _position: int = 0

    @property
    def log_id(self) -> str:
        return self.log.log_id

    @property
    def position(self) -> int:
        return self._position

    def seek(self, position: int) -> None:
        assert position == self.log.end or any(group.position == position for group in self.log.groups)
        self._position = position

    def position_of(self, partition: int, offset: int) -> int:
        raise NotImplementedError

    def end(self) -> int:
        return self.log.end

    def read_nowait_available(self) -> bool:
        return self._position < self.log.end

    async def wait(self) -> None:
        await trio.lowlevel.checkpoint()
        while not self.read_nowait_available():
            await self.log.grown.wait()

    async def read(self, *, bytes_max: int = 4 << 20) -> list[Group]:
        await self.wait()
        found = [group for group in self.log.groups if group.position >= self._position][: self.groups_per_read]
        self._position = found[-1].end_position
        return found


@attrs.define
class Death:
    """When to die: at the n-th step of a kind (0 = the first), counted over one life."""

    step: str
    """'before append', 'after append', 'offload', or 'disk'."""
    after: int

    def at(self, step: str) -> None:
        if step == self.step:
            self.after -= 1
            if self.after < 0:
                raise Killed(step)


@attrs.define
class World:
    """A log and a disk that outlive the aggregator's lives."""

    log: MemoryLog = attrs.field(factory=MemoryLog)
    disk: Disk = attrs.field(factory=MemoryDisk)
    directory: Path = STATE
    threads: bool = False
    write_s: float = 0.5
    """How long the log takes for a group."""
    spec: AggregatorSpec = attrs.field(factory=AggregatorSpec)
    groups_per_read: int = 3
    steps: dict[str, int] = attrs.field(factory=dict)
    board: Board = attrs.field(factory=Board)

    async def life(self, inputs: list[tuple[FrameDraft, ...]], *, death: Death | None = None) -> bool:
        """Append the inputs one by one, each after the aggregator has caught up, then drain; False when it died."""
        died = False
        try:
            await self._life(inputs, death)
        except* (Killed, SimulatedCrash):
            died = True
        if died:
            self.disk.crash()
        return not died

    async def _life(self, inputs: list[tuple[FrameDraft, ...]], death: Death | None) -> None:
        inbox: Mailbox[AppendRequest] = Mailbox("appends", 4)
        self.board = Board()
        seams = Seams(clock=VirtualClock(T0), entropy=SeededEntropy(1), offload=self._offload(death), board=self.board)
        ctx = ActorContext(name="aggregator", incarnation=1, seams=seams, log=QUIET)
        actor = Aggregator(
            consumer=MemoryConsumer(self.log, self.groups_per_read),
            appender=Appender(inbox=inbox, lookup=lambda name: self.log.producers.get(name, ProducerState())),
            disk=self.disk,
            directory=self.directory,
            spec=self.spec,
        )
        if death and death.step == "disk":
            self.disk.crash_after(death.after)
        operations = getattr(self.disk, "operations", 0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write, inbox, death)
            async with trio.open_nursery() as working:
                working.start_soon(actor.run, ctx)
                await self._caught_up()
                for frames in inputs[sum(g.producer == "history" for g in self.log.groups) :]:
                    self.log.append(frames)
                    await self._caught_up()
                ctx.drain_requested.set()
            nursery.cancel_scope.cancel()
        self.steps["disk"] = getattr(self.disk, "operations", 0) - operations

    async def _caught_up(self) -> None:
        with trio.fail_after(600):
            while True:
                await trio.sleep(0.011)
                state = self.board.consumers.get("aggregator")
                if state and state.caught_up and state.committed_position == self.log.end:
                    return

    async def _write(self, inbox: Mailbox[AppendRequest], death: Death | None) -> None:
        """The buffer: slow enough that outputs are in flight while other things go on."""
        while True:
            request = await inbox.receive()
            await trio.sleep(self.write_s if not self.threads else 0.01)
            if request.draft is None:
                request.answer(outcome.Value(None))
                continue
            self._step("before append", death)
            appended = self.log.append(request.draft.frames, request.draft.producer, draft=request.draft)
            self._step("after append", death)
            request.answer(outcome.Value(appended))

    def _offload(self, death: Death | None):
        async def offload(fn: Callable[[], object], *, limiter=None):
            await trio.lowlevel.checkpoint()
            self._step("offload", death)
            return await offload_to_thread(fn) if self.threads else fn()

        return offload

    def _step(self, step: str, death: Death | None) -> None:
        self.steps[step] = self.steps.get(step, 0) + 1
        if death:
            death.at(step)


# What must come out -----------------------------------------------------------------------------------------------


def latest(rows: Iterable[dict]) -> dict[tuple[str, str, int], tuple]:
    """The view: newest revision per candle, gone ones hidden; prices as exact decimals, without the revision."""
    newest: dict[tuple[str, str, int], dict] = {}
    for row in rows:
        key = (row["timeframe"], row["basis"], row["ts_ns"])
        assert key not in newest or newest[key]["revision"] < row["revision"]
        assert key not in newest or _content(newest[key]) != _content(row), "a revision that says nothing new"
        newest[key] = row
    return {key: _content(row) for key, row in newest.items() if not row["flags"] & Flag.GONE}


def _content(row: dict) -> tuple:
    prices = (Decimal(repr(row[name])) for name in ("open", "high", "low", "close"))
    return (*prices, row["ticks"], row["flags"], row["source"], row["final"])


@attrs.define
class Minute:
    """All that is known of one minute, tick by tick."""

    ticks: list[tuple[int, float, float]] = attrs.field(factory=list)
    """In order of (time, arrival)."""
    sources: set[str] = attrs.field(factory=set)
    sliced: bool = False
    live: bool = False
    final: bool = False
    final_live: bool = False


_NOTHING = Minute()


@attrs.define
class Truth:
    """What the last word on every minute is: the oracle, one tick at a time."""

    minutes: dict[int, Minute] = attrs.field(factory=dict)
    watermark_ns: int = 0

    def replace(
        self, from_ns: int, to_ns: int, source: str, rows: list[tuple[int, float, float]], *, final: bool = True
    ) -> None:
        """A slice."""
        for start in range(from_ns, to_ns, MINUTE):
            minute = self._minute(start)
            inside = [row for row in rows if start <= row[0] < start + MINUTE]
            minute.ticks = sorted(inside, key=lambda row: row[0])
            minute.sources, minute.sliced, minute.final, minute.final_live = {source}, True, final, False

    def add(self, source: str, rows: list[tuple[int, float, float]]) -> None:
        """Live rows."""
        for row in rows:
            minute = self._minute(row[0] // MINUTE * MINUTE)
            if not minute.ticks:
                minute.sources = set()
            minute.ticks = sorted([*minute.ticks, row], key=lambda tick: tick[0])
            minute.sources.add(source)
            minute.live, minute.final = True, False

    def beat(self, from_ns: int, to_ns: int, *, lateness_s: int = LATENESS_S, final: bool = False) -> None:
        """A heartbeat."""
        for start in range(from_ns // MINUTE * MINUTE, to_ns, MINUTE):
            self._minute(start).live = True
            if final and from_ns <= start and start + MINUTE <= to_ns:
                self._minute(start).final_live = True
        self.watermark_ns = max(self.watermark_ns, to_ns - lateness_s * 10**9)

    def candles(self) -> dict[tuple[str, str, int], tuple]:
        """What must be out."""
        found = {}
        for name, length in TIMEFRAMES.items():
            step = length * MINUTE
            for start in sorted({minute - minute % step for minute in self.minutes}):
                inside = [self.minutes.get(start + i * MINUTE, _NOTHING) for i in range(length)]
                ticks = [tick for minute in inside for tick in minute.ticks]
                passed = start + step <= self.watermark_ns and any(minute.live for minute in inside)
                if ticks and (inside[-1].sliced or passed):
                    sources = {source for minute in inside if minute.ticks for source in minute.sources}
                    source = sources.pop() if len(sources) == 1 else "mixed"
                    final = all(minute.final or minute.final_live for minute in inside)
                    for basis in BASES:
                        found[name, basis, start] = (*_bar(ticks, basis), source, final)
        return found

    def _minute(self, start: int) -> Minute:
        return self.minutes.setdefault(start, Minute())


def _bar(ticks: list[tuple[int, float, float]], basis: str) -> tuple:
    prices, flags = [], 0
    for _, bid, ask in ticks:
        low, high = Decimal(repr(bid)), Decimal(repr(ask))
        prices.append({"bid": low, "ask": high, "mid": (low + high) / 2}[basis])
        flags |= Flag.CROSSED if low > high else 0
    return prices[0], max(prices), min(prices), prices[-1], len(prices), flags


# A core alone ------------------------------------------------------------------------------------------------------


class Bench:
    """A core over a log that takes one group after the other."""

    def __init__(self, **core):
        self.log, self.truth, self.rows = MemoryLog(), Truth(), []
        store = DayStore(disk=MemoryDisk(), directory=STATE, log_id="log-1", code=CODE_VERSION, days_max=100)
        store.open(0)
        self.core = Core(
            **{"store": store, "timeframes": tuple(TIMEFRAMES), "bases": BASES, "lateness_ns": LATENESS_NS} | core
        )

    def take(self, frames):
        """Rows that this slice caused."""
        self.log.append(frames)
        applied = self.core.apply(self.log.groups[-1:], suppressed_to=0)
        assert applied.consumed == 1
        found = [row for output in applied.outputs for row in group_rows(output)]
        assert {row["revision"] for row in found} <= {self.log.groups[-1].stamp_ns}
        self.rows += found
        return found

    def slice(self, from_ns, to_ns, ticks, source="polygon", *, final=True, **more):
        self.truth.replace(from_ns, to_ns, source, ticks, final=final)
        rows = quotes(ticks, source=source)
        return self.take(slice_frames(from_ns, to_ns, rows, source=source, final=final, **more))

    def live(self, ticks=(), *, beat=None, source="polygon", reason=""):
        """A live group: rows in order of arrival, a heartbeat [from, to), or both."""
        self.truth.add(source, ticks)
        if beat:
            self.truth.beat(*beat, final=reason == UNCONFIRMED_FINAL)
        batch = quotes(ticks, source=source) if ticks else None
        return self.take(live_frames(batch, beat, source=source, reason=reason))

    def check(self):
        assert latest(self.rows) == self.truth.candles()


def every(step_ns, from_ns, to_ns, price=1.3):
    price = round(price, 2)
    return [(t, price, round(price + 0.01, 2)) for t in range(from_ns, to_ns, step_ns)]


def names(rows):
    return sorted((row["timeframe"], row["basis"], (row["ts_ns"] - T0) // MINUTE) for row in rows)
