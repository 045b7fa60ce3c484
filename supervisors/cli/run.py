"""`pipeline run`: the main job, until Ctrl-C, SIGTERM or (--until-idle) until nothing is left to do."""

from __future__ import annotations

import argparse
import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from importlib.abc import MetaPathFinder
from pathlib import Path

import attrs
import pyarrow as pa
import trio

from actors.downloader.jobs import HistoryJob
from actors.health.listen import url_of
from actors.health.probes import Verdict
from actors.market.symbols import parse_symbol
from runtime.actor import Seams, offload_to_thread
from runtime.board import Board
from runtime.clock import SystemClock
from runtime.entropy import SystemEntropy
from runtime.errors import ConfigError, InvariantViolation, LogSyncFailed
from runtime.notify import Notifier
from runtime.ratelimit import BudgetLimits
from runtime.settings import Settings, resolve_interval
from runtime.telemetry import LogSetup, configure_logging
from supervisors.cli.backfill import FETCH_AGAIN, GOES_ON
from supervisors.cli.exits import Exit, decisive
from supervisors.cli.leave import has_left, leave_by_force, leave_soon
from supervisors.cli.options import LOG_FILE, add_config_options, loaded_from, secrets_in
from supervisors.cli.progress import nothing_new, show_progress
from supervisors.cli.runnable import check_runnable
from supervisors.cli.said import tell
from supervisors.cli.service import Service, open_history
from supervisors.engine.admin import Admin
from supervisors.engine.exits import describe
from supervisors.engine.run import run_tree
from supervisors.tree import Parts, Plan, build_spec, open_parts

SHUTDOWN_S = 60.0
"""Whole ordered stop: intake, flow, storage, servers. systemd's TimeoutStopSec must be longer."""
CLOSE_S = 8.0
"""For the log's last sync after it. All limits of a stop together stay below systemd's TimeoutStopSec."""
WRITER = "buffer"
"""The one actor that writes the log."""
IDLE_LOOK_S = 0.05
"""The board is looked at, not waited for: nobody may depend on it, so it wakes nobody."""
RESUMES = " before everything was done; the next start goes on where it stopped"
M_ARENA_MAX = -8
"""glibc, malloc.h."""
FATAL = (LogSyncFailed, InvariantViolation, ConfigError)
"""No restart mends these: the process ends with their exit code."""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser("run", help="the main job, until Ctrl-C")
    add_config_options(parser)
    parser.add_argument(
        "--until-idle", action="store_true", help="end with 0 when everything is fetched, computed, stored and verified"
    )
    parser.add_argument("--test-mode", action="store_true", help="in-memory fakes instead of every server and disk")
    parser.add_argument("--adopt", action="store_true", help="take over databases that hold another log's data")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """The command."""
    loaded = loaded_from(args)
    mode = RunMode(until_idle=args.until_idle, test_mode=args.test_mode, adopt=args.adopt)
    return run_pipeline(loaded.settings, mode, reread=partial(_reread, args, loaded.file))


def _reread(args: argparse.Namespace, file: Path | None) -> Settings:
    """The configuration as it stands now, for a reload; `file` is what was read at the start.

    Raises: ConfigError, also when that file is gone: nobody wants all defaults by deleting it.
    """
    loaded = loaded_from(args)
    if file is not None and loaded.file is None:
        raise ConfigError(f"{file} is gone")
    check_runnable(loaded.settings, SystemClock().wall_ns())
    return loaded.settings


@attrs.frozen(kw_only=True)
class RunMode:
    """What kind of run it is."""

    until_idle: bool = False
    test_mode: bool = False
    adopt: bool = False
    only_jobs: bool = False
    """Backfill jobs that lie in the data directory, and no standing history."""


def run_pipeline(settings: Settings, mode: RunMode, *, reread: Callable[[], Settings] | None = None) -> int:
    """Run the pipeline in this process; returns the exit code. `reread` reads the configuration anew for a reload.
    Afterwards the process hears no signals any more: it is about to end.

    Raises: what `cli.exits` maps.
    """
    _keep_memory_small()
    with _no_pandas():
        try:
            return trio.run(_main, settings, mode, reread)
        finally:
            has_left()


