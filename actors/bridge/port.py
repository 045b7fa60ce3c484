"""The port between a delivery and its sink. Adapters: timescale.py, clickhouse.py, memory.py.

A sink MUST tolerate the same batch twice, MUST be atomic per partition and batch where it has transactions, MUST tell
outage (RetryableSinkError) from poison (PermanentSinkError), and MUST NOT retry by itself.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Protocol

import attrs

from actors.bridge.refused import Refused, Without
from runtime.actor import Seams
from runtime.log.cursor import Cursor
from runtime.log.types import Group

NOBODY = Refused()
"""No row was ever refused."""


@attrs.frozen(kw_only=True)
class SinkBatch:
    """Whole groups (cut to one lane's partitions), in order: what one write applies."""

    groups: tuple[Group, ...]
    marks: dict[int, tuple[int, int]]
    """Per partition: (offset expected as next by the sink, next offset after this batch)."""
    without: Without = attrs.field(factory=dict)
    """Rows that are dead letters: not written, their neighbours keep their numbers."""


@attrs.frozen(kw_only=True)
class WriteResult:
    """What one write did."""

    rows_stored: int
    rows_replaced: int


@attrs.frozen(kw_only=True)
class Mismatch:
    """One thing that verification found wrong."""

    partition: int
    offset: int
    """First frame concerned; -1 when it concerns an interval."""
    what: str
    rows_expected: int
    rows_found: int


@attrs.frozen(kw_only=True)
class Unaudited:
    """Rows that no checksum speaks of: live ones, and what a later slice with other borders left of an older one."""

    kind: str
    symbol: str
    from_ns: int
    """Of the first row."""
    to_ns: int
    """Behind the last one."""
    rows: int


@attrs.frozen(kw_only=True)
class VerifyResult:
    """What one read-back found: `mismatches` empty = everything below the marks is there once."""

    rows_checked: int
    mismatches: tuple[Mismatch, ...]
    unaudited: tuple[Unaudited, ...] = ()
    """Only an audit looks for them."""


@attrs.frozen(kw_only=True)
class KindTotals:
    """What a sink holds of one kind, counted by looking, and what it remembers of how it came about."""

    stored: int
    """Rows there now, each identity once."""
    replaced: int = 0
    """Rows that later slices deleted, of this log or of another."""
    before: int = 0
    """Rows that are not from this log: other logs', and what was there before any."""
    duplicated: int = 0
    """Rows beyond the first of their identity that a reader of the views would see."""


@attrs.frozen(kw_only=True)
class SinkTotals:
    """One consistent look at a sink."""

    marks: dict[int, int]
    """Per partition the next offset: its own marks, or those it was asked to count below."""
    kinds: dict[str, KindTotals]


class Sink(Protocol):
    """One database. One incarnation: open, use, close; a failed one is thrown away and built anew.

    Each method is used by one task at a time; `prepare` and `verify` may run while `write` does.
    """

    name: str
    stores: frozenset[str]

    async def open(self, log_id: str) -> dict[int, int] | None:
        """Connect, create what is missing, return {partition: next offset} as the sink itself knows it.

        A partition that is not in the answer starts at 0. None: this sink keeps no marks and has met this log
        before, so the delivery's cursor decides; a sink that keeps none and is new to the log answers {}.

        Raises: RetryableSinkError (down), ConfigError (holds another log's data, refused without --adopt).
        """
        ...

    async def reached(self) -> dict[int, int]:
        """{partition: next offset after the highest frame of this log that left a row}, of a sink without marks.

        Only so that a log which was set back to an older copy is noticed; what lies below may be missing.
        """
        ...

    async def confirmed(self, verified: dict[int, int]) -> dict[int, int]:
        """What of `verified`, the cursor's word, the sink itself remembers to have been read back there.

        Asked after `open` said None. An older copy of the database that was put back remembers less: from there on it
        is sent again. A sink with no such memory yet takes the cursor's over.

        Raises: RetryableSinkError.
        """
        ...

    async def prepare(self, batch: SinkBatch) -> None:
        """A head start: do the work for a later `write(batch)` that needs no database. Changes nothing there."""
        ...

    async def write(self, batch: SinkBatch) -> WriteResult:
        """Apply the batch exactly once and move the marks with it.

        Raises: RetryableSinkError (outcome unknown or nothing done: open anew, read the marks, send again),
        PermanentSinkError (the sink refuses rows; nothing of the batch is stored).
        """
        ...

    async def probe(self, batch: SinkBatch) -> None:
        """Would it take these rows? `batch`: data frames only, no marks. Leaves nothing that a later write doubles.

        Raises: PermanentSinkError (no), RetryableSinkError (unknown).
        """
        ...

    async def verify(self, groups: tuple[Group, ...], refused: Refused = NOBODY) -> VerifyResult:
        """Read back what `groups` (all below the marks) must have left there and compare counts and content.

        Rows in `refused` must not be there.
        """
        ...

    async def totals(self, log_id: str, marks: dict[int, int]) -> SinkTotals:
        """Count everything, for the conservation ledger. Slow by nature: it looks at every row.

        `marks`: the delivery's committed offsets; a sink without marks of its own counts what is below them.
        """
        ...

    async def audit(self, from_ns: int, to_ns: int, refused: Refused = NOBODY) -> VerifyResult:
        """Compare all slices that overlap [from_ns, to_ns) with their newest coverage record, and look for doubles."""
        ...

    async def close(self) -> None:
        """Release everything, within a bound; never raises for a peer that is gone."""
        ...


class SinkFactory(Protocol):
    """Makes the sink of one connection attempt. Configured by the tree, called by the delivery (and by `verify`).

    A context manager, because a driver's event loop has to end in the task that began it. Leaving it closes the
    sink and never raises for a peer that is gone.
    """

    @property
    def sink_name(self) -> str:
        """`timescale`, `clickhouse`, …: the name of `[sinks.NAME]`."""
        ...

    @property
    def stores(self) -> frozenset[str]:
        """Kinds that this sink keeps; frames of others only move its marks."""
        ...

    def __call__(self, seams: Seams) -> AbstractAsyncContextManager[Sink]:
        """A new, unopened sink."""
        ...


class CursorStore(Protocol):
    """Where a delivery remembers its offsets (`runtime.log.cursor.CursorFile`). Sync: call in a worker thread."""

    def load(self) -> Cursor:
        """The last stored one; an empty one when there is none or both slots are damaged."""
        ...

    def store(self, cursor: Cursor) -> None:
        """Durable when it returns. Raises: LogFull (try later), LogSyncFailed."""
        ...
