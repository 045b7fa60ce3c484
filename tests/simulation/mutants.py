"""Broken promises, planted one at a time: the simulation must notice each, or it proves nothing (`hunt.py`).

A mutant replaces one function of the product (or, marked so, of a fake or of the harness) before the run.
Those of the live stream are in `live_mutants.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import msgspec
import outcome


@attrs.frozen
class Mutant:
    """One broken promise."""

    name: str
    area: str
    what: str
    plant: Callable[[], None]


MUTANTS: list[Mutant] = []


def mutant(area: str, what: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Register."""

    def register(plant_it: Callable[[], None]) -> Callable[[], None]:
        MUTANTS.append(Mutant(plant_it.__name__, area, what, plant_it))
        return plant_it

    return register


def plant(name: str) -> None:
    """Break it, in this process, for good; a second time changes nothing."""
    import tests.simulation.live_mutants  # noqa: F401 (they register themselves)

    if name not in _PLANTED:
        _PLANTED.add(name)
        next(m for m in MUTANTS if m.name == name).plant()


_PLANTED: set[str] = set()

# --- log


@mutant("log", "acknowledged before the sync")
def no_sync() -> None:
    from runtime.disk_memory import MemoryFile

    real = MemoryFile.datasync
    MemoryFile.datasync = lambda self: None if ".seg" in self._path.name else real(self)  # type: ignore[method-assign]


@mutant("log", "a failed sync is tried again, and believed")
def sync_again() -> None:
    from runtime.disk_memory import MemoryFile

    real = MemoryFile.datasync

    def again(self: Any) -> None:
        try:
            real(self)
        except OSError:
            real(self)

    MemoryFile.datasync = again  # type: ignore[method-assign]


@mutant("log", "a short write is ignored")
def short_write_ignored() -> None:
    from runtime.disk_memory import MemoryFile

    real = MemoryFile.pwritev

    def boastful(self: Any, buffers: Any, offset: int) -> int:
        real(self, buffers, offset)
        return sum(map(len, buffers))

    MemoryFile.pwritev = boastful  # type: ignore[method-assign]


@mutant("log", "the checksum of a body is not looked at")
def body_unchecked() -> None:
    from runtime.log.scan import Walker

    def unchecked(self: Any, header: Any) -> bytes:
        buffer, at = self._source.fetch(header.position + header.header_bytes, header.body_bytes)
        return bytes(buffer[at : at + header.body_bytes])

    Walker._body = unchecked  # type: ignore[method-assign,assignment]


@mutant("log", "names of new files are not synced")
def no_directory_sync() -> None:
    from runtime.disk_memory import MemoryDisk

    MemoryDisk.sync_directory = lambda self, path: None  # type: ignore[method-assign]


@mutant("log", "sequences are not compared: a repeated draft is written again")
def sequence_not_checked() -> None:
    import runtime.log.writer as writer

    writer.sort_out_duplicates = lambda drafts, producers: [False] * len(drafts)


@mutant("log", "the buffer answers first and commits then")
def answered_before_the_commit() -> None:
    from actors.buffer.buffer import Buffer
    from runtime.log.types import Appended

    real = Buffer._commit

    async def hasty(self: Any, batch: Any, *rest: Any) -> None:
        for request in batch.requests:
            if request.draft is not None:
                request.answer(outcome.Value(Appended(position=0, end_position=0, stamp_ns=0, duplicate=False)))
        await real(self, batch, *rest)

    Buffer._commit = hasty  # type: ignore[method-assign]


# --- cursor


@mutant("cursor", "called verified before the sink has answered")
def cursor_before_the_answer() -> None:
    from actors.bridge.delivery import _Session

    real = _Session._write

    async def hasty(self: Any, sink: Any, lanes: Any, turn: Any) -> None:
        verified = dict(self.cursor.verified)
        for partition, (_, high) in turn.batch.marks.items():
            verified[partition] = high
        self.cursor = attrs.evolve(self.cursor, committed=verified, verified=verified)
        await self.store_cursor(at_once=True)
        await real(self, sink, lanes, turn)

    _Session._write = hasty  # type: ignore[method-assign]


@mutant("cursor", "resumes one group too far")
def resume_off_by_one() -> None:
    from runtime.log.tail import LogConsumer

    real = LogConsumer.position_of
    LogConsumer.position_of = lambda self, partition, offset: real(self, partition, offset + 1)  # type: ignore[method-assign]


@mutant("cursor", "begins at the end of the log when it knows nothing")
def begins_at_the_end() -> None:
    from runtime.log.tail import LogConsumer

    real = LogConsumer.seek

    def newest(self: Any, position: int) -> None:
        real(self, position or self.end())

    LogConsumer.seek = newest  # type: ignore[method-assign]


# --- delivery


@mutant("delivery", "what was read again is not recognised")
def no_deduplication() -> None:
    from actors.bridge.plan import Lane

    def all_new(self: Any, group: Any) -> set[int]:
        for frame in group.frames:
            self._offered[frame.partition] = frame.offset + 1
        return {frame.partition for frame in group.frames}

    Lane._new_partitions = all_new  # type: ignore[method-assign]


@mutant("delivery", "a write without an answer counts as done")
def skip_on_timeout() -> None:
    from actors.bridge.delivery import _Session
    from runtime.errors import RetryableSinkError

    real = _Session._write

    async def optimistic(self: Any, sink: Any, lanes: Any, turn: Any) -> None:
        try:
            await real(self, sink, lanes, turn)
        except RetryableSinkError:
            turn.lane.wrote(turn.batch)
            turn.lane.read_back(turn.batch.groups)
            self._note(lanes)

    _Session._write = optimistic  # type: ignore[method-assign]


