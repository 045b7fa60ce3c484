"""The small files beside the segments: what of them does not check.

Read-only, also beside a writer: what looks damaged is looked at again, for it may be the middle of a write.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from runtime.disk_port import Disk
from runtime.log.cursor import DIRECTORY as CURSORS
from runtime.log.meta import LOCK, META, lock_is_damaged
from runtime.log.positions import POSITIONS
from runtime.log.schemas import DIRECTORY as SCHEMAS
from runtime.log.schemas import damaged_schemas
from runtime.log.slots import damaged_slots, newest_slot

_LOOKS = 4


def damaged_sidecars(disk: Disk, directory: Path) -> list[tuple[str, str]]:
    """(name, what is wrong with it): META, positions, cursors, LOCK, schemas."""
    cursors = [f"{CURSORS}/{name}" for name in disk.names(directory / CURSORS) if not name.endswith(".tmp")]
    reasons = {name: _settled(partial(_slots, disk, directory / name)) for name in (META, POSITIONS, *cursors)}
    if not disk.exists(directory / META):
        reasons[META] = "it is missing"
    reasons[LOCK] = _settled(lambda: "it does not check" if lock_is_damaged(disk, directory) else "")
    reasons |= {f"{SCHEMAS}/{name}": "it does not check" for name in damaged_schemas(disk, directory)}
    return [(name, f"{name}: {reason}") for name, reason in reasons.items() if reason]


def _settled(look: Callable[[], str]) -> str:
    """What is still wrong when it is looked at again and again; "" as soon as it is fine."""
    reason = ""
    for _ in range(_LOOKS):
        reason = look()
        if not reason:
            break
    return reason


def _slots(disk: Disk, path: Path) -> str:
    """A file that is not there was never written, or is not needed: nothing is wrong with it."""
    if not disk.exists(path):
        return ""
    whole = disk.read_bytes(path)
    if damaged_slots(whole):
        return "a slot is damaged"
    return "" if newest_slot(whole) is not None else "it is empty"
