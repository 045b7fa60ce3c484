"""`pipeline simulator`: the Polygon-compatible market simulator alone, until Ctrl-C."""

from __future__ import annotations

import argparse

from actors.embedded.simulator.__main__ import add_options, options_from, say


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "simulator",
        help="the Polygon-compatible market simulator alone",
        description="A local market that speaks Polygon's API and streams: a seeded one, or a recording.",
    )
    add_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or Ctrl-C. Raises: ConfigError when port, recording, script or an option is wrong."""
    from actors.embedded.simulator.server import run as serve  # slow to import: not for --help

    serve(options_from(args), say)
    return 0
