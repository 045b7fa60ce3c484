"""The four kinds of rows as Arrow schemas, and how a batch becomes the body of a log frame and back.

A body holds the Arrow IPC messages of one batch (dictionaries, then the record batch, zstd) without the schema
message: that is kept once per log and put in front where a frame leaves it, because one row with its schema costs
0.8-1.8 kB. Times are int64 ns UTC; prices are float64 that print back as the vendor's decimal (<= 15 digits).
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

BODY_BYTES_MAX = 900_000
FRAME_ROWS_MAX = 65_536

_name = pa.dictionary(pa.int32(), pa.string())


def _field(name: str, kind: pa.DataType, *, null: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=null)


QUOTES = pa.schema(
    [
        _field("symbol", _name),
        _field("ts_ns", pa.int64()),
        _field("bid", pa.float64(), null=True),
        _field("ask", pa.float64(), null=True),
        _field("bid_size", pa.float64(), null=True),
        _field("ask_size", pa.float64(), null=True),
        _field("source", _name),
        _field("flags", pa.int32()),
    ]
)
TRADES = pa.schema(
    [
        _field("symbol", _name),
        _field("ts_ns", pa.int64()),
        _field("price", pa.float64()),
        _field("size", pa.float64(), null=True),
        _field("trade_id", pa.string(), null=True),
        _field("conditions", pa.string(), null=True),  # comma-separated vendor codes
        _field("source", _name),
        _field("flags", pa.int32()),
    ]
)
CANDLES = pa.schema(
    [
        _field("symbol", _name),
        _field("timeframe", _name),
        _field("basis", _name),
        _field("ts_ns", pa.int64()),  # start of [ts, ts + timeframe)
        _field("open", pa.float64()),
        _field("high", pa.float64()),
        _field("low", pa.float64()),
        _field("close", pa.float64()),
        _field("volume", pa.float64(), null=True),
        _field("vwap", pa.float64(), null=True),
        _field("ticks", pa.int64()),
        _field("origin", _name),  # ticks | vendor
        _field("source", _name),
        _field("final", pa.bool_()),
        _field("flags", pa.int32()),
        _field("revision", pa.int64()),  # stamp (ns) of the group that caused this version
    ]
)
COVERAGE = pa.schema(
    [
        _field("symbol", _name),
        _field("kind", _name),
        _field("source", _name),
        _field("from_ns", pa.int64()),
        _field("to_ns", pa.int64()),  # exclusive
        _field("status", _name),  # live | final | empty | missing | quarantined
        _field("rows", pa.int64()),
        _field("checksum", pa.int64()),  # additive, see content_checksum
        _field("rejected", pa.int64()),
        _field("duplicates", pa.int64()),
        _field("reason", pa.string()),
        _field("request_id", pa.string()),  # of each page, comma-separated
        _field("after_offset", pa.int64(), null=True),  # live offset this slice supersedes
        _field("session", pa.string(), null=True),  # live session
        _field("market_clock_ns", pa.int64(), null=True),  # the vendor's clock, live
    ]
)
SCHEMAS: dict[str, pa.Schema] = {"quotes": QUOTES, "trades": TRADES, "candles": CANDLES, "coverage": COVERAGE}
KINDS: tuple[str, ...] = tuple(SCHEMAS)

_EOS = b"\xff\xff\xff\xff\x00\x00\x00\x00"
# One frame is small: handing its eight columns to Arrow's thread pool costs more than it saves (measured 2.5 times).
_OPTIONS = pa.ipc.IpcWriteOptions(compression="zstd", emit_dictionary_deltas=False, use_threads=False)
_PLAIN_OPTIONS = pa.ipc.IpcWriteOptions(emit_dictionary_deltas=False, use_threads=False)
_PLAIN_ROWS_MAX = 8
"""Up to here packing makes a body larger (one coverage row: 1,816 bytes plain, 2,488 packed) and slower to read."""
_READ_OPTIONS = pa.ipc.IpcReadOptions(use_threads=False)


@attrs.frozen(kw_only=True)
class EncodedBatch:
    """One batch as the body of a frame."""

    kind: str
    body: bytes
    rows: int
    event_time_ns_min: int
    event_time_ns_max: int


def schema_message(kind: str) -> bytes:
    """The Arrow schema message that belongs in front of every body of `kind`."""
    return bytes(SCHEMAS[kind].serialize())


def event_times(kind: str, batch: pa.RecordBatch) -> np.ndarray:
    """int64 ns UTC, one per row: start of the interval where the kind has one."""
    return np.asarray(batch.column("from_ns" if kind == "coverage" else "ts_ns").to_numpy())


def encode(kind: str, batch: pa.RecordBatch) -> Iterator[EncodedBatch]:
    """Cut `batch` (schema of `kind`) into bodies of at most BODY_BYTES_MAX; a batch of no rows gives one body."""
    if not batch.schema.equals(SCHEMAS[kind]):
        raise TypeError(f"{kind}: schema {batch.schema} is not {SCHEMAS[kind]}")
    rows = batch.num_rows
    if rows > FRAME_ROWS_MAX:
        for start in range(0, rows, FRAME_ROWS_MAX):
            yield from encode(kind, batch.slice(start, FRAME_ROWS_MAX))
        return
    body = _body(kind, batch)
    if len(body) > BODY_BYTES_MAX and rows > 1:
        half = rows // 2
        yield from encode(kind, batch.slice(0, half))
        yield from encode(kind, batch.slice(half))
        return
    times = event_times(kind, batch)
    ends = np.asarray(batch.column("to_ns").to_numpy()) if kind == "coverage" else times
    low, high = (int(times.min()), int(ends.max())) if rows else (0, 0)
    yield EncodedBatch(kind=kind, body=body, rows=rows, event_time_ns_min=low, event_time_ns_max=high)


def _body(kind: str, batch: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    options = _PLAIN_OPTIONS if batch.num_rows <= _PLAIN_ROWS_MAX else _OPTIONS
    with pa.ipc.new_stream(sink, SCHEMAS[kind], options=options) as writer:
        writer.write_batch(batch)
    whole = sink.getvalue()
    start = len(schema_message(kind))
    return bytes(whole[start : whole.size - len(_EOS)])


def decode(schema: bytes, body: bytes) -> pa.RecordBatch:
    """The batch of one frame; `schema` as the frame carries it. Raises pa.ArrowInvalid on a damaged body."""
    reader = pa.ipc.open_stream(ipc_stream(schema, body), options=_READ_OPTIONS)
    for batch in reader:
        return batch
    return pa.RecordBatch.from_pylist([], schema=reader.schema)


def ipc_stream(schema: bytes, body: bytes) -> bytes:
    """A complete Arrow IPC stream, as frames leave the log for NATS, Kafka and exports."""
    return b"".join((schema, body, _EOS))


def repeat_name(name: str, rows: int) -> pa.DictionaryArray:
    """A dictionary column that says `name` in every row."""
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([name], pa.string()))


def names(values: list[str]) -> pa.DictionaryArray:
    """A dictionary column of these strings, in order."""
    if len(values) == 1:  # most coverage frames: ten times faster than the general way
        return repeat_name(values[0], 1)
    return pa.array(values, pa.string()).dictionary_encode()


_CHECKED = {"quotes": ("ts_ns", "bid", "ask"), "trades": ("ts_ns", "price", "size")}


def content_checksum(kind: str, batch: pa.RecordBatch) -> int:
    """Additive checksum of a batch's facts: sum over rows of a 64-bit mix of (ts_ns, prices), as signed int64.

    Order does not matter and checksums of parts add up (mod 2**64), so a slice can be audited however a sink stores
    it. Null counts as its own value. Candles and coverage have no checksum (0): their sinks count rows by identity.
    """
    total = np.zeros(batch.num_rows, np.uint64)
    for index, name in enumerate(_CHECKED.get(kind, ())):
        column = batch.column(name)
        filled = pc.fill_null(column, float("nan")) if column.null_count else column
        values = np.ascontiguousarray(filled.to_numpy(zero_copy_only=False))
        if values.dtype == np.float64:
            values = np.where(np.isnan(values), np.nan, values + 0.0)  # one NaN, no -0.0
        total = _mix(total ^ _mix(values.view(np.uint64) + np.uint64(index + 1)))
    return int(total.sum(dtype=np.uint64).astype(np.int64))


def _mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele, Lea, Flood 2014), vectorised."""
    x = x ^ (x >> np.uint64(30))
    x = x * np.uint64(0xBF58476D1CE4E5B9)
    x = x ^ (x >> np.uint64(27))
    x = x * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)))


def add_checksums(*parts: int) -> int:
    """Sum of checksums, mod 2**64, as signed int64."""
    return ((sum(parts) + 2**63) % 2**64) - 2**63
