"""PostgreSQL's binary COPY format built from whole columns, and its binary arrays read back. Pure NumPy.

A row is an int16 field count, then per field an int32 length and the value, big-endian; NULL is length -1 and no
value. So rows with the same lengths are one structured array; rows are grouped by their pattern of lengths.
Source: postgresql.org/docs/current/sql-copy.html, "Binary Format"; array_send in utils/adt/arrayfuncs.c.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

HEADER = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
TRAILER = b"\xff\xff"
PG_EPOCH_US = 946_684_800_000_000
"""2000-01-01T00:00:00Z in microseconds since 1970."""

_NULL_LENGTH = -1


@attrs.frozen(kw_only=True)
class Fixed:
    """A column of fixed width."""

    values: np.ndarray
    """Any byte order; float64, int64, int32, int16 or bool, written as float8, int8, int4, int2, bool."""
    valid: np.ndarray | None = None
    """bool per row; None: no NULL."""


@attrs.frozen(kw_only=True)
class Text:
    """A column of strings: text, varchar."""

    data: np.ndarray
    """uint8: the bytes of all values, one after the other."""
    starts: np.ndarray
    """int64 per row: where its value begins in `data`."""
    lengths: np.ndarray
    """int64 per row: bytes; -1 = NULL."""


Column = Fixed | Text


def timestamptz(ns: np.ndarray) -> Fixed:
    """int64 ns UTC as timestamptz: microseconds since 2000, rounded down."""
    return Fixed(values=np.floor_divide(ns, 1000) - PG_EPOCH_US)


def nullable(array: pa.Array) -> Fixed:
    """A fixed-width Arrow column."""
    if not array.null_count:
        return Fixed(values=array.to_numpy(zero_copy_only=False))
    zero = pa.scalar(0, array.type)
    valid = pc.is_valid(array).to_numpy(zero_copy_only=False)
    return Fixed(values=pc.fill_null(array, zero).to_numpy(zero_copy_only=False), valid=valid)


def text(array: pa.Array) -> Text:
    """A string (or dictionary of strings) Arrow column, without its bytes being copied row by row."""
    if pa.types.is_dictionary(array.type):
        array = array.cast(pa.string())
    buffers = array.buffers()
    offsets = np.frombuffer(buffers[1], np.int32, len(array) + 1, array.offset * 4).astype(np.int64)
    lengths = np.diff(offsets)
    if array.null_count:
        lengths = np.where(pc.is_valid(array).to_numpy(zero_copy_only=False), lengths, _NULL_LENGTH)
    data = np.frombuffer(buffers[2], np.uint8) if buffers[2] is not None else np.zeros(0, np.uint8)
    return Text(data=data, starts=offsets[:-1], lengths=lengths)


def copy_payload(columns: Sequence[Column], rows: int) -> list[memoryview]:
    """The whole COPY stream of `rows` rows, in pieces: header, one piece per pattern of lengths, trailer.

    Rows of one pattern keep their order; patterns follow each other.
    """
    records = (_records(columns, chosen, rows) for chosen in _patterns(columns, rows))
    return [memoryview(HEADER), *(memoryview(r.view(np.uint8).data) for r in records), memoryview(TRAILER)]


def _patterns(columns: Sequence[Column], rows: int) -> list[np.ndarray | None]:
    """Row numbers per pattern; [None] = all rows have the same."""
    code: np.ndarray | None = None
    for column in columns:
        own = _codes(column)
        if own is None or own.min(initial=0) == own.max(initial=0):
            continue
        joint = own if code is None else code * (int(own.max()) + 1) + own
        code = np.unique(joint, return_inverse=True)[1]
    if code is None:
        return [None] if rows else []
    order = np.argsort(code, kind="stable")
    return list(np.split(order, np.flatnonzero(np.diff(code[order])) + 1))


def _codes(column: Column) -> np.ndarray | None:
    """A small non-negative int per row that is equal where the lengths are; None: equal everywhere."""
    if isinstance(column, Text):
        return column.lengths + 1
    return None if column.valid is None else column.valid.astype(np.int64)


def _records(columns: Sequence[Column], chosen: np.ndarray | None, rows: int) -> np.ndarray:
    """Structured rows of one pattern."""
    first = 0 if chosen is None else int(chosen[0])
    lengths = [_length(column, first) if rows else 0 for column in columns]
    fields: list[tuple[str, object]] = [("n", ">i2")]
    for index, (column, length) in enumerate(zip(columns, lengths, strict=True)):
        fields.append((f"l{index}", ">i4"))
        if length > 0:
            fields.append((f"v{index}", _wire(column.values.dtype) if isinstance(column, Fixed) else ("u1", (length,))))
    out = np.empty(rows if chosen is None else len(chosen), np.dtype(fields))
    out["n"] = len(columns)
    for index, (column, length) in enumerate(zip(columns, lengths, strict=True)):
        out[f"l{index}"] = length
        if length > 0:
            out[f"v{index}"] = _values(column, chosen, length)
    return out


def _length(column: Column, row: int) -> int:
    if isinstance(column, Text):
        return int(column.lengths[row])
    if column.valid is not None and not column.valid[row]:
        return _NULL_LENGTH
    return column.values.dtype.itemsize


def _wire(dtype: np.dtype) -> np.dtype:
    return dtype.newbyteorder(">")


def _values(column: Column, chosen: np.ndarray | None, length: int) -> np.ndarray:
    if isinstance(column, Fixed):
        return column.values if chosen is None else column.values[chosen]
    starts = column.starts if chosen is None else column.starts[chosen]
    return column.data[starts[:, None] + np.arange(length)]


def read_array(raw: bytes | None, dtype: str) -> np.ndarray:
    """What `array_send(array_agg(x))` of 8-byte values without NULLs returned, as `dtype` ("i8" or "f8").

    Header: int32 dimensions, flags, element oid; per dimension int32 length and lower bound; per element an int32
    length and the value. None (no rows) and the empty array give an empty result.
    """
    if raw is None or int.from_bytes(raw[:4], "big") == 0:
        return np.zeros(0, dtype)
    rows = int.from_bytes(raw[12:16], "big")
    cells = np.frombuffer(raw, np.dtype([("length", ">i4"), ("value", f">{dtype}")]), rows, 20)
    return cells["value"].astype(dtype)
