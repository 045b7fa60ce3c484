"""What damage in the log cost: its frames, and the producers whose groups were in it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import attrs

from runtime.disk_port import Disk, File
from runtime.log.frame import FrameHeader
from runtime.log.index import Catalog
from runtime.log.losses import Lost, LostFrame, lost_frames, lost_producers, quarantine
from runtime.log.recovery import Damage
from runtime.log.scan import Gap, Span
from runtime.log.schemas import Schemas
from runtime.log.segment import Segment
from runtime.log.types import ProducerState

LOOK_SEGMENTS = 16
"""How far around damage is looked for the producers whose groups are gone: 1 GiB at the usual length, each way."""


@attrs.frozen(kw_only=True)
class Aftermath:
    """One look at a log in which something was found rotten. Blocking."""

    disk: Disk
    directory: Path
    catalog: Catalog
    schemas: Schemas
    log_end: int

    def lost_of(self, damage: Damage, producers: Mapping[str, ProducerState]) -> Lost:
        """What was in it; its bytes are copied to quarantine/. Empty when it was trimmed meanwhile. Raises OSError."""
        place = self.catalog.find(damage.position, self.log_end)
        if place is None or place[0].path.name != damage.segment:
            return Lost()
        segment, end, _ = place
        gap = Gap(damage.position, damage.end_position, damage.reason, 0)
        file = self.disk.open(segment.path)
        try:
            with contextlib.suppress(OSError):  # a full disk has no room for a copy
                quarantine(self.disk, self.directory, segment, file, gap, "frame")
            frames = self._frames(segment, file, gap, end)
        finally:
            file.close()
        around = (self._before(damage.position), self._after(damage.end_position))
        from_zero = self.catalog.start == 0 and len(self._near(damage.position)) < LOOK_SEGMENTS
        return Lost(frames=frames, producers=tuple(lost_producers(*around, producers, from_zero=from_zero)))

    def _frames(self, segment: Segment, file: File, gap: Gap, end: int) -> tuple[LostFrame, ...]:
        walker = self.catalog.walker(segment, file, bodies=False)
        lost = lost_frames(walker, segment, gap, end, around=self.catalog.offsets_around(segment))
        return tuple(attrs.evolve(f, kind=self.schemas.kind_of(int(f.kind, 16)) if f.kind else "") for f in lost)

    def _before(self, position: int) -> Iterator[FrameHeader]:
        """Backwards."""
        for segment in reversed(self._near(position)):
            yield from reversed(self._headers(segment, segment.base, position))

    def _near(self, position: int) -> list[Segment]:
        return [s for s in self.catalog.segments if s.base < position][-LOOK_SEGMENTS:]

    def _after(self, position: int) -> Iterator[FrameHeader]:
        """Onwards."""
        place = self.catalog.find(position, self.log_end)
        far = [s for s in self.catalog.segments if place is not None and s.base >= place[0].base]
        for segment in far[:LOOK_SEGMENTS]:
            yield from self._headers(segment, max(position, segment.base), self.log_end)

    def _headers(self, segment: Segment, start: int, stop: int) -> list[FrameHeader]:
        place = self.catalog.find(segment.base, self.log_end)
        if place is None or place[0] is not segment:
            return []  # trimmed meanwhile, or empty
        file = self.disk.open(segment.path)
        try:
            walker = self.catalog.walker(segment, file, bodies=False)
            walked = walker.walk(start, min(stop, place[1]), chain=None, open_end=False)
            return [header for item in walked if isinstance(item, Span) for header in item.headers]
        finally:
            file.close()
