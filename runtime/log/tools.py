"""Looking into a log directory without its lock: read-only, also while another process writes to it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import attrs

from runtime.disk_port import Disk
from runtime.errors import ConfigError, LogCorrupt
from runtime.log.checksum import check_native
from runtime.log.cursor import Cursor, read_cursors
from runtime.log.ending import End, find_end, known_end
from runtime.log.frame import FrameHeader
from runtime.log.index import Catalog
from runtime.log.losses import MISSING_END, QUARANTINE
from runtime.log.meta import Meta, load_meta, meta_of_segments
from runtime.log.reader import Reader, vanished
from runtime.log.recovery import Damage, kept, list_segments, log_low, missing_segments
from runtime.log.scan import Gap, Span
from runtime.log.schemas import DIRECTORY as SCHEMAS
from runtime.log.schemas import Schemas, load_schemas, schema_name
from runtime.log.segment import Segment, segment_name
from runtime.log.sidecars import damaged_sidecars
from runtime.log.types import Group

_LOOKS = 50
"""A writer that trims all the time may spoil some of them."""


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
    """Behind the last whole group that is visible, or further on, where the log is known to have ended."""
    found_end: int
    """Behind the last whole group that is visible. From here to `end_position`, the end of the log is missing."""
    durable_upto: int
    """What is certainly synced, as the frames themselves say; a live writer may be further."""
    damage: list[Damage] = attrs.field(factory=list)
    """What did not check, as far as it was read."""
    _end_reason: str
    """Why nothing is found behind `found_end`."""
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
        while self.segments and position < self.end_position:
            found, position = reader.read(position, self.end_position, bytes_max=8 << 20, partitions=partitions)
            yield from found

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
            end = header.prev_end if header else after.base if after is not None else self.found_end
            yield segment, self._missing_behind.get(segment.base, end)

    def check_files(self) -> list[Damage]:
        """What does not check beside the frames: headers of segments, cursors, positions, META (a slot of two)."""
        found = [
            Damage(segment=s.path.name, position=s.base, end_position=s.base, reason="the segment's header is damaged")
            for s in self.segments
            if s.header is None
        ]
        for before, after, base in self.missing():
            low = self.meta.start_position if before is None else self._missing_behind[before.base]
            found.append(
                Damage(segment=segment_name(base), position=low, end_position=after.base, reason="the file is missing")
            )
        for (segment, end), after in zip(self.extents(), self.segments[1:], strict=False):
            if end < after.base and segment.base not in self._missing_behind:
                name = segment.path.name
                found.append(Damage(segment=name, position=end, end_position=after.base, reason=MISSING_END))
        if not self.segments and self.found_end < self.end_position:
            low, high = self.found_end, self.end_position
            found.append(
                Damage(segment=segment_name(low), position=low, end_position=high, reason="no segment is left")
            )
        small = damaged_sidecars(self._disk, self._directory)
        found += [Damage(segment=name, position=0, end_position=0, reason=reason) for name, reason in small]
        return found

    def check(self) -> list[Damage]:
        """Read every byte; returns what does not check. What is trimmed meanwhile is left out."""
        unknown: set[int] = set()
        for _, item in self._walk(self.start_position, bodies=True, trimmed_is_fine=True):
            unknown |= {header.schema_id for header in item.headers} - self._schemas.by_id.keys()
        names = [f"{SCHEMAS}/{schema_name(number)}" for number in sorted(unknown)]
        lost = [name for name in names if not self._disk.exists(self._directory / name)]  # `check_files` has the others
        return [
            *self.damage,
            *(
                Damage(segment=n, position=0, end_position=0, reason=f"{n} is missing: nobody knows its rows")
                for n in lost
            ),
        ]

    def _walk(self, start: int, *, bodies: bool, trimmed_is_fine: bool = False) -> Iterator[tuple[Segment, Span]]:
        position: int | None = max(start, self.start_position)
        while position is not None and (place := self._catalog.find(position, self.end_position)) is not None:
            segment, end, after = place
            try:
                file = self._disk.open(segment.path)
            except FileNotFoundError:
                if not (trimmed_is_fine and self._is_trimmed(segment)):
                    raise vanished(segment) from None
                position = after
                continue
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

    def missing(self) -> Iterator[tuple[Segment | None, Segment, int]]:
        """(the segment before the hole, the one behind it, base of the last that is missing)."""
        return missing_segments(self.segments, self.meta.start_position)

    @property
    def _missing_behind(self) -> dict[int, int]:
        """Base of a segment behind which some are missing -> where the last of them began."""
        return {before.base: base for before, _, base in self.missing() if before is not None}

    def _is_trimmed(self, segment: Segment) -> bool:
        meta = load_meta(self._disk, self._directory)
        return meta is not None and segment.base < meta.start_position

    def _note(self, segment: Segment, gap: Gap) -> None:
        reason = self._end_reason if gap.position >= self.found_end else gap.reason
        damage = Damage(segment=segment.path.name, position=gap.position, end_position=gap.end, reason=reason)
        if gap.position >= self._missing_behind.get(segment.base, gap.end):
            return  # `check_files` names the file
        if damage not in self.damage:
            self.damage.append(damage)


def open_files(disk: Disk, directory: Path | str, *, schemas: Mapping[str, bytes] | None = None) -> LogFiles:
    """Look at the log in `directory`. Blocking. `schemas`: kinds that can be read though their file is lost.

    Raises: ConfigError if there is none, or a newer one; LogCorrupt if it is trimmed faster than it can be looked at.
    """
    check_native()
    folder = Path(directory)
    try:
        found = _look(disk, folder)
    except NotADirectoryError as error:
        raise ConfigError(f"{error.filename} is no directory: name the directory of a log") from None
    for kind, message in (schemas or {}).items():
        found._schemas.add(kind, message)  # noqa: SLF001  (the one who makes it)
    return found


def _look(disk: Disk, folder: Path) -> LogFiles:
    """Again and again while a writer trims: what it unlinks under our eyes is not missing."""
    before: list[int] | None = None
    for _ in range(_LOOKS):
        try:
            files = _look_once(disk, folder)
        except FileNotFoundError:
            continue
        missing = [base for _, _, base in files.missing()]
        if not missing or missing == before:
            return files
        before = missing
    raise LogCorrupt(f"{folder} is trimmed faster than it can be looked at: try again")


def _look_once(disk: Disk, folder: Path) -> LogFiles:
    """Raises FileNotFoundError when a segment went away between its name and its content."""
    meta = load_meta(disk, folder) or meta_of_segments(disk, folder)
    if meta is None:
        raise ConfigError(f"{folder} holds no log")
    known = known_end(disk, folder, meta)  # before the segments, see there
    listed = list_segments(disk, folder, meta.log_id)
    meta = load_meta(disk, folder) or meta  # what was unlinked before the listing is below this one's start
    catalog = Catalog(disk, log_low(meta.log_id))
    catalog.replace(kept(listed, meta.start_position))
    end = find_end(disk, catalog, known) if listed else End(meta.start_position, meta.start_position)
    return LogFiles(
        meta=meta,
        segments=catalog.segments,
        end_position=max(end.position, known),
        found_end=end.position,
        durable_upto=end.durable_upto,
        end_reason=end.reason,
        disk=disk,
        directory=folder,
        schemas=load_schemas(disk, folder),
        catalog=catalog,
    )
