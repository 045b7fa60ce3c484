"""The entry point of the distribution. Light, so that Ctrl-C in the half second of imports finds us ready for it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

EX_INTERRUPTED = 130
"""`Exit.INTERRUPTED`; what a shell expects of a program that Ctrl-C ended."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. Until the command itself begins, Ctrl-C ends the process silently."""
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not ignored, as in a script's background
    if ours:
        signal.signal(signal.SIGINT, _leave)
    try:
        from supervisors.cli.command_line import run_command

        return run_command(argv, begin=_hear_again if ours else lambda: None)
    finally:
        if ours and argv is None:  # the code is decided, and Python takes its leave
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        elif ours:
            _hear_again()


def _leave(number: int, frame: FrameType | None) -> None:
    """Nothing is open yet. An exception would surface in whatever is being imported, which may make another of it."""
    del number, frame
    os._exit(EX_INTERRUPTED)


def _hear_again() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)


if __name__ == "__main__":
    sys.exit(main())
