"""Looking into a log directory without its lock: read-only, also while another process writes to it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import attrs

from runtime.disk_port import Disk, File
from runtime.errors import ConfigError, LogCorrupt
from runtime.log.checksum import check_native
from runtime.log.cursor import DIRECTORY as CURSORS
from runtime.log.cursor import Cursor, read_cursors
from runtime.log.frame import FrameHeader, padded
from runtime.log.index import Catalog
from runtime.log.losses import MISSING_END, QUARANTINE
from runtime.log.meta import META, Meta, load_meta, meta_of_segments
from runtime.log.positions import POSITIONS
from runtime.log.reader import Reader
from runtime.log.recovery import Damage, kept, list_segments, log_low, missing_segments
from runtime.log.scan import Gap, Span
from runtime.log.schemas import Schemas, load_schemas
from runtime.log.segment import HEADER_BYTES, Segment, segment_name
from runtime.log.slots import damaged_slots
from runtime.log.types import Group


class FrameInfo(NamedTuple):
    """One frame without its body."""

    header: FrameHeader
    kind: str
    segment: str


@attrs.define(kw_only=True)
class LogFiles:
    """A log as its files showed it when it was opened; what is appended later is not seen."""

    meta: Meta
    segments: tuple[Segment, ...]
    end_position: int
    """Behind the last whole group that is visible."""
    durable_upto: int
    """What is certainly synced, as the frames themselves say; a live writer may be further."""
    damage: list[Damage] = attrs.field(factory=list)
    """What did not check, as far as it was read."""
    _disk: Disk
    _directory: Path
    _schemas: Schemas
    _catalog: Catalog

    @property
    def log_id(self) -> str:
        """Of the log."""
        return self.meta.log_id

    @property
    def start_position(self) -> int:
        """Position of the oldest kept frame."""
        return self._catalog.start

    def cursors(self) -> dict[str, Cursor]:
        """Every consumer's durable cursor, by name."""
        return read_cursors(self._disk, self._directory, self.log_id)

    def frames(self, start: int = 0) -> Iterator[FrameInfo]:
        """Headers of all frames from the group at `start` on, in physical order. Bodies are not read."""
        for segment, item in self._walk(start, bodies=False):
            for header in item.headers:
                yield FrameInfo(header, self._schemas.kind_of(header.schema_id), segment.path.name)

    def groups(self, start: int = 0, *, partitions: frozenset[int] | None = None) -> Iterator[Group]:
        """Groups with bodies, every checksum verified."""
        reader = Reader(self._disk, self._catalog, self._schemas, log_id=self.log_id, on_gap=self._note)
        position = max(start, self.start_position)
        try:
            while position < self.end_position:
                found, position = reader.read(position, self.end_position, bytes_max=8 << 20, partitions=partitions)
                yield from found
        finally:
            reader.close()

    def _quarantined(self) -> set[int]:
        """Positions of groups that were found rotten and named: lost, so no longer counted as accepted."""
        index = self._directory / QUARANTINE / "index"
        if not self._disk.exists(index):
            return set()
        ranges = re.findall(rb"\.frame \S+ \[(\d+), (\d+)\)", self._disk.read_bytes(index))
        spans = [(int(low), int(high)) for low, high in ranges]
        return {h.position for h, _, _ in self.frames() if any(low <= h.group_position < high for low, high in spans)}

    def row_counts(
        self,
        upto: Mapping[int, int] | None = None,
        *,
        named: Callable[[str, FrameHeader], str] = lambda kind, header: kind,
    ) -> dict[tuple[int, str], int]:
        """(partition, kind) -> rows of the frames below `upto[partition]` (no entry: none; upto None: all).

        `named` may count some frames of a kind under another name.
        """
        counts: dict[tuple[int, str], int] = {}
        gone = self._quarantined()
        for header, kind, _ in self.frames():
            if header.position in gone:
                continue
            if upto is None or header.offset < upto.get(header.partition, 0):
                key = (header.partition, named(kind, header))
                counts[key] = counts.get(key, 0) + header.rows
        return counts

    def extents(self) -> Iterator[tuple[Segment, int]]:
        """Each segment with the end of its frames."""
        for segment, after in itertools.zip_longest(self.segments, self.segments[1:]):
            header = after.header if after is not None else None
            end = header.prev_end if header else after.base if after is not None else self.end_position
            yield segment, self._missing_behind.get(segment.base, end)

    def check_files(self) -> list[Damage]:
        """What does not check beside the frames: headers of segments, cursors, positions, META (a slot of two)."""
        found = [
            Damage(segment=s.path.name, position=s.base, end_position=s.base, reason="the segment's header is damaged")
            for s in self.segments
            if s.header is None
        ]
        for before, after, base in self._missing():
            low = self.meta.start_position if before is None else self._missing_behind[before.base]
            found.append(
                Damage(segment=segment_name(base), position=low, end_position=after.base, reason="the file is missing")
            )
        for (segment, end), after in zip(self.extents(), self.segments[1:], strict=False):
            if end < after.base and segment.base not in self._missing_behind:
                name = segment.path.name
                found.append(Damage(segment=name, position=end, end_position=after.base, reason=MISSING_END))
        names = [META, POSITIONS, *(f"{CURSORS}/{name}" for name in self._disk.names(self._directory / CURSORS))]
        for name in names:
            path = self._directory / name
            if not name.endswith(".tmp") and self._disk.exists(path) and damaged_slots(self._disk.read_bytes(path)):
                reason = f"{name}: a slot is damaged"
                found.append(Damage(segment=name, position=0, end_position=0, reason=reason))
        return found

    def check(self) -> list[Damage]:
        """Read every byte; returns (and remembers) what does not check."""
        for _ in self._walk(self.start_position, bodies=True):
            pass
        return self.damage

    def _walk(self, start: int, *, bodies: bool) -> Iterator[tuple[Segment, Span]]:
        position: int | None = max(start, self.start_position)
        while position is not None and (place := self._catalog.find(position, self.end_position)) is not None:
            segment, end, after = place
            file = self._open(segment)
            try:
                walker = self._catalog.walker(segment, file, bodies=bodies)
                for item in walker.walk(min(position, end), end, chain=None, open_end=False):
                    if isinstance(item, Gap):
                        self._note(segment, item)
                    else:
                        yield segment, item
            finally:
                file.close()
            position = after

    def _missing(self) -> Iterator[tuple[Segment | None, Segment, int]]:
        return missing_segments(self.segments, self.meta.start_position)

    @property
    def _missing_behind(self) -> dict[int, int]:
        """Base of a segment behind which some are missing -> where the last of them began."""
        return {before.base: base for before, _, base in self._missing() if before is not None}

    def _open(self, segment: Segment) -> File:
        try:
            return self._disk.open(segment.path)
        except FileNotFoundError:
            raise LogCorrupt(f"{segment.path} was trimmed while it was read", segment=segment.path.name) from None

    def _note(self, segment: Segment, gap: Gap) -> None:
        damage = Damage(segment=segment.path.name, position=gap.position, end_position=gap.end, reason=gap.reason)
        if gap.position >= self._missing_behind.get(segment.base, gap.end):
            return  # `check_files` names the file
        if damage not in self.damage:
            self.damage.append(damage)


