"""`pipeline check`: is the configuration right, what are the limits, does everything outside answer."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import attrs

from runtime.config import Loaded
from runtime.errors import ConfigError, NotConnected
from runtime.settings import Secret, Settings, redact_dsn
from supervisors.cli import check_vendor
from supervisors.cli.exits import Exit
from supervisors.cli.options import add_config_options, loaded_from
from supervisors.cli.runnable import check_data_dir, check_runnable


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "check",
        help="validates the configuration, prints every limit, tries each dependency",
        description="Starts and changes nothing. Exit 78 when a person must mend something, 1 when a dependency is "
        "down (the pipeline would start all the same, and wait for it).",
    )
    add_config_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """The command."""
    from runtime.clock import SystemClock  # not for --help

    loaded = loaded_from(args)
    print(f"configuration: {loaded.file or 'built-in defaults'}, valid")
    for text in value_lines(loaded):
        print(text)
    print("\nlimits that are fixed:")
    for text in limit_lines():
        print(text)
    check_runnable(loaded.settings, SystemClock().wall_ns())
    print("\nsurroundings:")
    print(f"  {data_directory(loaded.settings)}", flush=True)
    text, unlike = log(loaded.settings)
    print(f"  {text}", flush=True)
    text, taken = address(loaded.settings)
    print(f"  {loaded.settings.health.listen}: {text}", flush=True)
    print("\ndependencies:")
    verdicts = [_try(name, probe) for name, probe in probes(loaded.settings)]
    if wrong := [exc for exc in (unlike, taken) if exc is not None]:  # last, so that the rest is told too
        raise ConfigError("\n".join(map(str, wrong)))
    return Exit.FINE if all(verdicts) else Exit.NO


# -- values and limits (pure)


def value_lines(loaded: Loaded) -> Iterator[str]:
    """Every key with its value, unit and where the value comes from."""
    for path, unit, value in values_of(loaded.settings):
        origin = loaded.origins.get(path, "default")
        shown = f"{_shown(value)}{f' {unit}' if unit and isinstance(value, int) else ''}"
        yield f"  {path} = {shown}  ({origin})" if origin != "default" else f"  {path} = {shown}"


def values_of(table: Any, prefix: str = "") -> Iterator[tuple[str, str, object]]:
    """(dotted key, unit, value) of every key, in the order of config.toml."""
    for field in attrs.fields(type(table)):
        value, path = getattr(table, field.name), f"{prefix}{field.name}"
        if attrs.has(type(value)):
            yield from values_of(value, f"{path}.")
        elif isinstance(value, Mapping):
            for name, inner in value.items():
                yield from values_of(inner, f"{path}.{name}.")
        else:
            yield path, field.metadata["unit"], value


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ", ".join(f'"{item}"' for item in value) + "]"
    if isinstance(value, int):
        return f"{value:_}"
    if value is None:
        return "not set"
    return "***" if isinstance(value, Secret) else f'"{redact_dsn(str(value))}"'


def limit_lines() -> Iterator[str]:
    """Bounds that are constants of the code: what happens at each stands where it is defined."""
    from actors.downloader.lane import DownloadLimits
    from actors.health import web
    from actors.market.schema import FRAME_ROWS_MAX
    from runtime import telemetry
    from runtime.log.frame import BODY_BYTES_MAX, GROUP_BYTES_MAX, POSITION_BYTES_MAX
    from supervisors.cli.query import RESULT_BYTES_MAX
    from supervisors.cli.run import SHUTDOWN_S
    from supervisors.tree import JOBS_WAITING_MAX

    fixed: dict[str, object] = {
        "log: bytes of one group": GROUP_BYTES_MAX,
        "log: bytes of one frame": BODY_BYTES_MAX,
        "log: bytes of a producer's position": POSITION_BYTES_MAX,
        "log: rows of one frame": FRAME_ROWS_MAX,
        "downloader: backfills that may wait": JOBS_WAITING_MAX,
        "http: requests answered at once": web.REQUESTS_MAX,
        "http: seconds per request": web.REQUEST_S_MAX,
        "http: bytes of a request's body": web.BODY_BYTES_MAX,
        "log file: bytes": telemetry.LOG_FILE_BYTES_MAX,
        "log file: older ones kept": telemetry.LOG_FILES_KEPT,
        "sql: bytes of a result": RESULT_BYTES_MAX,
        "run: seconds of an ordered stop": SHUTDOWN_S,
    }
    fixed.update(flat("downloader", DownloadLimits()))
    for name, value in fixed.items():
        yield f"  {name} = {value:_}" if isinstance(value, int) else f"  {name} = {value}"


def flat(prefix: str, limits: Any) -> Iterator[tuple[str, object]]:
    """The numbers in a nested attrs object."""
    for field in attrs.fields(type(limits)):
        value = getattr(limits, field.name)
        if attrs.has(type(value)):
            yield from flat(f"{prefix}.{field.name}", value)
        elif isinstance(value, int | float):
            yield f"{prefix}: {field.name}", value


# -- dependencies


def probes(settings: Settings) -> Iterator[tuple[str, Callable[[], str]]]:
    """(name, what asks it: returns how it is, raises NotConnected or ConfigError) for each dependency."""
    for name, sink in settings.sinks.items():
        if sink.dsn == "embedded":
            yield f"sinks.{name}", partial(_embedded, settings, SERVER_OF[sink.kind])
        else:
            yield f"sinks.{name}", partial(_database, sink.kind, sink.dsn)
    if settings.uses_simulator:
        yield "vendors.polygon", partial(_embedded, settings, "market")
    else:
        yield "vendors.polygon", partial(check_vendor.rest, settings)
        if settings.streams:
            yield "vendors.polygon.stream_url", partial(check_vendor.stream, settings)


SERVER_OF = {"timescale": "postgres", "clickhouse": "clickhouse"}


def _try(name: str, probe: Callable[[], str]) -> bool:
    try:
        text, word = probe(), "UP"
    except NotConnected as exc:
        text, word = str(exc), "DOWN"
    print(f"  {name}: {word}, {redact_dsn(text)}", flush=True)
    return word == "UP"


def _embedded(settings: Settings, name: str) -> str:
    """Installed, and answers if the pipeline runs. Raises: ConfigError (not installed, no such recording)."""
    import trio

    from actors.embedded.postgres import binaries
    from actors.embedded.spec import EmbeddedHome
    from supervisors.cli.instance import is_running
    from supervisors.tree import server_spec

    home = EmbeddedHome(data_dir=settings.pipeline.data_dir)
    spec = server_spec(name, settings, home)
    if name == "postgres":
        binaries()  # its own check makes folders
    else:
        spec.check()
    if not is_running(settings):
        return f"embedded {name} is installed and starts with the pipeline"
    port = home.port(name)
    trio.run(partial(spec.probe, port, timeout_s=check_vendor.PROBE_S_MAX))
    return f"embedded {name} answers on port {port}"


def _database(kind: str, dsn: str) -> str:
    from supervisors.cli import query_clickhouse, query_timescale
    from supervisors.cli.query import QueryRefused

    try:
        (query_timescale if kind == "timescale" else query_clickhouse).query(dsn, "SELECT 1")
    except QueryRefused as exc:  # the database `market` is made at the first start
        return f"{dsn} answers: {exc}"
    return f"{dsn} answers"


# -- surroundings


def data_directory(settings: Settings) -> str:
    """How the data directory is. Raises: ConfigError."""
    from supervisors.cli.instance import is_running

    data_dir = settings.pipeline.data_dir
    there = check_data_dir(data_dir)
    state = "not in use" if data_dir.exists() else "made at the first start"
    state = "a pipeline runs on it" if is_running(settings) else state
    return f"data directory {data_dir}: {state}, {shutil.disk_usage(there).free:_} bytes free"


def log(settings: Settings) -> tuple[str, ConfigError | None]:
    """How the log is, and in what the settings are not those that it was made with, which `run` refuses."""
    from runtime.disk import RealDisk
    from runtime.log.meta import load_meta, meta_of_segments
    from supervisors.cli.instance import has_data

    directory = settings.pipeline.data_dir / "log"
    try:
        disk = RealDisk()
        meta = (load_meta(disk, directory) or meta_of_segments(disk, directory)) if has_data(settings) else None
    except ConfigError as exc:
        return "log: cannot be used", exc
    if meta is None:
        return f"log: made at the first start, with {settings.log.partitions} partitions", None
    wanted, made = settings.log.partitions, meta.partitions
    if wanted == made:
        return f"log: {made} partitions", None
    return f"log: {made} partitions, which is not log.partitions", ConfigError(
        f"log.partitions = {wanted}, but the log in {directory} was made with {made}, and that cannot be changed: "
        f"set it to {made}, or use another pipeline.data_dir"
    )


def address(settings: Settings) -> tuple[str, ConfigError | None]:
    """How health.listen is, and what a person must mend about it."""
    from actors.health.listen import open_listener, url_at
    from supervisors.cli.instance import endpoints, is_running

    running = endpoints(settings).get("health", "").rstrip("/") if is_running(settings) else ""
    elsewhere = f"; the running pipeline listens on {running}, not here" if running else ""
    try:
        if running and running == url_at(settings.health.listen):
            return "the status page of the running pipeline", None
        open_listener(settings.health.listen).close()
    except ConfigError as exc:
        return f"cannot be used{elsewhere}", exc
    return f"free{elsewhere}", None
