"""`pipeline backfill SYMBOL… --from T --to T`: history that was not configured, or once more what is covered.

The job is a file in DATA_DIR/jobs until the log says that it is done, so it survives whatever interrupts it: with a
running process that process does it; without, it is done here, and asking for the same again goes on where it stopped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

import attrs

from runtime.errors import ConfigError, NotConnected
from runtime.settings import Settings, resolve_interval
from supervisors.cli.exits import Exit
from supervisors.cli.options import add_config_options, settings_from

REFETCH = (
    "also what is covered already; what changed is replaced. Whole UTC hours: each end is moved outwards to the hour, "
    "in the hour that runs up to now"
)
CANCEL = "alone: gives a job up, as `pipeline status` names it; what is fetched of it stays"
EARLIER = 'choose an earlier --to, like -1m, or --to "" for "until now"'
FETCH_AGAIN = "pipeline backfill: --refetch fetches it again\n"
GOES_ON = (
    "pipeline backfill: interrupted before it was done; the job is kept, and the same command again, or the next "
    "`pipeline run`, goes on where it stopped\n"
)
POLL_S = 0.25
SILENCE_S_MAX = 60.0
"""How long the running process may not answer (it restarts) before we stop watching."""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "backfill",
        help="adds history jobs",
        description="Fetches [from, to) of each symbol, by the running process or, without one, here. Interrupted, it "
        "goes on at the next start, or when the same is asked again; --cancel gives it up. "
        "Exit 1 when the vendor refuses a part: it is "
        "not asked for again, but `verify` goes on naming that span as missing, so look twice at the symbol.",
    )
    parser.add_argument("symbols", nargs="*", metavar="SYMBOL", help="like C:EURUSD")
    parser.add_argument("--from", dest="from_", metavar="T", help="UTC date, instant, or -2h")
    parser.add_argument("--to", metavar="T", help="the same; exclusive")
    parser.add_argument("--kind", metavar="K,K", help="kinds, comma-separated (default: downloader.kinds)")
    parser.add_argument("--refetch", action="store_true", help=REFETCH)
    parser.add_argument("--cancel", metavar="JOB", help=CANCEL)
    add_config_options(parser)
    parser.set_defaults(run=run, refuse=parser.error)


@attrs.frozen(kw_only=True)
class Order:
    """What is wanted; whole minutes, canonical symbols."""

    symbols: tuple[str, ...]
    kinds: tuple[str, ...]
    from_ns: int
    to_ns: int
    refetch: bool


def run(args: argparse.Namespace) -> int:
    """The command."""
    from supervisors.cli.instance import is_running  # slow to import: not for --help

    check_complete(args)
    settings = settings_from(args)
    if args.cancel is not None:
        return cancel(settings, args.cancel)
    order = order_from(args, settings)
    return _through_instance(settings, order) if is_running(settings) else _here(settings, order)


def check_complete(args: argparse.Namespace) -> None:
    """What argparse cannot say: --cancel stands alone, an order needs three things. Exits 2."""
    given = {"SYMBOL": bool(args.symbols), "--from": args.from_ is not None, "--to": args.to is not None}
    if args.cancel is not None:
        if any(given.values()) or args.refetch or args.kind:
            args.refuse("argument --cancel: takes a job and no order")
    elif not all(given.values()):
        missing = ", ".join(name for name, there in given.items() if not there)
        args.refuse(f"the following arguments are required: {missing}")


def cancel(settings: Settings, job_id: str) -> int:
    """Through the running process, or by its file. Raises: ConfigError when there is none, NotConnected."""
    from supervisors.cli.instance import instance_of, is_running

    if is_running(settings):
        instance_of(settings).cancel(job_id)
    else:
        _forget(settings, job_id)
    print(f"job {job_id} is cancelled; what was fetched of it stays")
    return Exit.FINE


def _forget(settings: Settings, job_id: str) -> None:
    import trio

    from actors.downloader.job_files import JobFiles
    from runtime.actor import offload_inline
    from supervisors.tree import jobs_folder, unknown_job

    jobs = JobFiles(folder=jobs_folder(settings), offload=offload_inline)
    known = {job.id for job in trio.run(jobs.load)}
    if job_id not in known:
        raise ConfigError(unknown_job(job_id, known))
    trio.run(jobs.done, job_id)


def order_from(args: argparse.Namespace, settings: Settings) -> Order:
    """Raises: ConfigError."""
    from actors.health.port import orderable
    from actors.market.symbols import feeds
    from runtime.clock import SystemClock

    kinds = tuple(args.kind.split(",")) if args.kind else settings.downloader.kinds
    if other := set(kinds) - set(settings.downloader.kinds):
        known = ", ".join(settings.downloader.kinds)
        raise ConfigError(f"--kind {','.join(sorted(other))}: not one of downloader.kinds ({known})")
    symbols = dict.fromkeys(orderable(text) for text in args.symbols)
    try:
        found = feeds(symbols, kinds)
    except ValueError as exc:
        raise ConfigError(f"--kind: {exc}") from exc
    if args.kind:
        for symbol, kind in ((symbol, kind) for symbol in symbols for kind in kinds if (symbol, kind) not in found):
            sys.stderr.write(f"pipeline backfill: {symbol} has no {kind}: left out\n")
    try:
        from_ns, to_ns = resolve_interval(args.from_, args.to, SystemClock().wall_ns(), earlier=EARLIER)
    except ValueError as exc:
        raise ConfigError(f"--from or --to: {exc}") from exc
    return Order(symbols=tuple(dict.fromkeys(symbols)), kinds=kinds, from_ns=from_ns, to_ns=to_ns, refetch=args.refetch)


# -- without a running process


def _here(settings: Settings, order: Order) -> int:
    from actors.downloader.job_files import write_job
    from runtime.clock import SystemClock
    from runtime.entropy import SystemEntropy
    from supervisors.cli.run import RunMode, run_pipeline
    from supervisors.cli.runnable import check_runnable
    from supervisors.tree import jobs_folder

    check_runnable(settings, SystemClock().wall_ns())
    folder = jobs_folder(settings)
    job = same_job(folder, order)
    if job is None:
        job = _job(order, SystemEntropy().new_id())
        try:
            write_job(folder, job)
        except OSError as exc:
            raise ConfigError(f"{folder}: {exc.strerror}: pipeline.data_dir must be writable") from exc
    else:
        sys.stderr.write(f"pipeline backfill: going on with job {job.id}\n")
    try:
        return run_pipeline(settings, RunMode(until_idle=True, only_jobs=True))
    except* KeyboardInterrupt:  # before the pipeline heard signals itself
        sys.stderr.write(GOES_ON)
        raise


def _job(order: Order, job_id: str) -> Any:
    from actors.downloader.jobs import BackfillJob

    return BackfillJob(id=job_id, **attrs.asdict(order))


def same_job(folder: Any, order: Order) -> Any:
    """The unfinished job that asks for exactly `order`; None when there is none."""
    from actors.downloader.jobs import BackfillJob

    if not folder.is_dir():
        return None
    for path in sorted(folder.glob("*.json")):
        try:
            job = BackfillJob.from_json(path.read_bytes())
        except (OSError, ValueError):
            continue  # the downloader sets aside what is no job
        if job == _job(order, job.id):
            return job
    return None


# -- through a running process


def _through_instance(settings: Settings, order: Order) -> int:
    import trio

    from actors.market.symbols import feeds
    from runtime.clock import format_ns
    from supervisors.cli.instance import instance_of

    instance = instance_of(settings)
    wanted = {"symbols": order.symbols, "kinds": order.kinds, "refetch": order.refetch}
    job_id = instance.backfill({**wanted, "from": format_ns(order.from_ns), "to": format_ns(order.to_ns)})
    sys.stderr.write(
        f"pipeline backfill: job {job_id}; the running process does it, Ctrl-C only stops "
        f"watching; to give it up: pipeline backfill --cancel {job_id}\n"
    )
    parts = [f"{job_id}/{symbol}/{kind}" for symbol, kind in feeds(order.symbols, order.kinds)]
    return trio.run(_watch, instance, parts)


async def _watch(instance: Any, parts: list[str]) -> int:
    """Show the job's progress until it is done and every sink is verified past it."""
    import trio

    from runtime.board import Board
    from runtime.clock import SystemClock
    from supervisors.cli.progress import nothing_new, show_progress

    board = Board()
    async with trio.open_nursery() as nursery:
        watch = Watch(parts=tuple(parts))
        nursery.start_soon(partial(show_progress, board, SystemClock(), sys.stderr, verdict=lambda: watch.verdict))
        silent_since_s = trio.current_time()
        while True:
            try:
                status = await trio.to_thread.run_sync(instance.status, abandon_on_cancel=True)
            except NotConnected as exc:
                if trio.current_time() - silent_since_s > SILENCE_S_MAX:
                    raise NotConnected(f"{exc}; the job is kept and goes on at the next start") from exc
            else:
                silent_since_s = trio.current_time()
                if watch.look(status, board):
                    break
            await trio.sleep(POLL_S)
        nursery.cancel_scope.cancel(reason="done")
    for reason in watch.reasons:
        sys.stderr.write(f"pipeline backfill: {reason}\n")
    if nothing_new(board):
        sys.stderr.write(FETCH_AGAIN)
    return Exit.NO if watch.failed else Exit.FINE


