"""The writing side: one write and one fdatasync per commit, new segments, and what happens when the disk says no.

Blocking, for one worker thread. Nothing is acknowledged, and no state changes, before the sync returned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import attrs
import msgspec

from runtime.disk_port import Disk, File
from runtime.errors import LogFull, LogSyncFailed
from runtime.log.build import DUPLICATE, Builder, Carried, check_draft, sort_out_duplicates, wire_size
from runtime.log.cursor import NO_SPACE
from runtime.log.index import Catalog
from runtime.log.meta import WriterLock
from runtime.log.positions import Positions, PositionsFile
from runtime.log.recovery import SUSPECT
from runtime.log.scan import Span
from runtime.log.schemas import Schemas
from runtime.log.segment import HEADER_BYTES, Segment, SegmentHeader, create_segment
from runtime.log.types import Appended, Group, GroupDraft


@attrs.define(kw_only=True)
class Writer:
    """Appends behind `positions`. A new one for every epoch."""

    disk: Disk
    directory: Path
    catalog: Catalog
    schemas: Schemas
    positions: Positions
    lock: WriterLock
    segment_bytes: int
    wall_ns: Callable[[], int]
    last_end: int
    """Where the last segment's frames end; below `positions.position` only behind a loss."""
    suspect: bool = False
    """A sync failed: this process must not write or sync any more."""
    _file: File | None = None
    _segment: Segment | None = None
    _room: int = 0
    """Bytes the current segment was preallocated for, header included."""

    def commit(self, drafts: Sequence[GroupDraft]) -> tuple[list[Appended], list[Group]]:
        """All drafts durable, in order. A batch that fits into one segment is one write and one sync, all or nothing.

        Raises: InvariantViolation (limits, sequences, epoch: before anything is written), LogFull, LogSyncFailed.
        A larger batch is several writes; if a later one fails, the earlier ones are durable, and the same drafts
        given again are answered as duplicates.
        """
        for draft in drafts:
            check_draft(draft, partitions_total=len(self.positions.offsets), schemas=self.schemas)
        known = sort_out_duplicates(drafts, self.positions.producers)
        fresh = [draft for draft, duplicate in zip(drafts, known, strict=True) if not duplicate]
        answers: list[Appended] = []
        groups: list[Group] = []
        while fresh:
            run = self._make_room(fresh)
            builder = self._build(fresh[:run], answers)
            self._write(builder)
            groups += builder.groups
            fresh = fresh[run:]
        new = iter(answers)
        return [DUPLICATE if duplicate else next(new) for duplicate in known], groups

    def start_segment(self, needed: int = 0, carry: Sequence[Span] = ()) -> None:
        """Seal the current segment and go on in a new one, which begins with the carried groups.

        Raises LogFull, LogSyncFailed.
        """
        try:
            self._seal()
            snapshot = PositionsFile(self.disk, self.directory)
            snapshot.load(self.positions.log_id, len(self.positions.offsets))
            snapshot.store(self.positions)
            snapshot.close()
            carried = Carried(epoch=self.lock.epoch, chain=self.positions.chain, durable_upto=self.positions.position)
            for span in carry:
                carried.add(span)
            self._room = max(self.segment_bytes, HEADER_BYTES + max(needed, carried.size))
            self._segment, self._file = create_segment(
                self.disk, self.directory, self._next_header(), size=self._room, frames=carried.buffers
            )
        except OSError as error:
            raise self._refused(error, "new segment") from error
        self.catalog.add(self._segment)
        for span in carried.spans:
            self.positions.fold(span, self.schemas)

    def store_positions(self) -> None:
        """The snapshot, for a fast and well-informed next start. Raises OSError."""
        snapshot = PositionsFile(self.disk, self.directory)
        snapshot.load(self.positions.log_id, len(self.positions.offsets))
        snapshot.store(self.positions)
        snapshot.close()

    def close(self) -> None:
        """Release the handle; writes nothing."""
        if self._file is not None:
            self._file.close()
            self._file = None

    # --- one write

    def _make_room(self, drafts: Sequence[GroupDraft]) -> int:
        """How many of the drafts go into the next write; there is room for them afterwards."""
        sizes = [wire_size(draft) for draft in drafts]
        free = self._free()
        if sum(sizes) > free:
            whole = sum(sizes) + HEADER_BYTES <= self.segment_bytes
            if whole or sizes[0] > free:
                self.start_segment(sizes[0])
                free = self._free()
        run = 0
        while run < len(sizes) and sizes[run] <= free:
            free -= sizes[run]
            run += 1
        return run

    def _free(self) -> int:
        if self._file is None or self._segment is None:
            return 0
        return self._room - HEADER_BYTES - (self.positions.position - self._segment.base)

    def _build(self, drafts: Sequence[GroupDraft], answers: list[Appended]) -> Builder:
        builder = Builder(
            positions=self.positions,
            schemas=self.schemas,
            epoch=self.lock.epoch,
            log_low=self.catalog.log_low,
            wall_ns=self.wall_ns,
        )
        answers += [builder.add(draft) for draft in drafts]
        return builder

    def _write(self, builder: Builder) -> None:
        assert self._file is not None
        assert self._segment is not None
        self.lock.check()
        at = HEADER_BYTES + self.positions.position - self._segment.base
        wanted = builder.at - self.positions.position
        try:
            written = self._file.pwritev(builder.buffers, at)
        except OSError as error:
            self._cut_back(at)
            raise self._refused(error, self._segment.path.name) from error
        if written != wanted:
            self._cut_back(at)
            raise LogFull(f"{self._segment.path}: only {written} of {wanted} bytes could be written")
        try:
            self._file.datasync()
        except OSError as error:
            raise self._sync_failed(error, self._segment.path.name) from error
        self.catalog.note(self._segment.base, self.positions.position, self.positions.offsets)
        builder.settle()

    def _cut_back(self, size: int) -> None:
        """Never go on behind half a frame. Preallocation behind the cut is taken again if there is room for it."""
        assert self._file is not None
        self._file.truncate(size)
        try:
            self._file.allocate(self._room)
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise

    # --- segments

    def _seal(self) -> None:
        if self._file is not None and self._segment is not None:
            self.last_end = self.positions.position
            self._file.truncate(HEADER_BYTES + self.positions.position - self._segment.base)
            self._file.sync()
            self._file.close()
            self._file = None

    def _next_header(self) -> SegmentHeader:
        base = self.positions.position
        before = self.catalog.segments[-1] if self.catalog.segments else None
        prev_base, prev_end = base, base
        if before is not None and before.base != base:
            prev_base, prev_end = before.base, self.last_end
        elif before is not None and before.header is not None:  # an empty one is replaced, with what it knew
            prev_base, prev_end = before.header.prev_base, before.header.prev_end
        elif len(self.catalog.segments) > 1:
            prev_base = self.catalog.segments[-2].base
        return SegmentHeader(
            log_id=self.positions.log_id,
            epoch=self.lock.epoch,
            base=base,
            prev_base=prev_base,
            prev_end=prev_end,
            chain=self.positions.chain,
            created_ns=self.wall_ns(),
            offsets=tuple(self.positions.offsets),
        )

    # --- errors

    def _refused(self, error: OSError, what: str) -> Exception:
        if error.errno in NO_SPACE:
            return LogFull(f"{self.directory}: {what}: {error.strerror}")
        return self._sync_failed(error, what)

    def _sync_failed(self, error: OSError, what: str) -> LogSyncFailed:
        """Never sync again: the kernel may have dropped the pages and would say "fine"."""
        self.suspect = True
        write_suspect(self.disk, self.directory, what=what, durable_upto=self.positions.position, error=error)
        return LogSyncFailed(
            f"{self.directory}: {what}: {error.strerror} (errno {error.errno}); nothing was acknowledged"
        )


def write_suspect(disk: Disk, directory: Path, *, what: str, durable_upto: int, error: OSError) -> None:
    """Best effort: the marker that says why the process ended and that the page cache is not to be believed."""
    text = msgspec.json.encode({"what": what, "durable_upto": durable_upto, "error": str(error)})
    try:
        disk.write_atomic(directory / SUSPECT, text)
    except OSError:
        return  # the disk is going; the exit code says the same
