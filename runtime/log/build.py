"""Drafts into frames: what the writer assigns (offsets, positions, stamp, chain), without touching a disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs

from runtime.errors import InvariantViolation
from runtime.log.frame import (
    FRAMES_MAX,
    PRODUCER_BYTES_MAX,
    FrameHeader,
    body_checksum,
    header_size,
    pack_header,
    padded,
    padding,
)
from runtime.log.positions import Positions
from runtime.log.scan import Span
from runtime.log.schemas import Schemas
from runtime.log.types import (
    BODY_BYTES_MAX,
    GROUP_BYTES_MAX,
    POSITION_BYTES_MAX,
    Appended,
    Frame,
    FrameDraft,
    Group,
    GroupDraft,
    ProducerState,
)

DUPLICATE = Appended(position=-1, end_position=-1, stamp_ns=-1, duplicate=True)


def check_draft(draft: GroupDraft, *, partitions_total: int, schemas: Schemas) -> None:
    """Raises InvariantViolation for a draft that breaks a limit: the producer's bug, nothing was written."""
    who = f"producer {draft.producer}, sequence {draft.sequence}"
    if not 0 < len(draft.producer.encode()) <= PRODUCER_BYTES_MAX:
        raise InvariantViolation(f"{who}: its name must have 1 to {PRODUCER_BYTES_MAX} bytes")
    if len(draft.producer_position) > POSITION_BYTES_MAX:
        raise InvariantViolation(f"{who}: position of {len(draft.producer_position)} bytes, max {POSITION_BYTES_MAX}")
    if not 0 < len(draft.frames) <= FRAMES_MAX:
        raise InvariantViolation(f"{who}: {len(draft.frames)} frames, allowed are 1 to {FRAMES_MAX}")
    if (size := sum(len(frame.body) for frame in draft.frames)) > GROUP_BYTES_MAX:
        raise InvariantViolation(f"{who}: {size} bytes in one group, max {GROUP_BYTES_MAX}")
    for frame in draft.frames:
        schemas.id_of(frame.kind)
        if len(frame.body) > BODY_BYTES_MAX:
            raise InvariantViolation(f"{who}: a body of {len(frame.body)} bytes, max {BODY_BYTES_MAX}")
        if not 0 <= frame.partition < partitions_total:
            raise InvariantViolation(f"{who}: partition {frame.partition} is not below {partitions_total}")


def sort_out_duplicates(drafts: Sequence[GroupDraft], producers: dict[str, ProducerState]) -> list[bool]:
    """Per draft: already durable, or earlier in this batch? Raises InvariantViolation for a gap in a sequence."""
    last: dict[str, int] = {}
    known = []
    for draft in drafts:
        before = last.get(draft.producer)
        if before is None:
            before = producers.get(draft.producer, ProducerState()).sequence
        if draft.sequence > before + 1:
            raise InvariantViolation(f"producer {draft.producer}: sequence {draft.sequence} after {before}")
        known.append(draft.sequence <= before)
        last[draft.producer] = max(before, draft.sequence)
    return known


def wire_size(draft: GroupDraft) -> int:
    """Bytes its group takes in a segment."""
    plain = header_size(b"", b"")
    bodies = sum(padded(len(frame.body)) for frame in draft.frames)
    last = header_size(draft.producer.encode(), draft.producer_position)
    return bodies + plain * (len(draft.frames) - 1) + last


