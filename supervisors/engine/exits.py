"""Why a child ended: OTP's exit reasons, read off what its body did. Pure.

| OTP | here |
|---|---|
| normal | the body returned |
| shutdown, {shutdown, T} | it stopped when asked; or it raised `Shutdown`; or it is a supervisor that gave up |
| killed | it ended only after its scope was cancelled by the ladder |
| anything else | any other exception, a raw asyncio.CancelledError included |
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

import attrs
import trio

from runtime.errors import RestartIntensityExceeded, Shutdown


class ExitKind(StrEnum):
    """What a supervisor needs to know of an end."""

    NORMAL = "normal"
    SHUTDOWN = "shutdown"
    KILLED = "killed"
    CRASHED = "crashed"
    OUTAGE = "outage"
    """A dependency is down: not a crash (SUPERVISION 4.2)."""

    @property
    def is_silent(self) -> bool:
        """An end that restarts only permanent children and that OTP reports as no error (R13)."""
        return self in (ExitKind.NORMAL, ExitKind.SHUTDOWN)


@attrs.frozen
class ExitReason:
    """The end of one incarnation."""

    kind: ExitKind
    error: BaseException | None = None
    """The whole exception, groups kept whole."""

    def __str__(self) -> str:
        if self.error is None:
            return str(self.kind)
        return f"{self.kind}: {describe(self.error)}"


NORMAL = ExitReason(ExitKind.NORMAL)
STOPPED = ExitReason(ExitKind.SHUTDOWN)
KILLED = ExitReason(ExitKind.KILLED)


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The single exceptions inside a group, cancellations left out."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    elif not isinstance(error, trio.Cancelled):
        yield error


LINE_CHARS_MAX = 400


def describe(error: BaseException) -> str:
    """One bounded line for people: `OSError: no space`, several joined by `; `."""
    text = "; ".join(f"{type(e).__name__}: {e}" if str(e) else type(e).__name__ for e in leaves(error)) or repr(error)
    text = " ".join(text.split())
    return text if len(text) <= LINE_CHARS_MAX else text[: LINE_CHARS_MAX - 1] + "…"


def classify(
    error: BaseException | None,
    *,
    asked: bool,
    forced: bool,
    outages: tuple[type[BaseException], ...] = (),
) -> ExitReason:
    """What `error` (None = the body returned) means, given whether the child was `asked` to stop or `forced` (rung 2).

    A body may swallow its cancellation and return: during a stop that is an obedient end, too.
    """
    inner = [] if error is None else list(leaves(error))
    if not inner:
        if forced:
            return KILLED
        if asked:
            return STOPPED
        # A Cancelled that no scope of the child owns: someone kept and re-raised it.
        return NORMAL if error is None else ExitReason(ExitKind.CRASHED, error)
    if all(isinstance(e, Shutdown | RestartIntensityExceeded) for e in inner):
        return ExitReason(ExitKind.SHUTDOWN, error)
    if outages and all(isinstance(e, outages) for e in inner):
        return ExitReason(ExitKind.OUTAGE, error)
    return ExitReason(ExitKind.CRASHED, error)


def find_fatal(error: BaseException | None, fatal: tuple[type[BaseException], ...]) -> BaseException | None:
    """The first exception in `error` after which the whole process must stop; an interrupt is always one."""
    if error is None:
        return None
    return next((e for e in leaves(error) if isinstance(e, (*fatal, KeyboardInterrupt, SystemExit))), None)
