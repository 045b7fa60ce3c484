"""`pipeline simulator`: the Polygon-compatible market simulator alone, until Ctrl-C."""

from __future__ import annotations

import argparse
import sys

from actors.embedded.simulator.__main__ import add_options, options_from, say

EX_CONFIG = 78


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
    """Serve until SIGTERM or Ctrl-C; 78 when port, recording or an option is wrong."""
    if args.faults is not None:
        sys.stderr.write(f"--faults {args.faults}: fault scripts are not in this version; leave the option out\n")
        return EX_CONFIG
    from actors.embedded.simulator.server import run as serve  # slow to import: not for --help

    return serve(options_from(args), say)
