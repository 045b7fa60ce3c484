"""`pipeline run`: the main job, until Ctrl-C, SIGTERM or (--until-idle) until nothing is left to do."""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

import attrs
import pyarrow as pa
import trio

from actors.downloader.jobs import BackfillJob, HistoryJob
from actors.health.listen import url_of
from actors.market.symbols import parse_symbol
from runtime.actor import Seams, offload_to_thread
from runtime.board import Board
from runtime.clock import SystemClock
from runtime.config import check_runnable
from runtime.entropy import SystemEntropy
from runtime.errors import ConfigError, InvariantViolation, LogSyncFailed, UnstoppableChild
from runtime.settings import Settings, resolve_interval
from runtime.telemetry import LogSetup, configure_logging
from supervisors.cli.exits import Exit
from supervisors.cli.options import LOG_FILE, add_config_options, secrets_in, settings_from
from supervisors.cli.progress import show_progress
from supervisors.engine.run import run_tree
from supervisors.tree import Parts, Plan, build_spec, open_parts

SHUTDOWN_S = 60.0
"""Whole ordered stop: intake, flow, storage, servers. systemd's TimeoutStopSec must be longer."""
IDLE_LOOK_S = 0.05
"""The board is looked at, not waited for: nobody may depend on it, so it wakes nobody."""
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
    settings = settings_from(args)
    return run_pipeline(settings, until_idle=args.until_idle, test_mode=args.test_mode, adopt=args.adopt)


@attrs.frozen(kw_only=True)
class RunMode:
    """What kind of run it is."""

    until_idle: bool = False
    test_mode: bool = False
    adopt: bool = False
    only_jobs: bool = False
    """Backfill jobs that lie in the data directory, and no standing history."""


def run_pipeline(
    settings: Settings,
    *,
    until_idle: bool = False,
    test_mode: bool = False,
    adopt: bool = False,
    only_jobs: Sequence[BackfillJob] | None = None,
) -> int:
    """Run the pipeline in this process; returns the exit code.

    `only_jobs`: these (already in DATA_DIR/jobs) instead of the configured history. Raises: what `cli.exits` maps.
    """
    _keep_memory_small()
    mode = RunMode(until_idle=until_idle, test_mode=test_mode, adopt=adopt, only_jobs=only_jobs is not None)
    try:
        return trio.run(_main, settings, mode)
    except UnstoppableChild as exc:  # its task still lives: the interpreter could not end by itself
        sys.stderr.write(f"pipeline: {exc}\n")
        sys.stderr.flush()
        os._exit(Exit.SOFTWARE)


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


async def _main(settings: Settings, mode: RunMode) -> int:
    seams = Seams(clock=SystemClock(), entropy=SystemEntropy(), offload=offload_to_thread, board=Board())
    history = () if mode.only_jobs else wanted_history(settings, seams.clock.wall_ns(), until_idle=mode.until_idle)
    live = settings.streams and not mode.until_idle
    plan = Plan(history=history, live=live, test_mode=mode.test_mode, adopt=mode.adopt)
    check_runnable(settings, seams.clock.wall_ns())
    parts = await trio.to_thread.run_sync(partial(open_parts, settings, plan, seams))
    try:
        _log_to_file(settings, seams, mode)
        return await _run_tree(parts, mode)
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 10.0):
            await trio.to_thread.run_sync(parts.log.close)
        parts.listener.close()
        parts.endpoints.sync({})


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


async def _run_tree(parts: Parts, mode: RunMode) -> int:
    stop = trio.Event()
    out = sys.stderr
    out.write(f"holdfast: status page {url_of(parts.listener)}/, data in {parts.settings.pipeline.data_dir}\n")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_stop_on_signal, stop)
        if mode.until_idle:
            nursery.start_soon(show_progress, parts.seams.board, parts.seams.clock, out)
            nursery.start_soon(_stop_when_idle, parts, stop)
        else:
            nursery.start_soon(_say_when_healthy, parts)
        spec = build_spec(parts.settings, parts, test_mode=mode.test_mode)
        await run_tree(spec, seams=parts.seams, stop=stop, shutdown_deadline_s=SHUTDOWN_S, fatal=FATAL)
        nursery.cancel_scope.cancel(reason="the tree has ended")
    return _verdict(parts.seams.board, mode)


def _verdict(board: Board, mode: RunMode) -> int:
    failed = [job for job in board.jobs.values() if job.error]
    for job in failed:
        sys.stderr.write(f"pipeline: {job.symbol} {job.kind}: {job.error}\n")
    return Exit.NO if failed and mode.until_idle else Exit.FINE


async def _stop_on_signal(stop: trio.Event) -> None:
    """The first SIGINT or SIGTERM asks for the ordered stop; another one changes nothing, it is bounded anyway."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for number in signals:
            if not stop.is_set():
                sys.stderr.write(f"holdfast: {signal.Signals(number).name}, stopping: intake, drain, close\n")
                stop.set()


async def _stop_when_idle(parts: Parts, stop: trio.Event) -> None:
    while not parts.seams.board.is_idle:  # noqa: ASYNC110
        await trio.sleep(IDLE_LOOK_S)
    stop.set()


async def _say_when_healthy(parts: Parts) -> None:
    """One line for who started it by hand."""
    while not parts.seams.board.is_idle:  # noqa: ASYNC110
        await trio.sleep(1.0)
    stored = ", ".join(f"{name} {c.records_stored:,} rows" for name, c in sorted(parts.seams.board.consumers.items()))
    sys.stderr.write(f"holdfast: healthy; everything so far is stored and verified ({stored})\n")
