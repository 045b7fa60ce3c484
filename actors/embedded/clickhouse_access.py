"""Who may ask the façade what (pure; no engine, no socket).

It listens on 127.0.0.1, where every user of the machine and every page in a browser can send requests. Only
`holdfast` with the password from the secret file may write; anybody else (user `default` without password, and every
GET, as on a real server) only reads the tables (`clickhouse_sql.why_refused` and the engine's `readonly=1`). Requests
that a browser makes for a page (Origin, Sec-Fetch-Site, a Host that is not this machine) are refused altogether.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import urllib.parse
import zlib
from collections.abc import Mapping

import attrs

USER = "holdfast"
LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "[::1]", ""})
TRANSPORT = frozenset(
    {
        *("query", "database", "user", "password", "default_format", "buffer_size", "session_id", "session_timeout"),
        *("session_check", "query_id", "quota_key", "compress", "decompress", "wait_end_of_query"),
        *("client_protocol_version", "role", "send_progress_in_http_headers", "http_headers_progress_interval_ms"),
        *("enable_http_compression", "http_zlib_compression_level", "cancel_http_readonly_queries_on_client_close"),
    }
)
"""Parameters of the transport; they are no settings of the engine."""
STRANGERS_SETTINGS = (
    *("output_format_arrow_", "output_format_native_", "output_format_json_", "output_format_parquet_"),
    *("output_format_csv_", "output_format_tsv_", "output_format_pretty_", "date_time_", "cast_string_to_"),
    *("max_execution_time", "max_result_rows", "max_block_size", "max_threads", "join_use_nulls", "session_timezone"),
    *("extremes", "final", "limit", "offset"),
)
"""Beginnings of the settings that a stranger may set; the rest is dropped (`output_format_schema` names a file to
write, `dialect` another grammar than the one that is looked through)."""


@attrs.frozen(kw_only=True)
class Refusal(Exception):
    """The server's own no."""

    status: int
    code: int
    text: str


def credentials_of(headers: Mapping[str, str], query: Mapping[str, str]) -> tuple[str, str]:
    """User and password from wherever ClickHouse takes them; `default` and none where there are none.

    Raises: Refusal when the Authorization header cannot be read.
    """
    if user := headers.get("X-ClickHouse-User"):
        return user, headers.get("X-ClickHouse-Key", "")
    kind, _, coded = headers.get("Authorization", "").partition(" ")
    if kind:
        try:
            user, _, password = base64.b64decode(coded, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError) as exc:
            raise Refusal(status=403, code=516, text="the Authorization header cannot be read") from exc
        return user or "default", password
    return query.get("user", "default"), query.get("password", "")


def may_write(user: str, password: str, *, secret: str) -> bool:
    """Whether this is the pipeline (True) or a stranger (False). Raises: Refusal for a wrong password."""
    if user == "default" and password == "":
        return False
    if user == USER and secret and hmac.compare_digest(password.encode(), secret.encode()):
        return True
    raise Refusal(
        status=403,
        code=516,
        text=f"{user}: Authentication failed: password is incorrect, or there is no user with such name. "
        "(AUTHENTICATION_FAILED)",
    )


def refuse_browsers(headers: Mapping[str, str]) -> None:
    """A page in a browser can send requests to 127.0.0.1: cross-site, or under a name that it made point here.

    Raises: Refusal.
    """
    host = headers.get("Host", "").rpartition(":")
    name = host[0] if host[1] and host[2].isdigit() else headers.get("Host", "")
    cross = headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin")
    if "Origin" in headers or cross or name.lower() not in LOOPBACK_NAMES:
        raise Refusal(status=403, code=497, text="requests of web pages are refused. (ACCESS_DENIED)")


@attrs.frozen(kw_only=True)
class Access:
    """One request's address and rights, known before its body is read."""

    path: str
    query: Mapping[str, str]
    stranger: bool
    """May only read."""


def access_of(method: str, target: str, headers: Mapping[str, str], *, secret: str) -> Access:
    """Raises: Refusal."""
    refuse_browsers(headers)
    parts = urllib.parse.urlsplit(target)
    query = dict(urllib.parse.parse_qsl(parts.query, keep_blank_values=True))
    user, password = credentials_of(headers, query)
    stranger = not may_write(user, password, secret=secret) or method == "GET"
    return Access(path=parts.path, query=query, stranger=stranger)


def settings_of(query: Mapping[str, str], *, stranger: bool) -> dict[str, str]:
    """The engine's settings among the parameters of the address."""
    settings = {n: v for n, v in query.items() if n not in TRANSPORT and not n.startswith("param_") and n != "readonly"}
    if stranger:
        settings = {name: value for name, value in settings.items() if name.startswith(STRANGERS_SETTINGS)}
    return settings


def decoded(body: bytes, encoding: str, *, bytes_max: int) -> bytes:
    """Undo a Content-Encoding.

    Raises: Refusal for one that the standard library does not have, for broken data and for more than `bytes_max`.
    """
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "deflate"):
        text = f"Content-Encoding {encoding} is not supported here: use compress=False. (NOT_IMPLEMENTED)"
        raise Refusal(status=415, code=48, text=text)
    unpacker = zlib.decompressobj(wbits=47)  # 32 + 15: the header says whether it is gzip or zlib
    try:
        plain = unpacker.decompress(body, bytes_max + 1)
    except zlib.error as exc:
        raise Refusal(status=400, code=354, text=f"the body is not {encoding}: {exc}") from exc
    if len(plain) > bytes_max or not unpacker.eof or unpacker.unused_data:
        text = f"the body is cut, is more than one member, or has more than {bytes_max} bytes unpacked"
        raise Refusal(status=413, code=0, text=text)
    return plain
