"""One incarnation of `pipeline run --test-mode`: the product's tree over the fenced world, until it ends or dies."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import trio

from actors.aggregator.aggregator import Aggregator
from actors.bridge.delivery import Delivery
from actors.buffer.buffer import Buffer
from actors.downloader.downloader import HistoryDownloader
from actors.downloader.jobs import HistoryJob
from actors.downloader.live import LiveDownloader
from actors.downloader.memory_live import MemoryMarket
from runtime.actor import Actor, ActorContext, Seams
from runtime.backoff import Backoff
from runtime.board import Board
from runtime.disk_memory import SimulatedCrash
from runtime.errors import (
    ConfigError,
    InvariantViolation,
    LogFull,
    LogSyncFailed,
    RestartIntensityExceeded,
    StartFailed,
)
from runtime.log.cursor import Cursor
from supervisors import tree
from supervisors.engine.child import ChildSpec, SupervisorSpec
from supervisors.engine.events import Event
from supervisors.engine.run import run_tree
from supervisors.tree import Parts, Plan, build_spec
from tests.simulation.fences import Dead, Fence, FencedDisk, FencedJobs, PlantedBug, Threads, Watched
from tests.simulation.ledger import RecordedLog
from tests.simulation.market import kind_of
from tests.simulation.sinks import FencedDatabase, SlowSinks
from tests.simulation.vendor import SimStream, SimTime, SimVendor

if TYPE_CHECKING:
    from tests.simulation.world import World

SHUTDOWN_S = 60.0
FATAL = (LogSyncFailed, InvariantViolation, ConfigError)
EXITS = (LogSyncFailed, LogFull, RestartIntensityExceeded, StartFailed)
"""Ends that an init system answers by a new start. ConfigError and InvariantViolation are failures here: ours."""
LEFT_OUT = frozenset({"health"})
"""Children that need a real socket."""


@attrs.define(eq=False)
class Process:
    """From opening the log to the last task."""

    world: World
    fence: Fence
    stop: trio.Event = attrs.field(factory=trio.Event)
    died: trio.Event = attrs.field(factory=trio.Event)
    parts: Parts | None = None
    scopes: dict[str, trio.CancelScope] = attrs.field(factory=dict)
    planted: set[str] = attrs.field(factory=set)
    contexts: dict[str, ActorContext] = attrs.field(factory=dict)

    async def run(self) -> str:
        """Returns how it ended. Raises: SimulationFailed, and whatever the product must never raise."""
        try:
            self.parts = parts = self.open()
        except (SimulatedCrash, Dead):
            return "died while it started"
        except (*EXITS, PlantedBug) as exc:
            return f"did not start: {type(exc).__name__}"
        try:
            return await self._run(parts)
        finally:
            self._close(parts)

    def crash(self, actor: str) -> bool:
        """One actor ends by an exception, wherever it stands; False when it does not run."""
        scope = self.scopes.get(actor)
        if scope is None or self.fence.dead or scope.cancel_called:
            return False
        self.planted.add(actor)
        scope.cancel()
        return True

    @property
    def board(self) -> Board | None:
        """Of the running process."""
        return None if self.parts is None or self.fence.dead else self.parts.seams.board

    # --- making it

    def open(self) -> Parts:
        """The product's own start, on the fenced disk and without a port."""
        world = self.world
        seams = Seams(
            clock=world.clock,
            entropy=world.entropy,
            offload=Threads(world, self.fence),
            board=Board(),
            metrics=world.metrics,
        )
        tree.MemoryDisk = lambda: FencedDisk(world.disk, self.fence)  # type: ignore[assignment,misc]
        tree.open_listener = lambda listen: None  # type: ignore[assignment,return-value]
        parts = tree.open_parts(world.settings, self._plan(), seams)
        world.log_opened(parts.log)
        parts.memory_market = MemoryMarket(ticks={}, start_ns=0)  # not asked: the vendor is ours
        parts.jobs = FencedJobs(world.jobs, self.fence)
        for name in world.settings.sinks:
            parts.memory_sinks[name] = FencedDatabase(world, self.fence, name)  # type: ignore[assignment]
        return parts

    def _plan(self) -> Plan:
        return Plan(history=self.world.history(), live=self.world.stream is not None, test_mode=True)

    def _spec(self, parts: Parts) -> SupervisorSpec:
        """The product's tree, each actor between the fences."""
        return self._adapted(build_spec(parts.settings, parts, test_mode=True), parts)

    def _adapted(self, spec: SupervisorSpec, parts: Parts) -> SupervisorSpec:
        children: list[SupervisorSpec | ChildSpec] = []
        for child in spec.children:
            if isinstance(child, SupervisorSpec):
                children.append(self._adapted(child, parts))
            elif child.id not in LEFT_OUT:
                children.append(attrs.evolve(child, start=lambda c=child: self._actor(c, parts)))  # type: ignore[misc]
        return attrs.evolve(spec, children=tuple(children))

    def _actor(self, spec: ChildSpec, parts: Parts) -> Actor:
        actor: Any = spec.start()
        match actor:
            case Buffer():
                actor = attrs.evolve(actor, log=RecordedLog(parts.log, self.world))
            case Delivery():
                sinks = SlowSinks(actor.sink, self.world, self.fence)
                cursor = _RecordedCursor(actor.cursor, self.world, actor.sink.sink_name)
                actor = self._delivery(attrs.evolve(actor, sink=sinks, cursor=cursor))
            case HistoryDownloader():
                actor = attrs.evolve(actor, source=SimVendor(self.world, self.fence))
            case LiveDownloader():
                actor = self._live(actor)
            case Aggregator():  # nobody looks at open candles here
                actor = attrs.evolve(actor, spec=attrs.evolve(actor.spec, open_interval_s=3.0))
        return Watched(actor, spec.id, self)

    def _delivery(self, actor: Delivery) -> Delivery:
        # Refusals here are of a whole symbol for a while: an outage. Single rows: tests/actors/bridge/test_isolation.py
        actor = attrs.evolve(actor, letters=None)
        live = self.world.draw.live
        if live is None:
            return actor
        rows = live.batch_rows
        coalescing = attrs.evolve(
            actor.coalescing,
            rows_min=min(actor.coalescing.rows_min, rows),
            rows_max=rows,
            linger_s=live.batch_linger_s,
        )
        pace = attrs.evolve(actor.pace, read_bytes=live.read_bytes)
        return attrs.evolve(actor, coalescing=coalescing, pace=pace)

    def _live(self, actor: LiveDownloader) -> LiveDownloader:
        vendor = self.world.stream
        assert vendor is not None
        limits = attrs.evolve(actor.limits, backoff=Backoff(initial_s=1.0, max_s=8.0))
        stream, time = SimStream(vendor, self.fence), SimTime(vendor, self.fence)
        return attrs.evolve(actor, source=stream, time=time, limits=limits)

    # --- running it

    async def _run(self, parts: Parts) -> str:
        how = "?"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._burial)
            try:
                await run_tree(
                    self._spec(parts),
                    seams=parts.seams,
                    stop=self.stop,
                    shutdown_deadline_s=SHUTDOWN_S,
                    fatal=FATAL,
                    report=self._report,
                )
                how = "stopped in order"
            except EXITS as exc:
                how = type(exc).__name__
            except Exception as exc:
                if not self.fence.dead:
                    raise
                how = f"died: {type(exc).__name__}"
            nursery.cancel_scope.cancel()
        if not self.fence.dead and how == "stopped in order" and not self.stop.is_set():
            self.world.fails("S13: the tree ended by itself")
        return "died" if self.fence.dead else how

    async def _burial(self) -> None:
        """After death: end every task, whatever it waits for. The fence is up already."""
        await self.died.wait()
        self.stop.set()
        while True:
            shields = [shield for context in self.contexts.values() for shield in context.shields]
            for scope in (*self.fence.scopes, *shields, *self.scopes.values()):
                scope.cancel()
            await trio.sleep(0.01)

    def _close(self, parts: Parts) -> None:
        """What `pipeline run` does at its end, when it gets there."""
        try:
            parts.log.close()
        except (Dead, SimulatedCrash, PlantedBug):
            return
        except LogSyncFailed:
            self.world.trace("the disk fails in a stop: exit 74", reached="stop on a failing disk")

    def _report(self, event: Event) -> None:
        self.world.watch.supervised(self, event)


@attrs.define(eq=False)
class _RecordedCursor:
    inner: Any
    world: World
    sink: str

    def load(self) -> Cursor:
        return self.inner.load()

    def store(self, cursor: Cursor) -> None:
        self.world.look_at_cursor(self.sink, cursor)
        self.inner.store(cursor)


def data_dir() -> Path:
    """On the simulated disk."""
    return Path("/data")


def standing(symbols: tuple[str, ...], from_ns: int, to_ns: int | None) -> tuple[HistoryJob, ...]:
    """The configured history."""
    return tuple(HistoryJob(symbol=symbol, kind=kind_of(symbol), from_ns=from_ns, to_ns=to_ns) for symbol in symbols)
