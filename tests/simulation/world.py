"""One seed: the machine, the databases, the vendor, the market; processes that come and go; then the verdict.

First phase: safety under fire. Second: everything heals (perhaps but for one sink), and the rest has to converge in
bounded virtual time. Invariants are looked at after every change of a database, every commit, every start, and at the end.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from pathlib import Path
from typing import Any

import attrs
import structlog
import trio
import trio.testing

from actors.bridge.memory_db import MemoryDatabase, State
from actors.downloader.jobs import HistoryJob
from actors.downloader.memory import Fault, MemoryJobs
from actors.health.port import BackfillRequest
from runtime.board import Board
from runtime.entropy import SeededEntropy
from runtime.errors import LogSyncFailed, NotConnected, RestartIntensityExceeded, StartFailed
from runtime.log.appender import AppendRequest
from runtime.log.cursor import Cursor
from runtime.log.log import Log
from runtime.metrics import Metrics
from runtime.settings import BufferSettings, LogSettings, PipelineSettings, Settings
from supervisors.engine.child import SupervisorSpec, walk
from supervisors.engine.events import Event, EventKind
from supervisors.engine.exits import leaves
from supervisors.tree import build_spec
from tests.simulation.chaos import Chaos, backfill
from tests.simulation.draw import Draw
from tests.simulation.fences import Dead, Fence, PlantedBug, SimDisk
from tests.simulation.ledger import Ledger
from tests.simulation.market import MINUTE, NS, Market
from tests.simulation.oracle import Oracle
from tests.simulation.process import Process, data_dir, standing
from tests.simulation.trace import SimulationFailed, Trace

CONVERGE_S = 240.0
STEPS_MAX = 600_000
RATE_MAX = {"connections to": 12, "writes to": 120, "vendor requests": 3000}
"""Per virtual second: what is above is a hot loop."""
SETTLE_NS = 5 * NS
FAULTS = (
    Fault.CUT, Fault.HTML, Fault.RATE_LIMIT, Fault.TIMEOUT, Fault.REPEAT_AT_BORDER, Fault.LOSE_AT_BORDER,
    Fault.LOSE_AT_BORDER, Fault.LOOP, Fault.UNSORTED, Fault.OUTSIDE,
)  # fmt: skip


class SimClock:
    """Wall time that somebody sets, over Trio's virtual time."""

    def __init__(self, start_ns: int) -> None:
        self.start_ns = start_ns
        self.jump_ns = 0

    def true_ns(self) -> int:
        """What the vendor's clock says."""
        return self.start_ns + round(trio.current_time() * NS)

    def wall_ns(self) -> int:
        return self.true_ns() + self.jump_ns

    def monotonic_s(self) -> float:
        return trio.current_time()


class _Steps(trio.abc.Instrument):
    """Counts steps of tasks; springs the trap at the n-th; ends what runs for ever."""

    def __init__(self, world: World) -> None:
        self.world = world

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        del task
        world = self.world
        world.steps += 1
        trap = world.step_trap
        if trap is not None and world.steps >= trap[0]:
            world.step_trap = None
            trap[1]()
        if world.steps > STEPS_MAX and not world.failure:
            world.fails(f"more than {STEPS_MAX} steps: a livelock", quietly=True)


