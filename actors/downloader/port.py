"""The ports between the downloader and the outside: a vendor's history and stream, and where backfill jobs lie.

Adapters: polygon.py, polygon_stream.py, job_files.py; fakes that pass the same contract tests: memory.py,
memory_live.py.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol

import attrs
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import trio

from actors.downloader.jobs import BackfillJob
from actors.market.rules import RawText
from actors.market.symbols import AssetClass
from runtime.market_clock import Sample


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


@attrs.frozen(kw_only=True, eq=False)
class Ticks:
    """Events of one feed in columns, in the order they came; not validated. Shape: n each."""

    symbol: str
    kind: str
    ts_ns: npt.NDArray[np.int64]
    """The vendor's time; 0 where it lacks."""
    numbers: tuple[npt.NDArray[np.float64], ...]
    """quotes: bid, ask; trades: price, size; NaN where the field lacks."""
    texts: tuple[list[str | None], ...]
    """trades: trade_id, conditions; quotes: none."""
    raw: RawText
    """The vendor's own text of rows, by index."""


@attrs.frozen(kw_only=True)
class Alive:
    """All that the vendor sent before this monotonic instant was delivered before this."""

    sent_s: float


class LiveStream(Protocol):
    """One connection that is authenticated and subscribed."""

    @property
    def refused(self) -> Mapping[str, str]:
        """Symbols that the vendor does not stream to us, and why."""
        ...

    async def receive(self) -> Sequence[Ticks | Alive]:
        """What came next, waiting for it; [] when it concerned nobody. Cancelled while waiting: nothing is lost.

        Raises: RetryableSourceError (the connection is over; `retry_after_s` if the vendor's condition needs a
        cool-down), PermanentSourceError.
        """
        ...

    async def close(self) -> None:
        """End it, within a bound, cancelled or not."""
        ...


class LiveSource(Protocol):
    """The stream of one vendor: one connection for each asset class."""

    @property
    def name(self) -> str:
        """The `source` of its rows."""
        ...

    async def connect(self, nursery: trio.Nursery, asset_class: AssetClass, symbols: Sequence[str]) -> LiveStream:
        """Connect, authenticate, subscribe to the ticks of `symbols`; each step has a deadline.

        Its tasks run in `nursery`, until that is cancelled.

        Raises: RetryableSourceError (outage; max_connections: with `retry_after_s`), PermanentSourceError (the key).
        """
        ...

    def counters(self) -> Mapping[str, int]:
        """Elements of frames that were dropped, by reason, since the process began."""
        ...


class TimeSource(Protocol):
    """A vendor that tells its time."""

    async def server_time(self) -> Sample:
        """One answer. Raises: RetryableSourceError, PermanentSourceError."""
        ...

    async def close(self) -> None:
        """Release connections, within a bound."""
        ...
