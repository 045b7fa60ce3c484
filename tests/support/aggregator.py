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
from actors.market import schema
from actors.market.candles import NS_PER_MINUTE, TIMEFRAMES
from actors.market.coverage import Coverage, coverage_batch
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


def slice_frames(from_ns: int, to_ns: int, batch, *, kind: str = "quotes", symbol: str = EUR, source: str = "polygon"):
    """The frames of a slice, as the downloader makes them."""
    status = "final" if batch.num_rows else "empty"
    cover = Coverage(
        symbol=symbol, kind=kind, source=source, from_ns=from_ns, to_ns=to_ns, status=status, rows=batch.num_rows
    )
    parts = [*schema.encode(kind, batch), *schema.encode("coverage", coverage_batch([cover]))]
    return tuple(
        FrameDraft(
            partition=HISTORY,
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
                    **attrs.asdict(frame),
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

    async def read(self, *, bytes_max: int = 4 << 20) -> list[Group]:
        await trio.lowlevel.checkpoint()
        while not self.read_nowait_available():
            await self.log.grown.wait()
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
class Truth:
    """What the last word on every minute is: the oracle, one tick at a time."""

    minutes: dict[int, tuple[str, list[tuple[int, float, float]]]] = attrs.field(factory=dict)
    """Covered minute -> (source, its ticks in order)."""

    def replace(self, from_ns: int, to_ns: int, source: str, rows: list[tuple[int, float, float]]) -> None:
        for minute in range(from_ns, to_ns, MINUTE):
            inside = [row for row in rows if minute <= row[0] < minute + MINUTE]
            self.minutes[minute] = (source, sorted(inside, key=lambda row: row[0]))

    def candles(self) -> dict[tuple[str, str, int], tuple]:
        found = {}
        for name, length in TIMEFRAMES.items():
            step = length * MINUTE
            whole: dict[int, list[int]] = {}
            for minute in sorted(self.minutes):
                whole.setdefault(minute - minute % step, []).append(minute)
            for start, inside in whole.items():
                held = [self.minutes[minute] for minute in inside if self.minutes[minute][1]]
                ticks = [tick for _, rows in held for tick in rows]
                if ticks and inside[-1] == start + step - MINUTE:
                    sources = {source for source, _ in held}
                    source = sources.pop() if len(sources) == 1 else "mixed"
                    for basis in BASES:
                        found[name, basis, start] = (*_bar(ticks, basis), source, len(inside) == length)
        return found


def _bar(ticks: list[tuple[int, float, float]], basis: str) -> tuple:
    prices, flags = [], 0
    for _, bid, ask in ticks:
        low, high = Decimal(repr(bid)), Decimal(repr(ask))
        prices.append({"bid": low, "ask": high, "mid": (low + high) / 2}[basis])
        flags |= Flag.CROSSED if low > high else 0
    return prices[0], max(prices), min(prices), prices[-1], len(prices), flags
