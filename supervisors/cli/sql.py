"""`pipeline sql SINK "QUERY"`: reads what is stored, also while the pipeline is down."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from runtime.settings import Settings
from supervisors.cli.exits import Exit
from supervisors.cli.options import add_config_options, settings_from

FORMATS = ("table", "csv", "json", "parquet")


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "sql",
        help="reads what is stored",
        description="Asks a sink, read-only. While the pipeline is down, the embedded server is started for the query. "
        "Exit 1 when the database refuses the query.",
    )
    parser.add_argument("sink", metavar="SINK", help="timescale, clickhouse, or the name of a further sink")
    parser.add_argument("query", metavar="QUERY", help="one statement that returns rows")
    parser.add_argument("--format", choices=FORMATS, default="table", help="default: %(default)s")
    add_config_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """The command."""
    settings = settings_from(args)
    if args.sink not in settings.sinks:
        sys.stderr.write(f"pipeline sql: unknown sink {args.sink!r}; choose from {', '.join(settings.sinks)}\n")
        return Exit.SYNTAX
    if args.format == "parquet" and sys.stdout.isatty():
        sys.stderr.write("pipeline sql: Parquet is not for a terminal: redirect it to a file\n")
        return Exit.SYNTAX
    import trio  # slow to import: not for --help

    from supervisors.cli.query import QueryRefused, write
    from supervisors.cli.query_clickhouse import OtherFormat

    try:
        table = trio.run(_ask, settings, args.sink, args.query)
    except QueryRefused as exc:
        sys.stderr.write(f"pipeline sql: {args.sink}: {exc}\n")
        return Exit.NO
    except OtherFormat as exc:
        sys.stdout.buffer.write(exc.data)
    else:
        write(table, args.format, sys.stdout.buffer)
    sys.stdout.buffer.flush()
    return Exit.FINE


async def _ask(settings: Settings, sink: str, query: str) -> Any:
    import outcome
    import trio

    from supervisors.cli import query_clickhouse, query_timescale
    from supervisors.cli.servers import address_of, make_seams, servers_for

    ask = query_timescale.query_as_reader if settings.sinks[sink].kind == "timescale" else query_clickhouse.query

    async def in_thread() -> Any:
        dsn = address_of(settings, sink)
        # Abandoned on Ctrl-C: the query may take its ten minutes, who asked must not.
        return await trio.to_thread.run_sync(lambda: ask(dsn, query), abandon_on_cancel=True)

    async with servers_for(settings, [sink], make_seams()):
        answer = await outcome.acapture(in_thread)  # carried out as it is, past the nursery that would wrap it
    return answer.unwrap()