@attrs.define(kw_only=True)
class Watch:
    """Follows one job through answers of /api/status. Pure."""

    parts: tuple[str, ...]
    """Keys of its parts on the board."""
    reasons: list[str] = attrs.field(factory=list)
    failed: bool = False
    verdict: str = ""
    """What holds when it ended; empty: it has not."""
    _marks: list[int] = attrs.field(factory=list)
    """Ends of the log that readers must pass: that of the ticks, then that of the candles made of them."""

    def look(self, status: Mapping[str, Any], board: Any) -> bool:
        """Copy the job to `board`; True when there is nothing more to wait for."""
        from runtime.board import ConsumerState, JobState, LogState

        found = {key: status["jobs"][key] for key in self.parts if key in status["jobs"]}
        board.jobs = {key: JobState(**_fields(JobState, job)) for key, job in found.items()}
        board.consumers = {k: ConsumerState(**_fields(ConsumerState, c)) for k, c in status["consumers"].items()}
        board.log = LogState(**_fields(LogState, status["log"])) if status["log"] else None
        refused = [f"{job['symbol']} {job['kind']}: {job['error']}" for job in found.values() if job["error"]]
        ended = all(job["finished"] or job["error"] for job in found.values()) and len(found) == len(self.parts)
        if not ended or board.log is None:
            return False
        self.reasons, self.failed = refused, bool(refused)
        how = "cancelled" if any(job["error"] == "cancelled" for job in found.values()) else "refused in part"
        down = [f"{name}: {d['reason']}" for name, d in status["dependency_details"].items() if d["state"] == "DOWN"]
        if down:  # everything is in the log; delivery follows when the outage is over
            self.reasons += [f"durable, but not everywhere yet: {reason}" for reason in down]
            self.verdict = how if self.failed else "durable, to be delivered"
            return True
        if not self._verified(board):
            return False
        self.verdict = f"{how}, the rest verified" if self.failed else "done and verified"
        return True

    def _verified(self, board: Any) -> bool:
        if not self._marks:
            self._marks.append(board.log.end_position)
        if any(consumer.verified_position < self._marks[-1] for consumer in board.consumers.values()):
            return False
        if len(self._marks) == 1:
            self._marks.append(board.log.end_position)
            return False
        return True


def _fields(cls: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Those that `cls` knows: the process may be of another version."""
    return {field.name: values[field.name] for field in attrs.fields(cls) if field.name in values}
