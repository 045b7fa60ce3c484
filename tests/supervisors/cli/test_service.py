"""What stands around the tree: the history's file, holds of the loop, signs that a slow start gets on."""

from __future__ import annotations

import math
import threading
from pathlib import Path

import pytest
import structlog
import trio

from runtime.actor import Seams, offload_inline
from runtime.board import Board, ChildState, ConsumerState
from runtime.clock import VirtualClock
from runtime.config import load
from runtime.disk_memory import MemoryDisk
from runtime.entropy import SeededEntropy
from runtime.metrics import BoardCollector, render
from runtime.settings import Settings
from supervisors.cli import service as service_module
from supervisors.cli.service import EXTEND_EVERY_S, HistoryFile, HoldReport, Service, open_history, signs_of_work
from supervisors.engine.history import History


class Said:
    """A notifier that remembers."""

    address = ""
    watchdog_s = None

    def __init__(self) -> None:
        self.extended: list[float] = []

        self.readied: list[str] = []

    def reloading(self) -> bool:
        return True

    def ready(self, status: str = "") -> bool:
        self.readied.append(status)
        return True

    def extend(self, seconds: float) -> bool:
        self.extended.append(seconds)
        return True


@pytest.fixture
def seams() -> Seams:
    return Seams(clock=VirtualClock(10**18), entropy=SeededEntropy(1), offload=offload_inline, board=Board())


async def test_the_history_is_found_by_the_next_process(seams) -> None:
    disk = MemoryDisk()
    disk.make_directory(Path("data"))
    first = await open_history(disk, Path("data"), seams.clock.wall_ns, 7)
    await first.save()
    second = await open_history(disk, Path("data"), seams.clock.wall_ns, 8)
    assert [line.split(" ", 1)[1] for line in second.history.recent()] == [
        "pipeline process_started pid 7",
        "pipeline process_started pid 8",
    ]


async def test_a_disk_that_refuses_is_told_about_and_stops_nothing(seams) -> None:
    class Full(MemoryDisk):
        def write_atomic(self, path: Path, data: bytes) -> None:
            raise OSError(28, "no space")

    file = HistoryFile(disk=Full(), path=Path("data/x"), history=History(seams.clock.wall_ns))
    file.history.note("pipeline", "process_started", "")
    with structlog.testing.capture_logs() as logs:
        await file.save()
        await file.save()
    assert [record["event"] for record in logs] == ["restart_history_not_saved"]


async def test_the_tree_may_record_while_the_history_is_being_written(seams) -> None:
    """Entries are taken on the Trio thread: a dict that grows while a worker thread walks it would end the process."""
    history = History(lambda: 0)

    class Recording(MemoryDisk):
        def write_atomic(self, path: Path, data: bytes) -> None:
            history.note("pipeline/new", "actor_crashed", "meanwhile")
            super().write_atomic(path, data)

    disk = Recording()
    disk.make_directory(Path("data"))
    file = HistoryFile(disk=disk, path=Path("data/x"), history=history)
    for number in range(100):
        history.note(f"pipeline/{number}", "actor_crashed", "x")
    await file.save()
    assert disk.read_bytes(Path("data/x")).count(b"\n") == 100
    await file.save()
    assert disk.read_bytes(Path("data/x")).count(b"\n") == 101


async def test_two_writes_of_the_history_never_overlap(autojump_clock, seams) -> None:
    class Slow(MemoryDisk):
        at_once = 0

        def write_atomic(self, path: Path, data: bytes) -> None:
            Slow.at_once += 1
            assert Slow.at_once == 1
            trio.from_thread.run(trio.sleep, 5)
            Slow.at_once -= 1

    file = HistoryFile(disk=Slow(), path=Path("x"), history=History(seams.clock.wall_ns))
    file.history.note("pipeline", "one", "")
    with trio.move_on_after(1) as gave_up:
        await file.save()
    assert gave_up.cancelled_caught
    file.history.note("pipeline", "two", "")
    await file.save()
    assert Slow.at_once == 0


@pytest.mark.parametrize("left", [b"\xff\n", rb'{"at_ns":1,"path":"\ud800","what":"x"}', b'{"x":' + b"[" * 100_000])
async def test_a_history_that_cannot_be_read_is_no_reason_not_to_start(seams, left: bytes) -> None:
    disk = MemoryDisk()
    disk.make_directory(Path("data"))
    disk.write_atomic(Path("data/restarts.jsonl"), left + b'\n{"at_ns":1,"path":"p","what":"kept"}\n')
    file = await open_history(disk, Path("data"), seams.clock.wall_ns, 8)
    assert [line.split(" ", 1)[1] for line in file.history.recent()] == ["p kept", "pipeline process_started pid 8"]


async def test_each_hold_is_counted_and_a_name_said_at_most_once_in_a_while(autojump_clock, seams) -> None:
    report = HoldReport(metrics=seams.metrics, clock=seams.clock)
    with structlog.testing.capture_logs() as logs:
        for _ in range(5):
            report("pipeline/a", 0.1)
        report("pipeline/b", 0.06)
        report("pipeline/a", 2.0)  # a long one always
        await trio.sleep(11)
        report("pipeline/a", 0.1)
    said = [(record["path"], record["held_ms"], record["log_level"]) for record in logs]
    assert said == [
        ("pipeline/a", 100, "info"),
        ("pipeline/b", 60, "info"),
        ("pipeline/a", 2000, "warning"),
        ("pipeline/a", 100, "info"),
    ]
    text = render(seams.metrics, BoardCollector(seams.board)).decode()
    assert 'holdfast_loop_held_seconds_total{actor="pipeline/a"} 2.6' in text


