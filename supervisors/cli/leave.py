"""The way out of the process: no signal ends it half-way, and nothing that nobody owns can keep it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

import trio

from runtime.errors import UnstoppableChild
from supervisors.cli.exits import Exit, decisive
from supervisors.engine.exits import describe, one_line

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LEAVE_S = 5.0
"""After everything is closed: for what Trio itself still ends, such as the cleanup of a forgotten async generator."""


def ignore_from_now_on() -> None:
    """Before a signal receiver is opened: when it closes, Trio repeats what it has not told to what was set before.

    By default that would end the process in the middle of its last syncs.
    """
    for number in SIGNALS:
        signal.signal(number, lambda *_: None)


def leave_soon(error: BaseException | None, note: Callable[[str], None]) -> None:
    """The last act inside `trio.run`: if it does not return within `LEAVE_S`, tell `note` why and leave by force.

    A signal, because the loop need not turn any more for anybody else. Who has returned calls `has_left`.
    """
    for ignored in SIGNALS:  # to the last: Python takes its own handlers away before it ends
        signal.signal(ignored, signal.SIG_IGN)

    def too_late(number: int, frame: FrameType | None) -> None:
        del number, frame
        left = tuple(_places())
        late = UnstoppableChild(f"something outlived the tree: {'; '.join(left)}")
        code, one = decisive(error) if error is not None else (Exit.SOFTWARE, late)
        note(f"exit {int(code)}: {describe(late)}")
        leave_by_force(left, code, one)

    signal.signal(signal.SIGALRM, too_late)
    signal.setitimer(signal.ITIMER_REAL, LEAVE_S)


def has_left() -> None:
    """`trio.run` has returned."""
    signal.setitimer(signal.ITIMER_REAL, 0)


def leave_by_force(left: tuple[str, ...], code: int, error: BaseException) -> NoReturn:
    """Without waiting for what is `left`: with a task that does not end `trio.run` could not return."""
    sys.stderr.write(f"pipeline: {describe(error)}\npipeline: leaving by force, not stopped: {', '.join(left)}\n")
    sys.stderr.flush()
    os._exit(code)


def _places() -> Iterator[str]:
    """Where each living task hangs: innermost frame that is not Trio's own."""
    todo = [trio.lowlevel.current_root_task()]
    while todo:
        task = todo.pop()
        if task is None:
            continue
        todo += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
        frames = [
            (f.f_code, line) for f, line in task.iter_await_frames() if "trio" not in f.f_code.co_filename.split("/")
        ]
        if frames:
            code, line = frames[-1]
            yield one_line(f"{'/'.join(code.co_filename.split('/')[-3:])}:{line} {code.co_name}")