@attrs.define(eq=False)
class World:
    """Everything that outlives a process."""

    draw: Draw
    trace: Trace
    market: Market = attrs.field(init=False)
    clock: SimClock = attrs.field(init=False)
    disk: SimDisk = attrs.field(init=False)
    entropy: SeededEntropy = attrs.field(init=False)
    ledger: Ledger = attrs.field(init=False)
    oracle: Oracle = attrs.field(init=False)
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
    _ends: dict[str, deque[float]] = attrs.field(factory=dict)
    _buffer_s: list[float] = attrs.field(factory=list)
    """When a buffer ended."""
    _left_alone_s: list[tuple[float, str]] = attrs.field(factory=list)
    _power: str = ""
    _rates: dict[str, deque[float]] = attrs.field(factory=dict)
    _at_death: Any = None
    _rngs: dict[str, random.Random] = attrs.field(factory=dict)
    _failed: trio.Event = attrs.field(factory=trio.Event)
    _jobs_made: int = 0
    most: Counter[str] = attrs.field(factory=Counter)

    def __attrs_post_init__(self) -> None:
        draw = self.draw
        self.market = Market(draw.seed, draw.symbols, draw.from_ns, max(draw.to_ns, draw.start_ns) + 10 * MINUTE)
        self.clock = SimClock(draw.start_ns)
        self.disk = SimDisk(self, seed=draw.seed)
        self.entropy = SeededEntropy(draw.seed)
        self.ledger = Ledger(2 * draw.partitions, self.disk)
        self.oracle = Oracle(self.market, self.ledger)
        self.settings = Settings(
            pipeline=PipelineSettings(data_dir=data_dir(), symbols=draw.symbols),
            log=LogSettings(
                partitions=draw.partitions,
                sync_linger_ms=draw.sync_linger_ms,
                segment_bytes=draw.segment_bytes,
                retention_s=draw.retention_s,
            ),
            buffer=BufferSettings(mailbox_groups=draw.mailbox_groups),
        )
        self.databases = {
            name: MemoryDatabase(keeps_marks=sink.kind == "timescale") for name, sink in self.settings.sinks.items()
        }
        self.trace.now = lambda: (
            f"{trio.current_time():9.3f} {self.steps:6d} #{self.process.fence.number if self.process else 0}"
        )

    # --- the run

    async def main(self) -> None:
        """The whole seed. Raises: SimulationFailed."""
        trio.lowlevel.add_instrument(_Steps(self))
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
        for (
            symbol
        ) in self.draw.symbols:  # L3: something new reaches every sink, and so every broken connection is noticed
            await self.submit(symbol, self.draw.from_ns, self.draw.from_ns + MINUTE)
        with trio.move_on_after(CONVERGE_S) as limit:
            while not self._has_converged():
                await trio.sleep(0.25)
        if limit.cancelled_caught:
            self.fails(f"L1: not converged {CONVERGE_S} s after healing: {self._state()}")
        self.trace("converged", reached="converged")
        self._verdict()
        await self._stop_and_look()

    async def _init_system(self) -> None:
        """systemd: start it again, whatever its end."""
        number = 0
        rng = self.rng("init")
        while True:
            number += 1
            self._look_that_the_dead_had_no_effect()
            self.process = Process(self, Fence(number))
            self.trace("start")
            how = await self.process.run()
            fence = self.process.fence
            if not fence.dead:  # it ended by itself: whatever it still holds is gone
                fence.dead = True
                self.disk.kill()
                self._remember()
            elif self._power:
                self._cut(self._power)
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
            while self.process is process and not process.fence.dead:
                await trio.sleep(0.1)
        if limit.cancelled_caught:
            self.fails("S13: the ordered stop did not end within its deadline")
        while self.process is process:
            await trio.sleep(0.1)
        self.disk.crash(keep=0.0)
        self._at_death = None
        self.trace("the last start")
        Process(self, Fence(0)).open()

    async def _watch_failure(self) -> None:
        await self._failed.wait()
        if self.process is not None:
            self.process.fence.dead = True
            self.process.died.set()
        raise SimulationFailed(self.failure)

    # --- verdicts

    def _has_converged(self) -> bool:
        """All is computed, stored, verified, and no job is left, as far as it can be."""
        process = self.process
        board = process.board if process is not None else None
        if board is None or process is None or process.parts is None or board.log is None or self.jobs.jobs:
            return False
        if self.forgot - {self.draw.dead_sink}:
            return False
        if not board.jobs_idle and not self._only_refused_left(board):
            return False
        end = process.parts.log.end_position
        names = {"aggregator", *(f"bridge.{name}" for name in self.databases if name != self.draw.dead_sink)}
        return all(name in board.consumers and board.consumers[name].verified_position >= end for name in names)

    def _only_refused_left(self, board: Board) -> bool:
        return bool(self.refused) and all(j.finished or j.error for j in board.jobs.values())

    def _verdict(self) -> None:
        self._judge_left_alone()
        draw = self.draw
        to_ns = draw.to_ns
        if draw.follows:
            now_ns = self.clock.wall_ns() - SETTLE_NS
            to_ns = now_ns - now_ns % MINUTE - MINUTE
        wanted = dict.fromkeys(draw.symbols, (draw.from_ns, to_ns))
        rows, keys = self.databases["timescale"], self.databases["clickhouse"]
        alive = {name for name in self.databases if name != draw.dead_sink}
        if "timescale" in alive:
            self.oracle.look_at_ticks(rows, self.log_id)
            self.oracle.final_ticks(rows, wanted, self.refused)
            marks = rows.state.marks.get(self.log_id, {})
            ends = {p: self.ledger.frames(p) for p in range(self.ledger.partitions_total) if self.ledger.frames(p)}
            if {p: m for p, m in marks.items() if m} != ends:
                self.fails(f"S2: marks {marks}, the log ends at {ends}")
        if alive == {"timescale", "clickhouse"}:
            self.oracle.final_candles(rows, keys)
        if "clickhouse" in alive:
            self.oracle.look_at_cursor(keys, {p: self.ledger.frames(p) for p in range(self.ledger.partitions_total)})

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

    def _state(self) -> str:
        process = self.process
        board = process.board if process is not None else None
        if board is None:
            return "no process runs"
        consumers = {name: (c.committed_position, c.verified_position) for name, c in sorted(board.consumers.items())}
        down = {name: d.reason for name, d in board.dependencies.items() if d.reason}
        jobs = {name: j.error for name, j in board.jobs.items() if not j.finished}
        return f"log {board.log}, idle {board.jobs_idle}, consumers {consumers}, down {down}, jobs {jobs}"

    # --- called from the fences

    def dies(self, how: str) -> None:
        """kill -9 or a power cut, between two steps of any task."""
        process = self.process
        if process is None or process.fence.dead or not self.on_fire:
            return
        self.trace(f"dies: {how}", reached=f"process dies: {how}")
        self._fence_off(process)
        self._cut(how)

    def dies_in_disk(self, op: str, path: Path) -> None:
        """The process ends inside of an operation; the disk is sorted out once its stack is gone."""
        process = self.process
        if process is None or process.fence.dead:
            return
        how = self.rng("disk").choice(("kill", "power"))
        self.trace(f"dies: {how} in {op} {path.name}", reached=f"process dies in {op}")
        self._power = how
        self._fence_off(process)

    def _fence_off(self, process: Process) -> None:
        process.fence.dead = True
        process.died.set()
        if not self._power:
            self._remember()

    def _cut(self, how: str) -> None:
        self._power = ""
        if how == "power":
            self.disk.crash()
        else:
            self.disk.kill()
        self._remember()

    def _remember(self) -> None:
        self._at_death = self.disk.operations, {name: id(d.state) for name, d in self.databases.items()}

    def _look_that_the_dead_had_no_effect(self) -> None:
        """S10."""
        if self._at_death is None:
            return
        operations, states = self._at_death
        if self.disk.operations != operations:
            self.fails("S10: the disk was touched by a process that is gone")
        for name, database in self.databases.items():
            if id(database.state) != states[name] and name not in self.forgot:
                self.fails(f"S10: {name} was changed by a process that is gone")

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
        frames = self.oracle.candle_frames(keys)
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
            self.oracle.look_at_candles(database)

    def look_at_cursor(self, name: str, cursor: Cursor) -> None:
        """S5, at every store of a cursor."""
        for partition, verified in cursor.verified.items():
            committed, durable = cursor.committed.get(partition, 0), self.ledger.frames(partition)
            if not verified <= committed <= durable:
                self.fails(f"S5: {name} {partition}: verified {verified}, committed {committed}, durable {durable}")
        if name == "clickhouse" and name not in self.forgot:
            self.oracle.look_at_cursor(self.databases[name], cursor.verified)

    def opened(self, name: str) -> None:
        """A connection was made: the sink knows again where it stands."""
        self.forgot.discard(name)

    def acknowledged(self, request: AppendRequest) -> None:
        """A producer was told that its draft is durable."""
        if request.draft is not None:
            self.ledger.acknowledge(request.draft)

    def thread_times_s(self) -> tuple[float, float]:
        """Virtual time that a worker thread takes before and after its effect."""
        rng = self.rng("threads")
        if self.on_fire and rng.random() < self.draw.rates["slow_thread"]:
            return rng.choice((0.0, 0.01, 0.5)) * rng.random(), rng.choice((0.0, 0.01, 0.5)) * rng.random()
        return 0.0, 0.0

    def perhaps_bug(self, owner: str, when: str) -> None:
        """An exception that comes out of a worker thread."""
        rate = self.draw.rates["actor_in_thread"] / 20
        if self.on_fire and rate and self.rng("bugs").random() < rate:
            self.trace(f"bug in {owner}, {when} its thread", reached="bug in a worker thread")
            raise PlantedBug(f"in {owner}, {when} its thread")

    def latency_s(self, most_s: float) -> float:
        return most_s * self.rng("latency").random() if most_s else 0.0

    def next_vendor_fault(self) -> Fault | None:
        if not self.on_fire:
            return None
        if self.vendor_is_down:
            return Fault.TIMEOUT
        rng = self.rng("vendor")
        if rng.random() < self.draw.rates["refused"]:
            self.refused.update(self.draw.symbols)
            return Fault.UNKNOWN_SYMBOL
        return rng.choice(FAULTS) if rng.random() < self.draw.rates["vendor"] else None

    def crash_actor(self, actor: str) -> None:
        """One actor, wherever it stands."""
        if self.on_fire and self.process is not None and self.process.crash(actor):
            self.trace(f"bug in {actor}", reached=f"bug in {actor}")

    async def submit(self, symbol: str, from_ns: int, to_ns: int) -> None:
        """Somebody orders a refetch: of the running process, or by a file for the next one."""
        self.trace(f"refetch {symbol} [{self.minute(from_ns)}, {self.minute(to_ns)})", reached="refetch ordered")
        process = self.process
        if process is not None and process.parts is not None and not process.fence.dead:
            request = BackfillRequest(symbols=(symbol,), kinds=("quotes",), from_ns=from_ns, to_ns=to_ns, refetch=True)
            try:
                await process.parts.submit_backfill(request)
            except (NotConnected, Dead):
                pass
            else:
                return
        self._jobs_made += 1
        self.jobs.jobs.append(backfill(f"job{self._jobs_made}", symbol, from_ns, to_ns))

    def supervised(self, process: Process, event: Event) -> None:
        """S13: nothing crashes but by our order, nobody gives up within its budget."""
        if process.fence.dead:
            return
        self.trace(
            f"{event.kind} {event.path} {type(_first(event)).__name__ if event.reason else ''}",
            reached=f"event {event.kind}",
        )
        if event.kind in (EventKind.UNSTOPPABLE, EventKind.STALLED):
            self.fails(f"S13: {event}", quietly=True)
        parent = event.path.rpartition("/")[0]
        now_s = trio.current_time()
        if event.kind in (EventKind.CRASHED, EventKind.ENDED, EventKind.START_FAILED):
            self._ends.setdefault(parent, deque()).append(now_s)
            self._judge_end(event, now_s)
        if event.kind is EventKind.ESCALATED:
            self._judge_escalation(event, now_s)

    def _judge_end(self, event: Event, now_s: float) -> None:
        errors = list(leaves(event.reason.error)) if event.reason and event.reason.error else []
        if errors and event.path.endswith("/buffer"):
            self._buffer_s.append(now_s)
        for error in errors:
            if isinstance(error, NotConnected):
                self._left_alone_s.append((now_s, event.path))
            elif not isinstance(error, PlantedBug | Dead | LogSyncFailed | RestartIntensityExceeded | StartFailed):
                text = _traceback(error)
                self.fails(f"S13: {event.path} crashed by itself: {type(error).__name__}: {error}{text}", quietly=True)

    def _judge_left_alone(self) -> None:
        """A producer may end because the buffer did, and only then."""
        for at_s, path in self._left_alone_s:
            if not any(abs(at_s - end_s) < 5.0 for end_s in self._buffer_s):
                self.fails(f"S13: {path} crashed by itself: NotConnected, and no buffer had ended")

    def _judge_escalation(self, event: Event, now_s: float) -> None:
        spec = self._supervisor(event.path)
        assert spec.intensity is not None
        recent = [at for at in self._ends.get(event.path, ()) if at >= now_s - spec.intensity.period_s - 1e-6]
        if len(recent) <= spec.intensity.restarts_max:
            self.fails(
                f"S13: {event.path} gave up after {len(recent)} ends in {spec.intensity.period_s} s", quietly=True
            )
        self._ends.pop(event.path, None)

    def _supervisor(self, path: str) -> SupervisorSpec:
        for found, spec in walk(build_spec(self.settings, None, test_mode=True)):
            if found == path and isinstance(spec, SupervisorSpec):
                return spec
        raise AssertionError(path)

    def look_rate(self, what: str) -> None:
        """S9: nothing spins."""
        times = self._rates.setdefault(what, deque())
        now_s = trio.current_time()
        times.append(now_s)
        while times[0] < now_s - 1.0:
            times.popleft()
        limit = next(most for prefix, most in RATE_MAX.items() if what.startswith(prefix))
        if len(times) > limit:
            self.fails(f"S9: more than {limit} {what} in a second", quietly=True)

    def look_at(self, what: str, value: int) -> None:
        """Remember the highest."""
        self.most[what] = max(self.most[what], value)

    # --- small things

    def rng(self, name: str) -> random.Random:
        """A generator for one purpose."""
        if name not in self._rngs:
            self._rngs[name] = random.Random(f"{self.draw.seed}/{name}")
        return self._rngs[name]

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


def _first(event: Event) -> BaseException | None:
    return next(iter(leaves(event.reason.error)), None) if event.reason and event.reason.error else None


def _leaves(group: BaseException) -> Any:
    if isinstance(group, BaseExceptionGroup):
        for inner in group.exceptions:
            yield from _leaves(inner)
    else:
        yield group


def _traceback(error: BaseException) -> str:
    import traceback

    return "\n" + "".join(traceback.format_exception(error)[-12:])
