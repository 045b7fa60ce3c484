"""Polygon's REST in words: what to ask, what a refusal means, what may be read out of an answer. Pure."""

from __future__ import annotations

import email.utils
import re
import zlib
from urllib.parse import quote, urlsplit

import attrs
import msgspec

from actors.downloader.polygon_events import BROKEN
from actors.market.symbols import parse_symbol
from runtime.clock import NS_PER_S, parse_instant_ns
from runtime.errors import PermanentSourceError, RetryableSourceError, SourceError

Body = bytes | bytearray

PATHS = {"quotes": "/v3/quotes/", "trades": "/v3/trades/"}
CLOCK = "/v1/marketstatus/now"
"""Kinds that this vendor's adapter reads, and the path in front of the symbol."""


class RangeTooLarge(RetryableSourceError):
    """413: ask for half. Never leaves the adapter."""


class RateLimited(RetryableSourceError):
    """429: the budget of the key is spent. Never leaves the adapter without the wait."""


@attrs.frozen(kw_only=True)
class Endpoint:
    """What is asked of the vendor, but for the time."""

    symbol: str
    kind: str
    spelled: str
    """The symbol as this endpoint wants it: `C:EUR-USD`."""

    def __str__(self) -> str:
        return f"{self.kind} of {self.symbol}"

    def question(self, from_ns: int, to_ns: int, limit: int) -> str:
        """Path and query of [from_ns, to_ns), oldest first."""
        path = PATHS[self.kind] + quote(self.spelled, safe=":")
        return f"{path}?timestamp.gte={from_ns}&timestamp.lt={to_ns}&order=asc&sort=timestamp&limit={limit}"


class _MarketStatus(msgspec.Struct):
    server_time: str = msgspec.field(name="serverTime")


def server_time_of(body: Body) -> tuple[int, int]:
    """The vendor's time in ns UTC, and what it is rounded down to. Raises: RetryableSourceError."""
    try:
        text = msgspec.json.decode(body, type=_MarketStatus).server_time
        at_ns = parse_instant_ns(text)
    except (*BROKEN, ValueError) as exc:
        raise RetryableSourceError(f"{CLOCK} tells no time: {exc}") from exc
    fraction = re.search(r"\.(\d+)", text)
    return at_ns, 10 ** (9 - min(len(fraction[1]), 9)) if fraction else NS_PER_S


def endpoint_of(symbol: str, kind: str) -> Endpoint:
    """Raises: PermanentSourceError for what does not exist: it is not even asked for."""
    if kind not in PATHS:
        raise PermanentSourceError(f"{symbol}: this source has no {kind}; it has {', '.join(PATHS)}")
    try:
        return Endpoint(symbol=symbol, kind=kind, spelled=parse_symbol(symbol).rest)
    except ValueError as exc:
        raise PermanentSourceError(str(exc)) from exc


def refusal(endpoint: Endpoint, status: int, body: Body, rest_url: str) -> SourceError:
    """The error for a status other than 200, by whose fault it is (UPSTREAM 1.7)."""
    told = _told(body)
    said = f"{status} {told}".strip()
    match status:
        case 400:
            return PermanentSourceError(f"{endpoint}: the vendor calls our request malformed: {said}")
        case 401:
            return PermanentSourceError(f"the vendor does not know the API key ({said}): check POLYGON_API_KEY")
        case 403:
            return PermanentSourceError(
                f"{endpoint}: this key's plan does not include it ({said}): change the plan, or take {endpoint.symbol} "
                "out of pipeline.symbols"
            )
        case 404 if told:
            return PermanentSourceError(
                f"{endpoint}: unknown symbol ({said}): correct {endpoint.symbol}, or take it out of pipeline.symbols"
            )
        case 404:  # not the vendor's words: a proxy, or another server
            return RetryableSourceError(f"{said}: is vendors.polygon.rest_url {rest_url} right?")
        case 413:
            return RangeTooLarge(f"{endpoint}: range too large ({said})")
        case 429:
            return RateLimited(f"rate limit ({said})")
        case 408 | 425 | 499:
            return RetryableSourceError(said)
        case _ if 400 <= status < 500:
            return PermanentSourceError(f"{endpoint}: refused with {said}")
        case _:
            return RetryableSourceError(f"outage: {said}")


class _ErrorBody(msgspec.Struct):
    status: str = ""
    error: str = ""
    message: str = ""


def _told(body: Body) -> str:
    """The vendor's own words in an error body; empty when the body is not the vendor's (HTML of an edge, nothing)."""
    try:
        told = msgspec.json.decode(body, type=_ErrorBody)
    except BROKEN:
        return ""
    return " ".join(part for part in (told.status, told.error or told.message) if part)[:300]


def retry_after_s(text: str, now_ns: int) -> float | None:
    """A Retry-After header: seconds, or an HTTP date; None when absent or unreadable."""
    if text.isdecimal():
        return float(text[:9])
    try:
        at = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(at.timestamp() - now_ns / NS_PER_S, 0.0)


def path_and_query(url: str) -> str:
    """Of an absolute `next_url`, whatever host it names.

    Raises: RetryableSourceError when it has no absolute path: glued to the base URL, anything else could name a host.
    """
    try:
        parts = urlsplit(url)
    except ValueError as exc:
        raise RetryableSourceError(f"page not proven: next_url {url[:80]!r} ({exc})") from exc
    if not parts.path.startswith("/"):
        raise RetryableSourceError(f"page not proven: next_url {url[:80]!r} has no path")
    return f"{parts.path}?{parts.query}" if parts.query else parts.path


def gunzip(body: Body, bytes_max: int) -> bytes:
    """Unpack, with the trailer checked: httpx itself is silent about a missing one."""
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        whole = unpacker.decompress(body, bytes_max)
    except zlib.error as exc:
        raise RetryableSourceError(f"broken gzip: {exc}") from exc
    if not unpacker.eof:
        raise RetryableSourceError("gzip body is cut, or too large")
    return whole
