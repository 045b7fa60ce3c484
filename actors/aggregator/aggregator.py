"""The aggregator: reads every group of the log in physical order and appends the candles it causes.

It is a function of the log alone. Start: the newest checkpoint of the state, then a replay whose outputs are suppressed
up to the position that the log returns for this producer, then on. Nothing is kept that could disagree with the log.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import attrs
import trio

from actors.aggregator.core import CODE_VERSION, PRODUCER, Core, Output, known_timeframes
from actors.aggregator.store import DayStore
from actors.market.candles import QUOTE_BASES, TIMEFRAMES
from runtime.actor import ActorContext
from runtime.board import ConsumerState
from runtime.clock import NS_PER_S
from runtime.disk_port import Disk
from runtime.errors import InvariantViolation, LogError, NotConnected
from runtime.log.appender import Appender, AppendRequest
from runtime.log.consumer import Consumer
from runtime.log.types import Group, GroupDraft

_DAYS_PER_WRITE = 16
"""Day files written per offloaded call, so that a cancelled actor ends within some fsyncs."""
_READ_BYTES = 1 << 20
"""Bodies applied per offloaded call: about 50 slices or 0.2 s, which a cancelled actor still waits for."""
_GROUPS_PER_CALL = 256
"""Live groups are small: so many take 0.2 s as well."""
_WAIT_S = 5.0
"""Longest wait without a sign of life to the watchdog."""
BUFFER_RETRY_S = 1.0
"""Wait for a buffer that is just restarting."""
_BLINK_S = 0.01
"""Shortest wait for groups."""
_OPEN_SHARE = 20
"""Publishing open candles may take one part in so many of the time: with many symbols they come less often."""

T = TypeVar("T")


@attrs.frozen(kw_only=True)
class AggregatorSpec:
    """What is put out, and the bounds."""

    timeframes: tuple[str, ...] = attrs.field(default=tuple(TIMEFRAMES), converter=known_timeframes)
    """Candles of a timeframe that is added later exist from then on, not for what the log holds already."""
    bases: tuple[str, ...] = (*QUOTE_BASES, "last")
    days_max: int = 128
    """Symbol-days in memory (0.25 MB each); more symbols than this in turn means a file read and written per slice."""
    in_flight_groups_max: int = 64
    """Outputs submitted and not yet durable."""
    checkpoint_bytes: int = 64 << 20
    """Input bodies between two checkpoints: bounds the replay after a crash."""
    checkpoint_interval_s: float = 5.0
    """Longest time between two checkpoints while there is input."""
    idle_s: float = 0.2
    """At the head of the log for so long: checkpoint at once."""
    lateness_s: float = 2.0
    """Event time that a live candle waits after its end for late ticks (UPSTREAM 5.7); what comes later revises it."""
    open_interval_s: float = 0.25
    """Open candles are published no more often."""
    disk_retry_s: float = 1.0
    """Wait after a checkpoint that the disk refused."""


@attrs.frozen(kw_only=True)
class Aggregator:
    """Ticks to candles. One incarnation per `run`."""

    consumer: Consumer
    """Over all partitions."""
    appender: Appender
    disk: Disk
    directory: Path
    """Its own, for the state; may be deleted at any time while it is not running."""
    spec: AggregatorSpec = AggregatorSpec()

    async def run(self, ctx: ActorContext) -> None:
        """Aggregate until drained. A buffer that went away is waited for: its end is no crash of ours."""
        ctx.ready()
        while not ctx.drain_requested.is_set():
            try:
                return await self._incarnation(ctx).run()
            except NotConnected as exc:
                ctx.log.warning("aggregator_waits_for_buffer", reason=str(exc))
                ctx.progress()
                await trio.sleep(BUFFER_RETRY_S)

    def _incarnation(self, ctx: ActorContext) -> _Incarnation:
        """With no memory of what was not durable."""
        store = DayStore(
            disk=self.disk,
            directory=self.directory,
            log_id=self.consumer.log_id,
            code=CODE_VERSION,
            days_max=self.spec.days_max,
        )
        core = Core(
            store=store,
            timeframes=self.spec.timeframes,
            bases=self.spec.bases,
            lateness_ns=_nanoseconds(self.spec.lateness_s),
        )
        return _Incarnation(ctx=ctx, spec=self.spec, consumer=self.consumer, appender=self.appender, core=core)


@attrs.define(eq=False, kw_only=True)
class _Incarnation:
    """The state of one `run`."""

    ctx: ActorContext
    spec: AggregatorSpec
    consumer: Consumer
    appender: Appender
    core: Core
    sequence: int = 0
    """Of the last output submitted."""
    suppressed_to: int = 0
    """The log holds all outputs of inputs up to here."""
    applied_to: int = 0
    """All inputs below are in the days in memory, and their outputs submitted."""
    checkpoint_at: int = 0
    """All inputs below are in the files."""
    bytes_since: int = 0
    checkpoint_time_s: float = 0.0
    rows_durable: int = 0
    open_due_s: float = 0.0
    """When open candles may be published again."""
    in_flight: deque[tuple[Output, int, AppendRequest]] = attrs.field(factory=deque)
    """(output, where its input began, request), in order."""

    async def run(self) -> None:
        await self._resume(discard=False)
        while not self.ctx.drain_requested.is_set():
            self._publish()
            if groups := await self._read():
                await self._process(groups)
            self.applied_to = self.consumer.position  # also past what holds no group, such as repaired damage
            if not self.consumer.read_nowait_available():
                await self._settle()
            await self._publish_open()
            if self._checkpoint_due(idle=not groups):
                await self._checkpoint()
            self.ctx.progress()
        await self._settle()
        await self._checkpoint()
        self._publish()

    async def _resume(self, *, discard: bool) -> None:
        """Stand at the newest checkpoint, or with `discard` at the beginning of the log with an empty state."""
        store = self.core.store
        if discard:
            await self.ctx.offload(store.discard)
            start = 0
        else:
            start = await self.ctx.offload(partial(store.open, self.consumer.end()))
        known = await self._patiently(partial(self.appender.resume, PRODUCER))
        self.sequence = known.sequence
        self.suppressed_to = 0
        if known.sequence:
            self.suppressed_to, self.core.lateness_replayed_ns = _position_of(known.position)
        self.checkpoint_time_s = self.ctx.clock.monotonic_s()
        self.consumer.seek(start)
        self.applied_to = self.checkpoint_at = self.consumer.position
        self.ctx.log.info("resumed", checkpoint=start, suppressed_to=self.suppressed_to, sequence=self.sequence)

    async def _read(self) -> list[Group]:
        """The next groups; empty after some time at the head, and as soon as a drain is asked for."""
        groups: list[Group] = []
        idle_s = self.spec.idle_s if self.applied_to > self.checkpoint_at else _WAIT_S
        if self._shows_open():
            idle_s = min(idle_s, max(_BLINK_S, self.open_due_s - self.ctx.clock.monotonic_s()))
        with trio.move_on_after(idle_s) as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_on, self.ctx.drain_requested, scope)
                groups = await self.consumer.read(bytes_max=_READ_BYTES)
                nursery.cancel_scope.cancel()
        return groups

    async def _process(self, groups: list[Group]) -> None:
        while groups:
            apply = partial(self.core.apply, groups[:_GROUPS_PER_CALL], suppressed_to=self.suppressed_to)
            applied = await self.ctx.offload(apply)
            done, groups = groups[: applied.consumed], groups[applied.consumed :]
            begins = {group.end_position: group.position for group in done}
            for output in applied.outputs:
                await self._send(output, begins[output.input_end])
            if done:
                self.applied_to = done[-1].end_position
                self.bytes_since += sum(len(frame.body) for group in done for frame in group.frames)
            if applied.damaged:
                self.ctx.log.error("state damaged, replaying the log", input=self.applied_to)
                await self._settle()
                await self._resume(discard=True)
                return
            if self.core.store.full:
                await self._make_room()
            self.ctx.progress()

    async def _send(self, output: Output, begin: int) -> None:
        """Submit one output; waits while the mailbox or the number in flight is at its bound."""
        while len(self.in_flight) >= self.spec.in_flight_groups_max:
            await self._settle_oldest()
        known = {"input": output.input_end, "code": CODE_VERSION, "lateness_ns": self.core.lateness_ns}
        position = json.dumps(known).encode()
        draft = GroupDraft(
            producer=PRODUCER, sequence=self.sequence + 1, producer_position=position, frames=output.frames
        )
        request = await self._patiently(partial(self.appender.submit, draft))
        self.sequence += 1
        self.in_flight.append((output, begin, request))

    async def _settle_oldest(self) -> None:
        """Wait until the oldest output is durable. Raises what the writer raised, LogError when it was not ours."""
        output, _, request = self.in_flight[0]
        appended = await self._patiently(request.wait)
        if appended.duplicate:
            raise LogError(f"a second writer used sequence {request.draft and request.draft.sequence} of {PRODUCER!r}")
        self.in_flight.popleft()
        self.rows_durable += output.rows

    async def _settle(self) -> None:
        """Wait until all outputs are durable."""
        while self.in_flight:
            await self._settle_oldest()

    async def _patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        """Wait as long as the log needs (a full disk is an outage), with signs of life. `call` must stand a repeat."""
        while True:
            with trio.move_on_after(_WAIT_S):
                return await call()
            self.ctx.progress()

    def _checkpoint_due(self, *, idle: bool) -> bool:
        if self.applied_to <= self.checkpoint_at:
            return False
        age_s = self.ctx.clock.monotonic_s() - self.checkpoint_time_s
        return idle or self.bytes_since >= self.spec.checkpoint_bytes or age_s >= self.spec.checkpoint_interval_s

    async def _checkpoint(self) -> bool:
        """Outputs durable, then the day files, then the position: in this order. False when the disk refused."""
        await self._settle()
        store = self.core.store
        try:
            while dirty := store.dirty:
                await self.ctx.offload(partial(store.write_days, dirty[:_DAYS_PER_WRITE]))
                self.ctx.progress()
            await self.ctx.offload(partial(store.write_checkpoint, self.applied_to))
        except OSError as error:
            self.ctx.log.warning("checkpoint refused by the disk", error=str(error))
            self.checkpoint_time_s = self.ctx.clock.monotonic_s()
            return False
        self.checkpoint_at, self.bytes_since = self.applied_to, 0
        self.checkpoint_time_s = self.ctx.clock.monotonic_s()
        return True

    async def _make_room(self) -> None:
        """Too many days in memory: write them, forget some. A disk that refuses is waited for, with the state kept."""
        while not await self._checkpoint():
            await trio.sleep(self.spec.disk_retry_s)
            self.ctx.progress()
        self.core.store.evict()

    def _shows_open(self) -> bool:
        """There is something new to show. Never while replaying: what is seen there is the past."""
        return bool(self.core.changed) and self.applied_to >= self.suppressed_to

    async def _publish_open(self) -> None:
        """Show the open candles that changed."""
        began_s = self.ctx.clock.monotonic_s()
        if not self._shows_open() or began_s < self.open_due_s:
            return
        for bars in await self.ctx.offload(self.core.open_bars):
            self.ctx.board.open_candles[bars.symbol] = bars
        now_s = self.ctx.clock.monotonic_s()
        self.open_due_s = now_s + max(self.spec.open_interval_s, (now_s - began_s) * _OPEN_SHARE)

    def _publish(self) -> None:
        committed = self.in_flight[0][1] if self.in_flight else self.applied_to
        self.ctx.board.consumers[PRODUCER] = ConsumerState(
            committed_position=committed,
            verified_position=self.checkpoint_at,
            records_stored=self.rows_durable,
            caught_up=committed >= self.consumer.end(),
        )


async def _cancel_on(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


def _position_of(position: bytes) -> tuple[int, int]:
    """Input and lateness (ns) in what the log remembers. Raises: InvariantViolation when we did not write it."""
    try:
        known = json.loads(position)
        return int(known["input"]), int(known.get("lateness_ns", 0))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvariantViolation(f"the log's position of producer {PRODUCER!r} is {position!r}") from error


def _nanoseconds(seconds: float) -> int:
    return round(seconds * NS_PER_S)
