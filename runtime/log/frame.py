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

MAGIC = b"HFf\x01"
HEADER_VERSION = 1
GROUP_BYTES_MAX = 16 * 1024 * 1024
"""Of the bodies of one group."""
BODY_BYTES_MAX = 900_000
POSITION_BYTES_MAX = 1024
PRODUCER_BYTES_MAX = 256

_REST = struct.Struct("<HHI QQQQqQQQ qQqqQ IIIIIII HH")
"""Everything behind the magic and the header's own checksum."""
_FIXED = struct.Struct(f"<4sI{_REST.format[1:]}")
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
    crc = crc32c(body)
    return crc32c_more(crc, _PADDING[-len(body) & 7]) if len(body) & 7 else crc


def pack_header(header: FrameHeader) -> tuple[bytes, int]:
    """The header's bytes and its checksum; `header_bytes` and `header_crc` of the argument are not looked at."""
    return pack_fields(header[:20], header.producer.encode(), header.producer_position)


def pack_fields(fields: tuple[int, ...], producer: bytes, position: bytes) -> tuple[bytes, int]:
    """`pack_header` for the first 20 fields of a FrameHeader, in their order: the writer's hot path makes no object."""
    tail = producer + position
    size = (FIXED_BYTES + len(tail) + 7) & ~7
    rest = _REST.pack(size, HEADER_VERSION, 0, *fields, len(producer), len(position))
    if tail:
        rest += tail + _PADDING[-(FIXED_BYTES + len(tail)) & 7]
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
