"""The ports between the downloader and the outside: a vendor's history, and where backfill jobs lie.

Adapters: polygon.py, job_files.py; fakes that pass the same contract tests: memory.py.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

import attrs
import pyarrow as pa

from actors.downloader.jobs import BackfillJob


@attrs.frozen(kw_only=True)
class Page:
    """One proven page: rows in time order, validated, in the schema of their kind (`actors/market/schema.py`)."""

    rows: pa.RecordBatch
    """All below `proven_to_ns`: rows at a page's last instant come with the next page, when their group is whole."""
    proven_to_ns: int
    """Exclusive: every row of the chain below this time has been delivered (the last page: the end of the range)."""
    request_id: str
    rejected: pa.RecordBatch | None = None
    """Rows our rules refuse, as received (column `raw`) with a `reason` and `ts_ns` (0 if unknown)."""


class HistorySource(Protocol):
    """History of one vendor. Several chains may run at the same time."""

    @property
    def name(self) -> str:
        """The `source` of its rows."""
        ...

    def pages(self, symbol: str, kind: str, from_ns: int, to_ns: int) -> AsyncIterator[Page]:
        """The chain of pages that covers [from_ns, to_ns), in time order, each proven (UPSTREAM 1.6).

        A chain that ends without an error has delivered everything: its last page says `proven_to_ns == to_ns`.
        Raises: RetryableSourceError (outage, 429, page not proven: start again from the last `proven_to_ns`),
        PermanentSourceError (unknown symbol, bad request, no entitlement).
        """
        ...

    async def close(self) -> None:
        """Release connections, within a bound."""
        ...


class JobStore(Protocol):
    """The backfill jobs that were asked for and are not done; written by the CLI and the HTTP server, read here."""

    async def load(self) -> list[BackfillJob]:
        """All jobs, oldest first; one that cannot be read is set aside with its reason and not returned."""
        ...

    async def done(self, job_id: str) -> None:
        """The log says that this job is done: forget it. Unknown: nothing to do."""
        ...

    async def failed(self, job_id: str, reason: str) -> None:
        """This job will never succeed as it is: set it aside with the reason, so that no start tries it again."""
        ...
