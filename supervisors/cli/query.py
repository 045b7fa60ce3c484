"""What a query gave, and how it is written: table, CSV, JSON, Parquet. Pure but for the writing."""

from __future__ import annotations

import datetime
import decimal
import json
import math
from collections.abc import Iterator
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

RESULT_BYTES_MAX = 1 << 30
"""A larger result is refused: it would be held in memory."""
TABLE_ROWS_MAX = 1_000
CELL_CHARS_MAX = 200
FORMATS = ("table", "csv", "json", "parquet")


class QueryRefused(Exception):
    """The database says no to the query itself."""


def write(table: pa.Table, format_: str, out: BinaryIO) -> None:
    """Write `table` in one of FORMATS."""
    match format_:
        case "parquet":
            pyarrow.parquet.write_table(table, out)
        case "csv":
            pyarrow.csv.write_csv(table, out)
        case "json":
            out.writelines(line.encode() for line in json_lines(table))
        case _:
            out.writelines((line + "\n").encode() for line in table_lines(table))


def json_lines(table: pa.Table) -> Iterator[str]:
    """One JSON array of objects, an object a line. Integers stay exact, times are ISO 8601, NaN is null."""
    yield "["
    first = True
    for batch in table.to_batches(max_chunksize=10_000):
        for row in batch.to_pylist():
            yield ("\n" if first else ",\n") + json.dumps({k: _plain(v) for k, v in row.items()}, ensure_ascii=False)
            first = False
    yield "\n]\n" if not first else "]\n"


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, datetime.datetime | datetime.date):
        return value.isoformat()
    if isinstance(value, decimal.Decimal | bytes):
        return str(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def table_lines(table: pa.Table) -> Iterator[str]:
    """Aligned columns, numbers to the right, at most TABLE_ROWS_MAX rows."""
    shown = table.slice(0, TABLE_ROWS_MAX)
    columns = [[_cell(value) for value in column.to_pylist()] for column in shown.columns]
    numeric = [pa.types.is_integer(f.type) or pa.types.is_floating(f.type) for f in table.schema]
    widths = [max([len(name), *map(len, cells)]) for name, cells in zip(table.column_names, columns, strict=True)]

    def line(cells: list[str]) -> str:
        padded = [c.rjust(w) if right else c.ljust(w) for c, w, right in zip(cells, widths, numeric, strict=True)]
        return " | ".join(padded).rstrip()

    yield line(list(table.column_names))
    yield "-+-".join("-" * width for width in widths)
    for row in zip(*columns, strict=True):
        yield line(list(row))
    more = table.num_rows - shown.num_rows
    rows = f"{table.num_rows:,} row{'' if table.num_rows == 1 else 's'}"
    yield f"({rows})" if not more else f"(the first {shown.num_rows:,} of {rows}; --format csv gives all)"


def _cell(value: Any) -> str:
    """One line without control characters."""
    if value is None:
        return ""
    text = value.isoformat(sep=" ") if isinstance(value, datetime.datetime) else str(value)
    text = "".join(c if c.isprintable() else " " for c in text)
    return text if len(text) <= CELL_CHARS_MAX else text[:CELL_CHARS_MAX] + "…"
