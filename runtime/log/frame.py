"""The frame: a checked header and a checked body, padded to 8 bytes. Pure: bytes in, values out.

Layout, little-endian: 152 fixed bytes (`_FIXED`), producer name and producer position (last frame of a group only),
zeros up to a multiple of 8; then the body and zeros up to a multiple of 8. `header_crc` covers everything of the
header behind itself, the body's checksum included, and is checked before any length is believed; the magic in front
of it is compared. `body_crc` covers body and padding.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from runtime.log.checksum import crc32c, crc32c_more
from runtime.log.types import BODY_BYTES_MAX, GROUP_BYTES_MAX, POSITION_BYTES_MAX

MAGIC = b"HFf\x01"
HEADER_VERSION = 1
PRODUCER_BYTES_MAX = 256

_FIXED = struct.Struct("<4sIHHI QQQQqQQQ qQqqQ IIIIIII HH")
FIXED_BYTES = _FIXED.size
HEADER_BYTES_MAX = FIXED_BYTES + PRODUCER_BYTES_MAX + POSITION_BYTES_MAX
FRAMES_MAX = 4096
"""Frames of one group."""
GROUP_WIRE_MAX = GROUP_BYTES_MAX + FRAMES_MAX * (FIXED_BYTES + 8) + HEADER_BYTES_MAX
"""No valid group is longer: a flipped length must not allocate gigabytes."""
_CRC_FROM = 8
_PADDING = (b"", *(bytes(n) for n in range(1, 8)))


class FrameHeader(NamedTuple):
    """All of a header but its magic, lengths and own checksum. (A NamedTuple: a scan makes many.)"""

    log_low: int
    """Low 64 bits of the log_id."""
    epoch: int
    """Which incarnation of the writer wrote it: stale frames of an earlier one cannot pass."""
    position: int
    """Physical: bytes of frames since the log began. A misplaced frame cannot pass."""
    offset: int
    prev_offset: int
    schema_id: int
    group_position: int
    """Position of the group's first frame."""
    group_bytes: int
    """Length of the whole group."""
    stamp_ns: int
    durable_upto: int
    """Everything below it was known synced when this frame was built: separates torn from corrupt."""
    event_time_ns_min: int
    event_time_ns_max: int
    sequence: int
    """Of the producer; in the last frame, else 0."""
    partition: int
    rows: int
    group_index: int
    group_count: int
    body_bytes: int
    body_crc: int
    chain: int
    """header_crc of the frame before, so that a hole or a mixture of two attempts is seen."""
    producer: str = ""
    producer_position: bytes = b""
    header_bytes: int = 0
    header_crc: int = 0

    @property
    def end(self) -> int:
        """Position behind this frame."""
        return self.position + self.header_bytes + padded(self.body_bytes)

    @property
    def last(self) -> bool:
        """Last of its group."""
        return self.group_index == self.group_count - 1


def padded(size: int) -> int:
    """`size` rounded up to a multiple of 8."""
    return (size + 7) & ~7


def padding(size: int) -> bytes:
    """The zeros behind `size` bytes."""
    return _PADDING[-size & 7]


def header_size(producer: bytes, position: bytes) -> int:
    """Length of a header that carries these (empty ones but in the last frame of a group)."""
    return padded(FIXED_BYTES + len(producer) + len(position))


def body_checksum(body: bytes) -> int:
    """CRC32C over the body and its padding."""
    return crc32c_more(crc32c(body), padding(len(body)))


def pack_header(header: FrameHeader) -> tuple[bytes, int]:
    """The header's bytes and its checksum; `header_bytes` and `header_crc` of the argument are not looked at."""
    producer = header.producer.encode()
    tail = producer + header.producer_position
    size = padded(FIXED_BYTES + len(tail))
    fixed = _FIXED.pack(MAGIC, 0, size, HEADER_VERSION, 0, *header[:20], len(producer), len(header.producer_position))
    rest = fixed[_CRC_FROM:] + tail + padding(FIXED_BYTES + len(tail))
    crc = crc32c(rest)
    return MAGIC + crc.to_bytes(4, "little") + rest, crc


def unpack_header(buffer: bytes, at: int) -> FrameHeader | None:
    """The header at `buffer[at:]`, None if it does not check or promises more than the format allows.

    `buffer` must hold HEADER_BYTES_MAX bytes from `at`, or all there are.
    """
    if len(buffer) - at < FIXED_BYTES or buffer[at : at + 4] != MAGIC:
        return None
    _, crc, size, version, _, *fields, name_bytes, position_bytes = _FIXED.unpack_from(buffer, at)
    if version != HEADER_VERSION or not FIXED_BYTES <= size <= HEADER_BYTES_MAX or len(buffer) - at < size:
        return None
    if crc32c(buffer[at + _CRC_FROM : at + size]) != crc:
        return None
    name_end = at + FIXED_BYTES + name_bytes
    position_end = name_end + position_bytes
    if position_end > at + size:
        return None
    producer = buffer[at + FIXED_BYTES : name_end].decode() if name_bytes else ""
    header = FrameHeader._make((*fields, producer, buffer[name_end:position_end], size, crc))
    return header if _within_limits(header) else None


def _within_limits(header: FrameHeader) -> bool:
    return (
        header.body_bytes <= BODY_BYTES_MAX
        and header.group_bytes <= GROUP_WIRE_MAX
        and 0 < header.group_count <= FRAMES_MAX
        and header.group_index < header.group_count
    )
