"""One seed: the machine, the databases, the vendor, the market; processes that come and go; then the verdict.

First phase: safety under fire. Second: everything heals (perhaps but for one sink), and the rest has to converge in
bounded virtual time. Invariants are looked at after every change of a database, every commit, every start, and at the end.
"""

from __future__ import annotations

import random
from typing import Any

import attrs
import structlog
import trio
import trio.testing

from actors.bridge.memory_db import MemoryDatabase, State
from actors.downloader.jobs import HistoryJob
from actors.downloader.memory import MemoryJobs
from actors.health.port import BackfillRequest
from runtime.entropy import SeededEntropy
from runtime.errors import NotConnected
from runtime.log.appender import AppendRequest
from runtime.log.cursor import Cursor
from runtime.log.log import Log
from runtime.metrics import Metrics
from runtime.settings import BufferSettings, DownloaderSettings, LogSettings, PipelineSettings, Settings
from tests.simulation.candle_oracle import CandleOracle
from tests.simulation.chaos import Chaos, backfill
from tests.simulation.clock import SimClock, Steps
from tests.simulation.death import Death
from tests.simulation.draw import Draw
from tests.simulation.fate import Fate
from tests.simulation.fences import Dead, Fence, SimDisk
from tests.simulation.ledger import Ledger
from tests.simulation.market import HOUR, MINUTE, Market, Tick, kind_of
from tests.simulation.oracle import Oracle
from tests.simulation.process import Process, data_dir, standing
from tests.simulation.stream import LiveVendor, VendorClock
from tests.simulation.trace import SimulationFailed, Trace
from tests.simulation.verdict import Verdict
from tests.simulation.watch import Watch

RUNS_ON_S = 300.0
"""A market with a stream goes on so long after the hour that is waited for."""


def market_of(draw: Draw) -> Market:
    """Long enough for the run."""
    if draw.live is None:
        return Market(draw.seed, draw.symbols, draw.from_ns, max(draw.to_ns, draw.start_ns) + 10 * MINUTE)
    to_ns = draw.live.border_ns + 2 * HOUR + round(RUNS_ON_S * draw.live.rate) * 10**9
    rng = random.Random(f"{draw.seed}/density")
    per_hour = rng.choice((60, 150, 240)) if draw.live.rate > 1 else rng.choice((600, 1800))
    return Market(draw.seed, draw.symbols, draw.from_ns, to_ns, per_hour)


def settings_of(draw: Draw) -> Settings:
    """The configuration, the same for every process."""
    buffer, downloader = BufferSettings(mailbox_groups=draw.mailbox_groups), DownloaderSettings()
    if draw.live is not None:
        buffer = attrs.evolve(buffer, linger_ms=draw.live.linger_ms)
        downloader = attrs.evolve(downloader, settle_s=draw.live.settle_s, confirm=draw.live.confirm)
    return Settings(
        pipeline=PipelineSettings(data_dir=data_dir(), symbols=draw.symbols),
        log=LogSettings(
            partitions=draw.partitions,
            sync_linger_ms=draw.sync_linger_ms,
            segment_bytes=draw.segment_bytes,
            retention_s=draw.retention_s,
        ),
        buffer=buffer,
        downloader=downloader,
    )


