"""Rows in, slices out, in time order and gap-free; a slice as the frames of one append. Pure.

A slice is one (symbol, kind, [from, to)) fetched whole: whole minutes, inside one UTC hour, at most 200,000 rows; a
single minute with more goes whole (DESIGN 2). An interval without rows gives a slice too: "asked, nothing there".
"""

from __future__ import annotations

import attrs
import numpy as np
import pyarrow as pa

from actors.downloader.port import Page
from actors.market.coverage import Coverage, coverage_batch
from actors.market.schema import SCHEMAS, content_checksum, encode
from runtime.clock import NS_PER_HOUR, NS_PER_MINUTE, format_ns
from runtime.errors import PermanentSourceError
from runtime.log.frame import GROUP_BYTES_MAX
from runtime.log.types import FrameDraft

SLICE_ROWS_MAX = 200_000
MINUTE_ROWS_MAX = 1_000_000
"""More in one minute would not fit into one group; no market does that."""
REQUEST_IDS_MAX = 16
"""Named in one coverage record; further ones are counted."""
FRAME_OVERHEAD_BYTES = 4096


@attrs.frozen(kw_only=True)
class Slice:
    """The whole content of one interval."""

    from_ns: int
    to_ns: int
    rows: pa.RecordBatch
    rejected: int
    request_id: str


@attrs.define
class _Asked:
    """One proven piece: which request answered for it."""

    to_ns: int
    request_id: str


