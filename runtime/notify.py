"""Tell systemd how we are: one datagram to `$NOTIFY_SOCKET` (sd_notify(3)). Without that variable all is a no-op.

A datagram that does not fit into the socket's buffer now is not sent: the next beat comes anyway. Nothing here blocks.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

import attrs
import trio

from runtime.clock import boot_monotonic_us
from runtime.errors import AdminRefused, ConfigError

STATUS_CHARS_MAX = 200
STATUS_S = 5.0
"""How often the status is looked at when there is no watchdog."""


@attrs.frozen
class Notifier:
    """Where the service manager listens, and how often it wants to be fed."""

    address: str = ""
    """`/path`, or `@name` for an abstract socket; empty = nobody listens."""
    watchdog_s: float | None = None
    """`WatchdogSec=`; None = no watchdog."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], *, pid: int | None = None) -> Notifier:
        """Read NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID. Raises: ConfigError for a value systemd never sets."""
        address = environment.get("NOTIFY_SOCKET", "")
        if address and address[0] not in "/@":
            raise ConfigError(f"NOTIFY_SOCKET must begin with '/' or '@', not {address!r}")
        usec = environment.get("WATCHDOG_USEC", "")
        if usec and not (usec.isdigit() and int(usec) > 0):
            raise ConfigError(f"WATCHDOG_USEC must be a positive integer, not {usec!r}")
        for_us = environment.get("WATCHDOG_PID", str(pid or os.getpid())) == str(pid or os.getpid())
        return cls(address, int(usec) / 1e6 if usec and for_us else None)

    def ready(self, status: str = "") -> bool:
        """Started, or done with a reload, also with one that was refused."""
        return self._send(*_status(status), "READY=1")

    def reloading(self) -> bool:
        """Answer to SIGHUP under Type=notify-reload; `ready` must follow. Both fields have to share a datagram."""
        return self._send("RELOADING=1", f"MONOTONIC_USEC={boot_monotonic_us()}")

    def stopping(self, status: str = "") -> bool:
        """First act of the shutdown."""
        return self._send(*_status(status), "STOPPING=1")

    def status(self, text: str) -> bool:
        """One line for `systemctl status`."""
        return self._send(*_status(text))

    def watchdog(self) -> bool:
        """Everything critical makes progress."""
        return self._send("WATCHDOG=1")

    def extend(self, seconds: float) -> bool:
        """The current start or stop needs up to `seconds` more. Only while work advances."""
        return self._send(f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}")

    def _send(self, *fields: str) -> bool:
        """Whether the datagram left."""
        if not self.address or not fields:
            return False
        address = "\0" + self.address[1:] if self.address[0] == "@" else self.address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as sock:
            try:
                sock.sendto("\n".join(fields).encode(), address)
            except OSError as exc:
                if exc.errno in (errno.EAGAIN, errno.ENOBUFS, errno.ENOENT, errno.ECONNREFUSED):
                    return False
                raise
        return True


def _status(text: str) -> tuple[str, ...]:
    line = " ".join(text.split())[:STATUS_CHARS_MAX]
    return (f"STATUS={line}",) if line else ()


async def feed_watchdog(
    notifier: Notifier,
    *,
    late: Callable[[], tuple[str, ...]],
    ping: Callable[[], Awaitable[None]],
    status: Callable[[], str] = lambda: "running",
) -> None:
    """Feed the watchdog at half its interval while nobody is `late` and the root supervisor answers `ping`.

    What is wrong, or else `status`, goes into `systemctl status` when it changes. Runs in the Trio loop on purpose: a
    loop that is held feeds nothing. Returns at once when nobody listens.
    """
    if not notifier.address:
        return
    beat_s = STATUS_S if notifier.watchdog_s is None else notifier.watchdog_s / 2
    said = status()  # READY=1 brought it along
    while True:
        trouble = await _trouble(late(), ping, beat_s / 2)
        if not trouble and notifier.watchdog_s is not None:
            notifier.watchdog()
        text = trouble or status()
        if text != said:
            notifier.status(text)
        said = text
        await trio.sleep(beat_s)


async def _trouble(late: tuple[str, ...], ping: Callable[[], Awaitable[None]], patience_s: float) -> str:
    """ "" = all is well."""
    answered = False
    with trio.move_on_after(patience_s), suppress(AdminRefused):
        await ping()
        answered = True
    if late:
        return f"late: {', '.join(late)}"
    return "" if answered else "the root supervisor does not answer"