@attrs.define(kw_only=True)
class Builder:
    """One write in the making: frames behind `positions`, which is not changed before the sync returned."""

    positions: Positions
    schemas: Schemas
    epoch: int
    log_low: int
    wall_ns: Callable[[], int]
    buffers: list[bytes] = attrs.field(factory=list)
    groups: list[Group] = attrs.field(factory=list)
    headers: list[tuple[FrameHeader, str]] = attrs.field(factory=list)
    """(header, kind) of every frame."""
    at: int = attrs.field(init=False)
    stamp_ns: int = attrs.field(init=False)
    _chain: int = attrs.field(init=False)
    _offsets: list[int] = attrs.field(init=False)
    _last_of_kind: dict[tuple[int, str], int] = attrs.field(factory=dict)

    def __attrs_post_init__(self) -> None:
        self.at = self.positions.position
        self.stamp_ns = self.positions.stamp_ns
        self._chain = self.positions.chain
        self._offsets = list(self.positions.offsets)

    def add(self, draft: GroupDraft) -> Appended:
        """The group of one draft, behind those before it."""
        start = self.at
        self.stamp_ns = max(self.stamp_ns + 1, self.wall_ns())
        size = wire_size(draft)
        frames = tuple(self._frame(draft, index, start, size) for index in range(len(draft.frames)))
        group = Group(
            log_id=self.positions.log_id,
            position=start,
            end_position=self.at,
            stamp_ns=self.stamp_ns,
            producer=draft.producer,
            sequence=draft.sequence,
            producer_position=draft.producer_position,
            frames=frames,
        )
        if self.at != start + size:
            raise InvariantViolation(f"group of {self.at - start} bytes, expected {size}")
        self.groups.append(group)
        return Appended(position=start, end_position=self.at, stamp_ns=self.stamp_ns, duplicate=False)

    def settle(self) -> None:
        """After the sync: the new state becomes the log's. `position` last, since readers look at it unlocked."""
        for header, kind in self.headers:
            self.positions.fold_frame(header, kind)
        self.positions.groups += len(self.groups)
        self.positions.position = self.at

    def _frame(self, draft: GroupDraft, index: int, group_position: int, group_bytes: int) -> Frame:
        frame = draft.frames[index]
        header, packed = self._header(draft, index, group_position, group_bytes)
        self.buffers += (packed, frame.body, padding(len(frame.body)))
        self.headers.append((header, frame.kind))
        self._offsets[frame.partition] += 1
        self._last_of_kind[frame.partition, frame.kind] = header.offset
        self._chain = header.header_crc
        self.at = header.end
        return _durable(frame, header, self.schemas)

    def _header(
        self, draft: GroupDraft, index: int, group_position: int, group_bytes: int
    ) -> tuple[FrameHeader, bytes]:
        frame = draft.frames[index]
        last = index == len(draft.frames) - 1
        key = (frame.partition, frame.kind)
        before = self._last_of_kind.get(key)
        if before is None:
            before = self.positions.last_of_kind.get(key, -1)
        header = FrameHeader(
            log_low=self.log_low,
            epoch=self.epoch,
            position=self.at,
            offset=self._offsets[frame.partition],
            prev_offset=before,
            schema_id=self.schemas.id_of(frame.kind),
            group_position=group_position,
            group_bytes=group_bytes,
            stamp_ns=self.stamp_ns,
            durable_upto=self.positions.position,
            event_time_ns_min=frame.event_time_ns_min,
            event_time_ns_max=frame.event_time_ns_max,
            sequence=draft.sequence if last else 0,
            partition=frame.partition,
            rows=frame.rows,
            group_index=index,
            group_count=len(draft.frames),
            body_bytes=len(frame.body),
            body_crc=body_checksum(frame.body),
            chain=self._chain,
            producer=draft.producer if last else "",
            producer_position=draft.producer_position if last else b"",
        )
        packed, crc = pack_header(header)
        return header._replace(header_bytes=len(packed), header_crc=crc), packed


@attrs.define(kw_only=True)
class Carried:
    """Groups of a former epoch, framed anew at the same positions: only epoch, chain and `durable_upto` change."""

    epoch: int
    chain: int
    durable_upto: int
    buffers: list[bytes] = attrs.field(factory=list)
    spans: list[Span] = attrs.field(factory=list)
    size: int = 0

    def add(self, span: Span) -> None:
        """The next group, with bodies."""
        headers = []
        for old, body in zip(span.headers, span.bodies, strict=True):
            header = old._replace(epoch=self.epoch, chain=self.chain, durable_upto=self.durable_upto)
            packed, self.chain = pack_header(header)
            headers.append(header._replace(header_crc=self.chain))
            self.buffers += (packed, body, padding(len(body)))
        self.spans.append(Span(tuple(headers), ()))
        self.size += span.end - span.position


def _durable(frame: FrameDraft, header: FrameHeader, schemas: Schemas) -> Frame:
    return Frame(
        partition=frame.partition,
        offset=header.offset,
        prev_offset=header.prev_offset,
        kind=frame.kind,
        schema=schemas.of(header.schema_id).message,
        body=frame.body,
        rows=frame.rows,
        event_time_ns_min=frame.event_time_ns_min,
        event_time_ns_max=frame.event_time_ns_max,
        group_index=header.group_index,
    )
