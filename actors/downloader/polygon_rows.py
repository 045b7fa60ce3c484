"""Polygon's pages of ticks: bytes in, a decoded and validated page out. Pure; runs in a worker thread.

A page is JSON of the vendor decoded straight into columns (2 M rows/s, measured). A row that does not fit the shape
sends the page through the slow path, which finds exactly the bad rows; they are refused one by one (rule 1), unless
they are so many that the schema itself must have changed: then nothing of the page is trusted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import TypeVar

import attrs
import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from actors.downloader.polygon_api import Body
from actors.downloader.polygon_events import BROKEN
from actors.downloader.polygon_shapes import SHAPES, Envelope, Int64, PolygonRow, Shape
from actors.downloader.proof import DecodedPage
from actors.market.rules import FUTURE_REJECT_NS, REJECTED, TS_MIN_NS
from runtime.errors import RetryableSourceError

REASON_SHAPE = "wrong-type"
BROKEN_SHARE_MAX = 0.01
"""More rows of a wrong shape than this (and more than BROKEN_ROWS_MIN): an outage, not poison (DESIGN 2)."""
BROKEN_ROWS_MIN = 10
STATUS_GOOD = frozenset({"OK", "DELAYED"})

T = TypeVar("T")


class PolygonTime(msgspec.Struct):
    """What is wanted of a row that cannot be read: when it was."""

    participant_timestamp: Int64 = 0


class _RawRows(Envelope):
    results: list[msgspec.Raw] | msgspec.UnsetType | None = msgspec.UNSET


_decode_raw = msgspec.json.Decoder(_RawRows).decode
_decode_time = msgspec.json.Decoder(PolygonTime).decode


def decode_page(kind: str, body: Body, *, symbol: str, spelled: str, source: str, now_ns: int) -> DecodedPage:
    """One page of ticks of `symbol`, which the endpoint calls `spelled`.

    Raises: RetryableSourceError when the body is not a whole, good page.
    """
    shape = SHAPES[kind]
    envelope, rows, broken = _parse(shape, body)
    _check_envelope(envelope, rows, len(broken.indexes), (symbol, spelled))
    ts_ns = np.fromiter(map(attrgetter("participant_timestamp"), rows), np.int64, len(rows))
    timed = _timed(ts_ns, now_ns)
    validated = shape.validated(
        symbol, source, ts_ns, rows, now_ns, lambda refused: _raw_texts(body, broken.others(refused))
    )
    rejected = validated.rejected
    return DecodedPage(
        ts_ns=ts_ns[timed],
        identities=lambda start, stop: [shape.identity(rows[i]) for i in timed[start:stop]],
        rows=validated.rows,
        rejected=pa.concat_batches([rejected, broken.batch(body)]) if broken.indexes else rejected,
        next_url=envelope.next_url or "",
        request_id=envelope.request_id or "",
        results_absent=envelope.results is msgspec.UNSET and envelope.results_count is None,
    )


def _check_envelope(envelope: Envelope, rows: Sequence[PolygonRow], broken: int, names: tuple[str, str]) -> None:
    """The checks of UPSTREAM 1.6 that concern one answer alone."""
    if envelope.status not in STATUS_GOOD:
        told = envelope.error or envelope.message or "no message"
        raise RetryableSourceError(f"status {envelope.status!r} with 200: {told[:200]}")
    found = len(rows) + broken
    if envelope.results_count is not None and envelope.results_count != found:
        raise RetryableSourceError(f"page not proven: resultsCount {envelope.results_count}, rows {found}")
    others = {envelope.ticker or "", *map(attrgetter("ticker"), rows)} - {"", *names}
    if others:
        raise RetryableSourceError(f"page not proven: asked for {names[1]}, rows of {sorted(others)[:3]}")


def _timed(ts_ns: npt.NDArray[np.int64], now_ns: int) -> npt.NDArray[np.intp]:
    """Indexes of the rows whose time can be one (rule 20); the others are refused, and prove nothing about the page."""
    timed = np.flatnonzero((ts_ns >= TS_MIN_NS) & (ts_ns <= now_ns + FUTURE_REJECT_NS))
    n = len(ts_ns)
    if (untimed := n - len(timed)) > max(BROKEN_ROWS_MIN, BROKEN_SHARE_MAX * n):
        raise RetryableSourceError(f"page not proven: {untimed} of {n} rows have a time of a wrong magnitude")
    return timed


@attrs.frozen
class _Broken:
    """Rows of a page that do not fit the shape, by their index in it."""

    indexes: tuple[int, ...] = ()
    times_ns: tuple[int, ...] = ()

    def others(self, indexes: npt.NDArray[np.intp]) -> list[int]:
        """Page indexes of the `indexes`-th rows that are not broken."""
        if not self.indexes:
            return [int(i) for i in indexes]
        broken = np.array(self.indexes)
        shift = np.searchsorted(broken - np.arange(len(broken)), indexes, side="right")
        return [int(i) for i in indexes + shift]

    def batch(self, body: Body) -> pa.RecordBatch:
        """In the schema REJECTED."""
        columns = [_raw_texts(body, list(self.indexes)), [REASON_SHAPE] * len(self.indexes), list(self.times_ns)]
        arrays = [pa.array(values, field.type) for values, field in zip(columns, REJECTED, strict=True)]
        return pa.RecordBatch.from_arrays(arrays, schema=REJECTED)


def _parse(shape: Shape, body: Body) -> tuple[Envelope, Sequence[PolygonRow], _Broken]:
    try:
        page = shape.decode(body)
        return page, list(page.results or ()), _Broken()
    except msgspec.ValidationError:
        return _parse_slowly(shape, body)
    except BROKEN as exc:
        raise RetryableSourceError(f"body is not whole JSON ({exc}): {_head(body)}") from exc


def _parse_slowly(shape: Shape, body: Body) -> tuple[Envelope, Sequence[PolygonRow], _Broken]:
    try:
        page = _decode_raw(body)
    except BROKEN as exc:
        raise RetryableSourceError(f"wrong schema ({exc}): {_head(body)}") from exc
    raw_rows = page.results or ()
    rows: list[PolygonRow] = []
    broken: list[int] = []
    times: list[int] = []
    for index, raw in enumerate(raw_rows):
        row = _try(shape.decode_loose, raw)
        if row is None:
            broken.append(index)
            time = _try(_decode_time, raw)
            times.append(time.participant_timestamp if time is not None else 0)
        else:
            rows.append(row)
    if len(broken) > max(BROKEN_ROWS_MIN, BROKEN_SHARE_MAX * len(raw_rows)):
        raise RetryableSourceError(
            f"wrong schema: {len(broken)} of {len(raw_rows)} rows are not {shape.kind}: "
            f"{_head(bytes(raw_rows[broken[0]]))}"
        )
    return page, rows, _Broken(tuple(broken), tuple(times))


def _try(decode: Callable[[msgspec.Raw], T], raw: msgspec.Raw) -> T | None:
    try:
        return decode(raw)
    except BROKEN:
        return None


def _raw_texts(body: Body, indexes: list[int]) -> list[str]:
    """The vendor's own text of these rows; decodes once more, only when something was refused."""
    rows = _decode_raw(body).results or ()
    return [bytes(rows[i]).decode("utf-8", "replace") for i in indexes]


def _head(body: Body) -> str:
    return repr(bytes(body[:80]).decode("utf-8", "replace"))