def test_signs_of_work_change_when_something_moved_only() -> None:
    board = Board()
    board.children["a"] = ChildState(path="a", state="STARTING")
    seen = signs_of_work(board)
    assert signs_of_work(board) == seen
    board.children["a"] = ChildState(path="a", state="RUNNING")
    assert signs_of_work(board) != seen
    seen = signs_of_work(board)
    board.consumers["bridge.x"] = ConsumerState(committed_position=1, verified_position=0)
    assert signs_of_work(board) != seen


def service_of(
    seams, world, *, notifier=None, reread=None, use=lambda _: None, running: Settings | None = None
) -> Service:
    return Service(
        board=seams.board,
        clock=seams.clock,
        metrics=seams.metrics,
        notifier=notifier or Said(),
        admin=world.admin,
        history=HistoryFile(disk=MemoryDisk(), path=Path("x"), history=History(seams.clock.wall_ns)),
        settings=running or Settings(),
        use=use,
        reread=reread,
    )


async def test_more_time_is_asked_for_while_a_start_gets_on_and_not_when_it_hangs(autojump_clock, seams, world) -> None:
    said = Said()
    service = service_of(seams, world, notifier=said)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(service._ask_for_time)
        await trio.sleep(1)
        for number in range(3):
            seams.board.children["a"] = ChildState(path="a", state="STARTING", since_ns=number)
            await trio.sleep(EXTEND_EVERY_S)
        await trio.sleep(5 * EXTEND_EVERY_S)
        assert len(said.extended) == 3  # not for the five in which nothing moved
        service.ready.set()
        seams.board.children["a"] = ChildState(path="a", state="RUNNING", since_ns=9)
        await trio.sleep(2 * EXTEND_EVERY_S)
        assert len(said.extended) == 3
        nursery.cancel_scope.cancel()


def too_deep(tmp_path: Path) -> Settings:
    (tmp_path / "config.toml").write_text("x = " + "[" * 3000 + "]" * 3000)
    return load(cwd=tmp_path).settings


def broken(tmp_path: Path) -> Settings:
    raise RecursionError("maximum recursion depth exceeded")


@pytest.mark.parametrize(
    ("reread", "said"),
    [
        (too_deep, "reload refused, nothing changed: config.toml: nested deeper than can be read"),
        (broken, "reload refused, nothing changed: cannot be read: RecursionError: maximum recursion depth exceeded"),
    ],
)
async def test_a_reload_never_ends_the_process_and_says_what_happened(
    autojump_clock, seams, world, tmp_path, monkeypatch, reread, said: str
) -> None:
    """To the log, to systemd and, by the history, to `pipeline status`."""
    monkeypatch.setattr(service_module, "READ_S", math.inf)  # a virtual clock does not wait for a thread
    heard = Said()
    service = service_of(seams, world, notifier=heard, reread=lambda: reread(tmp_path))
    service.ready.set()
    send, receive = trio.open_memory_channel[None](1)
    with structlog.testing.capture_logs() as logs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service._reload_on, receive)
            for _ in range(2):
                await send.send(None)
            while len(heard.readied) < 2:  # noqa: ASYNC110
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
    assert heard.readied == [said, said]
    assert [record["outcome"] for record in logs if record["event"] == "reload"] == [said, said]
    assert [line.split(" ", 1)[1] for line in service.history.history.recent()] == [f"pipeline reload {said}"] * 2


async def test_a_configuration_that_cannot_be_read_in_time_is_refused_and_takes_one_thread(
    seams, world, monkeypatch
) -> None:
    """A named pipe, or a mount that hangs; real threads, so a short limit instead of a virtual clock."""
    monkeypatch.setattr(service_module, "READ_S", 0.05)
    began, go_on = [], threading.Event()

    def reread() -> Settings:
        began.append(1)
        go_on.wait(10)
        return Settings()

    service = service_of(seams, world, reread=reread)
    service.ready.set()
    for _ in range(3):
        said = await service._reload()
        assert said == "reload refused, nothing changed: the configuration could not be read within 0.05 s"
    assert len(began) == 1
    go_on.set()
    monkeypatch.setattr(service_module, "READ_S", 10.0)
    assert await service._reload() == "reloaded, nothing changed"


async def test_a_reload_in_a_stop_takes_nothing_back_of_stopping(autojump_clock, seams, world, monkeypatch) -> None:
    """Neither one that comes then nor one that is still under way."""
    monkeypatch.setattr(service_module, "READ_S", math.inf)  # a virtual clock does not wait for a thread

    async def slow(ctx) -> None:
        await trio.sleep(5)

    world.on_drain["a"] = slow
    heard = Said()
    began, read = trio.Event(), trio.Event()

    def reread() -> Settings:
        trio.from_thread.run_sync(began.set)
        trio.from_thread.run(read.wait)
        return Settings()

    async def told(outcomes: int) -> None:
        """Without sleeping: the virtual clock would run on to the end of the stop, and a real thread has to answer."""
        while len(service.history.history.recent()) < outcomes:
            await trio.lowlevel.checkpoint()

    service = service_of(seams, world, notifier=heard, reread=reread)
    service.ready.set()
    send, receive = trio.open_memory_channel[None](1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(service._reload_on, receive)
        async with world.running(world.sup("root", "one_for_one", "a")):
            send.send_nowait(None)
            await began.wait()
            world.stop.set()
            await trio.sleep(1)
            read.set()
            await told(1)
            send.send_nowait(None)
            await told(2)
        nursery.cancel_scope.cancel()
    assert heard.readied == []
    assert len(service.history.history.recent()) == 2
