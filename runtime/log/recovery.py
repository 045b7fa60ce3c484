"""What is found at start: which frames are durable, what is torn, what is rotten, what is missing.

Mode: "point in time for the unacknowledged tail, absolute below it". A bad group at or above everything known to be
synced was never acknowledged: it and all behind it are void (torn). A bad group below it is corrupt: it stays where
it is, is stepped over and named, and its neighbours stay.

Evidence for "synced": `durable_upto` of every frame, the positions file, every cursor (no reader passes
`durable_upto`), and the beginning of the last segment (it is made after everything before it was synced).

Good groups above the evidence (the last commit, at most) may have been acknowledged, or may be in the page cache
only: after a failed fsync, the kernel shows bytes that will never reach the disk, and a second fsync says "fine".
So they are never synced in place but *carried*: written again, at the same positions, into a new segment of a new
epoch, which is synced before it gets its name; then the old one is cut. This is done at every start, so it does not
depend on the SUSPECT marker, which a full disk may refuse. Writing goes on in that new segment, so old bytes behind
the cut can never line up with new frames.

Nothing of the old state is changed before the new one is complete: a crash during recovery is recovered like any
other.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import attrs

from runtime.disk_port import Disk, File
from runtime.errors import ConfigError
from runtime.log.cursor import NO_SPACE, read_cursors
from runtime.log.frame import FIXED_BYTES, padded
from runtime.log.losses import MISSING_END, quarantine
from runtime.log.positions import Positions, PositionsFile
from runtime.log.scan import Gap, Span, Walker, segment_walker
from runtime.log.schemas import Schemas
from runtime.log.segment import HEADER_BYTES, Segment, load_segment, segment_base, segment_name
from runtime.log.suspect import SUSPECT

_BLOCK = 4096
"""What a file system gives back when a file is cut: whole blocks."""
LOST_FOR_GOOD = (
    "If it is lost for good, put an empty file of its name there: what it held is then named as damaged and, as far "
    "as a vendor has it, fetched again"
)


@attrs.frozen(kw_only=True)
class Damage:
    """Durable frames that do not check: they count as lost and must be fetched again from elsewhere."""

    segment: str
    position: int
    end_position: int
    reason: str


@attrs.define(kw_only=True)
class Recovered:
    """The state to go on from."""

    positions: Positions
    """Behind the last group known to be synced."""
    segments: list[Segment]
    carry: list[Span] = attrs.field(factory=list)
    """Good groups behind `positions`, with bodies, that a new segment must begin with."""
    last_end: int = 0
    """Where the last segment's frames end (the new segment's `prev_end`)."""
    epoch: int = 0
    """Highest one seen."""
    damage: list[Damage] = attrs.field(factory=list)
    torn: list[Damage] = attrs.field(factory=list)
    """Tails that are void: never acknowledged."""

    @property
    def is_whole(self) -> bool:
        """There are segments, and all up to where their frames end is known to be synced: nothing to copy or to name,
        so the log can be read without a new segment."""
        return bool(self.segments) and not self.carry and self.last_end == self.positions.position


@attrs.frozen(kw_only=True)
class Verdict:
    """What the last segment holds."""

    synced: tuple[Span, ...]
    """Without bodies."""
    carry: tuple[Span, ...]
    gaps: tuple[Gap, ...]
    """Corrupt, below what is synced."""
    torn: Gap | None


@attrs.define(kw_only=True)
class Recovery:
    """One pass over a log directory that is locked by us. Raises ConfigError, OSError."""

    disk: Disk
    directory: Path
    log_id: str
    partitions_total: int
    schemas: Schemas
    start_position: int

    def run(self) -> Recovered:
        """Repair what a crash left and say where to go on."""
        found_segments = list_segments(self.disk, self.directory, self.log_id)
        segments = kept(found_segments, self.start_position)
        check_contiguous(self.directory, segments, self.start_position)
        self._trim_again([s for s in found_segments if s not in segments])
        snapshot = PositionsFile(self.disk, self.directory).load(self.log_id, self.partitions_total)
        found = Recovered(positions=self._beginning(segments), segments=segments)
        found.epoch = max((s.header.epoch for s in segments if s.header is not None), default=0)
        evidence = self._evidence(segments, snapshot)
        if not segments and evidence > self.start_position:
            raise ConfigError(
                f"{self.directory}: the log is durable up to position {evidence}, but all its segments are missing: "
                "put them back"
            )
        verdict = Verdict(synced=(), carry=(), gaps=(), torn=None)
        end = self.start_position
        if segments:
            verdict = self._last_segment(found, evidence)
            ends = [*(span.end for span in verdict.synced), *(gap.end for gap in verdict.gaps)]
            end = max(ends, default=segments[-1].base)
        if snapshot is not None and (not segments or snapshot.position >= segments[0].base):
            found.positions = snapshot
        if found.positions.position < end:
            self._fold(found, verdict.synced, end)
        if end < evidence:
            self._lost_end(found, end, evidence)
        found.carry = list(verdict.carry)
        found.last_end = end
        return found

    def finish(self, found: Recovered) -> None:
        """After the new segment is there: cut the old one (what was carried, voided, preallocated) and be done.

        The one before it as well: a crash may have come before it was sealed, which happens in the background.
        """
        afters = [s.header.prev_end if s.header is not None else s.base for s in found.segments[1:]]
        ends = [*afters, found.last_end][: len(found.segments)]
        for segment, end in list(zip(found.segments, ends, strict=True))[-2:]:
            if segment.base < end:
                seal(self.disk, segment, end)
        if self.disk.exists(self.directory / SUSPECT):
            self.disk.unlink(self.directory / SUSPECT)
            self.disk.sync_directory(self.directory)

    def give_back(self, found: Recovered) -> int:
        """On a full disk: cut off what the last segment has behind its frames, zeros or void. How many bytes that were.

        Frames that are to be carried stay: they may be acknowledged, and there is no copy yet. Raises OSError.
        """
        last = found.segments[-1]
        end = found.carry[-1].end if found.carry else found.last_end
        file = self.disk.open(last.path)
        size = file.size()
        file.close()
        seal(self.disk, last, end)
        kept = -(-(HEADER_BYTES + end - last.base) // _BLOCK) * _BLOCK
        return max(0, size - kept)

    def _trim_again(self, gone: Sequence[Segment]) -> None:
        """A crash while they were unlinked may have kept any of them."""
        for segment in gone:
            self.disk.unlink(segment.path)
        if gone:
            self.disk.sync_directory(self.directory)

    def _beginning(self, segments: list[Segment]) -> Positions:
        offsets = [0] * self.partitions_total
        if segments and segments[0].header is not None:
            offsets = list(segments[0].header.offsets)
        return Positions(log_id=self.log_id, offsets=offsets, position=segments[0].base if segments else 0)

    def _evidence(self, segments: list[Segment], snapshot: Positions | None) -> int:
        """Highest position known synced, not counting what frames say."""
        marks = [self.start_position, *(s.base for s in segments[-1:])]
        if snapshot is not None:
            marks.append(snapshot.position)
        marks += [cursor.position for cursor in read_cursors(self.disk, self.directory, self.log_id).values()]
        return max(marks)

    # --- the last segment: the only one that can be torn

    def _last_segment(self, found: Recovered, evidence: int) -> Verdict:
        segment = found.segments[-1]
        file = self.disk.open(segment.path)
        try:
            limit = segment.base + padded(max(0, file.size() - HEADER_BYTES))  # whoever cut it did not count in eights
            chain = segment.header.chain if segment.header is not None else None
            verdict = judge(self._walker(segment, file).walk(segment.base, limit, chain=chain, open_end=True), evidence)
            found.damage += [_damage(segment, gap) for gap in verdict.gaps]
            for gap in verdict.gaps:
                self._quarantine(segment, file, gap, "frame")
            if verdict.torn is not None and self._quarantine(segment, file, verdict.torn, "torn"):
                found.torn.append(_damage(segment, verdict.torn))
        finally:
            file.close()
        return verdict

    def _walker(self, segment: Segment, file: File, *, sealed: bool = False) -> Walker:
        """What cannot be read in a sealed segment is damage; at the end of the log, nobody knows what it is."""
        return segment_walker(segment, file, log_low(self.log_id), bodies=not sealed, lenient=sealed)

    def _quarantine(self, segment: Segment, file: File, gap: Gap, kind: str) -> bool:
        try:
            return quarantine(self.disk, self.directory, segment, file, gap, kind)
        except OSError as error:  # a full disk has no room for a copy of what counts for nothing
            if error.errno not in NO_SPACE:
                raise
            return True

    # --- the state behind the last good frame

    def _fold(self, found: Recovered, spans: Sequence[Span], end: int) -> None:
        """Headers from the snapshot on."""
        positions = found.positions
        for segment, after in itertools.pairwise(found.segments):
            stop = after.header.prev_end if after.header is not None else after.base
            if positions.position < stop:
                self._enter(found, segment)
                self._fold_segment(found, segment, max(segment.base, positions.position), stop)
        self._enter(found, found.segments[-1])
        for span in spans:
            if span.position >= positions.position:
                self._bridge(found, span.position)
                positions.fold(span, self.schemas)
        self._bridge(found, end)

    def _enter(self, found: Recovered, segment: Segment) -> None:
        """A segment's header says which offsets came next at its beginning, whatever was lost before it."""
        if segment.header is not None and found.positions.position <= segment.base:
            found.positions.offsets = list(segment.header.offsets)
            found.positions.position = segment.base
            found.positions.chain = segment.header.chain

    def _fold_segment(self, found: Recovered, segment: Segment, start: int, stop: int) -> None:
        file = self.disk.open(segment.path)
        try:
            walker = self._walker(segment, file, sealed=True)
            for item in walker.walk(start, stop, chain=None, open_end=False):
                if isinstance(item, Gap):
                    found.damage.append(_damage(segment, item))
                else:
                    self._bridge(found, item.position)
                    found.positions.fold(item, self.schemas)
        finally:
            file.close()

    def _bridge(self, found: Recovered, position: int) -> None:
        """Step over lost bytes: at most so many frames, of whatever partition, were in them."""
        missing = position - found.positions.position
        if missing > 0:
            found.positions.skip_lost(missing // FIXED_BYTES + 1, position)

    def _lost_end(self, found: Recovered, end: int, evidence: int) -> None:
        """The files end before what was durable: name the loss and never give its offsets out again."""
        upto = max(evidence, found.positions.position)
        name = found.segments[-1].path.name
        found.damage.append(Damage(segment=name, position=end, end_position=upto, reason=MISSING_END))
        self._bridge(found, upto)


def judge(walked: Iterable[Span | Gap], evidence: int) -> Verdict:
    """Sort what was found in the last segment; pure.

    `evidence`: highest position known synced from elsewhere. Everything from the first torn group on is void, also
    what checks: before a sync, writes may reach the disk in any order.
    """
    items: list[Span | Gap] = []
    stripped = 0
    for item in walked:
        upto = item.durable_upto if isinstance(item, Gap) else max(h.durable_upto for h in item.headers)
        evidence = max(evidence, upto)
        items.append(item)
        while stripped < len(items) and items[stripped].position < evidence:  # keep the bodies of the tail only
            old = items[stripped]
            items[stripped] = old if isinstance(old, Gap) else attrs.evolve(old, bodies=())
            stripped += 1
    spans: list[Span] = []
    gaps: list[Gap] = []
    torn: Gap | None = None
    for item in items:
        if isinstance(item, Span):
            spans.append(item)
        elif item.position >= evidence:
            torn = attrs.evolve(item, end=items[-1].end)
            break
        elif item is items[-1] and item.end > evidence:  # nothing good behind it: rot up to here, no more was synced
            gaps.append(attrs.evolve(item, end=evidence))
            torn = attrs.evolve(item, position=evidence)
        else:
            gaps.append(item)
    synced, carry = split_tail(spans, evidence)
    return Verdict(synced=tuple(synced), carry=tuple(carry), gaps=tuple(gaps), torn=torn)


def split_tail(spans: list[Span], evidence: int) -> tuple[list[Span], list[Span]]:
    """(groups known to be synced, groups to carry)."""
    synced = [span for span in spans if span.position < evidence]
    return synced, spans[len(synced) :]


def seal(disk: Disk, segment: Segment, end: int) -> None:
    """Give the space behind its last frame back. Raises OSError."""
    file = disk.open(segment.path, write=True)
    try:
        size = HEADER_BYTES + end - segment.base
        if file.size() > size:
            file.truncate(size)
            file.sync()
    finally:
        file.close()


def _damage(segment: Segment, gap: Gap) -> Damage:
    return Damage(segment=segment.path.name, position=gap.position, end_position=gap.end, reason=gap.reason)


def log_low(log_id: str) -> int:
    """Low 64 bits of a log_id."""
    return int(log_id[16:], 16)


def list_segments(disk: Disk, directory: Path, log_id: str) -> list[Segment]:
    """All segment files in order. Raises ConfigError for one of another log or of a newer format."""
    found = []
    names = disk.names(directory)
    bases = [base for name in names if (base := segment_base(name)) is not None]
    for name in names:
        base = segment_base(name)
        if base is not None:
            segment = load_segment(disk, directory / name, base, sealed=base != max(bases))
            header = segment.header
            if header is not None and header.log_id != log_id:
                raise ConfigError(f"{segment.path} belongs to log {header.log_id}, not to {log_id}: move it away")
            if header is not None and header.base != base:
                raise ConfigError(f"{segment.path} was renamed: it is {segment_name(header.base)}")
            found.append(segment)
    return sorted(found, key=lambda s: s.base)


def kept(segments: list[Segment], start_position: int) -> list[Segment]:
    """Without those that end at or before `start_position`: their trimming was decided, and they may have holes."""
    return [s for i, s in enumerate(segments) if i + 1 == len(segments) or segments[i + 1].base > start_position]


def check_contiguous(directory: Path, segments: list[Segment], start_position: int) -> None:
    """Raises ConfigError naming a segment that is missing."""
    for before, after, base in missing_segments(segments, start_position):
        if before is None:
            raise ConfigError(
                f"{directory}: the log begins at {start_position}, but its first segment is {after.path.name}: "
                f"put the missing segment back. {LOST_FOR_GOOD}"
            )
        raise ConfigError(
            f"{directory}: the segment with base {base} is missing between {before.path.name} "
            f"and {after.path.name}: put {segment_name(base)} back. {LOST_FOR_GOOD}"
        )


def missing_segments(segments: Sequence[Segment], start_position: int) -> Iterator[tuple[Segment | None, Segment, int]]:
    """(the one before the hole, the one behind it, base of the last that is missing), as far as headers tell."""
    if segments and segments[0].base > start_position:
        yield None, segments[0], start_position
    for before, after in itertools.pairwise(segments):
        if after.header is not None and after.header.prev_base != before.base:
            yield before, after, after.header.prev_base