class SliceCutter:
    """Turns the proven pages over [from_ns, to_ns) (whole minutes) into slices."""

    def __init__(self, kind: str, from_ns: int, to_ns: int, *, rows_max: int = SLICE_ROWS_MAX) -> None:
        if from_ns % NS_PER_MINUTE or to_ns % NS_PER_MINUTE or from_ns >= to_ns:
            raise ValueError(f"[{from_ns}, {to_ns}) is not whole minutes")
        self.done_to_ns = from_ns
        """Everything below is in slices that were handed out."""
        self._to_ns = to_ns
        self._proven_to_ns = from_ns
        self._rows_max = rows_max
        self._rows = pa.RecordBatch.from_pylist([], schema=SCHEMAS[kind])
        self._rejected_ns = np.empty(0, np.int64)
        self._asked: list[_Asked] = []

    @property
    def rows_pending(self) -> int:
        """Rows held back until their hour is whole."""
        return int(self._rows.num_rows)

    def push(self, page: Page) -> list[Slice]:
        """Add the next page; the slices that are whole now."""
        if page.rows.num_rows:
            self._rows = pa.concat_batches([self._rows, page.rows]) if self.rows_pending else page.rows
        if page.rejected is not None and page.rejected.num_rows:
            self._rejected_ns = np.concatenate([self._rejected_ns, page.rejected.column("ts_ns").to_numpy()])
        self._asked.append(_Asked(page.proven_to_ns, page.request_id))
        self._proven_to_ns = page.proven_to_ns
        slices = []
        while (cut_ns := self._next_cut()) is not None:
            slices.append(self._cut(cut_ns))
        return slices

    def _next_cut(self) -> int | None:
        """Where the next slice ends; None while it is not proven to be whole."""
        from_ns = self.done_to_ns
        hour_ns = min((from_ns // NS_PER_HOUR + 1) * NS_PER_HOUR, self._to_ns)
        proven_ns = min(self._proven_to_ns - self._proven_to_ns % NS_PER_MINUTE, hour_ns)
        if from_ns >= proven_ns:
            if self.rows_pending > MINUTE_ROWS_MAX:
                raise PermanentSourceError(f"more than {MINUTE_ROWS_MAX} rows in the minute {format_ns(from_ns)}")
            return None
        times = self._rows.column("ts_ns").to_numpy()
        rows = int(np.searchsorted(times, proven_ns, side="left"))
        if rows > self._rows_max:
            over_ns = int(times[self._rows_max])
            return max(over_ns - over_ns % NS_PER_MINUTE, from_ns + NS_PER_MINUTE)
        # An hour that is proven in part waits for its rest, unless that could pass the bound.
        return proven_ns if proven_ns == hour_ns or self.rows_pending > self._rows_max else None

    def _cut(self, to_ns: int) -> Slice:
        rows = int(np.searchsorted(self._rows.column("ts_ns").to_numpy(), to_ns, side="left"))
        below = self._rejected_ns < to_ns  # unknown times (0) are counted with the next slice
        out = Slice(
            from_ns=self.done_to_ns,
            to_ns=to_ns,
            rows=self._rows.slice(0, rows),
            rejected=int(below.sum()),
            request_id=self._request_ids(to_ns),
        )
        self._rows = self._rows.slice(rows)
        self._rejected_ns = self._rejected_ns[~below]
        self.done_to_ns = to_ns
        return out

    def _request_ids(self, to_ns: int) -> str:
        """Of every answer that had a part in [done_to, to), oldest first, each once."""
        ids: dict[str, None] = {}
        for asked in self._asked:
            ids.update(dict.fromkeys(part for part in asked.request_id.split(",") if part))
            if asked.to_ns >= to_ns:
                break
        self._asked = [asked for asked in self._asked if asked.to_ns > to_ns]
        names = list(ids)
        more = [f"+{len(names) - REQUEST_IDS_MAX}"] if len(names) > REQUEST_IDS_MAX else []
        return ",".join(names[:REQUEST_IDS_MAX] + more)


@attrs.frozen(kw_only=True)
class Feed:
    """Whose slices: fixed for one producer."""

    symbol: str
    kind: str
    source: str
    partition: int
    """The symbol's history partition."""
    live_partition: int
    """And its live one."""

    @property
    def name(self) -> str:
        """As the buffer knows it."""
        return f"{self.symbol}/{self.kind}"


@attrs.frozen(kw_only=True)
class Framed:
    """A slice as the frames of one append."""

    coverage: Coverage
    data: tuple[FrameDraft, ...]
    """At least one."""
    partition: int

    @property
    def frames(self) -> tuple[FrameDraft, ...]:
        """Data, and the coverage record last."""
        return (*self.data, *coverage_frames(self.partition, self.coverage))

    def stamped(self, after_offset: int) -> tuple[FrameDraft, ...]:
        """Saying that they come after this offset of the live partition."""
        return attrs.evolve(self, coverage=attrs.evolve(self.coverage, after_offset=after_offset)).frames


def frame_slice(feed: Feed, piece: Slice, *, final: bool = True, reason: str = "") -> Framed:
    """`piece` encoded; provisional unless `final`; `reason`: of its coverage. Tens of ms for a full slice: offload it.

    Raises: PermanentSourceError when a single minute does not fit into one group.
    """
    coverage = Coverage(
        symbol=feed.symbol,
        kind=feed.kind,
        source=feed.source,
        from_ns=piece.from_ns,
        to_ns=piece.to_ns,
        status=("final" if piece.rows.num_rows else "empty") if final else "live",
        rows=piece.rows.num_rows,
        checksum=content_checksum(feed.kind, piece.rows),
        rejected=piece.rejected,
        reason=reason,
        request_id=piece.request_id,
    )
    data = tuple(_frames(feed.partition, feed.kind, piece.rows))
    framed = Framed(coverage=coverage, data=data, partition=feed.partition)
    if sum(len(frame.body) + FRAME_OVERHEAD_BYTES for frame in (*data, data[0])) > GROUP_BYTES_MAX:
        raise PermanentSourceError(f"{feed.symbol}: the minute {format_ns(piece.from_ns)} does not fit into one group")
    return framed


def coverage_frames(partition: int, *records: Coverage) -> tuple[FrameDraft, ...]:
    """Coverage records as frames."""
    return tuple(_frames(partition, "coverage", coverage_batch(records)))


def _frames(partition: int, kind: str, rows: pa.RecordBatch) -> list[FrameDraft]:
    return [
        FrameDraft(
            partition=partition,
            kind=kind,
            body=part.body,
            rows=part.rows,
            event_time_ns_min=part.event_time_ns_min,
            event_time_ns_max=part.event_time_ns_max,
        )
        for part in encode(kind, rows)
    ]
