"""What ClickHouse itself remembers to have been read back: marks beside the rows. Pure.

The delivery's cursor is on another disk. When an older copy of the database's directory is put back, the cursor says
that everything is there, and only marks that went back with the rows know better.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import attrs
import pyarrow as pa

KEPT = -1
"""Partition of a row that says: marks are kept for this log."""


@attrs.frozen
class Marks:
    """Per partition the next offset that was not read back, as stored, and under which number."""

    offsets: Mapping[int, int] = attrs.field(factory=dict)
    number: int = 0
    """The highest stored; 0: no marks are kept for this log yet."""

    @classmethod
    def of(cls, rows: Iterable[Sequence[int]]) -> Marks:
        """From the rows of `chschema.MARKS`: (partition, offset, number)."""
        found = [tuple(map(int, row)) for row in rows]
        return cls(
            {partition: offset for partition, offset, _ in found if partition != KEPT},
            max((number for _, _, number in found), default=0),
        )

    def moved(self, offsets: Mapping[int, int]) -> Marks:
        """After `offsets` were stored."""
        return Marks({**self.offsets, **{p: o for p, o in offsets.items() if p != KEPT}}, self.number + 1)

    def at_most(self, verified: Mapping[int, int]) -> dict[int, int]:
        """What of the cursor's word is confirmed."""
        return {partition: min(offset, self.offsets.get(partition, 0)) for partition, offset in verified.items()}

    def rows(self, log_id: str, offsets: Mapping[int, int]) -> pa.Table:
        """To be inserted, so that `offsets` are the newest."""
        partitions = sorted(offsets)
        return pa.table(
            {
                "log_id": pa.array([log_id] * len(partitions), pa.string()),
                "log_partition": pa.array(partitions, pa.int32()),
                "next_offset": pa.array([offsets[p] for p in partitions], pa.int64()),
                "number": pa.array([self.number + 1] * len(partitions), pa.int64()),
            }
        )
