"""What is remembered of an embedded server between two lives of the pipeline, and what follows from it (pure).

DATA_DIR/embedded/NAME.json holds no secret. It is written before the server starts to run (see `process.TRAMPOLINE`)
and stays after an ordered stop, with pid 0, so that the server comes back on the same port.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from enum import Enum
from pathlib import Path

import attrs

from actors.embedded.process import ProcessId


@attrs.frozen(kw_only=True)
class ServerRecord:
    """The last process that was started for one server."""

    port: int
    fingerprint: str
    """Of the command line, environment and version: another one means another server (see `fingerprint_of`)."""
    process: ProcessId | None
    """None after an ordered stop."""


class Takeover(Enum):
    """What to do with what a former life left behind."""

    START = "nothing runs: start"
    ADOPT = "it runs, answers and is configured as wanted: adopt it"
    REPLACE = "it runs but cannot be adopted: stop exactly it, then start"


def decide(record: ServerRecord | None, *, alive: bool, healthy: bool, fingerprint: str) -> Takeover:
    """The one decision about a server that may still run. `healthy` counts only when `alive`."""
    if record is None or record.process is None or not alive:
        return Takeover.START
    if healthy and record.fingerprint == fingerprint:
        return Takeover.ADOPT
    return Takeover.REPLACE


def fingerprint_of(parts: Sequence[str]) -> str:
    """A short digest of everything that makes two servers different; order counts."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def load_record(path: Path) -> ServerRecord | None:
    """What was remembered; None when nothing was, or when it cannot be read (then nothing is believed)."""
    try:
        raw = json.loads(path.read_text())
        pid = int(raw["pid"])
        who = ProcessId(pid=pid, start_ticks=int(raw["start_ticks"]), boot_id=str(raw["boot_id"])) if pid else None
        return ServerRecord(port=int(raw["port"]), fingerprint=str(raw["fingerprint"]), process=who)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def save_record(path: Path, record: ServerRecord) -> None:
    """Replace the record atomically. Not synced: after a power cut no process is left that it could name."""
    who = record.process or ProcessId(pid=0, start_ticks=0, boot_id="")
    raw = {"port": record.port, "fingerprint": record.fingerprint, **attrs.asdict(who)}
    write_private(path, json.dumps(raw, indent=1) + "\n")


def write_private(path: Path, text: str) -> None:
    """Replace `path` atomically by `text`, readable by its owner alone."""
    temporary = path.with_name(f".{path.name}.new")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(fd, 0o600)
        os.write(fd, text.encode())
    finally:
        os.close(fd)
    temporary.replace(path)
