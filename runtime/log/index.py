"""Which segments there are, and where (partition, offset) lies in them. In memory only, never trusted from disk.

Written by the writer's thread and by the upkeep, read by all others: what they look at is replaced as a whole, never
changed in place.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from threading import Lock  # noqa: TID251  (guards memory, is never held over I/O or an await)

import attrs

from runtime.disk_port import Disk, File
from runtime.log.frame import FrameHeader
from runtime.log.scan import Gap, Walker, segment_walker
from runtime.log.segment import Segment

_MARK_BYTES = 1 << 20
"""One mark per so many bytes of a segment: a look-up scans the headers of that much."""
_WALK_GROUPS = 2000
"""A look-up without marks walks so far (and makes some), then bisects: about 20 ms of headers."""


@attrs.frozen
class _Listing:
    segments: tuple[Segment, ...] = ()
    bases: tuple[int, ...] = ()


@attrs.frozen
class _Mark:
    position: int
    offsets: tuple[int, ...]
    """Next offset per partition at `position`."""


@attrs.define
class _Search:
    """For the first frame of a partition at or above an offset."""

    partition: int
    offset: int
    found: int | None = None
    """Position of its group."""
    exact: bool = False
    _gap: int | None = None
    """The first rot behind the last lower offset."""

    def gap(self, position: int) -> None:
        """Something may have been here."""
        if self._gap is None:
            self._gap = position

    def meets(self, header: FrameHeader, group_position: int) -> bool:
        """True: that is it."""
        if header.partition != self.partition:
            return False
        if header.offset < self.offset:
            self._gap = None
            return False
        self.found, self.exact = group_position, header.offset == self.offset
        return True

    def position(self, log_end: int) -> int:
        """Where to read from, once the search has ended."""
        if self._gap is not None and not self.exact:
            return self._gap
        return log_end if self.found is None else self.found


class Catalog:
    """The segments of one log, and sparse marks into them."""

    def __init__(self, disk: Disk, log_low: int) -> None:
        self._disk = disk
        self.log_low = log_low
        self._listing = _Listing()
        self._marks: dict[int, list[_Mark]] = {}
        self._lock = Lock()

    @property
    def segments(self) -> tuple[Segment, ...]:
        """In physical order."""
        return self._listing.segments

    @property
    def start(self) -> int:
        """Position of the oldest kept frame."""
        return self._listing.bases[0] if self._listing.bases else 0

    def walker(self, segment: Segment, file: File, *, bodies: bool, chunk: int = 1 << 20) -> Walker:
        """For the frames of one segment, as far as they are durable: what the disk cannot read is stepped over."""
        return segment_walker(segment, file, self.log_low, bodies=bodies, chunk=chunk, lenient=True)

    def replace(self, segments: Sequence[Segment]) -> None:
        """Start over with these."""
        ordered = tuple(sorted(segments, key=lambda s: s.base))
        self._listing = _Listing(ordered, tuple(s.base for s in ordered))
        self._marks = {s.base: [_Mark(s.base, s.header.offsets)] for s in ordered if s.header is not None}

    def add(self, segment: Segment) -> None:
        """A new last segment (or a new file for an empty last one)."""
        with self._lock:
            kept = [s for s in self._listing.segments if s.base != segment.base]
            if segment.header is not None:
                self._marks[segment.base] = [_Mark(segment.base, segment.header.offsets)]
            self._listing = _Listing((*kept, segment), (*(s.base for s in kept), segment.base))

    def drop_below(self, start: int) -> None:
        """These segments are not kept any more; called before they are unlinked, beside the writer."""
        with self._lock:
            kept = tuple(s for s in self._listing.segments if s.base >= start)
            self._listing = _Listing(kept, tuple(s.base for s in kept))
            for base in [base for base in self._marks if base < start]:
                del self._marks[base]

    def find(self, position: int, log_end: int) -> tuple[Segment, int, int | None] | None:
        """(segment that holds `position`, its end, base of the next one); None at or behind the end of the log.

        A position in a named hole between two segments belongs to the first: it lies behind that one's end.
        """
        listing = self._listing
        at = max(0, bisect.bisect_right(listing.bases, position) - 1)
        if not listing.segments or position >= log_end:
            return None
        if at + 1 == len(listing.segments):
            return listing.segments[at], log_end, None
        after = listing.segments[at + 1]
        end = after.header.prev_end if after.header is not None else after.base
        return listing.segments[at], end, after.base

    def offsets_around(self, segment: Segment) -> tuple[Mapping[int, int], Mapping[int, int]]:
        """Partition -> next offset at the beginning of `segment`, and at its end, as far as somebody knows.

        Headers say it. One that is lost is made good by walking over what lies before it, or behind it.
        """
        listed = self._listing.segments
        at = next((n for n, s in enumerate(listed) if s.base == segment.base), None)
        if at is None:
            return {}, {}  # trimmed meanwhile
        behind = self._offsets_behind(listed[at + 1 :])
        return self._offsets_before(listed[: at + 1], behind), behind

    def _offsets_before(self, listed: Sequence[Segment], partitions: Iterable[int]) -> Mapping[int, int]:
        """At the beginning of the last of `listed`."""
        known = next((n for n in reversed(range(len(listed))) if listed[n].header is not None), None)
        header = listed[known].header if known is not None else None
        if header is not None:
            offsets = dict(enumerate(header.offsets))
        elif listed[0].base == 0:
            offsets = dict.fromkeys(partitions, 0)
        else:
            return {}
        for segment, after in itertools.pairwise(listed[known or 0 :]):
            offsets |= {h.partition: h.offset + 1 for h in self._headers(segment, after.base)}
        return offsets

    def _offsets_behind(self, later: Sequence[Segment]) -> Mapping[int, int]:
        """At the beginning of `later`: the first offsets that are met there."""
        first: dict[int, int] = {}
        for segment, after in itertools.zip_longest(later, later[1:]):
            if segment.header is not None:
                return dict(enumerate(segment.header.offsets)) | first
            for header in self._headers(segment, after.base) if after is not None else ():
                first.setdefault(header.partition, header.offset)
        return first

    def _headers(self, segment: Segment, end: int) -> Iterator[FrameHeader]:
        file = self._open(segment)
        if file is None:
            return
        try:
            for item in self.walker(segment, file, bodies=False).walk(segment.base, end, chain=None, open_end=False):
                if not isinstance(item, Gap):
                    yield from item.headers
        finally:
            file.close()

    def _open(self, segment: Segment) -> File | None:
        """None: it was trimmed since it was listed, so nobody will read from it."""
        try:
            return self._disk.open(segment.path)
        except FileNotFoundError:
            if segment.base >= self.start:
                raise
            return None

    def note(self, base: int, position: int, offsets: Sequence[int]) -> None:
        """A group begins at `position` of segment `base`, with these next offsets."""
        marks = self._marks.setdefault(base, [])
        if not marks or position >= marks[-1].position + _MARK_BYTES:
            marks.append(_Mark(position, tuple(offsets)))

    def position_of(self, partition: int, offset: int, log_end: int) -> int:
        """Position of the group that holds (partition, offset), or of the next later one of that partition.

        Where rot lies between what is wanted and what is found, it may have been in there: the position of the rot, so
        that who reads on is told of the loss. `log_end` if there is none. Reads the headers of at most a segment.
        """
        listing = self._listing
        position: int | None = self.start
        for segment in listing.segments:
            header = segment.header
            if header is not None and header.offsets[partition] <= offset:
                position = segment.base
        search = _Search(partition, offset)
        while position is not None and (place := self.find(position, log_end)) is not None:
            segment, end, position = place
            if self._search(segment, end, search):
                break
            if position is not None and end < position:
                search.gap(end)
        return search.position(log_end)

    def _search(self, segment: Segment, end: int, search: _Search) -> bool:
        """True: it is found."""
        marks = self._marks.get(segment.base) or []
        start = segment.base
        offsets = list(segment.header.offsets) if segment.header is not None else None
        for mark in marks:
            if mark.offsets[search.partition] > search.offset:
                break
            start, offsets = mark.position, list(mark.offsets)
        if segment is self._listing.segments[-1]:
            offsets = None  # its marks are the writer's to make
        file = self._open(segment)
        if file is None:
            return False
        try:
            walker = self.walker(segment, file, bodies=False)
            at = self._walk(segment, walker, (start, end), offsets, search)
            if search.found is None and at < end:
                at = narrow(walker, at, end, (search.partition, search.offset))
                self._walk(segment, walker, (at, end), None, search)
            return search.found is not None
        finally:
            file.close()

    def _walk(
        self,
        segment: Segment,
        walker: Walker,
        span: tuple[int, int],
        offsets: list[int] | None,
        search: _Search,
    ) -> int:
        """Where the walk ended. With `offsets` it makes marks, and is bounded."""
        at = span[0]
        rotten = False
        for count, group in enumerate(walker.walk(*span, chain=None, open_end=False)):
            at = group.end
            if isinstance(group, Gap):
                search.gap(group.position)
                rotten = True  # from here on `offsets` is a guess: no marks by it
                continue
            if offsets is not None and count > _WALK_GROUPS:
                return group.position
            if offsets is not None and not rotten:
                self.note(segment.base, group.position, offsets)
            for header in group.headers:
                if search.meets(header, group.position):
                    return at
                if offsets is not None:
                    offsets[header.partition] = header.offset + 1
        return at


def narrow(walker: Walker, low: int, high: int, wanted: tuple[int, int]) -> int:
    """A group border from `low` on, at or before the wanted (partition, offset), by bisection.

    Small frames come by ten thousands in a segment: walking over all their headers would take half a second.
    """
    partition, offset = wanted
    while high - low > _MARK_BYTES:
        middle = low + (high - low) // 16 * 8
        probe = walker.next_of(partition, middle, min(high, middle + _MARK_BYTES))
        if probe is None:
            break  # none near: walk
        if probe[1] > offset:
            high = middle
        else:
            low = probe[0]
    return low
