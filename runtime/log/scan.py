"""Walking over the frames of one segment: whole groups, and gaps where bytes do not check.

One routine serves recovery, readers, the index and the tools, so that all agree on what is there.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from functools import partial

import attrs

from runtime.disk_port import File
from runtime.log.checksum import crc32c, crc32c_more
from runtime.log.frame import (
    FIXED_BYTES,
    HEADER_BYTES_MAX,
    MAGIC,
    FrameHeader,
    padded,
    unpack_header,
)
from runtime.log.segment import HEADER_BYTES, Segment

_RESYNC_CHUNK = 1 << 20
_ZEROS = bytes(_RESYNC_CHUNK)
_PAGE = 4096
_HEADERS_CHUNK = 32 << 10
"""When only headers are wanted: small frames come several at a time, big bodies are skipped."""


@attrs.frozen
class Span:
    """One whole, checked group."""

    headers: tuple[FrameHeader, ...]
    bodies: tuple[bytes, ...]
    """Empty when only headers were walked (then bodies are not checked either)."""

    @property
    def position(self) -> int:
        """Of its first frame."""
        return self.headers[0].position

    @property
    def end(self) -> int:
        """Behind its last frame."""
        return self.headers[-1].end


@attrs.frozen
class Gap:
    """Bytes [position, end) that are no whole, checked group."""

    position: int
    end: int
    reason: str
    durable_upto: int
    """Highest one of the valid headers inside."""


class Source:
    """Positions of one segment as bytes, read in chunks.

    `lenient`: what the disk cannot read (EIO) is zeros, so that it does not check and is stepped over like rot. Never
    where the end of the log is looked for: zeros end it.
    """

    def __init__(self, file: File, base: int, *, chunk: int, lenient: bool) -> None:
        self._read = partial(read_around, file) if lenient else file.pread
        self._base = base
        self._chunk = chunk
        self._start = 0
        self._buffer = b""

    def fetch(self, position: int, size: int) -> tuple[bytes, int]:
        """(buffer, index): `size` bytes from `position` at buffer[index:], fewer only at the end of the file."""
        at = position - self._start
        if at < 0 or at + size > len(self._buffer):
            self._buffer = self._read(max(size, self._chunk), HEADER_BYTES + position - self._base)
            self._start = position
            at = 0
        return self._buffer, at


class Walker:
    """Walks one segment. `epoch` None accepts any (segment header lost). `lenient`: see Source."""

    def __init__(  # noqa: PLR0913
        self,
        file: File,
        base: int,
        *,
        log_low: int,
        epoch: int | None,
        bodies: bool,
        chunk: int = 1 << 20,
        lenient: bool = False,
    ) -> None:
        self._source = Source(file, base, chunk=chunk if bodies else _HEADERS_CHUNK, lenient=lenient)
        self._log_low = log_low
        self._epoch = epoch
        self._bodies = bodies

    def walk(self, start: int, limit: int, *, chain: int | None, open_end: bool) -> Iterator[Span | Gap]:
        """Groups and gaps of [start, limit), in order, without holes between them.

        `chain` is the header_crc before `start`, None if unknown. `open_end`: the segment may end in preallocated
        zeros (it was being written): they end the walk. In a sealed one they are a gap.
        """
        at = start
        while at < limit:
            found = self._group(at, limit, chain)
            if isinstance(found, Span):
                yield found
                at, chain = found.end, found.headers[-1].header_crc
                continue
            if open_end and self._zeros(at, limit):
                return
            gap = self._resync(at, limit, found)
            yield gap
            at, chain = gap.end, None

    def headers(self, start: int, end: int) -> Iterator[FrameHeader]:
        """Every header of [start, end) that checks, whatever is around it. `start` is any multiple of 8."""
        at = start
        while (at := self._find_magic(at, end)) < end:
            header = self._header(at, end)
            if header is not None:
                yield header
            at += 8

    def next_of(self, partition: int, start: int, limit: int) -> tuple[int, int] | None:
        """(position of its group, offset) of the first frame of `partition` in a group that begins in [start, limit).

        `start` is any multiple of 8, not a border.
        """
        gap = self._resync(start - 8, limit, "")
        if gap.end >= limit:
            return None
        for group in self.walk(gap.end, limit, chain=None, open_end=False):
            if isinstance(group, Span):
                for header in group.headers:
                    if header.partition == partition:
                        return group.position, header.offset
        return None

    def _header(self, position: int, limit: int) -> FrameHeader | None:
        buffer, at = self._source.fetch(position, min(HEADER_BYTES_MAX, limit - position))
        header = unpack_header(buffer, at)
        if header is None or header.position != position or header.log_low != self._log_low:
            return None
        return header if self._epoch is None or header.epoch == self._epoch else None

    def _group(self, position: int, limit: int, chain: int | None) -> Span | str:
        """The group that begins at `position`, or why there is none."""
        first = self._header(position, limit)
        if first is None:
            return "header does not check"
        if first.group_index != 0 or first.group_position != position:
            return "the group's first frame is missing"
        if position + first.group_bytes > limit:
            return "group is incomplete"
        if self._bodies:
            self._source.fetch(position, first.group_bytes)  # one read for the whole group
        headers: list[FrameHeader] = []
        bodies: list[bytes] = []
        at = position
        for index in range(first.group_count):
            header = first if index == 0 else self._header(at, limit)
            if header is None or (reason := _misfit(header, first, index, chain)):
                return reason if header else "header does not check"
            if self._bodies:
                body = self._body(header)
                if body is None:
                    return "body does not check"
                bodies.append(body)
            headers.append(header)
            chain, at = header.header_crc, header.end
        if at != position + first.group_bytes:
            return "group has another length than it says"
        return Span(tuple(headers), tuple(bodies))

    def _body(self, header: FrameHeader) -> bytes | None:
        start = header.position + header.header_bytes
        size = padded(header.body_bytes)
        buffer, at = self._source.fetch(start, size)
        if len(buffer) - at < size:
            return None
        body = buffer[at : at + header.body_bytes]
        crc = crc32c_more(crc32c(body), buffer[at + header.body_bytes : at + size])
        return body if crc == header.body_crc else None

    def _zeros(self, position: int, limit: int) -> bool:
        while position < limit:
            size = min(_RESYNC_CHUNK, limit - position)
            buffer, at = self._source.fetch(position, size)
            part = buffer[at : at + size]
            if not part:
                return True
            if part != _ZEROS[: len(part)]:
                return False
            position += len(part)
        return True

    def _resync(self, position: int, limit: int, reason: str) -> Gap:
        """From a bad group to the next good one, by magic, header checksum and the position the header must name."""
        durable_upto = 0
        first = self._header(position, limit)
        if first is not None:
            durable_upto = first.durable_upto
        at = position + 8
        while at < limit:
            at = self._find_magic(at, limit)
            if at >= limit:
                break
            header = self._header(at, limit)
            if header is not None:
                durable_upto = max(durable_upto, header.durable_upto)
                if header.group_index == 0 and isinstance(self._group(at, limit, None), Span):
                    return Gap(position, at, reason, durable_upto)
            at += 8
        return Gap(position, limit, reason, durable_upto)

    def _find_magic(self, position: int, limit: int) -> int:
        """Next position divisible by 8 where MAGIC stands, or `limit`."""
        while position + FIXED_BYTES <= limit:
            size = min(_RESYNC_CHUNK, limit - position)
            buffer, start = self._source.fetch(position, size)
            part = buffer[start : start + size]
            at = part.find(MAGIC)
            while at >= 0 and at % 8:
                at = part.find(MAGIC, at + 1)
            if at >= 0:
                return position + at
            if len(part) < size:
                return limit
            position += (size - len(MAGIC)) // 8 * 8 if size > 2 * len(MAGIC) + 8 else size
        return limit


def segment_walker(
    segment: Segment, file: File, log_low: int, *, bodies: bool, chunk: int = 1 << 20, lenient: bool = False
) -> Walker:
    """A walker that accepts frames of the segment's own epoch only."""
    epoch = segment.header.epoch if segment.header is not None else None
    return Walker(file, segment.base, log_low=log_low, epoch=epoch, bodies=bodies, chunk=chunk, lenient=lenient)


def read_around(file: File, size: int, offset: int) -> bytes:
    """As `pread`; a page that cannot be read is zeros. Raises OSError for anything but EIO."""
    try:
        return file.pread(size, offset)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
    found = bytearray()
    while len(found) < size:
        at = offset + len(found)
        wanted = min(size - len(found), _PAGE - at % _PAGE)
        try:
            page = file.pread(wanted, at)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            page = bytes(max(0, min(wanted, file.size() - at)))
        found += page
        if len(page) < wanted:
            break
    return bytes(found)


def _misfit(header: FrameHeader, first: FrameHeader, index: int, chain: int | None) -> str:
    """Why a valid header cannot stand here; "" if it can."""
    if chain is not None and header.chain != chain:
        return "chain is broken"
    same = (
        header.group_index == index
        and header.group_position == first.position
        and header.group_count == first.group_count
        and header.group_bytes == first.group_bytes
        and header.stamp_ns == first.stamp_ns
    )
    return "" if same else "frames of another group in the middle"
