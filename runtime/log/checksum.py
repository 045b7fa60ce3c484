"""CRC32C, from a native package only: the pure-Python one is a thousand times slower and would stop the writer."""

from __future__ import annotations

from collections.abc import Callable

import google_crc32c

from runtime.errors import ConfigError

_KNOWN = (b"123456789", 0xE3069283)  # RFC 3720 B.4


crc32c: Callable[[bytes], int] = google_crc32c.value
"""CRC32C of some bytes. The package's own function: a wrapper would cost a tenth of a small frame's commit."""
crc32c_more: Callable[[int, bytes], int] = google_crc32c.extend
"""(crc, data): CRC32C of what gave `crc`, followed by `data`."""


def check_native() -> None:
    """Raises ConfigError unless the C implementation is loaded and right."""
    if google_crc32c.implementation != "c":
        raise ConfigError(
            f"google-crc32c runs its {google_crc32c.implementation!r} implementation; the log needs the native one. "
            "Install the wheel with the C extension for this platform (pip install --force-reinstall google-crc32c)"
        )
    if crc32c(_KNOWN[0]) != _KNOWN[1]:
        raise ConfigError("google-crc32c computes wrong checksums on this machine; nothing may be written with it")
