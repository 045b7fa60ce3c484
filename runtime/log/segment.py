"""The segment file: a 4 KiB header, then frames. Named by the position of its first frame, 20 digits.

A segment is written by one incarnation of the writer only and never appended to after a restart, so every frame in
it carries the epoch of its header. It is created complete (header, preallocation, fsync) under a temporary name and
then renamed, so a file with a final name always had a valid header.
"""

from __future__ import annotations

import contextlib
import errno
import struct
from collections.abc import Sequence
from pathlib import Path

import attrs

from runtime.disk_port import Disk, File, write_fully
from runtime.errors import ConfigError
from runtime.log.checksum import crc32c

HEADER_BYTES = 4096
FORMAT_VERSION = 1
PARTITIONS_MAX = 128
"""Live partitions; twice as many offsets must fit into the header."""
_MAGIC = b"HFseg\r\n\x1a"
_FIXED = struct.Struct("<8sIHHI16sQQQQIq")
_CRC_AT = 8
_SUFFIX = ".seg"
UNFINISHED = ".seg.new"
"""End of the name of a file that is not a segment yet."""


@attrs.frozen(kw_only=True)
class SegmentHeader:
    """What a segment knows of itself and of the state of the log at its beginning."""

    log_id: str
    epoch: int
    base: int
    """Physical position of its first frame."""
    prev_base: int
    """Base of the segment before; equal to `base` for the first one."""
    prev_end: int
    """Where the segment before ended; less than `base` only behind a named loss."""
    chain: int
    """header_crc of the last frame before, 0 if none."""
    created_ns: int
    offsets: tuple[int, ...]
    """Next offset per partition, 2n of them: finds (partition, offset) without reading older segments."""


@attrs.frozen(kw_only=True)
class Segment:
    """One file of the log as the catalog lists it."""

    path: Path
    base: int
    header: SegmentHeader | None
    """None: the header does not check; the frames still carry all that reading needs."""


def segment_name(base: int) -> str:
    """`00000000000000000042.seg`."""
    return f"{base:020d}{_SUFFIX}"


def segment_base(name: str) -> int | None:
    """The inverse of `segment_name`; None for other files."""
    stem = name.removesuffix(_SUFFIX)
    return int(stem) if name.endswith(_SUFFIX) and len(stem) == 20 and stem.isdecimal() else None


def pack_segment_header(header: SegmentHeader) -> bytes:
    """4 KiB, its checksum over all of them."""
    fixed = _FIXED.pack(
        _MAGIC,
        0,
        FORMAT_VERSION,
        0,
        len(header.offsets),
        bytes.fromhex(header.log_id),
        header.epoch,
        header.base,
        header.prev_base,
        header.prev_end,
        header.chain,
        header.created_ns,
    )
    page = fixed + struct.pack(f"<{len(header.offsets)}Q", *header.offsets)
    page += bytes(HEADER_BYTES - len(page))
    return page[:_CRC_AT] + _page_crc(page).to_bytes(4, "little") + page[_CRC_AT + 4 :]


def unpack_segment_header(page: bytes) -> SegmentHeader | None:
    """None if it does not check. Raises ConfigError for a newer format."""
    if len(page) < HEADER_BYTES or page[: len(_MAGIC)] != _MAGIC:
        return None
    _, crc, version, _, count, log_id, epoch, base, prev_base, prev_end, chain, created = _FIXED.unpack_from(page)
    if _page_crc(page[:HEADER_BYTES]) != crc or count > 2 * PARTITIONS_MAX:
        return None
    if version > FORMAT_VERSION:
        raise ConfigError(
            f"log segment of format {version}; this program knows up to {FORMAT_VERSION}: use a newer one"
        )
    return SegmentHeader(
        log_id=log_id.hex(),
        epoch=epoch,
        base=base,
        prev_base=prev_base,
        prev_end=prev_end,
        chain=chain,
        created_ns=created,
        offsets=struct.unpack_from(f"<{count}Q", page, _FIXED.size),
    )


def _page_crc(page: bytes) -> int:
    return crc32c(page[:_CRC_AT] + page[_CRC_AT + 4 :])


def create_segment(
    disk: Disk, directory: Path, header: SegmentHeader, *, size: int, frames: Sequence[bytes] = ()
) -> tuple[Segment, File]:
    """A synced, preallocated segment that begins with `frames`, and its handle for writing. Its name is not safe yet.

    Raises OSError; a half-made one has no final name.
    """
    temporary = directory / f"{header.base:020d}{UNFINISHED}"
    file = disk.open(temporary, write=True, create=True)
    try:
        file.truncate(0)
        file.allocate(size)
    except OSError:
        file.close()
        with contextlib.suppress(OSError):
            disk.unlink(temporary)  # on a full disk its space is needed
        raise
    return finish_segment(disk, temporary, file, header, frames=frames), file


def finish_segment(
    disk: Disk, unfinished: Path, file: File, header: SegmentHeader, *, frames: Sequence[bytes] = ()
) -> Segment:
    """Make a segment of an allocated file: header, `frames`, sync, and only then its name.

    The directory must be synced next. Raises OSError; then it has no final name (POSIX: a rename that fails changes
    nothing, but for EIO).
    """
    path = unfinished.parent / segment_name(header.base)
    try:
        write_fully(file, [pack_segment_header(header), *frames], 0)
        file.sync()
        disk.rename(unfinished, path)
    except OSError:
        file.close()
        with contextlib.suppress(OSError):
            disk.unlink(unfinished)
        raise
    return Segment(path=path, base=header.base, header=header)


def load_segment(disk: Disk, path: Path, base: int, *, sealed: bool = False) -> Segment:
    """A segment as found on disk; the header of a sealed one may be unreadable. Raises ConfigError (newer), OSError."""
    file = disk.open(path)
    try:
        header = unpack_segment_header(file.pread(HEADER_BYTES, 0))
    except OSError as error:
        if not sealed or error.errno != errno.EIO:
            raise
        header = None
    finally:
        file.close()
    return Segment(path=path, base=base, header=header)
