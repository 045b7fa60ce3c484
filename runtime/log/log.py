"""The durable log as the rest of the program sees it: open, commit, consumers, cursors, close."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import attrs
import msgspec

from runtime.actor import Offload, offload_to_thread
from runtime.disk_port import Disk
from runtime.entropy import Entropy
from runtime.errors import ConfigError, InvariantViolation, LogError, LogFull, LogSyncFailed
from runtime.log.aftermath import Aftermath
from runtime.log.checksum import check_native
from runtime.log.cursor import DIRECTORY as CURSORS
from runtime.log.cursor import NO_SPACE, CursorFile
from runtime.log.index import Catalog
from runtime.log.losses import Lost
from runtime.log.meta import Meta, WriterLock, load_meta, meta_of_segments, store_meta, take_lock
from runtime.log.reader import Reader
from runtime.log.recovery import Damage, Recovered, Recovery, log_low
from runtime.log.retention import Retention, new_start
from runtime.log.runway import Runway
from runtime.log.scan import Gap
from runtime.log.schemas import Schemas, open_schemas
from runtime.log.segment import (
    FORMAT_VERSION,
    HEADER_BYTES,
    PARTITIONS_MAX,
    Segment,
    segment_base,
)
from runtime.log.suspect import write_suspect
from runtime.log.tail import LogConsumer
from runtime.log.types import Appended, Group, GroupDraft, ProducerState
from runtime.log.writer import Writer

RESERVE_BYTES = 256 << 10
"""Kept back in each segment (at most a 64th of it) for what must be written on a full disk."""
SPARE_BYTES = 8 << 10
"""Of the last free space of a volume, not asked for: the file system needs some for itself."""
_DAMAGE_MAX = 1000
"""Damaged ranges remembered; the count goes on."""


@attrs.frozen(kw_only=True)
class LogSettings:
    """Table `log` of the configuration, as far as the log itself needs it."""

    partitions: int = 4
    """Live partitions, n; there are as many for history. Fixed when the log is made."""
    segment_bytes: int = 64 << 20
    """Length of a segment file, preallocated; a larger group gets a segment of its own."""
    retention: Retention = attrs.field(factory=Retention)
    background_upkeep: bool = False
    """Somebody calls `upkeep` beside the commits (the buffer does): a new segment then costs a producer nothing."""
    tail_bytes: int = 16 << 20
    """Fresh groups remembered per consumer at the head; one that is further behind reads files."""


@attrs.define(eq=False, kw_only=True)
class Log:
    """One log directory, locked for writing. Made by the tree, lent to the buffer (commit) and to consumers."""

    log_id: str
    partitions: int
    """n, as configured; offsets exist for 2n."""
    damage: list[Damage] = attrs.field(factory=list)
    """Durable ranges found rotten since the start: lost, to be fetched again."""
    torn: list[Damage] = attrs.field(factory=list)
    """Unacknowledged tails that recovery cut off."""
    _disk: Disk
    _directory: Path
    _settings: LogSettings
    _wall_ns: Callable[[], int]
    _offload: Offload
    _lock: WriterLock
    _meta: Meta
    _schemas: Schemas
    _catalog: Catalog = attrs.field(init=False)
    _writer: Writer = attrs.field(init=False)
    _consumers: list[LogConsumer] = attrs.field(factory=list)
    _cursors: dict[str, CursorFile] = attrs.field(factory=dict)
    _broken: bool = False

    def __attrs_post_init__(self) -> None:
        self._catalog = Catalog(self._disk, log_low(self.log_id))
        self._writer = self._recover()

    @classmethod
    def open(  # noqa: PLR0913  (every seam by name; called in one place)
        cls,
        disk: Disk,
        directory: Path | str,
        *,
        settings: LogSettings,
        schemas: dict[str, bytes],
        wall_ns: Callable[[], int],
        entropy: Entropy,
        offload: Offload = offload_to_thread,
    ) -> Log:
        """Lock, recover, and be ready to write; made when the directory is empty. Blocking: in a worker thread.

        Raises: ConfigError (in use, changed partitions, newer format, missing segment, not writable),
        LogFull (no room to make a log, or to copy groups that may not be synced), LogSyncFailed (exit 74).
        """
        check_native()
        folder = Path(directory)
        if not 0 < settings.partitions <= PARTITIONS_MAX:
            raise ConfigError(f"log.partitions = {settings.partitions}: must be 1 to {PARTITIONS_MAX}")
        try:
            disk.make_directory(folder)
            lock = take_lock(disk, folder)
        except OSError as error:
            raise _explain(error, disk, folder) from error
        try:
            meta = _open_meta(disk, folder, settings, wall_ns, entropy)
            known = open_schemas(disk, folder, schemas)
            return cls(
                log_id=meta.log_id,
                partitions=meta.partitions,
                disk=disk,
                directory=folder,
                settings=settings,
                wall_ns=wall_ns,
                offload=offload,
                lock=lock,
                meta=meta,
                schemas=known,
            )
        except OSError as error:
            lock.release()
            raise _explain(error, disk, folder) from error
        except BaseException:
            lock.release()
            raise

    # --- what is in it

    @property
    def partitions_total(self) -> int:
        """2n."""
        return 2 * self.partitions

    @property
    def start_position(self) -> int:
        """Position of the oldest kept frame."""
        return self._catalog.start

    @property
    def end_position(self) -> int:
        """durable_upto: everything below it is synced, no reader passes it."""
        return self._writer.positions.position

    @property
    def segments(self) -> int:
        """Segment files."""
        return len(self._catalog.segments)

    @property
    def bytes(self) -> int:
        """Bytes of frames and headers kept (the current segment is preallocated beyond them)."""
        return self.end_position - self.start_position + HEADER_BYTES * self.segments

    @property
    def records_accepted(self) -> int:
        """Rows ever accepted, of all kinds."""
        return sum(self.rows_by_kind.values())

    @property
    def rows_by_kind(self) -> dict[str, int]:
        """Rows ever accepted per kind."""
        return dict(self._writer.positions.rows)

    @property
    def last_stamp_ns(self) -> int:
        """Stamp of the newest group."""
        return self._writer.positions.stamp_ns

    def log_end_offset(self, partition: int) -> int:
        """The next offset of a partition."""
        return self._writer.positions.offsets[partition]

    def producer(self, name: str) -> ProducerState:
        """Last sequence and position of a producer, durable."""
        return self._writer.positions.producers.get(name, ProducerState())

    def producers(self) -> dict[str, ProducerState]:
        """All of them."""
        return dict(self._writer.positions.producers)

    def position_of(self, partition: int, offset: int) -> int:
        """Position of the group that holds (partition, offset), the end if there is none yet."""
        behind = self._writer.positions  # looked at once: a commit in its thread may be putting a new one here
        if offset >= behind.offsets[partition]:
            return behind.position
        return self._catalog.position_of(partition, offset, behind.position)

    # --- writing: one worker thread

    def commit(self, drafts: Sequence[GroupDraft], *, use_reserve: bool = False) -> tuple[list[Appended], list[Group]]:
        """Make drafts durable: answers in the order of the drafts, and the new groups for `offer`. Blocking.

        `use_reserve`: for the record of a loss on a full disk, which has space of its own.
        Raises: InvariantViolation (a draft breaks a rule; nothing was written), LogFull (try again later with the
        same drafts), LogSyncFailed (the process must end: exit 74), LogError (`reopen` first).
        """
        if self._broken:
            raise LogError(f"{self._directory}: a commit died half way; reopen before the next one")
        self._broken = True
        try:
            result = self._writer.commit(drafts, use_reserve=use_reserve)
        except (LogFull, InvariantViolation):
            self._broken = False
            raise
        self._broken = False
        return result

    @property
    def needs_reopen(self) -> bool:
        """True after a commit that did not end: the tail must be recovered before the next one."""
        return self._broken

    def reopen(self) -> None:
        """Recover the tail in place, under a new epoch; consumers go on. Blocking. Raises as `open` does."""
        if self._writer.suspect:
            raise LogSyncFailed(f"{self._directory}: a sync failed in this process; only a new one may go on")
        self._writer.close()
        try:
            self._writer = self._recover()
        except LogSyncFailed:
            self._writer.suspect = True
            raise
        except OSError as error:
            raise _explain(error, self._disk, self._directory, running=True) from error
        self._broken = False

    @property
    def upkeep_due(self) -> bool:
        """Something waits for `upkeep`, or the runway is missing."""
        return self._writer.upkeep_due

    def upkeep(self, *, verified: int = 0, pressed: bool = False) -> None:
        """Trimming, runway, sealing, positions: what a producer should not wait for. Blocking; one thread at a time.

        `verified`: the position below which every required consumer has verified, durably; `pressed`: the disk fills
        up. May run beside `commit`, not beside `reopen` or `close`. Raises LogFull (no room for a runway: the log goes
        on in what it has, `room_bytes`), LogSyncFailed (fatal).
        """
        self._trim(min(verified, self.end_position), pressed=pressed)
        self._writer.upkeep()

    def verified_by(self, names: Iterable[str]) -> int:
        """The position below which all these consumers have verified, durably; 0 before they loaded their cursors.

        Not read from the files: those may show what a killed process, or one that met a failing sync, never made
        durable, and what is trimmed by it would be missed after a power cut.
        """
        found = [self._cursors[name].durable_position if name in self._cursors else 0 for name in names]
        return min(found, default=self.end_position)

    def space(self) -> tuple[int, int]:
        """(bytes used, bytes free for us) of the volume. Blocking."""
        return self._disk.used_bytes(self._directory), self._disk.free_bytes(self._directory)

    @property
    def room_bytes(self) -> int:
        """Bytes of frames that can be accepted whoever fills the disk: the rest of this segment and the runway."""
        return self._writer.room_bytes

    def offer(self, groups: Sequence[Group]) -> None:
        """Give fresh groups to the consumers at the head. On the Trio thread, never blocks.

        An empty offer wakes those who wait (after a commit that failed in part).
        """
        for consumer in tuple(self._consumers):
            consumer.offer(groups)

    # --- reading

    def consumer(
        self, name: str, *, partitions: frozenset[int] | None = None, offload: Offload | None = None
    ) -> LogConsumer:
        """A named reader at the oldest frame; `partitions` None = all. A consumer of the same name is replaced."""
        for old in tuple(self._consumers):
            if old.name == name:
                old.close()
        consumer = LogConsumer(
            name,
            self,
            self.reader(tell_losses=True),
            offload or self._offload,
            partitions,
            self._settings.tail_bytes,
            self._forget_consumer,
            self.start_position,
        )
        self._consumers.append(consumer)
        return consumer

    def reader(self, *, tell_losses: bool = False) -> Reader:
        """A blocking reader of the files."""
        return Reader(
            self._disk,
            self._catalog,
            self._schemas,
            log_id=self.log_id,
            on_gap=self._on_gap,
            tell_losses=tell_losses,
        )

    def lost_of(self, damage: Damage) -> Lost:
        """What was in a damaged range, with its kinds by name; the bytes are copied to quarantine/. Blocking."""
        aftermath = Aftermath(
            disk=self._disk,
            directory=self._directory,
            catalog=self._catalog,
            schemas=self._schemas,
            log_end=self.end_position,
        )
        return aftermath.lost_of(damage, self.producers())

    def cursor(self, name: str) -> CursorFile:
        """The durable cursor of a consumer; the same object for the same name, so a restarted actor leaks no handle."""
        if name not in self._cursors:
            self._disk.make_directory(self._directory / CURSORS)
            self._cursors[name] = CursorFile(
                self._disk, self._directory, name, log_id=self.log_id, partitions_total=self.partitions_total
            )
        return self._cursors[name]

    def close(self) -> None:
        """Write the positions, release files and lock. Blocking.

        Raises LogSyncFailed (the disk fails: exit 74), when all is released. A full disk is no failure: the next start
        scans more.
        """
        try:
            if not self._broken and not self._writer.suspect:
                self._writer.store_positions()
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise self._writer.refused(error, "positions") from error
        finally:
            self._writer.close()
            for consumer in tuple(self._consumers):
                consumer.close()
            for cursor in self._cursors.values():
                cursor.close()
            self._lock.release()

    # --- inside

    def _recover(self) -> Writer:
        recovery = Recovery(
            disk=self._disk,
            directory=self._directory,
            log_id=self.log_id,
            partitions_total=2 * self._meta.partitions,
            schemas=self._schemas,
            start_position=self._meta.start_position,
        )
        found = recovery.run()
        new = [one for one in found.damage if one not in self.damage]  # a reopen may be tried once a second
        self.damage += new[: _DAMAGE_MAX - len(self.damage)]
        self.torn += found.torn
        self._lock.begin_epoch(found.epoch)
        self._catalog.replace(found.segments)
        runway = Runway(disk=self._disk, directory=self._directory, size=self._settings.segment_bytes)
        runway.adopt()
        writer = Writer(
            disk=self._disk,
            directory=self._directory,
            catalog=self._catalog,
            schemas=self._schemas,
            positions=found.positions,
            lock=self._lock,
            segment_bytes=self._settings.segment_bytes,
            wall_ns=self._wall_ns,
            last_end=found.last_end,
            runway=runway,
            reserve_bytes=min(RESERVE_BYTES, self._settings.segment_bytes // 64),
            background=self._settings.background_upkeep,
        )
        try:
            _begin(writer, recovery, found)
        except BaseException:
            writer.close()
            raise
        return writer

    def _trim(self, verified: int, *, pressed: bool) -> None:
        """Cursors (durable already) -> positions -> META -> unlink -> sync of the directory, in this order.

        A crash in between leaves files that nobody needs: the next start removes them.
        """
        segments = self._catalog.segments
        start = new_start(
            segments, verified=verified, now_ns=self._wall_ns(), retention=self._settings.retention, pressed=pressed
        )
        gone = [segment for segment in segments if segment.base < start]
        if not gone or self._writer.suspect:
            return
        try:
            self._writer.store_snapshot_at(start)
            self._meta = msgspec.structs.replace(self._meta, start_position=start)
            store_meta(self._disk, self._directory, self._meta)
            self._catalog.drop_below(start)
            for segment in gone:
                self._disk.unlink(segment.path)
            self._disk.sync_directory(self._directory)
        except OSError as error:
            raise self._writer.refused(error, "trimming") from error

    def _on_gap(self, segment: Segment, gap: Gap) -> None:
        """A reader met rot. (Called in worker threads; appending to a list is atomic.)"""
        damage = Damage(segment=segment.path.name, position=gap.position, end_position=gap.end, reason=gap.reason)
        if damage not in self.damage and len(self.damage) < _DAMAGE_MAX:
            self.damage.append(damage)

    def _forget_consumer(self, consumer: LogConsumer) -> None:
        if consumer in self._consumers:
            self._consumers.remove(consumer)


def _begin(writer: Writer, recovery: Recovery, found: Recovered) -> None:
    """A new segment; only then what was carried into it is cut off the old one.

    On a full disk it is made of the space that the old one has too much of. If that is not enough, the log is opened
    without one: consumers read, verified segments go, and every commit tries again. Not while there are groups to
    carry: they may have been acknowledged, but nobody may see them before they are synced.
    Raises LogFull, LogSyncFailed, OSError.
    """
    try:
        writer.start_segment(carry=found.carry)
    except LogFull as error:
        if not found.carry and not found.is_whole:
            raise
        size = recovery.give_back(found)
        with suppress(LogFull):
            writer.upkeep()  # the positions first, if they have outgrown their file: nothing is trimmed without them
        try:
            size = min(size, recovery.disk.free_bytes(recovery.directory) - SPARE_BYTES)
            writer.start_segment(carry=found.carry, size=size)
        except LogFull:
            if found.carry:
                size = found.carry[-1].end - found.carry[0].position
                raise LogFull(
                    f"{error}: the last {len(found.carry)} groups ({size} bytes) may not be synced and must be copied "
                    "before the log can be used: free some space on this volume; what was accepted is safe"
                ) from error
    recovery.finish(found)


def _open_meta(
    disk: Disk, directory: Path, settings: LogSettings, wall_ns: Callable[[], int], entropy: Entropy
) -> Meta:
    """META as found, rebuilt from a segment's header if it is damaged, or new in an empty directory."""
    meta = load_meta(disk, directory)
    if meta is None:
        meta = meta_of_segments(disk, directory) or Meta(
            log_id=entropy.new_id(),
            version=FORMAT_VERSION,
            partitions=settings.partitions,
            created_ns=wall_ns(),
        )
        store_meta(disk, directory, meta)
    elif any((base := segment_base(name)) is not None and base < meta.start_position for name in disk.names(directory)):
        # Recovery will remove those for good. A process that was killed may have left META in the page cache only:
        # after a power cut it would name segments that are gone.
        store_meta(disk, directory, meta)
    if meta.partitions != settings.partitions:
        raise ConfigError(
            f"log.partitions = {settings.partitions}, but the log in {directory} was made with {meta.partitions}, "
            f"which is fixed for ever: set log.partitions = {meta.partitions}, or use a new data_dir"
        )
    return meta


def _explain(error: OSError, disk: Disk, directory: Path, *, running: bool = False) -> Exception:
    """What an error of recovery means: surroundings a person must mend, a full disk, or a failing one.

    `running`: we could write a moment ago, so a read-only volume is an outage, which is waited for.
    """
    what = error.strerror if error.filename is None else f"{error.strerror}: {error.filename}"
    if error.errno == errno.EROFS and running:
        return LogFull(f"{directory}: {what}; what was accepted is safe")
    if error.errno in NO_SPACE and error.errno != errno.EROFS:
        return LogFull(f"{directory}: {what}: free some space on this volume; what was accepted is safe")
    if error.errno == errno.EIO:
        write_suspect(disk, directory, what="start", durable_upto=0, error=error)
        return LogSyncFailed(f"{directory}: {what}; see the kernel's messages of this disk")
    return ConfigError(f"data directory {directory}: {what}; set pipeline.data_dir to a directory that we may write to")
