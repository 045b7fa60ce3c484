"""The marker in the log's directory that says why a process ended: the disk failed, do not believe the page cache."""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec

from runtime.disk_port import Disk

SUSPECT = "SUSPECT"


def write_suspect(disk: Disk, directory: Path, *, what: str, durable_upto: int, error: OSError) -> None:
    """Best effort: the exit code says the same, and no start depends on it."""
    text = msgspec.json.encode({"what": what, "durable_upto": durable_upto, "error": str(error)})
    path = directory / SUSPECT
    with contextlib.suppress(OSError):
        disk.write_atomic(path, text)
        return
    written = path.with_name(path.name + ".tmp")
    with contextlib.suppress(OSError):  # where no sync works at all, one that is not synced is better than none
        if disk.read_bytes(written) == text:
            disk.rename(written, path)
