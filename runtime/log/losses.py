"""What was in bytes that do not check any more, and a copy of them for a person to look at."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import attrs

from runtime.disk_port import Disk, File
from runtime.log.frame import FrameHeader
from runtime.log.scan import Gap, Span, Walker, read_around
from runtime.log.segment import HEADER_BYTES, Segment
from runtime.log.types import Frame, Group, ProducerState

QUARANTINE = "quarantine"
MISSING_END = "the end of the log is missing"
"""Why a range is lost that no file holds."""
LOST = "lost"
"""Kind of the frames that a consumer gets in the place of lost ones: no rows, so offsets go on and nobody stumbles."""

LOST_NEW_MAX = 3
"""A producer nobody saw before the damage is taken for one that began in it when its sequence is no higher than this:
otherwise its beginning was trimmed, or lies further back than was looked."""


@attrs.frozen(kw_only=True)
class LostFrame:
    """A frame whose rows are gone, or a run of frames of which nothing else is known."""

    partition: int
    offset: int
    count: int = 1
    """Offsets [offset, offset + count); where the end of a log is missing, as many as it can have held."""
    kind: str = ""
    """"" = its header is lost as well."""
    rows: int = 0
    event_time_ns_min: int = 0
    event_time_ns_max: int = 0


@attrs.frozen(kw_only=True)
class LostProducer:
    """A producer some of whose groups are gone, and where it stood around them: what it knows tells what they held."""

    name: str
    groups: int
    before: bytes
    """Its position in its last group before the damage."""
    after: bytes
    """In its first group behind it; where there is none, what the log remembers of it."""


@attrs.frozen(kw_only=True)
class Lost:
    """All that can be said of a damaged range."""

    frames: tuple[LostFrame, ...] = ()
    producers: tuple[LostProducer, ...] = ()


def lost_frames(
    walker: Walker, segment: Segment, gap: Gap, end: int, *, around: tuple[Mapping[int, int], Mapping[int, int]]
) -> list[LostFrame]:
    """The frames of `gap`: by those of their headers that check, the others by the offsets around it.

    `walker` walks headers only; `end`: of the segment's frames; `around`: the next offsets at the segment's beginning
    and at its end, as far as somebody knows them.
    """
    named = {(h.partition, h.offset): _named(h) for h in walker.headers(gap.position, min(gap.end, end))}
    before, after = dict(around[0]), around[1]
    for header in _headers(walker, segment.base, gap.position):
        before[header.partition] = header.offset + 1
    first: dict[int, int] = {}
    for header in _headers(walker, gap.end, end):
        first.setdefault(header.partition, header.offset)
    unnamed: list[LostFrame] = []
    for partition, offset in before.items():
        until = first.get(partition, after.get(partition, offset))
        known = sorted(n for p, n in named if p == partition and offset <= n < until)
        for low, high in itertools.pairwise((offset - 1, *known, until)):
            if low + 1 < high:
                unnamed.append(LostFrame(partition=partition, offset=low + 1, count=high - low - 1))
    return sorted((*named.values(), *unnamed), key=lambda frame: (frame.partition, frame.offset))


def lost_producers(
    before: Iterable[FrameHeader],
    after: Iterable[FrameHeader],
    now: Mapping[str, ProducerState],
    *,
    from_zero: bool = False,
) -> list[LostProducer]:
    """Whose sequences have a hole where the damage is. Pure.

    `before`: headers from the damage backwards, `after`: from it onwards, both as far as was looked; `now`: the
    producers as the log knows them; `from_zero`: `before` reaches back to the beginning of the log. Otherwise a
    producer that did not append before the damage, as far as was looked, is not judged.
    """
    last: dict[str, tuple[int, bytes]] = {}
    for header in before:
        if header.last:
            last.setdefault(header.producer, (header.sequence, header.producer_position))
    then: dict[str, tuple[int, bytes, int]] = {}
    for header in after:
        if header.last:
            then.setdefault(header.producer, (header.sequence, header.producer_position, 1))
    for name, state in now.items():
        then.setdefault(name, (state.sequence, state.position, 0))
    found = []
    for name, (sequence, position, own) in then.items():
        was, stood = last.get(name, (0, b"") if from_zero or sequence <= own + LOST_NEW_MAX else (sequence, b""))
        if (groups := sequence - own - was) > 0:
            found.append(LostProducer(name=name, groups=groups, before=stood, after=position))
    return found


def _named(header: FrameHeader) -> LostFrame:
    return LostFrame(
        partition=header.partition,
        offset=header.offset,
        kind=f"{header.schema_id:016x}",
        rows=header.rows,
        event_time_ns_min=header.event_time_ns_min,
        event_time_ns_max=header.event_time_ns_max,
    )


def _headers(walker: Walker, start: int, end: int) -> Iterator[FrameHeader]:
    for item in walker.walk(start, end, chain=None, open_end=False):
        if isinstance(item, Span):
            yield from item.headers


def lost_group(log_id: str, gap: Gap, lost: Sequence[LostFrame]) -> Group:
    """What a consumer is told: these offsets come no more. One frame stands for (`prev_offset`, `offset`]."""
    frames = tuple(
        Frame(
            partition=frame.partition,
            offset=frame.offset + frame.count - 1,
            prev_offset=frame.offset - 1,
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
    data = read_around(file, gap.end - gap.position, HEADER_BYTES + gap.position - segment.base).rstrip(b"\0")
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
