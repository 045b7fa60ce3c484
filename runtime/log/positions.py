"""What the writer knows at a physical position: offsets, producers, stamp, counts. A fold over the frames' headers.

The file `positions` holds it at some position (written at each new segment and at close), so that a start scans only
what came after. It is a cache: without it, everything is folded again from the segments.
"""

from __future__ import annotations

from pathlib import Path

import attrs
import msgspec

from runtime.disk_port import Disk
from runtime.log.frame import FrameHeader
from runtime.log.scan import Span
from runtime.log.schemas import Schemas
from runtime.log.slots import SlotFile
from runtime.log.types import ProducerState

POSITIONS = "positions"


class _Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    log_id: str
    position: int
    chain: int
    stamp_ns: int
    groups: int
    offsets: list[int]
    last_of_kind: list[tuple[int, str, int]]
    producers: dict[str, tuple[int, bytes]]
    rows: dict[str, int]


@attrs.define(kw_only=True)
class Positions:
    """The state behind the last group below `position`. A commit makes a new one,
    which shares the three tables with it; only recovery changes the rest in place."""

    log_id: str
    offsets: list[int]
    """Next offset per partition (2n)."""
    position: int = 0
    chain: int = 0
    """header_crc of the last frame."""
    stamp_ns: int = 0
    """Of the last group."""
    groups: int = 0
    last_of_kind: dict[tuple[int, str], int] = attrs.field(factory=dict)
    """(partition, kind) -> offset of its last frame."""
    producers: dict[str, ProducerState] = attrs.field(factory=dict)
    rows: dict[str, int] = attrs.field(factory=dict)
    """Rows accepted per kind since the log began."""

    def copy(self) -> Positions:
        """That later commits leave alone."""
        return attrs.evolve(
            self, last_of_kind=self.last_of_kind.copy(), producers=self.producers.copy(), rows=self.rows.copy()
        )

    def fold(self, span: Span, schemas: Schemas) -> None:
        """Go on behind `span`, which lies at or after `position`."""
        for header in span.headers:
            self.fold_frame(header, schemas.kind_of(header.schema_id))
        self.position = span.end
        self.groups += 1

    def fold_frame(self, header: FrameHeader, kind: str) -> None:
        """One frame."""
        self.offsets[header.partition] = header.offset + 1
        self.last_of_kind[header.partition, kind] = header.offset
        self.rows[kind] = self.rows.get(kind, 0) + header.rows
        self.stamp_ns = max(self.stamp_ns, header.stamp_ns)
        self.chain = header.header_crc
        if header.last:
            self.producers[header.producer] = ProducerState(sequence=header.sequence, position=header.producer_position)

    def skip_lost(self, frames_max: int, upto: int) -> None:
        """Durable frames up to `upto` are gone and unknown: no offset they may have had is given out again."""
        self.offsets = [offset + frames_max for offset in self.offsets]
        self.position = upto
        self.chain = 0


class PositionsFile:
    """The snapshot on disk."""

    def __init__(self, disk: Disk, directory: Path) -> None:
        self._slots = SlotFile(disk, directory / POSITIONS)

    def load(self, log_id: str, partitions_total: int) -> Positions | None:
        """The newest valid snapshot of this log."""
        payload = self._slots.load()
        if payload is None:
            return None
        found = msgspec.json.decode(payload, type=_Snapshot)
        if found.log_id != log_id or len(found.offsets) != partitions_total:
            return None
        return Positions(
            log_id=log_id,
            offsets=list(found.offsets),
            position=found.position,
            chain=found.chain,
            stamp_ns=found.stamp_ns,
            groups=found.groups,
            last_of_kind={(partition, kind): offset for partition, kind, offset in found.last_of_kind},
            producers={
                name: ProducerState(sequence=sequence, position=position)
                for name, (sequence, position) in found.producers.items()
            },
            rows=dict(found.rows),
        )

    def store(self, positions: Positions) -> None:
        """Write durably. Raises OSError."""
        snapshot = _Snapshot(
            log_id=positions.log_id,
            position=positions.position,
            chain=positions.chain,
            stamp_ns=positions.stamp_ns,
            groups=positions.groups,
            offsets=positions.offsets,
            last_of_kind=[(p, kind, offset) for (p, kind), offset in positions.last_of_kind.items()],
            producers={name: (state.sequence, state.position) for name, state in positions.producers.items()},
            rows=positions.rows,
        )
        self._slots.store(msgspec.json.encode(snapshot))

    def close(self) -> None:
        """Release the handle."""
        self._slots.close()


def store_snapshot(disk: Disk, directory: Path, positions: Positions) -> None:
    """Write `positions` into the file of a log, durably. Raises OSError."""
    snapshot = PositionsFile(disk, directory)
    snapshot.load(positions.log_id, len(positions.offsets))
    snapshot.store(positions)
    snapshot.close()
