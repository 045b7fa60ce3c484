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
    """The single exceptions inside a group, in its order, cancellations left out; however deep it is nested."""
    if not isinstance(error, BaseExceptionGroup):
        return (
            [] if type(error) is trio.Cancelled else [error]
        )  # a final class; isinstance would go through its ABCMeta
    found: list[BaseException] = []
    todo: list[BaseException] = [error]
    while todo:  # no recursion: a group can be nested deeper than the stack is
        one = todo.pop()
        if isinstance(one, BaseExceptionGroup):
            todo.extend(reversed(one.exceptions))
        elif type(one) is not trio.Cancelled:
            found.append(one)
    return found


LINE_CHARS_MAX = 400
LEAVES_TOLD_MAX = 20


def describe(error: BaseException) -> str:
    """One bounded line for people: `OSError: no space`, several joined by `; `. Whatever the error is, it has one."""
    if not isinstance(error, BaseExceptionGroup):  # by far the most
        return one_line(_named(error))
    return one_line("; ".join(_named(leaf) for leaf in leaves(error)[:LEAVES_TOLD_MAX]) or type(error).__name__)


def one_line(text: str) -> str:
    """`text` bounded, without line breaks, and such that it can be written as UTF-8 (it may hold lone surrogates)."""
    text = text[: 10 * LINE_CHARS_MAX]
    if not text.isascii():
        text = text.encode("utf-8", "backslashreplace").decode()
    text = " ".join(text.split())
    return text if len(text) <= LINE_CHARS_MAX else text[: LINE_CHARS_MAX - 1] + "…"


def _named(error: BaseException) -> str:
    try:
        text = str(error)
    except BaseException as exc:  # noqa: BLE001 - a child's error must not end its supervisor by being described
        text = f"(its text cannot be made: {type(exc).__name__})"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


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
    if _are_all(inner, _LIKE_SHUTDOWN):
        return ExitReason(ExitKind.SHUTDOWN, error)
    if outages and _are_all(inner, outages):
        return ExitReason(ExitKind.OUTAGE, error)
    return ExitReason(ExitKind.CRASHED, error)


def _are_all(errors: list[BaseException], kinds: tuple[type[BaseException], ...]) -> bool:
    return isinstance(errors[0], kinds) and all(isinstance(e, kinds) for e in errors)  # the first one decides mostly


def find_fatal(error: BaseException | None, fatal: tuple[type[BaseException], ...]) -> BaseException | None:
    """The first exception in `error` that is one of `fatal`."""
    return None if error is None else next((leaf for leaf in leaves(error) if isinstance(leaf, fatal)), None)
