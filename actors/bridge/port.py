"""The port between a delivery and its sink. Adapters: timescale.py, clickhouse.py, memory.py.

A sink MUST tolerate the same batch twice, MUST be atomic per partition and batch where it has transactions, MUST tell
outage (RetryableSinkError) from poison (PermanentSinkError), and MUST NOT retry by itself.
"""

from __future__ import annotations

from typing import Protocol

import attrs

from runtime.log.types import Group


@attrs.frozen(kw_only=True)
class SinkBatch:
    """Whole groups (cut to one lane's partitions), in order: what one write applies."""

    groups: tuple[Group, ...]
    marks: dict[int, tuple[int, int]]
    """Per partition: (offset expected as next by the sink, next offset after this batch)."""


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
class VerifyResult:
    """What one read-back found: `mismatches` empty = everything below the marks is there once."""

    rows_checked: int
    mismatches: tuple[Mismatch, ...]


class Sink(Protocol):
    """One database. One incarnation: open, use, close; a failed one is thrown away and built anew."""

    name: str
    stores: frozenset[str]

    async def open(self, log_id: str) -> dict[int, int]:
        """Connect, create what is missing, return {partition: next offset} as the sink itself knows it.

        Raises: RetryableSinkError (down), ConfigError (holds another log's data, refused without --adopt).
        """
        ...

    async def write(self, batch: SinkBatch) -> WriteResult:
        """Apply the batch exactly once and move the marks with it.

        Raises: RetryableSinkError (outcome unknown or nothing done: open anew, read the marks, send again),
        PermanentSinkError (the sink refuses rows; nothing of the batch is stored).
        """
        ...

    async def verify(self, groups: tuple[Group, ...]) -> VerifyResult:
        """Read back what `groups` (all below the marks) must have left there and compare counts and content."""
        ...

    async def close(self) -> None:
        """Release everything, within a bound; never raises for a peer that is gone."""
        ...
