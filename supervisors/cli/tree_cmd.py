"""`pipeline tree`: the supervision tree as the code builds it."""

from __future__ import annotations

import argparse

from supervisors.cli.exits import Exit
from supervisors.cli.options import add_config_options, settings_from


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "tree",
        help="the supervision tree with strategies and intensities",
        description="Prints the tree that `pipeline run` would start with this configuration. Starts nothing.",
    )
    add_config_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """The command."""
    from supervisors.engine.report import render  # slow to import: not for --help
    from supervisors.tree import build_spec

    print(render(build_spec(settings_from(args))))
    return Exit.FINE
