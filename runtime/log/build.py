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
    Group,
    GroupDraft,
    ProducerState,
)

DUPLICATE = Appended(position=-1, end_position=-1, stamp_ns=-1, duplicate=True)
_NOBODY = ProducerState()
_PLAIN_BYTES = padded(FIXED_BYTES)
"""Header of every frame but a group's last."""


def weigh(draft: GroupDraft, *, partitions_total: int, schemas: Schemas) -> int:
    """Bytes its group takes in a segment. Raises InvariantViolation for a draft that breaks a limit.

    One pass over the frames, since it is in the way of every commit; what exactly is wrong says `check_draft`.
    """
    kinds = schemas.current
    bodies = wire = 0
    fine = True
    for frame in draft.frames:
        size = len(frame.body)
        bodies += size
        wire += (size + 7) & ~7
        fine = fine and size <= BODY_BYTES_MAX and 0 <= frame.partition < partitions_total and frame.kind in kinds
    name, position, count = len(draft.producer.encode()), len(draft.producer_position), len(draft.frames)
    fine = fine and 0 < name <= PRODUCER_BYTES_MAX and position <= POSITION_BYTES_MAX
    if not fine or not 0 < count <= FRAMES_MAX or bodies > GROUP_BYTES_MAX:
        check_draft(draft, partitions_total=partitions_total, schemas=schemas)
        raise InvariantViolation(f"producer {draft.producer}: a limit is broken that no rule names")
    return wire + (count - 1) * _PLAIN_BYTES + ((FIXED_BYTES + name + position + 7) & ~7)


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
            before = producers.get(draft.producer, _NOBODY).sequence
        if draft.sequence > before + 1:
            raise InvariantViolation(f"producer {draft.producer}: sequence {draft.sequence} after {before}")
        known.append(draft.sequence <= before)
        last[draft.producer] = max(before, draft.sequence)
    return known


class _Made(NamedTuple):
    """A group of the write in the making."""

    draft: GroupDraft
    position: int
    end_position: int
    stamp_ns: int
    offsets: list[tuple[int, int]]
    """Per frame: its own, and that of the frame of its kind before it."""


@attrs.define(kw_only=True)
class Builder:
    """One write in the making: frames behind `positions`, which stay as they are.

    `add` does only what the write needs; the rest is asked for while the disk works.
    """

    positions: Positions
    schemas: Schemas
    epoch: int
    log_low: int
    wall_ns: Callable[[], int]
    at: int
    """Where the next group goes; `positions.position` at first."""
    buffers: list[bytes] = attrs.field(factory=list)
    _last_of_kind: dict[tuple[int, str], int] = attrs.field(factory=dict)
    _made: list[_Made] = attrs.field(factory=list)
    _stamp_ns: int = attrs.field(init=False)
    _chain: int = attrs.field(init=False)
    _offsets: list[int] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._stamp_ns = self.positions.stamp_ns
        self._chain = self.positions.chain
        self._offsets = self.positions.offsets.copy()

    def add(self, draft: GroupDraft, size: int) -> None:
        """The group of one draft, behind those before it; `size` = `weigh(draft)`.

        Long, and without helpers: all of it comes before the write, where nothing hides it.
        """
        positions, buffers, next_offsets, newest = self.positions, self.buffers, self._offsets, self._last_of_kind
        frames, kinds = draft.frames, self.schemas.current
        count, start, chain = len(frames), self.at, self._chain
        self._stamp_ns = stamp_ns = max(self._stamp_ns + 1, self.wall_ns())
        at, sequence, producer, position = start, 0, b"", b""
        offsets: list[tuple[int, int]] = []
        for index, frame in enumerate(frames):
            if index == count - 1:
                sequence, producer, position = draft.sequence, draft.producer.encode(), draft.producer_position
            partition, body = frame.partition, frame.body
            length = len(body)
            key = (partition, frame.kind)
            offset = next_offsets[partition]
            before = newest[key] if key in newest else positions.last_of_kind.get(key, -1)
            fields = (  # the first 20 of FrameHeader, in its order
                self.log_low, self.epoch, at, offset, before, kinds[frame.kind], start, size, stamp_ns,
                positions.position, frame.event_time_ns_min, frame.event_time_ns_max, sequence, partition,
                frame.rows, index, count, length, body_checksum(body), chain,
            )  # fmt: skip
            packed, chain = pack_fields(fields, producer, position)
            buffers += (packed, body, padding(length)) if length & 7 else (packed, body)
            next_offsets[partition] = offset + 1
            newest[key] = offset
            offsets.append((offset, before))
            at += len(packed) + ((length + 7) & ~7)
        if at != start + size:
            raise InvariantViolation(f"group of {at - start} bytes, expected {size}")
        self.at, self._chain = at, chain
        self._made.append(_Made(draft, start, at, stamp_ns, offsets))

    def answers(self) -> list[Appended]:
        """One per group that was added; true once the sync returned."""
        return [
            Appended(position=made.position, end_position=made.end_position, stamp_ns=made.stamp_ns, duplicate=False)
            for made in self._made
        ]

    def groups(self) -> list[Group]:
        """What was added, as consumers see it."""
        log_id, schemas = self.positions.log_id, self.schemas
        return [
            Group(
                log_id=log_id,
                position=made.position,
                end_position=made.end_position,
                stamp_ns=made.stamp_ns,
                producer=made.draft.producer,
                sequence=made.draft.sequence,
                producer_position=made.draft.producer_position,
                frames=_durable(made, schemas),
            )
            for made in self._made
        ]

    def behind(self) -> Positions:
        """The state behind what was added; true once the sync returned."""
        before = self.positions
        rows, producers = dict(before.rows), dict(before.producers)
        for draft, _, _, _, _ in self._made:
            for frame in draft.frames:
                rows[frame.kind] = rows.get(frame.kind, 0) + frame.rows
            producers[draft.producer] = ProducerState(sequence=draft.sequence, position=draft.producer_position)
        return Positions(
            log_id=before.log_id,
            offsets=self._offsets,
            position=self.at,
            chain=self._chain,
            stamp_ns=self._stamp_ns,
            groups=before.groups + len(self._made),
            last_of_kind=before.last_of_kind | self._last_of_kind,
            producers=producers,
            rows=rows,
        )


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

    def first_offsets(self) -> dict[int, int]:
        """Partition -> offset of the first frame carried."""
        first: dict[int, int] = {}
        for header in (header for span in self.spans for header in span.headers):
            first.setdefault(header.partition, header.offset)
        return first


def _durable(made: _Made, schemas: Schemas) -> tuple[Frame, ...]:
    return tuple(
        Frame(
            partition=frame.partition,
            offset=offset,
            prev_offset=before,
            kind=frame.kind,
            schema=schemas.by_id[schemas.current[frame.kind]].message,
            body=frame.body,
            rows=frame.rows,
            event_time_ns_min=frame.event_time_ns_min,
            event_time_ns_max=frame.event_time_ns_max,
            group_index=index,
        )
        for index, (frame, (offset, before)) in enumerate(zip(made.draft.frames, made.offsets, strict=True))
    )