@mutant("delivery", "a group without its last frame is delivered")
def half_a_group() -> None:
    from actors.bridge import plan

    real = plan._only

    def half(group: Any, partitions: set[int]) -> Any:
        whole = real(group, partitions)
        return msgspec.structs.replace(whole, frames=whole.frames[:-1]) if len(whole.frames) > 1 else whole

    plan._only = half


@mutant("delivery", "(sink) the mark moves outside of the transaction")
def mark_outside() -> None:
    from actors.bridge.memory import MemorySink

    real = MemorySink._write_transaction

    async def split(self: Any, batch: Any) -> Any:
        self._db.state = self._move_marks(self._db.state, batch)
        self._move_marks = lambda state, batch: state
        try:
            return await real(self, batch)
        finally:
            del self._move_marks

    MemorySink._write_transaction = split  # type: ignore[method-assign]


@mutant("delivery", "(sink) a slice does not replace what its interval holds")
def slice_without_delete() -> None:
    from actors.bridge.memory import MemorySink

    MemorySink._delete = lambda self, state, step: (state, 0)  # type: ignore[method-assign]


# --- producers


@mutant("producers", "a slice claims to cover one minute more than it holds")
def covers_too_much() -> None:
    from actors.downloader.producer import HistoryProducer

    real = HistoryProducer.append_slice

    async def more(self: Any, feed: Any, framed: Any, covers: Any) -> None:
        await real(self, feed, framed, attrs.evolve(covers, to_ns=covers.to_ns + 60 * 10**9))

    HistoryProducer.append_slice = more  # type: ignore[method-assign]


@mutant("producers", "a refetch is forgotten as soon as it was read")
def job_forgotten() -> None:
    from actors.downloader.downloader import _Crew

    real = _Crew._take_on

    async def forgetful(self: Any, nursery: Any, job: Any) -> None:
        await self.actor.jobs.done(job.id)
        await real(self, nursery, job)

    _Crew._take_on = forgetful  # type: ignore[method-assign]


@mutant("producers", "a refetch does not come back to where it was after a crash, but is called done")
def refetch_called_done() -> None:
    from actors.downloader import jobs

    def careless(position: Any, wanted: Any, *rest: Any) -> Any:
        if wanted.refetch and position.job == wanted.job:
            return []
        return real(position, wanted, *rest)

    import actors.downloader.lane as lane

    real = jobs.missing
    jobs.missing = lane.missing = careless


@mutant("market", "the border between two pages is not proven")
def border_unproven() -> None:
    from actors.downloader.proof import ChainProof

    ChainProof.check_border = lambda self, probe, page: None  # type: ignore[method-assign]


# --- aggregator


@mutant("aggregator", "a replay puts out again what the log holds")
def outputs_again() -> None:
    from actors.aggregator.core import Core

    real = Core.apply
    Core.apply = lambda self, groups, *, suppressed_to: real(self, groups, suppressed_to=0)  # type: ignore[method-assign]


@mutant("aggregator", "the checkpoint is written before its outputs are durable")
def checkpoint_first() -> None:
    from actors.aggregator.aggregator import _Incarnation

    real = _Incarnation._checkpoint

    async def hasty(self: Any) -> bool:
        waiting, self.in_flight = self.in_flight, type(self.in_flight)()
        try:
            return await real(self)
        finally:
            self.in_flight = waiting

    async def lazy(self: Any) -> None:
        return None

    _Incarnation._checkpoint = hasty  # type: ignore[method-assign]
    _Incarnation._settle = lazy  # type: ignore[method-assign]


@mutant("aggregator", "after a restart everything in the log counts as computed")
def suppresses_too_much() -> None:
    from actors.aggregator.aggregator import _Incarnation

    real = _Incarnation._resume

    async def careless(self: Any, *, discard: bool) -> None:
        await real(self, discard=discard)
        self.suppressed_to = self.consumer.end()

    _Incarnation._resume = careless  # type: ignore[method-assign]


@mutant("aggregator", "a minute whose ticks are gone keeps its bar")
def stale_bars() -> None:
    from actors.aggregator import core, views

    real = views.changes
    core.changes = lambda before, after: [v for v in real(before, after) if not v.bars.flags.any()]


# --- supervision


@mutant("supervision", "an outage of a sink counts as a crash")
def outage_is_a_crash() -> None:
    from actors.bridge.delivery import _Session

    async def crash(self: Any, exc: Any, wait_s: float) -> None:
        raise exc

    _Session.outage = crash  # type: ignore[method-assign]


@mutant("supervision", "restarts are never forgotten")
def intensity_never_reset() -> None:
    from supervisors.engine.restart import RestartWindow

    RestartWindow._forget_before = lambda self, oldest_s: None  # type: ignore[method-assign]


@mutant("supervision", "a connection that fails is tried again at once")
def no_backoff() -> None:
    from runtime.backoff import BackoffCounter

    real = BackoffCounter.next_s
    BackoffCounter.next_s = lambda self, uniform: 0.0 * real(self, uniform)  # type: ignore[method-assign]


# --- the harness itself


@mutant("fences", "(harness) a process that was killed goes on working")
def the_dead_work() -> None:
    from runtime.disk_memory import MemoryFile
    from tests.simulation.fences import Fence

    Fence.check = lambda self: None  # type: ignore[method-assign]
    MemoryFile._enter = lambda self, op: self._disk.step(op, self._path)  # type: ignore[method-assign]
