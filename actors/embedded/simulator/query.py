"""What a request for ticks asks, from its parameters or from a cursor: pure.

Parameters: notes UPSTREAM 1.5. A date stands for its whole UTC day, so `gte` and `lt` compare with its start, `gt` and
`lte` with its end; the vendor does not say, and our own client asks in nanoseconds.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import re
from collections.abc import Mapping
from urllib.parse import parse_qsl, urlencode

import attrs

from runtime.clock import NS_PER_DAY
from runtime.errors import HoldfastError

LIMIT_DEFAULT = 1_000
LIMIT_MAX = 50_000
NS_MIN, NS_MAX = 0, 2**63 - 1
RANGE_FIELDS = ("timestamp", "timestamp.gte", "timestamp.gt", "timestamp.lte", "timestamp.lt")
KNOWN = frozenset(("apiKey", "cursor", "limit", "order", "sort", *RANGE_FIELDS))

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_DIGITS = re.compile(r"\d{1,19}")
_EPOCH = datetime.date(1970, 1, 1)


class BadRequest(HoldfastError):
    """The caller's parameter is wrong: answered with 400 and this text."""


@attrs.frozen(kw_only=True)
class Query:
    """A range of ticks, and how much of its edge earlier pages have given."""

    from_ns: int
    to_ns: int
    """Exclusive."""
    limit: int
    descending: bool
    skip: int = 0
    """Rows already served of the first group of equal times in the direction of `order`."""
    last: bool = False
    """Behind an empty page: there is nothing to go on to."""


def parse(params: Mapping[str, str]) -> Query:
    """The query of a request. A cursor holds the whole query, so it wins. Raises: BadRequest."""
    unknown = sorted(set(params) - KNOWN)
    if unknown:
        raise BadRequest(f"Unknown parameter '{unknown[0]}'; known are {', '.join(sorted(KNOWN))}.")
    if "cursor" in params:
        return from_cursor(params["cursor"])
    from_ns, to_ns = _interval(params)
    order, sort = params.get("order", "desc"), params.get("sort", "timestamp")
    if order not in ("asc", "desc"):
        raise BadRequest(f"'order' must be asc or desc, not '{order}'.")
    if sort != "timestamp":
        raise BadRequest(f"'sort' must be timestamp, not '{sort}'.")
    limit = _integer("limit", params.get("limit", str(LIMIT_DEFAULT)))
    if not 1 <= limit <= LIMIT_MAX:
        raise BadRequest(f"'limit' must be 1 to {LIMIT_MAX}, not {limit}.")
    return Query(from_ns=from_ns, to_ns=to_ns, limit=limit, descending=order == "desc")


def _interval(params: Mapping[str, str]) -> tuple[int, int]:
    from_ns, to_ns = NS_MIN, NS_MAX
    for name, text in params.items():
        field, _, operator = name.partition(".")
        if field != "timestamp":
            continue
        first, after = instant_range(name, text)
        if operator in ("", "gte"):
            from_ns = max(from_ns, first)
        if operator in ("", "lte"):
            to_ns = min(to_ns, after)
        if operator == "gt":
            from_ns = max(from_ns, after)
        if operator == "lt":
            to_ns = min(to_ns, first)
    return from_ns, to_ns


def instant_range(name: str, text: str) -> tuple[int, int]:
    """The instants [first, after) in ns that a date or a number of nanoseconds stands for. Raises: BadRequest."""
    if _DIGITS.fullmatch(text):
        return min(int(text), NS_MAX), min(int(text) + 1, NS_MAX)
    if _DATE.fullmatch(text):
        try:
            first = (datetime.date.fromisoformat(text) - _EPOCH).days * NS_PER_DAY
        except ValueError:
            pass
        else:
            return min(max(first, NS_MIN), NS_MAX), min(max(first + NS_PER_DAY, NS_MIN), NS_MAX)
    raise BadRequest(f"'{name}' must be a date (YYYY-MM-DD) or nanoseconds since 1970, not '{text}'.")


def _integer(name: str, text: str) -> int:
    if not _DIGITS.fullmatch(text):
        raise BadRequest(f"'{name}' must be a whole number, not '{text}'.")
    return int(text)


def to_cursor(query: Query) -> str:
    """The opaque form: base64 of a query string, as the vendor's (notes UPSTREAM 1.6)."""
    fields = {
        "ap": query.skip,
        "as": "end" if query.last else "",
        "limit": query.limit,
        "order": "desc" if query.descending else "asc",
        "sort": "timestamp",
        "timestamp.gte": query.from_ns,
        "timestamp.lt": query.to_ns,
    }
    return base64.urlsafe_b64encode(urlencode(fields).encode()).rstrip(b"=").decode()


def from_cursor(cursor: str) -> Query:
    """The query in a cursor. Raises: BadRequest when it is not one of ours."""
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode("ascii")
        fields = dict(parse_qsl(text, keep_blank_values=True, strict_parsing=True))
        query = Query(
            from_ns=int(fields["timestamp.gte"]),
            to_ns=int(fields["timestamp.lt"]),
            limit=int(fields["limit"]),
            descending={"asc": False, "desc": True}[fields["order"]],
            skip=int(fields["ap"]),
            last=fields["as"] == "end",
        )
    except (binascii.Error, UnicodeDecodeError, ValueError, KeyError) as error:
        raise BadRequest("The cursor is not valid.") from error
    if not 1 <= query.limit <= LIMIT_MAX or query.skip < 0:
        raise BadRequest("The cursor is not valid.")
    return query
