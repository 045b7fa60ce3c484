"""Every error of the pipeline on one screen, named by whose fault it is and what to do."""

from __future__ import annotations


class HoldfastError(Exception):
    """Catch only at the top."""


class ConfigError(HoldfastError):
    """A person must mend configuration or surroundings: exit 78. The message says what, where and what to do."""


class SourceError(HoldfastError):
    """A vendor did not give what was asked."""


class RetryableSourceError(SourceError):
    """Outage, rate limit, time-out, unproven page: ask again later (`retry_after_s` if the vendor said when)."""

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class PermanentSourceError(SourceError):
    """Asking again gives the same: unknown symbol, bad parameter, no entitlement."""


class SinkError(HoldfastError):
    """A sink did not take what was given."""


class RetryableSinkError(SinkError):
    """The sink is down, slow, full or lost the answer: an outage. Send the same rows again."""


class PermanentSinkError(SinkError):
    """The sink refuses the rows themselves: poison, to be bisected."""


class NotConnected(HoldfastError):
    """Expected weather: the other side is not there yet."""


class LogError(HoldfastError):
    """The durable log."""


class LogFull(LogError):
    """No space for another group; nothing of it was written."""


class LogSyncFailed(LogError):
    """fdatasync failed: nothing of the commit is durable, the process must end with exit code 74."""


class LogCorrupt(LogError):
    """Frames below `durable_upto` do not check: named by segment and position."""

    def __init__(self, message: str, *, segment: str = "", position: int = -1) -> None:
        super().__init__(message)
        self.segment = segment
        self.position = position


class RestartIntensityExceeded(HoldfastError):
    """A supervisor spent its restart budget; goes up the tree. At the top: exit 75."""


class InvariantViolation(HoldfastError):
    """Our bug: stops the process (exit 70) before it can do harm."""


class UnstoppableChild(HoldfastError):
    """A child ignored stop message and cancellation: only leaving the process (`os._exit(70)`) ends it."""


class ActorStalled(HoldfastError):
    """An actor held work and did none for longer than it may: stopped like a crash."""


class StartFailed(HoldfastError):
    """A child did not start while its supervisor came up; the cause is chained. At the top: exit 75."""


class AdminRefused(HoldfastError):
    """A supervisor would not do what an admin call asked; `code` is OTP's word for why."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class Shutdown(HoldfastError):
    """Raised by an actor that ends on purpose: OTP's exit reason `{shutdown, Term}`, no crash."""
