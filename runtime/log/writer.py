"""The writing side: one write and one fdatasync per commit, new segments, and what happens when the disk says no.

Blocking, for one worker thread. Nothing is acknowledged, and no state changes, before the sync returned.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import attrs

from runtime.disk_port import Disk, File
from runtime.errors import LogFull, LogSyncFailed
from runtime.log.build import DUPLICATE, Carried, Write, check_places, frame_groups, sort_out_duplicates
from runtime.log.cursor import NO_SPACE
from runtime.log.index import Catalog
from runtime.log.meta import WriterLock
from runtime.log.positions import Positions, store_snapshot
from runtime.log.recovery import seal
from runtime.log.runway import Runway
from runtime.log.scan import Span
from runtime.log.schemas import Schemas
from runtime.log.segment import HEADER_BYTES, Segment, SegmentHeader, create_segment, finish_segment
from runtime.log.suspect import write_suspect
from runtime.log.types import Appended, Group, GroupDraft

_HIDE_FROM = 4
"""Groups from which on it pays to let the disk begin while their answers are made."""


@attrs.define(kw_only=True)
class Writer:
    """Appends behind `positions`. A new one for every epoch. `upkeep` may run beside the rest, in one other thread."""

    disk: Disk
    directory: Path
    catalog: Catalog
    schemas: Schemas
    positions: Positions
    lock: WriterLock
    runway: Runway
    segment_bytes: int
    reserve_bytes: int
    """Kept back in every segment for drafts that may use the reserve: what is lost on a full disk must be written."""
    wall_ns: Callable[[], int]
    last_end: int
    """Where the last segment's frames end; below `positions.position` only behind a loss."""
    background: bool = False
    """Somebody calls `upkeep`; else a new segment does its part of it at once."""
    suspect: bool = False
    """A sync failed: this process must not write or sync any more."""
    _file: File | None = None
    """None: the next write needs a new segment."""
    _segment: Segment | None = None
    _room: int = 0
    """Bytes the current segment was preallocated for, header included."""
    _owed: dict[tuple[str, int], Appended] = attrs.field(factory=dict)
    """Answers to drafts that became durable in a commit which then found no space: no duplicates when given again."""
    _owed_groups: list[Group] = attrs.field(factory=list)
    _full: deque[tuple[Segment, int]] = attrs.field(factory=deque)
    """(segment, end): to be sealed."""
    _snapshot: Positions | None = None
    """To be stored."""
    _stored_position: int = 0

    def commit(self, drafts: Sequence[GroupDraft], *, use_reserve: bool = False) -> tuple[list[Appended], list[Group]]:
        """All drafts durable, in order. A batch that fits into one segment is one write and one sync, all or nothing.

        Raises: InvariantViolation (limits, sequences, epoch: before anything is written), LogFull, LogSyncFailed.
        A larger batch is several writes; if a later one finds no space, the earlier ones are durable: the next
        call hands their groups over, and gives their answers when it is given the same drafts again.
        """
        check_places(drafts, partitions_total=len(self.positions.offsets), schemas=self.schemas)
        known = sort_out_duplicates(drafts, self.positions.producers)
        fresh: Sequence[GroupDraft] = drafts
        if duplicates := True in known:
            fresh = [draft for draft, old in zip(drafts, known, strict=True) if not old]
        answers, groups = self._append(fresh, use_reserve=use_reserve)
        if self._owed_groups:
            groups, self._owed_groups = self._owed_groups + groups, []
        if duplicates:
            new = iter(answers)
            answers = [
                self._owed.pop((draft.producer, draft.sequence), DUPLICATE) if old else next(new)
                for draft, old in zip(drafts, known, strict=True)
            ]
        return answers, groups

    def start_segment(self, needed: int = 0, carry: Sequence[Span] = (), *, size: int | None = None) -> None:
        """Leave the current segment and go on in a new one, which begins with the carried groups.

        `size`: a smaller one than usual, yet never without room for those groups, or else for the reserve.
        Raises LogFull (the current one stays as it was), LogSyncFailed.
        """
        carried = Carried(epoch=self.lock.epoch, chain=self.positions.chain, durable_upto=self.positions.position)
        for span in carry:
            carried.add(span)
        small = size is not None and carried.size
        wanted = HEADER_BYTES + max(0 if small else needed + self.reserve_bytes, carried.size)
        try:
            segment, file, room = self._new_segment(wanted, carried, self.segment_bytes if size is None else size)
        except OSError as error:
            refused = self.refused(error, "new segment")
            if isinstance(refused, LogFull):
                self._note_where_we_stand()
            raise refused from error
        self._sync_name(segment, file)
        self._leave_current()
        self._segment, self._file, self._room = segment, file, room
        self.catalog.add(segment)
        for span in carried.spans:
            self.positions.fold(span, self.schemas)
        self._snapshot = self.positions.copy()
        if not self.background:
            self._finish_former()

    @property
    def upkeep_due(self) -> bool:
        """Something waits for `upkeep`."""
        return bool(self._full) or self._snapshot is not None or not self.runway.bytes

    def upkeep(self) -> None:
        """What need not be done while a producer waits: seal, snapshot, runway. Raises LogFull, LogSyncFailed."""
        if self.suspect:
            return
        self._finish_former()
        try:
            self.runway.prepare()
        except OSError as error:
            raise self.refused(error, "runway") from error

    @property
    def room_bytes(self) -> int:
        """Guaranteed space for frames, whoever fills the disk; without the reserve."""
        return max(0, self._free() - self.reserve_bytes) + max(0, self.runway.bytes - self.reserve_bytes)

    def store_snapshot_at(self, start: int) -> None:
        """Before everything below `start` goes: producers may be remembered by the snapshot alone. Raises OSError.

        `positions` changes under the writer's hands, a snapshot does not; one is made at the beginning of each segment.
        """
        if self._stored_position < start:
            self._finish_former()
        if self._stored_position < start:
            raise OSError(errno.ENOSPC, "the positions could not be stored before trimming")

    def store_positions(self) -> None:
        """The snapshot, for a fast and well-informed next start. Raises OSError."""
        self._snapshot = None
        store_snapshot(self.disk, self.directory, self.positions)

    def close(self) -> None:
        """Release the handles; writes nothing."""
        self.runway.close()
        if self._file is not None:
            self._file.close()
            self._file = None

    # --- one write

    def _append(self, drafts: Sequence[GroupDraft], *, use_reserve: bool) -> tuple[list[Appended], list[Group]]:
        """In as few writes as the segments allow: one, nearly always."""
        answers: list[Appended] = []
        groups: list[Group] = []
        sizes = [draft.wire_bytes for draft in drafts]
        done = 0
        try:
            while done < len(drafts):
                run = self._make_room(sizes[done:], use_reserve=use_reserve)
                answered, written = self._write(self._framed(drafts[done : done + run]))
                answers += answered
                groups += written
                done += run
        except LogFull:
            self._owed.update({(g.producer, g.sequence): a for g, a in zip(groups, answers, strict=False)})
            self._owed_groups += groups
            raise
        return answers, groups

    def _make_room(self, sizes: Sequence[int], *, use_reserve: bool) -> int:
        """How many of the groups go into the next write; there is room for them afterwards."""
        reserve = 0 if use_reserve else self.reserve_bytes
        free = self._free() - reserve
        total = sum(sizes)
        if total <= free:
            return len(sizes)
        if total + reserve + HEADER_BYTES <= self.segment_bytes or sizes[0] > free:
            self.start_segment(sizes[0])
            free = self._free() - reserve
        run = 0
        while run < len(sizes) and sizes[run] <= free:
            free -= sizes[run]
            run += 1
        return run

    def _free(self) -> int:
        if self._file is None or self._segment is None:
            return 0
        return self._room - HEADER_BYTES - (self.positions.position - self._segment.base)

    def _framed(self, drafts: Sequence[GroupDraft]) -> Write:
        return frame_groups(
            drafts,
            self.positions,
            schemas=self.schemas,
            epoch=self.lock.epoch,
            log_low=self.catalog.log_low,
            wall_ns=self.wall_ns,
        )

    def _write(self, write: Write) -> tuple[list[Appended], list[Group]]:
        assert self._file is not None
        assert self._segment is not None
        if self.suspect:
            raise LogSyncFailed(f"{self.directory}: a sync failed in this process; only a new one may go on")
        at = HEADER_BYTES + self.positions.position - self._segment.base
        wanted = write.position - self.positions.position
        try:
            self.lock.check()
            written = self._file.pwritev(write.buffers, at)
        except OSError as error:
            self._cut_back(at)
            raise self.refused(error, self._segment.path.name) from error
        if written != wanted:
            self._cut_back(at)
            raise LogFull(f"{self._segment.path}: only {written} of {wanted} bytes could be written")
        try:
            if len(write.made) >= _HIDE_FROM:
                self._file.start_writeback(at, wanted)
            answers, groups, settle = write.answers(), write.groups(self.schemas), write.behind()
            self.catalog.note(self._segment.base, self.positions.position, self.positions.offsets)
            self._file.datasync()
        except OSError as error:
            raise self._sync_failed(error, self._segment.path.name) from error
        self.positions = settle()  # as a whole: other threads look at it unlocked
        return answers, groups

    def _cut_back(self, size: int) -> None:
        """Never go on behind half a frame. Preallocation behind the cut is taken again if there is room for it.

        What cannot be cut is left, as a start leaves a torn tail: the next write begins a new segment, which says where
        this one ends. Raises LogFull, LogSyncFailed.
        """
        assert self._file is not None
        try:
            self._file.truncate(size)
        except OSError as error:
            self._leave_current()
            raise self.refused(error, "cutting back") from error
        try:
            self._file.allocate(self._room)
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise self._sync_failed(error, "cutting back") from error

    # --- segments

    def _new_segment(self, wanted: int, carried: Carried, usual: int) -> tuple[Segment, File, int]:
        """(segment, handle, size), from the runway if there is one. Raises OSError."""
        header, frames = self._next_header(carried.first_offsets()), carried.buffers
        spare = self.runway.take(wanted)
        if spare is not None:
            return finish_segment(self.disk, spare.path, spare.file, header, frames=frames), spare.file, spare.size
        room = max(usual, wanted)
        segment, file = create_segment(self.disk, self.directory, header, size=room, frames=frames)
        return segment, file, room

    def _sync_name(self, segment: Segment, file: File) -> None:
        """Behind the rename every error is fatal, "no space" too: the new name may outlive us or not, so what would be
        committed into the former segment from now on could be cut off by the next start. Raises LogSyncFailed."""
        try:
            self.disk.sync_directory(self.directory)
        except OSError as error:
            file.close()
            raise self._sync_failed(error, f"the name of {segment.path.name}") from error

    def _note_where_we_stand(self) -> None:
        """Nothing may be committed for long. A snapshot says that all of this was synced, so the next start, which may
        find no space either, need not copy the last groups; and what is verified can be trimmed meanwhile."""
        if self._stored_position < self.positions.position:
            self._snapshot = self.positions.copy()
            if not self.background:
                self._finish_former()

    def _leave_current(self) -> None:
        """Its frames are synced; the preallocated rest is given back later."""
        if self._file is not None and self._segment is not None:
            self._file.close()
            self._file = None
            self.last_end = self.positions.position
            if self._segment.base < self.positions.position:
                self._full.append((self._segment, self.positions.position))

    def _finish_former(self) -> None:
        """Seal what was left, store the snapshot. On a full disk the snapshot waits: a start only scans more."""
        snapshot = self._snapshot  # first: what lies below it is in `_full` by now, and is sealed before it
        try:
            while self._full:
                seal(self.disk, *self._full[0])
                self._full.popleft()
            if snapshot is not None:
                store_snapshot(self.disk, self.directory, snapshot)
                self._stored_position = snapshot.position
                if self._snapshot is snapshot:  # else: a newer one was made meanwhile
                    self._snapshot = None
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise self._sync_failed(error, "positions") from error

    def _next_header(self, carried: Mapping[int, int]) -> SegmentHeader:
        """`carried`: offsets that its first frames have. Behind a loss they are lower than the guess in `positions`,
        and who believed the guess would take those frames for lost."""
        base = self.positions.position
        before = self.catalog.segments[-1] if self.catalog.segments else None
        last_end = base if self._file is not None else self.last_end
        prev_base, prev_end = base, base
        if before is not None and before.base != base:
            prev_base, prev_end = before.base, last_end
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
            offsets=tuple(carried.get(p, offset) for p, offset in enumerate(self.positions.offsets)),
        )

    # --- errors

    def refused(self, error: OSError, what: str) -> Exception:
        """What an error of the disk means: LogFull, or LogSyncFailed, after which nothing is written any more."""
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
