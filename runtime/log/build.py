"""Drafts into frames: what the writer assigns (offsets, positions, stamp, chain), without touching a disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import attrs

from runtime.errors import InvariantViolation
from runtime.log.frame import (
    FIXED_BYTES,
    FRAMES_MAX,
    PRODUCER_BYTES_MAX,
    body_checksum,
    header_size,
    pack_fields,
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
_PLAIN_BYTES = padded(FIXED_BYTES)
"""Header of every frame but a group's last."""


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
    size = (len(draft.frames) - 1) * _PLAIN_BYTES + header_size(draft.producer.encode(), draft.producer_position)
    for frame in draft.frames:
        size += (len(frame.body) + 7) & ~7
    return size


class _Placed(NamedTuple):
    """A frame of the write in the making."""

    frame: FrameDraft
    offset: int
    prev_offset: int
    schema_id: int


@attrs.define(kw_only=True)
class Builder:
    """One write in the making: frames behind `positions`, which is not changed before the sync returned.

    `add` does only what the write needs; `groups` and `settle` come while the disk works.
    """

    positions: Positions
    schemas: Schemas
    epoch: int
    log_low: int
    wall_ns: Callable[[], int]
    buffers: list[bytes] = attrs.field(factory=list)
    at: int = attrs.field(init=False)
    _stamp_ns: int = attrs.field(init=False)
    _chain: int = attrs.field(init=False)
    _offsets: list[int] = attrs.field(init=False)
    _last_of_kind: dict[tuple[int, str], int] = attrs.field(factory=dict)
    _made: list[tuple[GroupDraft, Appended, list[_Placed]]] = attrs.field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.at = self.positions.position
        self._stamp_ns = self.positions.stamp_ns
        self._chain = self.positions.chain
        self._offsets = list(self.positions.offsets)

    def add(self, draft: GroupDraft, size: int) -> Appended:
        """The group of one draft, behind those before it; `size` = `wire_size(draft)`."""
        start = self.at
        self._stamp_ns = max(self._stamp_ns + 1, self.wall_ns())
        frames = draft.frames
        placed = [self._place(draft, frames[index], index, start, size) for index in range(len(frames))]
        if self.at != start + size:
            raise InvariantViolation(f"group of {self.at - start} bytes, expected {size}")
        appended = Appended(position=start, end_position=self.at, stamp_ns=self._stamp_ns, duplicate=False)
        self._made.append((draft, appended, placed))
        return appended

    def groups(self) -> list[Group]:
        """What was added, as consumers see it."""
        log_id, schemas = self.positions.log_id, self.schemas
        return [
            Group(
                log_id=log_id,
                position=appended.position,
                end_position=appended.end_position,
                stamp_ns=appended.stamp_ns,
                producer=draft.producer,
                sequence=draft.sequence,
                producer_position=draft.producer_position,
                frames=tuple(_durable(frame, index, schemas) for index, frame in enumerate(placed)),
            )
            for draft, appended, placed in self._made
        ]

    def settle(self) -> None:
        """After the sync: the new state becomes the log's. `position` last, since readers look at it unlocked."""
        positions = self.positions
        for draft, _, placed in self._made:
            for frame in placed:
                kind = frame.frame.kind
                positions.rows[kind] = positions.rows.get(kind, 0) + frame.frame.rows
            positions.producers[draft.producer] = ProducerState(
                sequence=draft.sequence, position=draft.producer_position
            )
        positions.last_of_kind.update(self._last_of_kind)
        positions.offsets = self._offsets
        positions.stamp_ns = self._stamp_ns
        positions.chain = self._chain
        positions.groups += len(self._made)
        positions.position = self.at

    def _place(self, draft: GroupDraft, frame: FrameDraft, index: int, group: int, group_bytes: int) -> _Placed:
        """One frame into `buffers`: header, body, padding."""
        partition, body = frame.partition, frame.body
        key = (partition, frame.kind)
        before = self._last_of_kind.get(key)
        if before is None:
            before = self.positions.last_of_kind.get(key, -1)
        offset = self._offsets[partition]
        schema_id = self.schemas.id_of(frame.kind)
        count, size = len(draft.frames), len(body)
        last = index == count - 1
        fields = (  # in the order of FrameHeader
            *(self.log_low, self.epoch, self.at, offset, before, schema_id, group, group_bytes, self._stamp_ns),
            *(self.positions.position, frame.event_time_ns_min, frame.event_time_ns_max),
            *(draft.sequence if last else 0, partition, frame.rows, index, count, size),
            *(body_checksum(body), self._chain),
        )
        if last:
            packed, self._chain = pack_fields(fields, draft.producer.encode(), draft.producer_position)
        else:
            packed, self._chain = pack_fields(fields, b"", b"")
        self.buffers += (packed, body, padding(size)) if size & 7 else (packed, body)
        self._offsets[partition] = offset + 1
        self._last_of_kind[key] = offset
        self.at += len(packed) + padded(size)
        return _Placed(frame, offset, before, schema_id)


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


def _durable(placed: _Placed, index: int, schemas: Schemas) -> Frame:
    frame = placed.frame
    return Frame(
        partition=frame.partition,
        offset=placed.offset,
        prev_offset=placed.prev_offset,
        kind=frame.kind,
        schema=schemas.of(placed.schema_id).message,
        body=frame.body,
        rows=frame.rows,
        event_time_ns_min=frame.event_time_ns_min,
        event_time_ns_max=frame.event_time_ns_max,
        group_index=index,
    )