def open_files(disk: Disk, directory: Path | str) -> LogFiles:
    """Look at the log in `directory`. Blocking. Raises ConfigError if there is none, or a newer one."""
    check_native()
    folder = Path(directory)
    meta = load_meta(disk, folder) or meta_of_segments(disk, folder)
    if meta is None:
        raise ConfigError(f"{folder} holds no log")
    segments = kept(list_segments(disk, folder, meta.log_id), meta.start_position)
    if any(missing_segments(segments, meta.start_position)):  # trimmed at this moment, perhaps
        meta = load_meta(disk, folder) or meta
        segments = kept(list_segments(disk, folder, meta.log_id), meta.start_position)
    catalog = Catalog(disk, log_low(meta.log_id))
    catalog.replace(segments)
    end, durable = _tail(disk, catalog) if segments else (meta.start_position, meta.start_position)
    return LogFiles(
        meta=meta,
        segments=catalog.segments,
        end_position=end,
        durable_upto=durable,
        disk=disk,
        directory=folder,
        schemas=load_schemas(disk, folder),
        catalog=catalog,
    )


def _tail(disk: Disk, catalog: Catalog) -> tuple[int, int]:
    """(end of the last whole group, highest durable_upto) of the last segment; a write under way is not looked at."""
    segment = catalog.segments[-1]
    end = durable = segment.base
    file = disk.open(segment.path)
    try:
        limit = segment.base + padded(max(0, file.size() - HEADER_BYTES))
        for item in catalog.walker(segment, file, bodies=True).walk(segment.base, limit, chain=None, open_end=True):
            if isinstance(item, Span):
                end = item.end
                durable = max(durable, item.headers[0].durable_upto)
    finally:
        file.close()
    return end, durable
