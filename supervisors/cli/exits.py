"""Exit codes of CONTRACT, and which error means which. Pure.

systemd reads them: 78 is not restarted (RestartPreventExitStatus), 70, 74 and 75 are.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum

import trio

from runtime.errors import (
    ConfigError,
    HoldfastError,
    InvariantViolation,
    LogCorrupt,
    LogError,
    LogSyncFailed,
    NotConnected,
    PermanentSinkError,
    PermanentSourceError,
    RestartIntensityExceeded,
    RetryableSinkError,
    RetryableSourceError,
    StartFailed,
    UnstoppableChild,
)


class Exit(IntEnum):
    """What the process says when it ends."""

    FINE = 0
    NO = 1
    """The answer is no."""
    SYNTAX = 2
    SOFTWARE = 70
    """A broken invariant, an unstoppable child, our bug."""
    IO = 74
    """The log's disk."""
    GAVE_UP = 75
    """Restart me."""
    CONFIG = 78
    """A person must mend something."""
    INTERRUPTED = 130
    """Ctrl-C, or a stop that was ordered before the work was done (a standing `run` has no end: 0)."""


_MEANING: tuple[tuple[type[BaseException], Exit], ...] = (
    (InvariantViolation, Exit.SOFTWARE),
    (UnstoppableChild, Exit.SOFTWARE),
    (LogSyncFailed, Exit.IO),
    (LogCorrupt, Exit.IO),
    (ConfigError, Exit.CONFIG),
    (PermanentSourceError, Exit.CONFIG),
    (PermanentSinkError, Exit.CONFIG),
    (NotConnected, Exit.GAVE_UP),
    (RetryableSourceError, Exit.GAVE_UP),
    (RetryableSinkError, Exit.GAVE_UP),
    (LogError, Exit.GAVE_UP),
    (StartFailed, Exit.GAVE_UP),
    (RestartIntensityExceeded, Exit.GAVE_UP),
    (HoldfastError, Exit.SOFTWARE),
)
"""In this order: when several went wrong at once, the first that is among them decides."""


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The single exceptions of a group, and what caused them; cancellations left out. However deep it is nested."""
    todo, seen = [error], set[int]()
    while todo:
        one = todo.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, BaseExceptionGroup):
            todo.extend(reversed(one.exceptions))
            continue
        if one.__cause__ is not None and isinstance(one, HoldfastError):
            todo.append(one.__cause__)
        if not isinstance(one, trio.Cancelled):
            yield one


def decisive(error: BaseException) -> tuple[Exit, BaseException]:
    """The exit code of `error`, and the one exception in it to tell the user about. Unknown ones are our bug: 70."""
    inside = list(leaves(error))
    for kind, code in _MEANING:
        for one in inside:
            if isinstance(one, kind):
                return code, one
    return Exit.SOFTWARE, inside[0] if inside else error
