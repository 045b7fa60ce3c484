"""A real small file system that fills up, by bytes and by inodes: the ladder, the reserve, and back again by itself."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import attrs
import pytest
import structlog
import trio

from actors.buffer.buffer import Buffer, CommitLimits
from actors.buffer.space import Keeping
from runtime.actor import ActorContext, Seams, offload_to_thread
from runtime.board import Board, LogState
from runtime.clock import SystemClock
from runtime.disk import RealDisk
from runtime.entropy import SeededEntropy
from runtime.errors import LogFull
from runtime.log.appender import Appender, AppendRequest
from runtime.log.log import Log, LogSettings
from runtime.log.retention import Retention
from runtime.log.types import FrameDraft, GroupDraft
from runtime.mailbox import Mailbox
from tests.powercuts.volume import NotPossible, Volume

pytestmark = pytest.mark.slow
BODY = 100_000


def draft(producer: str, sequence: int, size: int = BODY) -> GroupDraft:
    body = sequence.to_bytes(8, "little") * (size // 8)
    frame = FrameDraft(partition=0, kind="quotes", body=body, rows=1, event_time_ns_min=0, event_time_ns_max=0)
    return GroupDraft(producer=producer, sequence=sequence, producer_position=b"%d" % sequence, frames=(frame,))


@pytest.fixture(params=["bytes", "inodes"])
def volume(request: pytest.FixtureRequest) -> Iterator[tuple[Volume, Callable[[], None], Callable[[], None]]]:
    """(volume, fill, free again)"""
    made = Volume(size=48 << 20, mkfs=("-N", "64") if request.param == "inodes" else ())
    try:
        made.format()
    except NotPossible as exc:
        made.remove()
        pytest.skip(f"NOT COVERED: a full disk, {exc}")
    ballast = made.mountpoint / "ballast"
    ballast.mkdir()
    by = (_fill_bytes, _fill_inodes)[request.param == "inodes"]
    yield made, lambda: by(ballast), lambda: [p.unlink() for p in ballast.iterdir()] and None
    made.remove()


def _fill_bytes(folder: Path) -> None:
    with (folder / "somebody else's").open("ab", buffering=0) as file:
        for size in (1 << 20, 4096):
            with suppress(OSError):
                while True:
                    file.write(bytes(size))
    assert os.statvfs(folder).f_bavail < 4


def _fill_inodes(folder: Path) -> None:
    with suppress(OSError):
        for n in range(1000):
            (folder / f"{time.time_ns()}-{n}").touch()
    assert os.statvfs(folder).f_ffree == 0


@attrs.define
class World:
    log: Log
    appender: Appender
    board: Board
    acked: list[int] = attrs.field(factory=list)
    drained: list[int] = attrs.field(factory=list)

    @property
    def state(self) -> LogState:
        assert self.board.log is not None
        return self.board.log

    async def until(self, what: Callable[[], object], seconds: float = 20) -> None:
        with trio.fail_after(seconds):
            while not what():  # noqa: ASYNC110  (the board wakes nobody)
                await trio.sleep(0.05)

    async def until_drained(self, count: int) -> None:
        await self.until(lambda: len(self.drained) == count)


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[World]:
    log = Log.open(
        RealDisk(),
        folder / "log",
        settings=LogSettings(
            segment_bytes=4 << 20, background_upkeep=True, retention=Retention(seconds=0, bytes=1 << 30)
        ),
        schemas={"quotes": b"schema"},
        wall_ns=time.time_ns,
        entropy=SeededEntropy(1),
    )
    inbox: Mailbox[AppendRequest] = Mailbox("buffer", 4)
    losses: Mailbox[AppendRequest] = Mailbox("losses", 4)
    board = Board()
    seams = Seams(clock=SystemClock(), entropy=SeededEntropy(1), offload=offload_to_thread, board=board)
    started = trio.Event()
    ctx = ActorContext(name="buffer", incarnation=1, seams=seams, log=structlog.get_logger(), on_ready=started.set)
    world = World(log, Appender(inbox=inbox, lookup=log.producer, reserve=losses), board)
    keeping = Keeping(retention_bytes=64 << 20)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            Buffer(log=log, inbox=inbox, limits=CommitLimits(), keeping=keeping, reserve=losses).run, ctx
        )
        await started.wait()
        nursery.start_soon(_drain, world)
        yield world
        nursery.cancel_scope.cancel()
    log.close()


async def _drain(world: World) -> None:
    consumer = world.log.consumer("sink")
    while True:
        world.drained += [group.sequence for group in await consumer.read() if group.producer == "p"]


async def _produce(world: World, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    task_status.started()
    while True:
        sequence = len(world.acked) + 1
        await world.appender.append(draft("p", sequence))
        world.acked.append(sequence)
        await trio.sleep(0.01)


async def test_the_ladder_and_back(volume: tuple[Volume, Callable[[], None], Callable[[], None]]) -> None:
    disk, fill, free = volume
    async with running(disk.mountpoint) as world, trio.open_nursery() as nursery:
        await world.until(lambda: world.state.runway_bytes > 4 << 20)
        assert (world.state.error, world.state.warning) == ("", "")
        await nursery.start(_produce, world)
        await world.until(lambda: len(world.acked) > 5)
        fill()
        before = len(world.acked)
        room = world.state.runway_bytes
        await world.until(lambda: "no space for another segment" in world.state.warning)
        assert world.state.shed_backfill
        assert world.state.error == ""  # live goes on in what is ours already
        await world.until(lambda: world.state.error)
        assert world.state.seconds_until_loss == 0.0
        accepted_while_full = (len(world.acked) - before) * BODY
        assert accepted_while_full > room - 2 * BODY - (256 << 10)
        await world.until(lambda: world.drained == world.acked)  # consumers go on
        refused = len(world.acked)
        answer = await world.appender.append_loss(draft("losses", 1, size=2000))
        assert not answer.duplicate
        assert len(world.acked) == refused
        free()
        await world.until(lambda: len(world.acked) > refused + 20)  # nobody touched anything
        await world.until(lambda: world.state.error == "" and world.state.warning == "")
        nursery.cancel_scope.cancel()
    log = Log.open(
        RealDisk(),
        disk.mountpoint / "log",
        settings=LogSettings(segment_bytes=4 << 20),
        schemas={"quotes": b"schema"},
        wall_ns=time.time_ns,
        entropy=SeededEntropy(1),
    )
    assert log.producer("p").sequence >= len(world.acked)
    assert log.producer("losses").sequence == 1
    assert log.damage == []
    log.close()


async def test_control_without_a_runway_the_first_full_second_refuses(
    volume: tuple[Volume, Callable[[], None], Callable[[], None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.log.runway.Runway.prepare", lambda self: None)
    disk, fill, _ = volume
    async with running(disk.mountpoint) as world:
        room = world.log.room_bytes
        fill()
        assert room < 4 << 20
        accepted = _commit_until_full(world.log)
        assert accepted * BODY < 4 << 20


def _commit_until_full(log: Log) -> int:
    for n in range(1, 1000):
        try:
            log.commit([draft("p", n)])
        except LogFull:
            return n - 1
    raise AssertionError("it never was full")


async def test_a_start_on_a_full_disk_uses_the_spare_segment_of_the_former_process(
    volume: tuple[Volume, Callable[[], None], Callable[[], None]],
) -> None:
    disk, fill, _ = volume
    async with running(disk.mountpoint) as world:
        await world.until(lambda: world.state.runway_bytes > 4 << 20)
        world.log.commit([draft("p", 1)])
    fill()
    async with running(disk.mountpoint) as world:
        assert world.log.producer("p").sequence == 1
        world.log.commit([draft("p", 2)])


async def test_every_later_start_on_a_full_disk_runs_too_and_goes_on_when_there_is_space(
    volume: tuple[Volume, Callable[[], None], Callable[[], None]],
) -> None:
    """The second one found no spare and ended with 75: nothing could be read, delivered or trimmed."""
    disk, fill, free = volume
    async with running(disk.mountpoint) as world:
        await world.until(lambda: world.state.runway_bytes > 4 << 20)
        world.log.commit([draft("p", 1)])
    last = 1
    for _ in range(4):
        fill()
        async with running(disk.mountpoint) as world:
            await world.until_drained(last)
            with suppress(LogFull):
                while True:
                    world.log.commit([draft("p", last + 1)])
                    last += 1
    assert last > 20
    fill()
    async with running(disk.mountpoint) as world, trio.open_nursery() as nursery:
        await world.until_drained(last)
        world.acked += range(1, last + 1)
        await nursery.start(_produce, world)
        await world.until(lambda: world.state.error)
        assert len(world.acked) == last
        free()
        await world.until(lambda: len(world.acked) > last + 20)
        await world.until(lambda: world.state.error == "")
        nursery.cancel_scope.cancel()
