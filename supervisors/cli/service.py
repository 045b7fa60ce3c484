"""What stands around the tree of a running process: systemd, signals, reload, restart history, who holds the loop.

The tree works without any of it. What is said to systemd: READY=1 when every child has started, STOPPING=1 as the first
act of the ordered stop, RELOADING=1 … READY=1 around a reload, WATCHDOG=1 while every critical actor moves,
EXTEND_TIMEOUT_USEC while a slow start or stop gets on.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import attrs
import structlog
import trio

from runtime.board import Board, DependencyState
from runtime.clock import Clock
from runtime.disk_port import Disk
from runtime.errors import ConfigError
from runtime.metrics import Metrics
from runtime.notify import Notifier, feed_watchdog
from runtime.settings import Settings
from supervisors.cli.leave import SIGNALS, ignore_from_now_on
from supervisors.cli.reload import carry_out, compare
from supervisors.engine.admin import Admin
from supervisors.engine.events import Event, EventKind, Report, report_to
from supervisors.engine.exits import describe, one_line
from supervisors.engine.history import Entry, History, both, dump
from supervisors.engine.watchdog import LoopHold

HISTORY_FILE = "restarts.jsonl"
"""Below data_dir: the restart history, also of the processes before this one."""
SAVE_S, WRITE_LOOK_S = 1.0, 0.05
CLOSE_S = 4.0
"""For the last save of the history."""
READ_S = 10.0
"""For reading the configuration anew."""
EXTEND_EVERY_S, EXTEND_S = 10.0, 30.0
LONG_HOLD_S = 1.0
"""A step that holds the loop for so long is a warning; shorter ones, on a busy machine, are information."""
SAY_HOLD_S = 10.0
"""One line per actor within this time; the metric counts all."""


@attrs.define(kw_only=True, eq=False)
class HistoryFile:
    """The restart history and its file."""

    disk: Disk
    path: Path
    history: History
    _saved: int = 0
    _is_writing: bool = False

    async def load(self) -> None:
        """Take over what an earlier process left; a broken line, or none at all, is no reason not to start."""
        self.history.load(await trio.to_thread.run_sync(self._read))

    def _read(self) -> bytes:
        try:
            return self.disk.read_bytes(self.path) if self.disk.exists(self.path) else b""
        except OSError as exc:
            structlog.stdlib.get_logger("supervisor").warning("restart_history_not_read", reason=str(exc))
            return b""

    async def save(self) -> None:
        """Write it when something is new. A disk that refuses is told about and asked again at the next change.

        May be cancelled: the write then goes on alone, and the next one waits for it.
        """
        while self._is_writing:  # noqa: ASYNC110
            await trio.sleep(WRITE_LOOK_S)
        changes, entries = self.history.changes, self.history.entries()  # the tree goes on recording meanwhile
        if changes == self._saved:
            return
        self._is_writing = True
        await trio.to_thread.run_sync(partial(self._write, entries), abandon_on_cancel=True)
        self._saved = changes

    def end_at_once(self, outcome: str) -> None:
        """Note how the process ends, and write it on this thread: there is nobody else any more."""
        self.history.note("pipeline", "process_ended", outcome)
        self._write(self.history.entries())

    def _write(self, entries: list[Entry]) -> None:
        try:
            self.disk.write_atomic(self.path, dump(entries))
        except OSError as exc:
            structlog.stdlib.get_logger("supervisor").warning("restart_history_not_saved", reason=str(exc))
        finally:
            self._is_writing = False


@attrs.define(kw_only=True, eq=False)
class HoldReport:
    """Tells of steps that held the event loop: each to the metric, one line per actor and `SAY_HOLD_S` to the log."""

    metrics: Metrics
    clock: Clock
    _said_s: dict[str, float] = attrs.field(factory=dict)

    def __call__(self, actor: str, held_s: float) -> None:
        """Called by the instrument, on the Trio thread."""
        self.metrics.loop_held(actor=actor, seconds=held_s)
        now_s = self.clock.monotonic_s()
        if held_s < LONG_HOLD_S and now_s - self._said_s.get(actor, -SAY_HOLD_S) < SAY_HOLD_S:
            return
        self._said_s[actor] = now_s
        log = structlog.stdlib.get_logger("supervisor")
        say = log.warning if held_s >= LONG_HOLD_S else log.info
        say(EventKind.LOOP_HELD.value, path=actor, held_ms=round(held_s * 1000))


@attrs.define(kw_only=True, eq=False)
class Service:
    """Lives as long as the process."""

    board: Board
    clock: Clock
    metrics: Metrics
    notifier: Notifier
    admin: Admin
    history: HistoryFile
    settings: Settings
    use: Callable[[Settings], None]
    """Makes the running process take other settings for the children it starts from now on."""
    reread: Callable[[], Settings] | None
    """Reads the configuration anew (blocking); None = this kind of run has nothing to reload."""
    stop: trio.Event = attrs.field(factory=trio.Event)
    ready: trio.Event = attrs.field(factory=trio.Event)
    is_interrupted: bool = False
    """A signal asked for the stop, before anything else did."""
    _reading: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(1))
    """A reading that hangs (a pipe, a network mount) takes no thread from anybody else, nor does the next one."""

    def report(self) -> Report:
        """What the tree reports to: the log and the board, the history, systemd."""
        return both(report_to(self.board, self.clock.wall_ns), self.history.history.record, self._tell_stopping)

    async def attend(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Until cancelled. Started before the tree, so that no signal finds its default handler."""
        wishes, wanted = trio.open_memory_channel[None](1)
        hold = LoopHold(self.clock.monotonic_s, HoldReport(metrics=self.metrics, clock=self.clock))
        trio.lowlevel.add_instrument(hold)
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(self._hear_signals, wishes)
                nursery.start_soon(self._reload_on, wanted)
                nursery.start_soon(self._keep_history)
                nursery.start_soon(self._ask_for_time)
                nursery.start_soon(self._feed)
                task_status.started()
        finally:
            trio.lowlevel.remove_instrument(hold)

    # ---- systemd

    def _tell_stopping(self, event: Event) -> None:
        if event.kind is EventKind.TREE_STOPPING:
            self.notifier.stopping(f"stopping: {event.detail}")

    async def _feed(self) -> None:
        await self.ready.wait()
        self.notifier.ready(self._status())
        await feed_watchdog(self.notifier, late=self.admin.late, ping=self._ping, status=self._status)

    async def _ping(self) -> None:
        if not self.admin.is_stopping:  # the ordered stop has a deadline of its own
            await self.admin.ping()

    def _status(self) -> str:
        if self.admin.is_stopping:
            return "stopping: intake, drain, close"
        down = [name for name, d in sorted(self.board.dependencies.items()) if d.state is DependencyState.DOWN]
        return f"running; down: {', '.join(down)}" if down else "running"

    async def _ask_for_time(self) -> None:
        """While a start or a stop takes long and gets on, it may take longer."""
        seen: object = None
        while True:
            await trio.sleep(EXTEND_EVERY_S)
            now = signs_of_work(self.board)
            if now != seen and (self.admin.is_stopping or not self.ready.is_set()):
                self.notifier.extend(EXTEND_S)
            seen = now

    # ---- signals and reload

    async def _hear_signals(self, wishes: trio.MemorySendChannel[None], *, task_status: trio.TaskStatus[None]) -> None:
        """SIGHUP reloads; but when the terminal we run on hangs up, it stops. SIGINT and SIGTERM ask for the stop."""
        has_terminal = sys.stdin is not None and not sys.stdin.closed and sys.stdin.isatty()
        ignore_from_now_on()
        with trio.open_signal_receiver(*SIGNALS) as signals:
            task_status.started()
            async for number in signals:
                if number == signal.SIGHUP and not has_terminal:
                    try:
                        wishes.send_nowait(None)
                    except trio.WouldBlock:  # one that has not begun will read what is there then
                        continue
                elif not self.stop.is_set():
                    sys.stderr.write(f"holdfast: {signal.Signals(number).name}, stopping: intake, drain, close\n")
                    self.is_interrupted = True
                    self.stop.set()

    async def _reload_on(self, wanted: trio.MemoryReceiveChannel[None]) -> None:
        async for _ in wanted:
            if not self.admin.is_stopping:
                self.notifier.reloading()
            outcome = one_line(await self._reload())
            if not self.admin.is_stopping:  # STOPPING=1 is the last word
                self.notifier.ready(outcome)
            self.history.history.note("pipeline", "reload", outcome)
            structlog.stdlib.get_logger("supervisor").warning("reload", outcome=outcome)

    async def _reload(self) -> str:
        """What came of it, in one line. Never raises: a running process is worth more than its next configuration."""
        if self.reread is None or not self.ready.is_set() or self.admin.is_stopping:
            return "reload refused: not while it starts, stops, or runs one job"
        try:
            with trio.fail_after(READ_S):
                wanted = await trio.to_thread.run_sync(self.reread, abandon_on_cancel=True, limiter=self._reading)
            change = compare(self.settings, wanted)
        except ConfigError as exc:
            return f"reload refused, nothing changed: {'; '.join(str(exc).splitlines())}"
        except trio.TooSlowError:
            return f"reload refused, nothing changed: the configuration could not be read within {READ_S:g} s"
        except Exception as exc:  # noqa: BLE001 - a bug in reading it, or a file like no other
            structlog.stdlib.get_logger("supervisor").error("reload_failed", exc_info=exc)
            return f"reload refused, nothing changed: cannot be read: {describe(exc)}"
        try:
            await carry_out(change, self.use, self.admin, running=self.settings)
        except ConfigError as exc:
            return f"reload refused, put back: {exc}"
        self.settings = change.settings
        return f"reloaded, {change}"

    # ---- restart history

    async def _keep_history(self) -> None:
        while True:
            await trio.sleep(SAVE_S)
            await self.history.save()

    async def close(self, outcome: str) -> None:
        """Note how it ended, and save."""
        self.history.history.note("pipeline", "process_ended", outcome)
        with trio.move_on_after(CLOSE_S, shield=True):
            await self.history.save()


def signs_of_work(board: Board) -> object:
    """Differs from the last look when anything got on: a child's state, the log, a reader. Pure."""
    return (
        tuple((child.path, child.state, child.since_ns) for child in board.children.values()),
        board.log.end_position if board.log is not None else 0,
        tuple((name, c.committed_position, c.verified_position) for name, c in board.consumers.items()),
    )


async def open_history(disk: Disk, data_dir: Path, wall_ns: Callable[[], int], pid: int) -> HistoryFile:
    """The history of this data directory, with a note that this process has begun."""
    file = HistoryFile(disk=disk, path=data_dir / HISTORY_FILE, history=History(wall_ns))
    await file.load()
    file.history.note("pipeline", "process_started", f"pid {pid}")
    return file