@attrs.define(eq=False)
class World:
    """Everything that outlives a process."""

    draw: Draw
    trace: Trace
    market: Market = attrs.field(init=False)
    stream: LiveVendor | None = attrs.field(init=False, default=None)
    """The vendor's live side."""
    clock: SimClock = attrs.field(init=False)
    disk: SimDisk = attrs.field(init=False)
    entropy: SeededEntropy = attrs.field(init=False)
    ledger: Ledger = attrs.field(init=False)
    oracle: Oracle = attrs.field(init=False)
    candles: CandleOracle = attrs.field(init=False)
    watch: Watch = attrs.field(init=False)
    verdict: Verdict = attrs.field(init=False)
    fate: Fate = attrs.field(init=False)
    death: Death = attrs.field(init=False)
    settings: Settings = attrs.field(init=False)
    metrics: Metrics = attrs.field(factory=Metrics)
    databases: dict[str, MemoryDatabase] = attrs.field(init=False)
    backups: list[State] = attrs.field(factory=lambda: [State()])
    forgot: set[str] = attrs.field(factory=set)
    connections: dict[str, Any] = attrs.field(factory=dict)
    jobs: MemoryJobs = attrs.field(factory=MemoryJobs)
    vendor_is_down: bool = False
    on_fire: bool = True
    virtual_s: float = 0.0
    steps: int = 0
    step_trap: Any = None
    process: Process | None = None
    failure: str = ""
    log_id: str = ""
    refused: set[str] = attrs.field(factory=set)
    """Symbols that the vendor has called unknown."""
    _failed: trio.Event = attrs.field(factory=trio.Event)
    _jobs_made: int = 0

    def __attrs_post_init__(self) -> None:
        draw, live = self.draw, self.draw.live
        self.fate, self.watch, self.verdict, self.death = Fate(self), Watch(self), Verdict(self), Death(self)
        self.market = market_of(draw)
        self.clock = SimClock(draw.start_ns + (live.wall_offset_ns if live else 0))
        if live is not None:
            self.stream = LiveVendor(
                self, self.market, VendorClock(draw.start_ns, live.rate, stands=live.stands_at_first)
            )
        self.disk = SimDisk(self, seed=draw.seed)
        self.entropy = SeededEntropy(draw.seed)
        self.ledger = Ledger(2 * draw.partitions, self.disk)
        confirm = live is None or live.confirm
        self.oracle = Oracle(self.market, self.ledger, self.stream, confirm)
        self.candles = CandleOracle(self.market, self.ledger, confirm)
        self.settings = settings_of(draw)
        self.databases = {
            name: MemoryDatabase(keeps_marks=sink.kind == "timescale") for name, sink in self.settings.sinks.items()
        }
        self.trace.now = lambda: (
            f"{trio.current_time():9.3f} {self.steps:6d} #{self.process.fence.number if self.process else 0}"
        )

    # --- the run

    async def main(self) -> None:
        """The whole seed. Raises: SimulationFailed."""
        trio.lowlevel.add_instrument(Steps(self))
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch_failure)
                nursery.start_soon(self._init_system)
                await self._phases()
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            failed = group.subgroup(SimulationFailed)
            if failed is not None and not self.failure:
                self.failure = str(next(iter(_leaves(failed))))
            if failed is None and not self.failure:
                raise
        finally:
            self.virtual_s = trio.current_time()
        if self.failure:
            raise SimulationFailed(self.failure)

    async def _phases(self) -> None:
        chaos = Chaos(self)
        if self.draw.dead_sink:
            self.trace.reached["one sink dead for good"] += 1
        with trio.move_on_after(self.draw.fire_s):
            await chaos.rage()
            await trio.sleep_forever()
        self.on_fire = False
        chaos.heal()
        self.trace("healed")
        for symbol in self.draw.symbols:  # L3: something new reaches every sink, so every broken connection is noticed
            await self.submit(symbol, self.draw.from_ns, self.draw.from_ns + MINUTE)
        await (self.verdict.history() if self.stream is None else self.verdict.live())
        self.trace("converged", reached="converged")
        await self._stop_and_look()

    async def _init_system(self) -> None:
        """systemd: start it again, whatever its end."""
        number = 0
        rng = self.rng("init")
        while True:
            number += 1
            self.death.look_that_the_dead_had_no_effect()
            self.process = Process(self, Fence(number))
            self.trace("start")
            how = await self.process.run()
            fence = self.process.fence
            self.death.ended(self.process)
            self.trace(f"end: {how}; {fence.refused} touches refused", reached=f"process {how.partition(':')[0]}")
            if fence.refused:
                self.trace.reached["a dead process tried to touch the world"] += 1
            await trio.sleep(0.05 + rng.random())

    async def _stop_and_look(self) -> None:
        """An ordered stop in bounded time; then the power goes, and everything is still there."""
        process = self.process
        assert process is not None
        process.stop.set()
        with trio.move_on_after(70.0) as limit:
            while self.process is process and not process.fence.dead:  # noqa: ASYNC110
                await trio.sleep(0.1)
        if limit.cancelled_caught:
            self.fails("S13: the ordered stop did not end within its deadline")
        while self.process is process:  # noqa: ASYNC110
            await trio.sleep(0.1)
        self.disk.crash(keep=0.0)
        self.death.forget()
        self.trace("the last start")
        Process(self, Fence(0)).open()

    async def _watch_failure(self) -> None:
        await self._failed.wait()
        if self.process is not None:
            self.process.fence.dead = True
            self.process.died.set()
        raise SimulationFailed(self.failure)

    def fails(self, why: str, *, quietly: bool = False) -> None:
        """An invariant does not hold."""
        if quietly:
            self.heard(why)
        else:
            raise SimulationFailed(why)

    def heard(self, why: str) -> None:
        """The first failure ends the run, wherever it was found."""
        if not self.failure:
            self.failure = why
            self.trace(f"FAILED {why.splitlines()[0]}")
            self._failed.set()

    # --- called from the fences

    def log_opened(self, log: Log) -> None:
        """Every start: the log against the ledger."""
        self.log_id = log.log_id
        kept = self.ledger.check_all(log)
        if kept:
            self.trace(f"{kept} groups were durable and unconfirmed", reached="durable, not confirmed")
        if log.torn:
            self.trace("torn tail", reached="torn tail repaired")
        self.trimmed()
        self.trace(f"log {log.start_position}..{log.end_position}, {log.segments} segments")

    def trimmed(self) -> None:
        """S5: what is cut off the log is in every sink; at the latest now."""
        rows, keys = self.databases["timescale"], self.databases["clickhouse"]
        gone = self.ledger.take_trimmed()
        if not gone:
            return
        self.trace(f"{len(gone)} groups trimmed", reached="log trimmed")
        marks = rows.state.marks.get(self.log_id, {})
        frames = self.candles.frames(keys)
        for group in gone:
            for frame in group.frames:
                if frame.offset >= marks.get(frame.partition, 0):
                    self.fails(f"S5: {frame.partition}/{frame.offset} was trimmed, timescale stands at {marks}")
                if frame.kind == "candles" and frame.rows and (frame.partition, frame.offset) not in frames:
                    self.fails(f"S5: {frame.partition}/{frame.offset} was trimmed and is not in clickhouse")

    def changed(self, name: str) -> None:
        """A database has a new state: read it."""
        database = self.databases[name]
        if name == "timescale":
            self.oracle.look_at_ticks(database, self.log_id)
            if len(self.backups) < 40:
                self.backups.append(database.state)
        else:
            self.candles.look(database)

    def look_at_cursor(self, name: str, cursor: Cursor) -> None:
        """S5, at every store of a cursor."""
        for partition, verified in cursor.verified.items():
            committed, durable = cursor.committed.get(partition, 0), self.ledger.frames(partition)
            if not verified <= committed <= durable:
                self.fails(f"S5: {name} {partition}: verified {verified}, committed {committed}, durable {durable}")
        if name == "clickhouse" and name not in self.forgot:
            self.candles.look_at_cursor(self.databases[name], cursor.verified)

    def opened(self, name: str) -> None:
        """A connection was made: the sink knows again where it stands."""
        self.forgot.discard(name)

    def acknowledged(self, request: AppendRequest) -> None:
        """A producer was told that its draft is durable."""
        if request.draft is not None:
            self.ledger.acknowledge(request.draft)

    def crash_actor(self, actor: str) -> None:
        """One actor, wherever it stands."""
        if self.on_fire and self.process is not None and self.process.crash(actor):
            self.trace(f"bug in {actor}", reached=f"bug in {actor}")

    async def submit(self, symbol: str, from_ns: int, to_ns: int) -> None:
        """Somebody orders a refetch: of the running process, or by a file for the next one."""
        self.trace(f"refetch {symbol} [{self.minute(from_ns)}, {self.minute(to_ns)})", reached="refetch ordered")
        process = self.process
        if process is not None and process.parts is not None and not process.fence.dead:
            request = BackfillRequest(
                symbols=(symbol,), kinds=(kind_of(symbol),), from_ns=from_ns, to_ns=to_ns, refetch=True
            )
            try:
                await process.parts.submit_backfill(request)
            except (NotConnected, Dead):
                pass
            else:
                return
        self._jobs_made += 1
        self.jobs.jobs.append(backfill(f"job{self._jobs_made}", symbol, from_ns, to_ns))

    # --- small things

    def rng(self, name: str) -> random.Random:
        """A generator for one purpose."""
        return self.fate.rng(name)

    def latency_s(self, most_s: float) -> float:
        """Of one way."""
        return self.fate.latency_s(most_s)

    def now_ns(self) -> int:
        """As the vendor sees it."""
        return self.clock.true_ns() if self.stream is None else self.stream.clock.now_ns()

    def served(self, symbol: str) -> list[Tick]:
        """What the vendor's pages show now."""
        if self.stream is not None:
            return self.stream.served(symbol)
        return [tick for tick in self.market.served(symbol) if tick[0] < self.now_ns()]

    def history(self) -> tuple[HistoryJob, ...]:
        """The configuration, the same for every process."""
        return standing(self.draw.symbols, self.draw.from_ns, None if self.draw.follows else self.draw.to_ns)

    def minute(self, ns: int) -> int:
        """Minutes since the beginning of the market: short in a trace."""
        return (ns - self.draw.from_ns) // MINUTE


WORLD: list[World] = []
"""The one that runs in this process."""


def simulate(world: World) -> None:
    """Run one seed. Raises: SimulationFailed. `schedule.install` and `schedule.reset` come before."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50), processors=[_drop])
    AppendRequest.answer = _observed_answer  # type: ignore[method-assign]
    WORLD[:] = [world]
    SimulationFailed.heard = world.heard
    trio.run(world.main, clock=trio.testing.MockClock(autojump_threshold=0))


def _drop(*args: Any) -> Any:
    raise structlog.DropEvent


_answer = AppendRequest.answer


def _observed_answer(self: AppendRequest, result: Any) -> None:
    first = self._result is None
    _answer(self, result)
    world = WORLD[0]
    if (
        first
        and hasattr(result, "value")
        and result.value is not None
        and world.process
        and not world.process.fence.dead
    ):
        world.acknowledged(self)


def _leaves(group: BaseException) -> Any:
    if isinstance(group, BaseExceptionGroup):
        for inner in group.exceptions:
            yield from _leaves(inner)
    else:
        yield group