class _NoPandas(MetaPathFinder):
    """Says that pandas is not installed."""

    def find_spec(self, fullname: str, *_: object) -> None:
        """Raises: ModuleNotFoundError for pandas; None = ask the next finder."""
        if fullname == "pandas":
            raise ModuleNotFoundError("the pipeline does not use pandas", name=fullname)


@contextmanager
def _no_pandas() -> Iterator[None]:
    """chDB brings pandas along, for a process of its own. In ours Arrow would import it at its first array and nobody
    would use it: 30 MB, and half a second or more in which the event loop stands still.
    """
    finder = _NoPandas()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


def _keep_memory_small() -> None:
    """Give memory back: with one arena per worker thread and Arrow's own pool the process holds some 60 MB more."""
    pa.set_memory_pool(pa.system_memory_pool())
    with suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 2)


def wanted_history(settings: Settings, now_ns: int, *, until_idle: bool) -> tuple[HistoryJob, ...]:
    """The standing jobs of the configuration; with --until-idle "now" is a fixed instant.

    Raises: ConfigError when the interval is empty or ends in the future.
    """
    wanted = settings.downloader
    from_ns, to_ns = resolve_interval(wanted.history_from, wanted.history_to, now_ns)
    follows = not wanted.history_to and not until_idle
    relative = wanted.history_from.startswith("-")
    return tuple(
        HistoryJob(symbol=symbol, kind=kind, from_ns=from_ns, to_ns=None if follows else to_ns, relative=relative)
        for symbol in settings.pipeline.symbols
        for kind in _kinds_of(symbol)
        if kind in wanted.kinds
    )


def _kinds_of(symbol: str) -> tuple[str, ...]:
    try:
        return parse_symbol(symbol).kinds
    except ValueError as exc:
        raise ConfigError(f"pipeline.symbols: {exc}") from exc


async def _main(settings: Settings, mode: RunMode, reread: Callable[[], Settings] | None) -> int:
    seams = Seams(clock=SystemClock(), entropy=SystemEntropy(), offload=offload_to_thread, board=Board())
    history = () if mode.only_jobs else wanted_history(settings, seams.clock.wall_ns(), until_idle=mode.until_idle)
    live = settings.streams and not mode.until_idle
    plan = Plan(history=history, live=live, test_mode=mode.test_mode, adopt=mode.adopt)
    check_runnable(settings, seams.clock.wall_ns())
    notifier = Notifier.from_environment(os.environ)
    parts = await trio.to_thread.run_sync(partial(open_parts, settings, plan, seams))
    admin = Admin()
    restarts, error = None, None
    try:
        _log_to_file(settings, seams, mode)
        restarts = await open_history(parts.disk, settings.pipeline.data_dir, seams.clock.wall_ns, os.getpid())
        service = Service(
            board=seams.board,
            clock=seams.clock,
            metrics=seams.metrics,
            notifier=notifier,
            admin=admin,
            history=restarts,
            settings=settings,
            use=partial(_use, parts, mode),
            reread=reread,
        )
        return await _run_noted(parts, mode, service)
    except BaseException as exc:
        error = exc
        if stuck := admin.leftovers():
            await _close(parts, stuck)
            leave_by_force(stuck, *decisive(exc))  # what went wrong first decides the code
        raise
    finally:
        failed = await _close(parts, ())
        if restarts is not None:
            leave_soon(error or failed, restarts.end_at_once)
        if failed is not None and error is None:
            raise failed


async def _close(parts: Parts, stuck: tuple[str, ...]) -> LogSyncFailed | None:
    """Sync and release what is ours, within a time limit: a hanging disk must not keep the process.

    Returns what a failing disk said: it decides the exit code if nothing else did.
    """
    failed = None
    if not any(path.endswith(f"/{WRITER}") for path in stuck):  # one that hangs may be writing; a crash loses nothing
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_S):
            try:
                await trio.to_thread.run_sync(parts.close, abandon_on_cancel=True)
            except LogSyncFailed as exc:
                failed = exc
    parts.listener.close()
    parts.endpoints.sync({})
    return failed


