"""A read-only query to ClickHouse as one Arrow table, by its HTTP interface. Blocking."""

from __future__ import annotations

import attrs
import httpx
import pyarrow as pa

from runtime.errors import ConfigError, NotConnected
from runtime.settings import redact_dsn
from supervisors.cli.query import RESULT_BYTES_MAX, QueryRefused

CONNECT_S_MAX = 10.0
QUERY_S_MAX = 600.0
_SCHEMES = {"clickhouse": "http", "clickhouses": "https", "http": "http", "https": "https"}
_SETTINGS = {
    "default_format": "ArrowStream",
    "output_format_arrow_string_as_string": "1",
    "output_format_arrow_low_cardinality_as_dictionary": "0",
    "output_format_arrow_compression_method": "none",
    "readonly": "2",  # reads only, and the settings above are still allowed
}
_REFUSES_US = (401, 403)
_READONLY, _SYNTAX = "(READONLY)", "(SYNTAX_ERROR)"


@attrs.frozen
class OtherFormat(Exception):
    """The query names a format of its own: here is the answer as it came."""

    data: bytes


def query(dsn: str, sql: str) -> pa.Table:
    """The rows of one statement.

    Raises: QueryRefused (wrong SQL, or it would write), NotConnected (server down), ConfigError (it refuses us),
    OtherFormat.
    """
    answer, body = _ask(dsn, sql)
    if answer.status_code in _REFUSES_US and "AUTHENTICATION" in body.decode("utf-8", "replace").upper():
        raise ConfigError(f"{redact_dsn(dsn)}: {_first_line(body)}")
    if answer.status_code != httpx.codes.OK:
        text = _first_line(body)
        raise QueryRefused((_syntax_error(dsn, sql) or _reading_only(text)) if _READONLY in text else text)
    if answer.headers.get("X-ClickHouse-Format") != "ArrowStream":
        raise OtherFormat(body)
    return pa.ipc.open_stream(body).read_all() if body else pa.table({})


def _ask(dsn: str, sql: str) -> tuple[httpx.Response, bytes]:
    """The answer and its body. Raises: QueryRefused (too large), NotConnected."""
    url = httpx.URL(dsn)
    address = httpx.URL(scheme=_SCHEMES[url.scheme], host=url.host, port=url.port or 8123, path="/")
    params = {**_SETTINGS, "database": url.path.strip("/") or "market"}
    auth = httpx.BasicAuth(url.username, url.password) if url.username else None
    timeout = httpx.Timeout(QUERY_S_MAX, connect=CONNECT_S_MAX)
    try:
        with httpx.Client(trust_env=False, timeout=timeout, auth=auth) as client:
            request = client.build_request("POST", address, params=params, content=sql.encode())
            answer = client.send(request, stream=True)
            return answer, _read(answer)
    except httpx.HTTPError as exc:
        raise NotConnected(f"{redact_dsn(dsn)}: {str(exc) or type(exc).__name__}") from exc


def _syntax_error(dsn: str, sql: str) -> str:
    """What the server's parser has against `sql`; empty when it can be read, or the server cannot tell.

    Who may only read is refused by the first word, before anybody parses: a typing mistake would be called a write.
    """
    literal = sql.replace("\\", "\\\\").replace("'", "\\'")
    answer, body = _ask(dsn, f"SELECT formatQuery('{literal}')")
    text = _first_line(body)
    if answer.status_code == httpx.codes.OK or _SYNTAX not in text:
        return ""
    return text.partition(": In scope SELECT formatQuery(")[0]


def _reading_only(text: str) -> str:
    """Without the advice for who asks by HTTP: there is no password for this command."""
    return text.partition(". Without the password")[0] + ". `pipeline sql` only reads"


def _read(answer: httpx.Response) -> bytes:
    found = bytearray()
    for chunk in answer.iter_bytes():
        found += chunk
        if len(found) > RESULT_BYTES_MAX:
            raise QueryRefused(f"the result is larger than {RESULT_BYTES_MAX:,} bytes: ask for less")
    return bytes(found)


def _first_line(body: bytes) -> str:
    return (body.decode("utf-8", "replace").strip().splitlines() or ["refused without a word"])[0][:1000]
