"""Drafts into frames: what the writer assigns (offsets, positions, stamp, chain), without touching a disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import attrs

from runtime.errors import InvariantViolation
from runtime.log.frame import pack_fields, pack_header, padding
from runtime.log.positions import Positions
from runtime.log.scan import Span
from runtime.log.schemas import Schemas
from runtime.log.types import Appended, Frame, Group, GroupDraft, ProducerState

DUPLICATE = Appended(position=-1, end_position=-1, stamp_ns=-1, duplicate=True)
_NOBODY = ProducerState()


def sort_out_duplicates(drafts: Sequence[GroupDraft], producers: dict[str, ProducerState]) -> list[bool]:
    """Per draft: already durable, or earlier in this batch? Raises InvariantViolation for a gap in a sequence."""
    last: dict[str, int] = {}
    known = []
    for draft in drafts:
        producer, sequence = draft.producer, draft.sequence
        before = last[producer] if producer in last else producers.get(producer, _NOBODY).sequence
        if sequence > before + 1:
            raise InvariantViolation(f"producer {producer}: sequence {sequence} after {before}")
        known.append(sequence <= before)
        last[producer] = max(before, sequence)
    return known


def check_places(drafts: Sequence[GroupDraft], *, partitions_total: int, schemas: Schemas) -> None:
    """Raises InvariantViolation for a partition or a kind that this log does not have: the producer's bug."""
    kinds = schemas.current
    for draft in drafts:
        for frame in draft.frames:
            if frame.partition >= partitions_total:
                raise InvariantViolation(
                    f"producer {draft.producer}, sequence {draft.sequence}: "
                    f"partition {frame.partition} is not below {partitions_total}"
                )
            if frame.kind not in kinds:
                schemas.id_of(frame.kind)


class _Made(NamedTuple):
    """A group of the write in the making."""

    draft: GroupDraft
    position: int
    end_position: int
    stamp_ns: int
    offsets: list[tuple[int, int]]
    """Per frame: its own, and that of the frame of its kind before it."""


@attrs.define
class Write:
    """Groups that were framed behind `before`, which stays as it is until `settle`."""

    before: Positions
    made: list[_Made]
    buffers: list[bytes]
    position: int
    """Behind the last group."""
    chain: int
    stamp_ns: int
    offsets: list[int]
    last_of_kind: dict[tuple[int, str], int]

    def answers(self) -> list[Appended]:
        """One per group; true once the sync returned."""
        return [
            Appended(position=start, end_position=end, stamp_ns=stamp_ns, duplicate=False)
            for _, start, end, stamp_ns, _ in self.made
        ]

    def groups(self, schemas: Schemas) -> list[Group]:
        """As consumers see them."""
        log_id, by_id, current = self.before.log_id, schemas.by_id, schemas.current
        return [
            Group(
                log_id=log_id,
                position=start,
                end_position=end,
                stamp_ns=stamp_ns,
                producer=draft.producer,
                sequence=draft.sequence,
                producer_position=draft.producer_position,
                frames=tuple(
                    [
                        Frame(
                            partition=frame.partition,
                            offset=placed[0],
                            prev_offset=placed[1],
                            kind=frame.kind,
                            schema=by_id[current[frame.kind]].message,
                            body=frame.body,
                            rows=frame.rows,
                            event_time_ns_min=frame.event_time_ns_min,
                            event_time_ns_max=frame.event_time_ns_max,
                            group_index=index,
                        )
                        for index, (frame, placed) in enumerate(zip(draft.frames, offsets, strict=True))
                    ]
                ),
            )
            for draft, start, end, stamp_ns, offsets in self.made
        ]

    def behind(self) -> Callable[[], Positions]:
        """What settles the state behind the write, to be called once the sync returned. All work is done before it."""
        before = self.before
        rows: dict[str, int] = {}
        producers: dict[str, ProducerState] = {}
        for draft, _, _, _, _ in self.made:
            for frame in draft.frames:
                kind = frame.kind
                rows[kind] = (rows[kind] if kind in rows else before.rows.get(kind, 0)) + frame.rows
            producers[draft.producer] = ProducerState(sequence=draft.sequence, position=draft.producer_position)
        after = Positions(
            log_id=before.log_id,
            offsets=self.offsets,
            position=self.position,
            chain=self.chain,
            stamp_ns=self.stamp_ns,
            groups=before.groups + len(self.made),
            last_of_kind=before.last_of_kind,
            producers=before.producers,
            rows=before.rows,
        )

        def settle() -> Positions:
            after.last_of_kind.update(self.last_of_kind)
            after.producers.update(producers)
            after.rows.update(rows)
            return after

        return settle


def frame_groups(
    drafts: Sequence[GroupDraft],
    positions: Positions,
    *,
    schemas: Schemas,
    epoch: int,
    log_low: int,
    wall_ns: Callable[[], int],
) -> Write:
    """The groups of `drafts`, one behind the other and behind `positions`.

    Long, and without helpers: all of it comes before the write, where nothing hides it.
    """
    buffers: list[bytes] = []
    made: list[_Made] = []
    newest: dict[tuple[int, str], int] = {}
    next_offsets, last_of_kind, kinds = positions.offsets.copy(), positions.last_of_kind, schemas.current
    at = durable = positions.position
    chain, stamp_ns = positions.chain, positions.stamp_ns
    for draft in drafts:
        frames, start, size = draft.frames, at, draft.wire_bytes
        count = len(frames)
        stamp_ns = max(stamp_ns + 1, wall_ns())
        sequence, producer, position = 0, b"", b""
        offsets: list[tuple[int, int]] = []
        for index, frame in enumerate(frames):
            if index == count - 1:
                sequence, producer, position = draft.sequence, draft.producer.encode(), draft.producer_position
            partition, body = frame.partition, frame.body
            length = len(body)
            key = (partition, frame.kind)
            offset = next_offsets[partition]
            before = newest[key] if key in newest else last_of_kind.get(key, -1)
            fields = (  # the first 20 of FrameHeader, in its order
                log_low, epoch, at, offset, before, kinds[frame.kind], start, size, stamp_ns,
                durable, frame.event_time_ns_min, frame.event_time_ns_max, sequence, partition,
                frame.rows, index, count, length, frame.body_crc, chain,
            )  # fmt: skip
            packed, chain = pack_fields(fields, producer, position)
            buffers += (packed, body, padding(length)) if length & 7 else (packed, body)
            next_offsets[partition] = offset + 1
            newest[key] = offset
            offsets.append((offset, before))
            at += len(packed) + ((length + 7) & ~7)
        if at != start + size:
            raise InvariantViolation(f"group of {at - start} bytes, expected {size}")
        made.append(_Made(draft, start, at, stamp_ns, offsets))
    return Write(positions, made, buffers, at, chain, stamp_ns, next_offsets, newest)


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
