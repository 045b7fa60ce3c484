"""What was in bytes that do not check any more, and a copy of them for a person to look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import attrs

from runtime.disk_port import Disk, File
from runtime.log.scan import Gap, Span, Walker
from runtime.log.segment import HEADER_BYTES, Segment
from runtime.log.types import Frame, Group

QUARANTINE = "quarantine"
LOST = "lost"
"""Kind of the frames that a consumer gets in the place of lost ones: no rows, so offsets go on and nobody stumbles."""


@attrs.frozen(kw_only=True)
class LostFrame:
    """One frame whose rows are gone."""

    partition: int
    offset: int
    kind: str = ""
    """"" = its header is lost as well."""
    rows: int = 0
    event_time_ns_min: int = 0
    event_time_ns_max: int = 0


def lost_frames(walker: Walker, segment: Segment, gap: Gap, end: int, after: Sequence[int] | None) -> list[LostFrame]:
    """The frames of `gap`, by their headers where only bodies are rotten, else by the offsets around it.

    `walker` walks headers only; `end`: of the segment's frames; `after`: the next offsets there, if known.
    """
    inside = list(walker.walk(gap.position, gap.end, chain=None, open_end=False))
    if all(isinstance(item, Span) for item in inside):
        return [
            LostFrame(
                partition=header.partition,
                offset=header.offset,
                kind=f"{header.schema_id:016x}",
                rows=header.rows,
                event_time_ns_min=header.event_time_ns_min,
                event_time_ns_max=header.event_time_ns_max,
            )
            for item in inside
            for header in item.headers  # type: ignore[union-attr]
        ]
    if segment.header is None:
        return []
    before = list(segment.header.offsets)
    for item in walker.walk(segment.base, gap.position, chain=None, open_end=False):
        if isinstance(item, Span):
            for header in item.headers:
                before[header.partition] = header.offset + 1
    first: dict[int, int] = {}
    for item in walker.walk(gap.end, end, chain=None, open_end=False):
        if isinstance(item, Span):
            for header in item.headers:
                first.setdefault(header.partition, header.offset)
    found = []
    for partition, offset in enumerate(before):
        until = first.get(partition, after[partition] if after is not None else offset)
        found += [LostFrame(partition=partition, offset=n) for n in range(offset, until)]
    return found


def lost_group(log_id: str, gap: Gap, lost: Sequence[LostFrame]) -> Group:
    """What a consumer is told: these offsets come no more."""
    frames = tuple(
        Frame(
            partition=frame.partition,
            offset=frame.offset,
            prev_offset=-1,
            kind=LOST,
            schema=b"",
            body=b"",
            rows=0,
            event_time_ns_min=frame.event_time_ns_min,
            event_time_ns_max=frame.event_time_ns_max,
            group_index=index,
        )
        for index, frame in enumerate(lost)
    )
    return Group(
        log_id=log_id,
        position=gap.position,
        end_position=gap.end,
        stamp_ns=0,
        producer="",
        sequence=0,
        producer_position=b"",
        frames=frames,
    )


def quarantine(disk: Disk, directory: Path, segment: Segment, file: File, gap: Gap, kind: str) -> bool:
    """Keep the bytes, before anything is cut, with a line that says why. False if there is nothing but zeros."""
    data = file.pread(gap.end - gap.position, HEADER_BYTES + gap.position - segment.base).rstrip(b"\0")
    if not data:
        return False
    folder = directory / QUARANTINE
    disk.make_directory(folder)
    name = f"{gap.position:020d}.{kind}"
    if disk.exists(folder / name):
        return True
    disk.write_atomic(folder / name, data)
    line = f"{name} {segment.path.name} [{gap.position}, {gap.end}) {gap.reason}\n".encode()
    index = folder / "index"
    before = disk.read_bytes(index) if disk.exists(index) else b""
    disk.write_atomic(index, before + line)
    return True
