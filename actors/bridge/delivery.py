"""One delivery: reads the log in two lanes, writes one sink exactly once, reads back what it wrote, remembers how far.

An outage of the sink is an expected state: the delivery waits with backoff, its consumer lags, nothing is skipped.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import attrs
import trio

from actors.bridge.bisection import PoisonLimits
from actors.bridge.intake import Intake
from actors.bridge.isolation import Isolation
from actors.bridge.lanes import BESIDE_LIVE_ROWS_MAX, Lanes, Turn
from actors.bridge.plan import Coalescing, Lane
from actors.bridge.port import CursorStore, Sink, SinkBatch, SinkFactory
from actors.bridge.rows import is_passing
from runtime.actor import ActorContext
from runtime.backoff import Backoff, BackoffCounter
from runtime.board import ConsumerState, DependencyState
from runtime.clock import NS_PER_S
from runtime.errors import ConfigError, LogFull, NotConnected, PermanentSinkError, RetryableSinkError, SinkError
from runtime.log.consumer import Consumer
from runtime.log.cursor import Cursor
from runtime.log.dead_letters import DeadLetters

Offsets = dict[int, int]


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
    consumers: tuple[Consumer, Consumer]
    """(live, history): of partitions 0..n-1 and n..2n-1 of one log."""
    cursor: CursorStore
    coalescing: Coalescing = attrs.field(factory=Coalescing)
    backoff: Backoff = attrs.field(factory=lambda: Backoff(initial_s=0.2, max_s=10.0))
    pace: Pace = attrs.field(factory=Pace)
    letters: DeadLetters | None = None
    """Where single rows go that the sink refuses; None: they stop it."""
    version: str = ""
    """Of the code, for the letters."""
    poison: PoisonLimits = attrs.field(factory=PoisonLimits)

    async def run(self, ctx: ActorContext) -> None:
        """Deliver until drained or cancelled. Raises: ConfigError (another log's data), never for an outage."""
        ctx.ready()
        session = _Session(delivery=self, ctx=ctx, cursor=await ctx.offload(self.cursor.load))
        await session.aside.load()
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
    """One incarnation's state; the lanes are new with every connection."""

    delivery: Delivery
    ctx: ActorContext
    cursor: Cursor
    records_stored: int = 0
    aside: Isolation = attrs.field(init=False)
    _intake: Intake | None = None
    _stored: Cursor | None = None
    _stored_at_s: float = float("-inf")
    _verified_at_s: float = float("-inf")
    _stuck: str = ""
    """Why the sink, although reachable, does not get on: it counts as down until a batch went through."""

    def __attrs_post_init__(self) -> None:
        delivery = self.delivery
        self.aside = Isolation(
            ctx=self.ctx,
            sink_name=delivery.sink.sink_name,
            stores=delivery.sink.stores,
            letters=delivery.letters,
            version=delivery.version,
            limits=delivery.poison,
        )
        before = self.ctx.board.consumers.get(self._consumer_key)
        self.records_stored = before.records_stored if before else 0

    # --- one connection

    async def deliver(self, sink: Sink, waits: BackoffCounter) -> None:
        """Work over one connection until drained. Raises: SinkError when it is of no more use."""
        intake = await self._begin(sink)
        lanes, pace = intake.lanes, self.delivery.pace
        if not self._stuck:
            self._say_up()
        turn: Turn | None = None
        while not self.ctx.drain_requested.is_set():
            if turn is None:
                await intake.fill(self.ctx.drain_requested, pace.verify_s)
                turn = lanes.take(self.delivery.coalescing, trio.current_time())
            turn = await self._round(sink, intake, turn)
            if not self._stuck or not lanes.has_unverified:
                self._say_up()
                waits.reset()
            self._publish(intake)
            await self.store_cursor()
            self.ctx.progress()
        await self._finish(sink, intake, turn)

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
        if self._intake is not None:
            self._publish(self._intake)
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

    async def _begin(self, sink: Sink) -> Intake:
        """Open, learn the marks, and go back in the log to the first frames that are not known to be verified."""
        live, history = self.delivery.consumers
        found = await sink.open(live.log_id)
        self._refuse_a_longer_log(await sink.reached() if found is None else found)
        await self.aside.replay(sink)
        # A sink without marks has keys that make a re-send collapse: begin with what was read back.
        marks = await sink.confirmed(dict(self.cursor.verified)) if found is None else dict(found)
        verified = {p: min(offset, marks.get(p, 0)) for p, offset in self.cursor.verified.items()}
        n = live.partitions_live
        lanes = Lanes(
            live=_lane(sink, live, range(n), marks, verified),
            history=_lane(sink, history, range(n, 2 * n), marks, verified),
            partitions_live=n,
        )
        pace, limits = self.delivery.pace, self.delivery.coalescing
        self._intake = Intake(lanes=lanes, live=live, history=history, limits=limits, read_bytes=pace.read_bytes)
        stepped_back = any(verified.get(p, 0) < offset for p, offset in self.cursor.verified.items())
        self._note(lanes)
        if stepped_back:
            # The sink lacks what it had (a new database, a restored one). Remember that before the first write: a
            # sink without marks knows us from then on, and would trust the old cursor after a crash.
            await self.store_cursor(at_once=True)
        return self._intake

    def _refuse_a_longer_log(self, reached: dict[int, int]) -> None:
        """New frames with offsets that the sink has seen would be dropped as duplicates. Raises: ConfigError."""
        log = self.delivery.consumers[0]
        for partition, offset in sorted(reached.items()):
            if offset > log.log_end_offset(partition):
                raise ConfigError(
                    f"sink {self._name}: it holds log {log.log_id} up to offset {offset} of partition {partition}, and "
                    f"this log ends at {log.log_end_offset(partition)}: the data directory was restored from an older "
                    "copy. Restore a newer copy; or begin a new log (another pipeline.data_dir, or move the folder "
                    "`log` away) and take over what the sink holds: pipeline run --adopt"
                )

    async def _round(self, sink: Sink, intake: Intake, turn: Turn | None) -> Turn | None:
        """At the same time: write `turn`, read back older ones, and get the next one ready, which is returned.

        The three use different processors: the database's writer, its reader, and our decoding.
        """
        ahead: list[Turn] = []
        failures: list[SinkError] = []

        async def read_on() -> None:
            await intake.read_available()
            following = intake.lanes.take(self.delivery.coalescing, trio.current_time())
            if following is not None:
                ahead.append(following)
                await sink.prepare(self.aside.applied(following.batch))

        async def guarded(work: Callable[[], Awaitable[None]]) -> None:
            try:
                await work()
            except SinkError as exc:
                failures.append(exc)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(guarded, partial(self._read_back, sink, intake.lanes))
            if turn is not None:
                nursery.start_soon(guarded, partial(self._write, sink, intake.lanes, turn))
                nursery.start_soon(guarded, read_on)
        if failures:
            raise failures[0]
        return ahead[0] if ahead else None

    async def _write(self, sink: Sink, lanes: Lanes, turn: Turn) -> None:
        batch, result = await self.aside.write(sink, turn.batch)
        turn.lane.wrote(turn.batch)
        self.records_stored += result.rows_stored
        self._count(batch, is_live=turn.lane is lanes.live)
        self._note(lanes)

    def _count(self, batch: SinkBatch, *, is_live: bool) -> None:
        """Feed the counters: rows by kind, and how long ago each group that has some was accepted."""
        metrics, sink, stores = self.ctx.metrics, self.delivery.sink.sink_name, self.delivery.sink.stores
        now_ns = self.ctx.clock.wall_ns()
        rows: dict[str, int] = {}
        for group in batch.groups:
            kept = [frame for frame in group.frames if frame.kind in stores and not is_passing(frame)]
            for frame in kept:
                left_out = len(batch.without.get((frame.partition, frame.offset), ()))
                rows[frame.kind] = rows.get(frame.kind, 0) + frame.rows - left_out
            if kept:
                seconds = max(0, now_ns - group.stamp_ns) / NS_PER_S
                metrics.delivered(sink=sink, lane="live" if is_live else "history", seconds=seconds)
        for kind, count in rows.items():
            metrics.stored(sink=sink, kind=kind, rows=count)

    async def _read_back(self, sink: Sink, lanes: Lanes) -> None:
        """Verify what waits for it, when it is much, or when it has waited long."""
        pace = self.delivery.pace
        long_ago = trio.current_time() - self._verified_at_s >= pace.verify_s
        for lane in lanes:
            if lane.has_unverified and (long_ago or lane.unverified_rows >= pace.verify_rows // 2):
                is_busy = lanes.is_live_busy(trio.current_time())
                rows_max = min(pace.verify_rows, BESIDE_LIVE_ROWS_MAX) if is_busy else pace.verify_rows
                await self._verify(sink, lanes, lane, rows_max)
                self._verified_at_s = trio.current_time()

    async def _verify(self, sink: Sink, lanes: Lanes, lane: Lane, rows_max: int) -> None:
        groups = lane.unverified(rows_max)
        result = await sink.verify(groups, self.aside.refused)
        if result.mismatches:
            first = result.mismatches[0]
            raise ReadBackFailed(
                f"{self._name}: read-back found {len(result.mismatches)} wrong, first (partition {first.partition}, "
                f"offset {first.offset}): {first.what}, {first.rows_found} rows instead of {first.rows_expected}"
            )
        lane.read_back(groups)
        self._note(lanes)

    async def _finish(self, sink: Sink, intake: Intake, turn: Turn | None) -> None:
        """Drained: write and read back what is held, within a bound; the log has the rest."""
        lanes, limits = intake.lanes, self.delivery.coalescing
        with trio.move_on_after(self.delivery.pace.stop_s):
            while turn is not None or (turn := lanes.take_any(limits, trio.current_time())) is not None:
                await self._write(sink, lanes, turn)
                turn = None
            for lane in lanes:
                while lane.has_unverified:
                    await self._verify(sink, lanes, lane, self.delivery.pace.verify_rows)
        self._publish(intake)

    # --- telling

    def _note(self, lanes: Lanes) -> None:
        self.cursor = Cursor(position=lanes.verified_position, committed=lanes.marks, verified=lanes.verified)

    def _say_up(self) -> None:
        self._stuck = ""
        self.ctx.board.dependency(self._name, DependencyState.UP, now_ns=self.ctx.clock.wall_ns())

    def _publish(self, intake: Intake) -> None:
        lanes = intake.lanes
        intake.look()
        self.ctx.board.consumers[self._consumer_key] = ConsumerState(
            committed_position=lanes.committed_position,
            verified_position=lanes.verified_position,
            lag_records=intake.lag_rows,
            records_stored=self.records_stored,
            caught_up=not lanes.lag_rows and not lanes.has_waiting and intake.at_head,
        )

    @property
    def _name(self) -> str:
        return self.delivery.sink.sink_name

    @property
    def _consumer_key(self) -> str:
        return f"bridge.{self._name}"


def _lane(sink: Sink, consumer: Consumer, partitions: range, marks: Offsets, verified: Offsets) -> Lane:
    """The lane of these partitions, and the consumer put to where it begins."""
    position = min(consumer.position_of(p, verified.get(p, 0)) for p in partitions)
    consumer.seek(position)
    return Lane(
        stores=sink.stores,
        marks={p: marks[p] for p in partitions if p in marks},
        verified={p: verified[p] for p in partitions if p in verified},
        start_position=position,
    )
