"""The command line: one file per command; errors become one line and an exit code here, and nowhere else."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import NoReturn

from runtime.clock import SystemClock
from runtime.errors import ConfigError, HoldfastError
from runtime.settings import redact_dsn
from runtime.telemetry import LogSetup, configure_logging
from supervisors.cli.exits import Exit, decisive
from supervisors.cli.options import LOG_FILE
from supervisors.tree import VERSION

COMMANDS = ("run", "check", "tree_cmd", "status", "backfill", "verify", "sql", "log", "dead_letters", "simulator")
"""Modules beside this one, in the order of --help; each has `register(subparsers)` and imports little at its top."""


class Parser(argparse.ArgumentParser):
    """argparse that says a mistake in one line, without the usage in front."""

    def error(self, message: str) -> NoReturn:
        """Exit 2."""
        self.exit(Exit.SYNTAX, f"{self.prog}: {message}; see {self.prog} --help\n")


def build_parser() -> Parser:
    """The whole command line."""
    parser = Parser(
        prog="pipeline",
        description="A market-data pipeline that loses nothing.",
        epilog="exit codes: 0 fine, 1 the answer is no, 2 command-line syntax, 70 broken invariant, "
        "74 disk error on the log, 75 gave up (restart me), 78 configuration or surroundings to be mended, "
        "130 interrupted before it was done",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"holdfast {VERSION}")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for name in COMMANDS:
        importlib.import_module(f"supervisors.cli.{name}").register(subparsers)
    for subparser in subparsers.choices.values():
        subparser.allow_abbrev = False
        subparser.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show tracebacks")
    return parser


def join_distances(argv: Sequence[str]) -> list[str]:
    """`--from -2h` as `--from=-2h`, since argparse takes what begins with a dash for an option."""
    joined: list[str] = []
    for word in argv:
        if joined and joined[-1] in ("--from", "--to") and re.fullmatch(r"-\d[\d.]*[smhdw]", word):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def run_command(argv: Sequence[str] | None, *, begin: Callable[[], None] = lambda: None) -> int:
    """Run one command; returns its exit code. `begin` is called when the command line is understood."""
    args = argparse.Namespace(debug=False, data_dir=None)
    try:
        build_parser().parse_args(join_distances(sys.argv[1:] if argv is None else argv), args)
        level = "debug" if args.debug else "warning"  # `run` sets up its own
        configure_logging(LogSetup(clock=SystemClock(), stream=sys.stderr, log_format="text", log_level=level))
        begin()
        code = int(args.run(args))
        sys.stdout.flush()
    except SystemExit as exc:  # argparse: --help, or a mistake that is already told
        return exc.code if isinstance(exc.code, int) else Exit.SYNTAX
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:
        return _reader_left()
    except BaseException as exc:  # noqa: BLE001  # the one place where everything ends
        return _explain(exc, args)
    return code


def _explain(error: BaseException, args: argparse.Namespace) -> int:
    """Tell what happened in as few lines as it needs; a traceback only on request or into the log file."""
    code, one = decisive(error)
    if isinstance(one, PermissionError) and isinstance(one.filename, str):  # another user's data directory, mostly
        from supervisors.cli.instance import denied  # slow to import: not for --help

        code, one = Exit.CONFIG, ConfigError(denied(Path(one.filename)))
    if isinstance(one, KeyboardInterrupt):
        return Exit.INTERRUPTED
    if args.debug:
        traceback.print_exception(error, file=sys.stderr)
    if isinstance(one, HoldfastError) and code is not Exit.SOFTWARE:
        text = str(one) or type(one).__name__
    else:
        text = f"internal error, please report it: {type(one).__name__}: {one}{_where_more(error, args)}"
    sys.stderr.write(redact_dsn("".join(f"pipeline: {line}\n" for line in text.splitlines())))
    return code


def _where_more(error: BaseException, args: argparse.Namespace) -> str:
    if args.debug:
        return ""
    if args.data_dir is not None and any(isinstance(h, RotatingFileHandler) for h in logging.getLogger().handlers):
        logging.getLogger("pipeline").critical("unexpected error", exc_info=error)
        return f"; details in {args.data_dir / LOG_FILE}"
    return "; details with --debug"


def _reader_left() -> int:
    """`pipeline sql … | head`: the reader had enough, which is fine; keep Python from complaining at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return Exit.FINE
