"""The coverage ledger: what was asked, what came, and which intervals are known. Pure."""

from __future__ import annotations

import bisect
import json
from collections.abc import Iterator, Sequence

import attrs
import pyarrow as pa

from actors.market.schema import COVERAGE, names

FINAL_STATUS = frozenset({"final", "empty"})
"""Status of a slice whose hour was settled when it was fetched: nothing more is expected."""
SLICE_STATUS = FINAL_STATUS | {"live"}
"""Status that a slice may have: this interval was fetched whole, its rows are the other frames of the group."""
REBUILD = "candles-lost"
"""Reason of a slice that was fetched again since the log lost candles of it: all of them are put out once more."""
UNCONFIRMED_FINAL = "unconfirmed-final"
"""Reason of a live record when nothing will confirm it (`confirm = false`): contiguous live minutes are final."""


@attrs.frozen(kw_only=True)
class Coverage:
    """One coverage record; [from_ns, to_ns) in ns UTC. Its revision is the stamp of its group."""

    symbol: str
    kind: str
    source: str
    from_ns: int
    to_ns: int
    status: str
    """live | final | empty | missing | quarantined"""
    rows: int = 0
    checksum: int = 0
    rejected: int = 0
    duplicates: int = 0
    reason: str = ""
    request_id: str = ""
    after_offset: int | None = None
    session: str | None = None
    market_clock_ns: int | None = None

    @property
    def is_slice(self) -> bool:
        """True: the group holds the whole content of the interval, and replaces what was known of it."""
        return self.session is None and self.status in SLICE_STATUS

    @property
    def is_final(self) -> bool:
        """True: a slice that was fetched when its hour was settled. Any other slice is provisional (status `live`)."""
        return self.is_slice and self.status in FINAL_STATUS

    @property
    def is_heartbeat(self) -> bool:
        """True: a live session says that it is contiguous over the interval; its rows came in any groups before."""
        return self.session is not None and self.status == "live"

    @property
    def is_final_live(self) -> bool:
        """True: a heartbeat whose whole minutes are final, because nothing will confirm them."""
        return self.is_heartbeat and self.reason == UNCONFIRMED_FINAL


def coverage_batch(records: Sequence[Coverage]) -> pa.RecordBatch:
    """Records as a batch in the COVERAGE schema."""
    columns = []
    for field in COVERAGE:
        values = [getattr(record, field.name) for record in records]
        columns.append(names(values) if pa.types.is_dictionary(field.type) else pa.array(values, field.type))
    return pa.RecordBatch.from_arrays(columns, schema=COVERAGE)


def coverage_records(batch: pa.RecordBatch) -> list[Coverage]:
    """The inverse of `coverage_batch`."""
    return [Coverage(**row) for row in batch.to_pylist()]


class IntervalSet:
    """A set of instants as disjoint, sorted, non-touching half-open intervals of ns. Immutable."""

    __slots__ = ("_ends", "_starts")

    def __init__(self, intervals: Sequence[tuple[int, int]] = ()) -> None:
        starts: list[int] = []
        ends: list[int] = []
        for start, end in sorted(i for i in intervals if i[0] < i[1]):
            if ends and start <= ends[-1]:
                ends[-1] = max(ends[-1], end)
            else:
                starts.append(start)
                ends.append(end)
        self._starts = starts
        self._ends = ends

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(zip(self._starts, self._ends, strict=True))

    def __len__(self) -> int:
        return len(self._starts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, IntervalSet) and list(self) == list(other)

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return f"IntervalSet({list(self)})"

    @property
    def total_ns(self) -> int:
        """Sum of lengths."""
        return sum(end - start for start, end in self)

    def add(self, start: int, end: int) -> IntervalSet:
        """With [start, end) in it."""
        return IntervalSet([*self, (start, end)])

    def covers(self, start: int, end: int) -> bool:
        """True when all of [start, end) is in it."""
        if start >= end:
            return True
        at = bisect.bisect_right(self._starts, start) - 1
        return at >= 0 and self._ends[at] >= end

    def missing(self, start: int, end: int) -> list[tuple[int, int]]:
        """The parts of [start, end) that are not in it, in order."""
        gaps = []
        at = start
        for low, high in self:
            if high <= at:
                continue
            if low >= end:
                break
            if low > at:
                gaps.append((at, low))
            at = max(at, high)
        if at < end:
            gaps.append((at, end))
        return gaps

    def to_json(self, *, bytes_max: int) -> str:
        """`[[from, to], …]`; the shortest intervals are left out until it fits. Forgetting one costs a refetch."""
        kept = list(self)
        while len(text := json.dumps(kept, separators=(",", ":"))) > bytes_max:
            kept.remove(min(kept, key=lambda i: i[1] - i[0]))
        return text

    @classmethod
    def from_json(cls, text: str) -> IntervalSet:
        """The inverse of `to_json`."""
        return cls([(int(a), int(b)) for a, b in json.loads(text)])
