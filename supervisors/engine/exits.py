"""Why a child ended: OTP's exit reasons, read off what its body did. Pure.

| OTP | here |
|---|---|
| normal | the body returned |
| shutdown, {shutdown, T} | it stopped when asked; or it raised `Shutdown`; or it is a supervisor that gave up |
| killed | it ended only after its scope was cancelled by the ladder |
| anything else | any other exception, a raw asyncio.CancelledError included |
"""

from __future__ import annotations

from enum import StrEnum

import msgspec
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


class ExitReason(msgspec.Struct, frozen=True):
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


def leaves(error: BaseException) -> list[BaseException]:
    """The single exceptions inside a group, cancellations left out."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in leaves(inner)]
    return [] if type(error) is trio.Cancelled else [error]  # a final class; isinstance would go through its ABCMeta


LINE_CHARS_MAX = 400


def describe(error: BaseException) -> str:
    """One bounded line for people: `OSError: no space`, several joined by `; `."""
    texts = [f"{type(e).__name__}: {text}" if (text := str(e)) else type(e).__name__ for e in leaves(error)]
    text = " ".join(("; ".join(texts) or repr(error)).split())
    return text if len(text) <= LINE_CHARS_MAX else text[: LINE_CHARS_MAX - 1] + "…"


_LIKE_SHUTDOWN = (Shutdown, RestartIntensityExceeded)


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
    inner = [] if error is None else leaves(error)
    if not inner:
        if forced:
            return KILLED
        if asked:
            return STOPPED
        # A Cancelled that no scope of the child owns: someone kept and re-raised it.
        return NORMAL if error is None else ExitReason(ExitKind.CRASHED, error)
    if all(isinstance(e, _LIKE_SHUTDOWN) for e in inner):
        return ExitReason(ExitKind.SHUTDOWN, error)
    if outages and all(isinstance(e, outages) for e in inner):
        return ExitReason(ExitKind.OUTAGE, error)
    return ExitReason(ExitKind.CRASHED, error)


def find_fatal(error: BaseException | None, fatal: tuple[type[BaseException], ...]) -> BaseException | None:
    """The first exception in `error` that is one of `fatal`."""
    return None if error is None else next((leaf for leaf in leaves(error) if isinstance(leaf, fatal)), None)
