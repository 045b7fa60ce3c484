"""A small file of two slots, written in turn: the valid one of the higher generation is the truth.

A write never touches the slot that holds the newest state, so a torn write, or rot in one slot, costs one
generation. Slot, little-endian: magic, CRC32C over the rest, generation u64, length u32, payload, zeros to the stride.
"""

from __future__ import annotations

import struct
from pathlib import Path

from runtime.disk_port import Disk, File, write_fully
from runtime.log.checksum import crc32c

_HEAD = struct.Struct("<4sIQI")
_MAGIC = b"HFs\x01"
_CRC_FROM = 8
_STRIDE_MIN = 4096
"""Slots share no sector and no page."""


class SlotFile:
    """Two slots. One owner; blocking calls. Raises OSError as the disk does."""

    def __init__(self, disk: Disk, path: Path) -> None:
        self._disk = disk
        self._path = path
        self._generation = 0
        self._stride = 0
        self._file: File | None = None
        self.slots_bad = 0
        """Slots that did not check at the last load, never written ones aside."""

    def load(self) -> bytes | None:
        """The newest valid payload, None if there is none (no file, or both slots are damaged)."""
        newest = newest_slot(whole := self._disk.read_bytes(self._path)) if self._disk.exists(self._path) else None
        if newest is None:
            return None
        self._generation, payload, self.slots_bad = newest
        self._stride = len(whole) // 2
        return payload

    def store(self, payload: bytes) -> None:
        """Write the older slot and fdatasync; the file is made, or made anew, when the payload does not fit."""
        self._generation += 1
        needed = _HEAD.size + len(payload)
        if needed > self._stride:
            stride = max(_STRIDE_MIN, -(-2 * needed // _STRIDE_MIN) * _STRIDE_MIN)
            slots = [bytes(stride), bytes(stride)]
            slots[self._generation % 2] = _pack(self._generation, payload, stride)
            self.close()
            self._disk.write_atomic(self._path, b"".join(slots))
            self._stride = stride
            return
        if self._file is None:
            self._file = self._disk.open(self._path, write=True)
        slot = _pack(self._generation, payload, self._stride)
        write_fully(self._file, [slot], self._generation % 2 * self._stride)
        self._file.datasync()

    def close(self) -> None:
        """Release the handle."""
        if self._file is not None:
            self._file.close()
            self._file = None


def newest_slot(whole: bytes) -> tuple[int, bytes, int] | None:
    """(generation, payload, damaged slots) of a file's content; None if no slot is valid."""
    stride = len(whole) // 2
    slots = [whole[:stride], whole[stride : 2 * stride]]
    found = [slot for slot in map(_unpack, slots) if slot is not None]
    if not found:
        return None
    damaged = sum(1 for slot in slots if any(slot) and _unpack(slot) is None)
    generation, payload = max(found)
    return generation, payload, damaged


def damaged_slots(whole: bytes) -> int:
    """Slots that were written and do not check; a torn write of a crash counts too, until the next one repairs it."""
    stride = len(whole) // 2
    return sum(1 for slot in (whole[:stride], whole[stride : 2 * stride]) if any(slot) and _unpack(slot) is None)


def _pack(generation: int, payload: bytes, stride: int) -> bytes:
    rest = _HEAD.pack(_MAGIC, 0, generation, len(payload))[_CRC_FROM:] + payload
    rest += bytes(stride - _CRC_FROM - len(rest))
    return _MAGIC + crc32c(rest).to_bytes(4, "little") + rest


def _unpack(slot: bytes) -> tuple[int, bytes] | None:
    if len(slot) < _HEAD.size or slot[: len(_MAGIC)] != _MAGIC:
        return None
    _, crc, generation, length = _HEAD.unpack_from(slot)
    if crc32c(slot[_CRC_FROM:]) != crc or _HEAD.size + length > len(slot):
        return None
    return generation, slot[_HEAD.size : _HEAD.size + length]
