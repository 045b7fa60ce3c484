"""`pipeline simulator`: the Polygon-compatible market simulator alone, until Ctrl-C."""

from __future__ import annotations

import argparse

from actors.embedded.simulator.__main__ import add_options, options_from, say
from runtime.errors import ConfigError


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "simulator",
        help="the Polygon-compatible market simulator alone",
        description="A local market that speaks Polygon's API: a seeded synthetic one, or a recording.",
    )
    add_options(parser)
    parser.add_argument("--faults", metavar="F", help="a script of faults (not in this version)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or Ctrl-C. Raises: ConfigError when port, recording or an option is wrong."""
    if args.faults is not None:
        raise ConfigError(f"--faults {args.faults}: fault scripts are not in this version; leave the option out")
    from actors.embedded.simulator.server import run as serve  # slow to import: not for --help

    serve(options_from(args), say)
    return 0
