"""A read-only query to PostgreSQL as one Arrow table. Blocking: asyncpg in an event loop of its own.

Rows travel as COPY text and become columns in Arrow: no Python object per row.
"""

from __future__ import annotations

import asyncio  # noqa: TID251  (an adapter; the loop lives for one query, in a worker thread)
import io
from collections.abc import Coroutine, Sequence
from typing import Any

import asyncpg
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from runtime.errors import ConfigError, NotConnected
from runtime.settings import redact_dsn
from supervisors.cli import query_reader
from supervisors.cli.query import RESULT_BYTES_MAX, QueryRefused

CONNECT_S_MAX = 10.0
QUERY_S_MAX = 600.0
_SESSION = {
    "default_transaction_read_only": "on",
    "search_path": "market,public",
    "TimeZone": "UTC",
    "DateStyle": "ISO",
    "extra_float_digits": "1",  # the shortest text that reads back as the same number
    "statement_timeout": str(int(QUERY_S_MAX * 1000)),
    "application_name": "pipeline sql",
}
_COPIES = ("select", "with", "values", "table", "(")
"""What COPY (…) TO takes; anything else that returns rows (SHOW, EXPLAIN) is small."""
_TYPES = {
    "int2": pa.int16(),
    "int4": pa.int32(),
    "int8": pa.int64(),
    "oid": pa.int64(),
    "float4": pa.float32(),
    "float8": pa.float64(),
    "timestamptz": pa.timestamp("us", "UTC"),
    "timestamp": pa.timestamp("us"),
    "date": pa.date32(),
}


def query(dsn: str, sql: str) -> pa.Table:
    """The rows of one statement of ours, as the user of the DSN: never for one that somebody typed.

    Raises: QueryRefused (wrong SQL, or it would write), NotConnected (server down), ConfigError (it refuses us).
    """
    return _run(dsn, _query(dsn, sql.strip().rstrip(";").strip()))


def query_as_reader(dsn: str, sql: str) -> pa.Table:
    """The rows of one statement that may be anybody's, with the rights of `market_reader` alone.

    Raises: as `query`; QueryRefused also when the DSN's user is mighty and no reader can be made there.
    """
    return _run(dsn, query_reader.read(dsn, sql.strip().rstrip(";").strip(), _query))


def _run(dsn: str, work: Coroutine[Any, Any, pa.Table]) -> pa.Table:
    where = redact_dsn(dsn)
    try:
        return asyncio.run(work)
    except (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError) as exc:
        raise ConfigError(f"{where}: {exc}") from exc
    except (asyncpg.CannotConnectNowError, asyncpg.PostgresConnectionError, asyncpg.TooManyConnectionsError) as exc:
        raise NotConnected(f"{where}: {exc}") from exc
    except asyncpg.PostgresError as exc:
        raise QueryRefused(_told(exc)) from exc
    except (OSError, TimeoutError, asyncpg.InterfaceError) as exc:
        raise NotConnected(f"{where}: {str(exc) or type(exc).__name__}") from exc


def _told(error: asyncpg.PostgresError) -> str:
    if "multiple commands into a prepared statement" in str(error):
        return "one query at a time"
    return ": ".join(str(error).splitlines())  # its DETAIL is a line of its own


async def _query(dsn: str, sql: str, **login: str) -> pa.Table:
    connection = await asyncpg.connect(dsn, timeout=CONNECT_S_MAX, server_settings=_SESSION, **login)
    try:
        attributes = (await connection.prepare(sql)).get_attributes()
        if not attributes:
            raise QueryRefused("only queries that return rows are possible here; the session is read-only")
        if not sql.lower().startswith(_COPIES):
            return _as_text(attributes, await connection.fetch(sql, timeout=QUERY_S_MAX))
        found = io.BytesIO()

        async def take(data: bytes) -> None:
            if found.tell() + len(data) > RESULT_BYTES_MAX:
                raise QueryRefused(f"the result is larger than {RESULT_BYTES_MAX:,} bytes: ask for less")
            found.write(data)

        await connection.copy_from_query(sql, output=take, format="csv", timeout=QUERY_S_MAX)
        return _from_csv(attributes, found)
    finally:
        connection.terminate()  # a read-only session has nothing to finish


def _as_text(attributes: Sequence[Any], rows: Sequence[Any]) -> pa.Table:
    columns = [[None if row[i] is None else str(row[i]) for row in rows] for i in range(len(attributes))]
    return pa.table([pa.array(column, pa.string()) for column in columns], names=[a.name for a in attributes])


def _from_csv(attributes: Sequence[Any], text: io.BytesIO) -> pa.Table:
    """COPY's CSV: NULL is nothing at all, an empty string is two quotes."""
    names = [attribute.name for attribute in attributes]
    if not text.tell():
        return pa.table([_typed(pa.chunked_array([], pa.string()), a) for a in attributes], names=names)
    text.seek(0)
    keys = [str(i) for i in range(len(names))]  # names may repeat
    raw = pyarrow.csv.read_csv(
        text,
        read_options=pyarrow.csv.ReadOptions(column_names=keys),
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(keys, pa.string()),
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )
    return pa.table([_typed(raw.column(k), a) for k, a in zip(keys, attributes, strict=True)], names=names)


def _typed(column: pa.ChunkedArray, attribute: Any) -> pa.ChunkedArray:
    """The column in the Arrow type of its PostgreSQL type; text where there is none, or a value has no place in it."""
    name = attribute.type.name
    if name == "bool":
        return pc.equal(column, "t")
    wanted = [pa.int64(), pa.decimal128(38, 18)] if name == "numeric" else [_TYPES.get(name, pa.string())]
    for kind in wanted:
        try:
            return column.cast(kind)
        except pa.ArrowInvalid:  # 'infinity' as a time, a numeric with more digits
            continue
    return column