def _use(parts: Parts, mode: RunMode, settings: Settings) -> None:
    """Other settings from now on, for what reads them anew: `supervisors.cli.reload` knows which that are."""
    parts.settings = settings
    parts.budget.change(BudgetLimits(requests_max=settings.vendors.polygon.requests_per_minute or None))
    _log_to_file(settings, parts.seams, mode)


def _log_to_file(settings: Settings, seams: Seams, mode: RunMode) -> None:
    """Only after the data directory is ours: another instance may be writing there."""
    file = None if mode.test_mode else settings.pipeline.data_dir / LOG_FILE
    secrets = [secret for secret in secrets_in(settings) if secret is not None]
    # A terminal that shows progress bars wants no lines between them: those are in the file.
    wanted = settings.pipeline
    level = "warning" if mode.until_idle and sys.stderr.isatty() and wanted.log_level == "info" else wanted.log_level
    configure_logging(
        LogSetup(
            clock=seams.clock,
            stream=sys.stderr,
            log_format=wanted.log_format,
            log_level=level,
            file=file,
            secrets=secrets,
        )
    )


async def _run_noted(parts: Parts, mode: RunMode, service: Service) -> int:
    """Run the tree, and have the restart history say how it ended."""
    outcome = "with an error that nobody expected"
    try:
        code = await _run_tree(parts, mode, service)
    except BaseException as exc:
        wanted, one = decisive(exc)
        outcome = f"exit {int(wanted)}: {describe(one)}"
        raise
    else:
        outcome = f"exit {int(code)}"
    finally:
        await service.close(outcome)
    return code


async def _run_tree(parts: Parts, mode: RunMode, service: Service) -> int:
    out = sys.stderr
    where = "in memory, gone with this process" if mode.test_mode else f"in {parts.settings.pipeline.data_dir}"
    out.write(f"holdfast: status page {url_of(parts.listener)}/, data {where}\n")
    async with trio.open_nursery() as nursery:
        await nursery.start(service.attend)
        if mode.until_idle:
            nursery.start_soon(show_progress, parts.seams.board, parts.seams.clock, out)
            nursery.start_soon(_stop_when_idle, parts, service.stop)
        else:
            nursery.start_soon(tell, parts.seams.board, partial(_judge, parts), out)
        await run_tree(
            build_spec(parts.settings, parts, test_mode=mode.test_mode),
            seams=parts.seams,
            stop=service.stop,
            shutdown_deadline_s=SHUTDOWN_S,
            fatal=FATAL,
            report=service.report(),
            admin=service.admin,
            ready=service.ready,
        )
        nursery.cancel_scope.cancel(reason="the tree has ended")
    return _verdict(parts.seams.board, mode, is_interrupted=service.is_interrupted)


def _verdict(board: Board, mode: RunMode, *, is_interrupted: bool = False) -> int:
    """The last word. A standing run answers for its standing jobs: a backfill was told to whoever asked for it."""
    failed = [job for key, job in board.jobs.items() if job.error and (mode.until_idle or key.startswith("history/"))]
    for job in failed:
        sys.stderr.write(f"pipeline: {job.symbol} {job.kind}: {job.error}\n")
    if is_interrupted and mode.until_idle:
        sys.stderr.write(GOES_ON if mode.only_jobs else f"pipeline: interrupted{'' if mode.test_mode else RESUMES}\n")
        return Exit.INTERRUPTED
    if mode.only_jobs and nothing_new(board):
        sys.stderr.write(FETCH_AGAIN)
    return Exit.NO if failed and mode.until_idle else Exit.FINE


async def _stop_when_idle(parts: Parts, stop: trio.Event) -> None:
    while not parts.seams.board.is_idle:  # noqa: ASYNC110
        await trio.sleep(IDLE_LOOK_S)
    stop.set()


def _judge(parts: Parts) -> Verdict:
    return parts.probes.judge(parts.seams.board, parts.seams.clock.monotonic_s())
