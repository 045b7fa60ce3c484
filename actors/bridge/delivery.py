"""One delivery: reads the log, writes one sink exactly once, reads back what it wrote, remembers how far it is.

An outage of the sink is an expected state: the delivery waits with backoff, its consumer lags, nothing is skipped.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import attrs
import trio

from actors.bridge.plan import Coalescing, Lane
from actors.bridge.port import CursorStore, Sink, SinkBatch, SinkFactory
from runtime.actor import ActorContext
from runtime.backoff import Backoff, BackoffCounter
from runtime.board import ConsumerState, DependencyState
from runtime.clock import NS_PER_S
from runtime.errors import LogFull, NotConnected, PermanentSinkError, RetryableSinkError, SinkError
from runtime.log.consumer import Consumer
from runtime.log.cursor import Cursor

_MARKS_ONLY_LINGER = 4
"""Nobody waits for a batch that only moves marks: let it collect for this many lingers."""


class ReadBackFailed(RetryableSinkError):
    """The sink does not hold what it said it took. Verified does not move; a keyed sink is sent it again."""


@attrs.frozen(kw_only=True)
class Pace:
    """How often the delivery looks back and writes down where it is."""

    verify_rows: int = 200_000
    """Read back at most this many rows at once, and at the latest when half as many wait. Bounds memory."""
    verify_s: float = 0.2
    """Read back at most this often while few rows wait."""
    cursor_s: float = 1.0
    """Store the cursor at most this often (and at stop). A crash costs this much reading again."""
    read_bytes: int = 512 * 1024
    """Bodies per read: some 90,000 rows of ticks."""
    stop_s: float = 20.0
    """Longest time for the last batch and its read-back after the drain was asked for."""


@attrs.frozen(kw_only=True)
class Delivery:
    """Actor `bridge.<sink>`."""

    sink: SinkFactory
    consumer: Consumer
    cursor: CursorStore
    coalescing: Coalescing = attrs.field(factory=Coalescing)
    backoff: Backoff = attrs.field(factory=lambda: Backoff(initial_s=0.2, max_s=10.0))
    pace: Pace = attrs.field(factory=Pace)

    async def run(self, ctx: ActorContext) -> None:
        """Deliver until drained or cancelled. Raises: ConfigError (another log's data), never for an outage."""
        ctx.ready()
        session = _Session(delivery=self, ctx=ctx, cursor=await ctx.offload(self.cursor.load))
        waits = BackoffCounter(self.backoff)
        while not ctx.drain_requested.is_set():
            try:
                async with self.sink(ctx.seams) as sink:
                    await session.deliver(sink, waits)
            except SinkError as exc:
                await session.outage(exc, waits.next_s(ctx.entropy.uniform()))
        await session.store_cursor(at_once=True)


@attrs.define(kw_only=True)
class _Session:
    """One incarnation's state; `lane` is new with every connection."""

    delivery: Delivery
    ctx: ActorContext
    cursor: Cursor
    records_stored: int = 0
    _lane: Lane | None = None
    _stored: Cursor | None = None
    _stored_at_s: float = float("-inf")
    _verified_at_s: float = float("-inf")
    _stuck: str = ""
    """Why the sink, although reachable, does not get on: it counts as down until a batch went through."""

    def __attrs_post_init__(self) -> None:
        before = self.ctx.board.consumers.get(self._consumer_key)
        self.records_stored = before.records_stored if before else 0

    # --- one connection

    async def deliver(self, sink: Sink, waits: BackoffCounter) -> None:
        """Work over one connection until drained. Raises: SinkError when it is of no more use."""
        lane = await self._begin(sink)
        if not self._stuck:
            self._say_up()
        batch: SinkBatch | None = None
        while not self.ctx.drain_requested.is_set():
            if batch is None:
                await self._fill(lane)
                batch = lane.take(self.delivery.coalescing)
            batch = await self._round(sink, lane, batch)
            if not self._stuck or not lane.has_unverified:
                self._say_up()
                waits.reset()
            self._publish(lane)
            await self.store_cursor()
            self.ctx.progress()
        await self._finish(sink, lane, batch)

    async def outage(self, exc: SinkError, wait_s: float) -> None:
        """Say what is wrong and wait, or until drained."""
        reason = f"{exc}" or type(exc).__name__
        self._stuck = "" if type(exc) is RetryableSinkError else reason
        if isinstance(exc, PermanentSinkError):
            reason = f"refuses rows, nothing is skipped: {reason}"
        now_ns = self.ctx.clock.wall_ns()
        self.ctx.board.dependency(self._name, DependencyState.DOWN, reason=reason, now_ns=now_ns)
        log, what = (self.ctx.log.error if self._stuck else self.ctx.log.warning), "sink_outage"
        if isinstance(exc.__cause__, NotConnected):  # a server of ours that has not started yet: nobody need worry
            log, what = self.ctx.log.info, "waiting_for_sink"
        log(what, sink=self._name, reason=reason, wait_s=round(wait_s, 2))
        if self._lane is not None:
            self._publish(self._lane)
        self.ctx.progress()
        with trio.move_on_after(wait_s):
            await self.ctx.drain_requested.wait()

    async def store_cursor(self, *, at_once: bool = False) -> None:
        """Make committed and verified offsets durable, at most once per `cursor_s`."""
        now_s = self.ctx.clock.monotonic_s()
        due = at_once or now_s - self._stored_at_s >= self.delivery.pace.cursor_s
        if due and self.cursor != self._stored:
            cursor = self.cursor
            self._stored_at_s = now_s
            try:
                await self.ctx.offload(lambda: self.delivery.cursor.store(cursor))
            except LogFull as exc:  # costs reading again after a crash, nothing else; tried again in a while
                self.ctx.log.warning("cursor not stored", sink=self._name, reason=str(exc))
                return
            self._stored = cursor

    async def _begin(self, sink: Sink) -> Lane:
        """Open, learn the marks, and go back in the log to the first frame that is not known to be verified."""
        consumer = self.delivery.consumer
        found = await sink.open(consumer.log_id)
        # A sink without marks has keys that make a re-send collapse: begin with what was read back.
        marks = await sink.confirmed(dict(self.cursor.verified)) if found is None else dict(found)
        verified = {p: min(offset, marks.get(p, 0)) for p, offset in self.cursor.verified.items()}
        partitions = range(2 * consumer.partitions_live)
        position = min(consumer.position_of(p, verified.get(p, 0)) for p in partitions)
        consumer.seek(position)
        self._lane = Lane(stores=sink.stores, marks=marks, verified=verified, start_position=position)
        stepped_back = any(verified.get(p, 0) < offset for p, offset in self.cursor.verified.items())
        self._note(self._lane)
        if stepped_back:
            # The sink lacks what it had (a new database, a restored one). Remember that before the first write: a
            # sink without marks knows us from then on, and would trust the old cursor after a crash.
            await self.store_cursor(at_once=True)
        return self._lane

    async def _fill(self, lane: Lane) -> None:
        """Read until a batch is due and nothing more is there, or its linger is over, or for one idle moment."""
        limits = self.delivery.coalescing
        began_s = trio.current_time()
        while not self.ctx.drain_requested.is_set():
            await self._read_available(lane)
            if lane.is_due(limits):
                return
            if not lane.has_waiting:
                wait_s = self.delivery.pace.verify_s
            else:
                wait_s = limits.linger_s * (1 if lane.waiting_rows else _MARKS_ONLY_LINGER)
            with trio.move_on_at(began_s + wait_s) as waiting:
                lane.offer(await self.delivery.consumer.read(bytes_max=self.delivery.pace.read_bytes))
            if waiting.cancelled_caught:
                return

    async def _read_available(self, lane: Lane) -> None:
        """Read what is there, as long as a batch has room for it."""
        consumer = self.delivery.consumer
        while not lane.is_full(self.delivery.coalescing) and consumer.read_nowait_available():
            lane.offer(await consumer.read(bytes_max=self.delivery.pace.read_bytes))

    async def _round(self, sink: Sink, lane: Lane, batch: SinkBatch | None) -> SinkBatch | None:
        """At the same time: write `batch`, read back older ones, and get the next one ready, which is returned.

        The three use different processors: the database's writer, its reader, and our decoding.
        """
        ahead: list[SinkBatch] = []
        failures: list[SinkError] = []

        async def read_on() -> None:
            await self._read_available(lane)
            following = lane.take(self.delivery.coalescing) if lane.is_due(self.delivery.coalescing) else None
            if following is not None:
                ahead.append(following)
                await sink.prepare(following)

        async def guarded(work: Callable[[], Awaitable[None]]) -> None:
            try:
                await work()
            except SinkError as exc:
                failures.append(exc)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(guarded, partial(self._read_back, sink, lane))
            if batch is not None:
                nursery.start_soon(guarded, partial(self._write, sink, lane, batch))
                nursery.start_soon(guarded, read_on)
        if failures:
            raise failures[0]
        return ahead[0] if ahead else None

    async def _write(self, sink: Sink, lane: Lane, batch: SinkBatch) -> None:
        result = await sink.write(batch)
        lane.wrote(batch)
        self.records_stored += result.rows_stored
        self._count(batch)
        self._note(lane)

    def _count(self, batch: SinkBatch) -> None:
        """Feed the counters: rows by kind, and how long ago the oldest group was accepted."""
        metrics, sink, stores = self.ctx.metrics, self.delivery.sink.sink_name, self.delivery.sink.stores
        for group in batch.groups:
            for frame in group.frames:
                if frame.kind in stores:
                    metrics.stored(sink=sink, kind=frame.kind, rows=frame.rows)
        if batch.groups:
            oldest_ns = min(group.stamp_ns for group in batch.groups)
            metrics.delivered(sink=sink, seconds=max(0, self.ctx.clock.wall_ns() - oldest_ns) / NS_PER_S)

    async def _read_back(self, sink: Sink, lane: Lane) -> None:
        """Verify what waits for it, when it is much, or when it has waited long."""
        pace = self.delivery.pace
        long_ago = trio.current_time() - self._verified_at_s >= pace.verify_s
        if lane.has_unverified and (long_ago or lane.unverified_rows >= pace.verify_rows // 2):
            await self._verify(sink, lane)
            self._verified_at_s = trio.current_time()

    async def _verify(self, sink: Sink, lane: Lane) -> None:
        groups = lane.unverified(self.delivery.pace.verify_rows)
        result = await sink.verify(groups)
        if result.mismatches:
            first = result.mismatches[0]
            raise ReadBackFailed(
                f"{self._name}: read-back found {len(result.mismatches)} wrong, first (partition {first.partition}, "
                f"offset {first.offset}): {first.what}, {first.rows_found} rows instead of {first.rows_expected}"
            )
        lane.read_back(groups)
        self._note(lane)

    async def _finish(self, sink: Sink, lane: Lane, batch: SinkBatch | None) -> None:
        """Drained: write and read back what is held, within a bound; the log has the rest."""
        with trio.move_on_after(self.delivery.pace.stop_s):
            while batch is not None or (batch := lane.take(self.delivery.coalescing)) is not None:
                await self._write(sink, lane, batch)
                batch = None
            while lane.has_unverified:
                await self._verify(sink, lane)
        self._publish(lane)

    # --- telling

    def _note(self, lane: Lane) -> None:
        self.cursor = Cursor(position=lane.verified_position, committed=dict(lane.marks), verified=dict(lane.verified))

    def _say_up(self) -> None:
        self._stuck = ""
        self.ctx.board.dependency(self._name, DependencyState.UP, now_ns=self.ctx.clock.wall_ns())

    def _publish(self, lane: Lane) -> None:
        consumer = self.delivery.consumer
        at_head = not lane.lag_rows and not lane.has_waiting and not consumer.read_nowait_available()
        self.ctx.board.consumers[self._consumer_key] = ConsumerState(
            committed_position=lane.committed_position,
            verified_position=lane.verified_position,
            lag_records=lane.lag_rows + lane.rows_in(consumer.end() - consumer.position),
            records_stored=self.records_stored,
            caught_up=at_head,
        )

    @property
    def _name(self) -> str:
        return self.delivery.sink.sink_name

    @property
    def _consumer_key(self) -> str:
        return f"bridge.{self._name}"
