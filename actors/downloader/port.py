"""The port between the downloader and a vendor. Adapters: polygon.py, memory.py."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

import attrs
import pyarrow as pa


@attrs.frozen(kw_only=True)
class Page:
    """One proven page: rows in time order, validated, in the schema of their kind (`actors/market/schema.py`)."""

    rows: pa.RecordBatch
    proven_to_ns: int
    """Exclusive: every row of the chain below this time has been delivered (the last page: the end of the range)."""
    request_id: str
    rejected: pa.RecordBatch | None = None
    """Rows our rules refuse, as received (column `raw`) with a `reason` and `ts_ns` (0 if unknown)."""


class HistorySource(Protocol):
    """History of one vendor."""

    name: str
    """The `source` of its rows."""

    def pages(self, symbol: str, kind: str, from_ns: int, to_ns: int) -> AsyncIterator[Page]:
        """The chain of pages that covers [from_ns, to_ns), in time order, each proven (UPSTREAM 1.6).

        Raises: RetryableSourceError (outage, 429, page not proven: start again from the last `proven_to_ns`),
        PermanentSourceError (unknown symbol, bad request, no entitlement).
        """
        ...

    async def close(self) -> None:
        """Release connections, within a bound."""
        ...
