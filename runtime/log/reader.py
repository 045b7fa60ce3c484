"""Reading groups back from the files, in physical order. Every body is checked again."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from runtime.disk_port import Disk, File
from runtime.errors import InvariantViolation, LogCorrupt
from runtime.log.index import Catalog
from runtime.log.losses import MISSING_END, lost_frames, lost_group
from runtime.log.scan import Gap, Span
from runtime.log.schemas import Schemas
from runtime.log.segment import Segment
from runtime.log.types import Frame, Group

_CHUNK_MAX = 1 << 20
_SKIP_FACTOR = 4
"""A filtered read gives up (empty-handed, but further on) after so many times `bytes_max`: one call stays bounded."""


def cut_group(group: Group, partitions: frozenset[int] | None) -> Group | None:
    """`group` with the frames of `partitions` only; None if it has none of them."""
    if partitions is None:
        return group
    frames = tuple(frame for frame in group.frames if frame.partition in partitions)
    if not frames:
        return None
    if len(frames) == len(group.frames):
        return group
    return Group(
        log_id=group.log_id,
        position=group.position,
        end_position=group.end_position,
        stamp_ns=group.stamp_ns,
        producer=group.producer,
        sequence=group.sequence,
        producer_position=group.producer_position,
        frames=frames,
    )


def group_bytes(group: Group) -> int:
    """Bytes of its bodies."""
    return sum(len(frame.body) for frame in group.frames)


def make_group(span: Span, log_id: str, schemas: Schemas, partitions: frozenset[int] | None) -> Group | None:
    """A walked group as consumers see it. Raises LogCorrupt if a schema is lost."""
    frames = []
    for header, body in zip(span.headers, span.bodies, strict=True):
        if partitions is None or header.partition in partitions:
            schema = schemas.of(header.schema_id)
            frames.append(
                Frame(
                    partition=header.partition,
                    offset=header.offset,
                    prev_offset=header.prev_offset,
                    kind=schema.kind,
                    schema=schema.message,
                    body=body,
                    rows=header.rows,
                    event_time_ns_min=header.event_time_ns_min,
                    event_time_ns_max=header.event_time_ns_max,
                    group_index=header.group_index,
                )
            )
    if not frames:
        return None
    last = span.headers[-1]
    return Group(
        log_id=log_id,
        position=span.position,
        end_position=span.end,
        stamp_ns=last.stamp_ns,
        producer=last.producer,
        sequence=last.sequence,
        producer_position=last.producer_position,
        frames=tuple(frames),
    )


class Reader:
    """Reads the files for one consumer; used by one thread at a time.

    Between two reads it holds no file open: a trimmed segment that somebody holds gives no space back.
    """

    def __init__(
        self,
        disk: Disk,
        catalog: Catalog,
        schemas: Schemas,
        *,
        log_id: str,
        on_gap: Callable[[Segment, Gap], None],
        tell_losses: bool = False,
    ) -> None:
        self._disk = disk
        self._catalog = catalog
        self._schemas = schemas
        self._log_id = log_id
        self._on_gap = on_gap
        self._tell_losses = tell_losses
        self._file: File | None = None
        self._segment: Segment | None = None

    def read(
        self, position: int, upto: int, *, bytes_max: int, partitions: frozenset[int] | None
    ) -> tuple[list[Group], int]:
        """(groups, position behind the last one looked at): about `bytes_max` of bodies from [position, upto).

        Damaged groups are reported to `on_gap` and stepped over, or (`tell_losses`) stand there as frames of kind
        `lost`, so that a consumer knows that their offsets come no more. May return no group (all filtered out).
        Raises: LogCorrupt (position is not kept any more), InvariantViolation (position is inside a group).
        """
        try:
            return self._read(position, upto, bytes_max, partitions)
        finally:
            self.close()

    def close(self) -> None:
        """Release the handle, as each read does when it ends."""
        if self._file is not None:
            self._file.close()
            self._file = None
            self._segment = None

    def _read(
        self, position: int, upto: int, bytes_max: int, partitions: frozenset[int] | None
    ) -> tuple[list[Group], int]:
        groups: list[Group] = []
        taken = 0
        stop = position + _SKIP_FACTOR * bytes_max
        while taken < bytes_max and position < stop:
            place = self._catalog.find(position, upto)
            if place is None:
                break
            segment, end, after = place
            position = self._check(segment, position, end)
            for span in self._walk(segment, position, min(end, upto), bytes_max):
                if isinstance(span, Gap):
                    if self._catalog.find(span.position, upto) != place:
                        break  # the tail was recovered in place meanwhile: look again where it is now
                    groups += self._gap(segment, span, end, partitions)
                elif group := make_group(span, self._log_id, self._schemas, partitions):
                    groups.append(group)
                    taken += group_bytes(group)
                position = span.end
                if taken >= bytes_max or position >= stop:
                    break
            if position >= end and after is not None:
                if after > end:  # the end of an earlier log was missing
                    groups += self._tell(segment, Gap(end, after, MISSING_END, 0), end, partitions)
                position = after
        return groups, position

    def _check(self, segment: Segment, position: int, end: int) -> int:
        if position < segment.base:
            raise _not_kept(segment, position, segment.base)
        return min(position, end)

    def _walk(self, segment: Segment, start: int, end: int, bytes_max: int) -> Iterator[Span | Gap]:
        if self._file is None or self._segment is not segment:
            self.close()
            self._file = self._open(segment, start)
            self._segment = segment
        chunk = min(_CHUNK_MAX, max(bytes_max, 1 << 16), max(end - start, 1))
        walker = self._catalog.walker(segment, self._file, bodies=True, chunk=chunk)
        return walker.walk(start, end, chain=None, open_end=False)

    def _open(self, segment: Segment, position: int) -> File:
        try:
            return self._disk.open(segment.path)
        except FileNotFoundError:
            if position < self._catalog.start:
                raise _not_kept(segment, position, self._catalog.start) from None
            raise vanished(segment) from None

    def _gap(self, segment: Segment, gap: Gap, end: int, partitions: frozenset[int] | None) -> list[Group]:
        """Damage, unless the caller asked for a position inside a group."""
        assert self._file is not None
        walker = self._catalog.walker(segment, self._file, bodies=False)
        for span in walker.walk(segment.base, gap.end, chain=None, open_end=False):
            if isinstance(span, Span) and span.position < gap.position < span.end:
                raise InvariantViolation(
                    f"position {gap.position} is inside the group [{span.position}, {span.end}), not a group border"
                )
        return self._tell(segment, gap, end, partitions)

    def _tell(self, segment: Segment, gap: Gap, end: int, partitions: frozenset[int] | None) -> list[Group]:
        assert self._file is not None
        self._on_gap(segment, gap)
        if not self._tell_losses:
            return []
        walker = self._catalog.walker(segment, self._file, bodies=False)
        lost = lost_frames(walker, segment, gap, end, around=self._catalog.offsets_around(segment))
        group = cut_group(lost_group(self._log_id, gap, lost), partitions)
        return [group] if group is not None and group.frames else []


def _not_kept(segment: Segment, position: int, start: int) -> LogCorrupt:
    return LogCorrupt(
        f"position {position} is not kept any more, the log begins at {start}",
        segment=segment.path.name,
        position=position,
    )


def vanished(segment: Segment) -> LogCorrupt:
    """For a file that was there when the segments were listed."""
    return LogCorrupt(
        f"{segment.path} was trimmed while it was read, or somebody removed it", segment=segment.path.name
    )
