"""The rows of Polygon's tick endpoints, and what of them becomes columns (UPSTREAM 1.5). Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Annotated, Any

import attrs
import msgspec
import numpy as np
import numpy.typing as npt

from actors.downloader.polygon_api import Body
from actors.downloader.polygon_events import conditions_text
from actors.downloader.proof import Identity
from actors.market.rules import RawText, Validated, validate_quotes, validate_trades

NAN = float("nan")
Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Int32 = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)]


class PolygonRow(msgspec.Struct, gc=False):
    """What all rows have."""

    participant_timestamp: Int64


class PolygonQuote(PolygonRow, gc=False):
    """`/v3/quotes`; NaN and -1 say that the field is absent."""

    bid_price: float = NAN
    ask_price: float = NAN
    bid_size: float = NAN
    ask_size: float = NAN
    bid_exchange: Int32 = -1
    ask_exchange: Int32 = -1
    ticker: str = ""


class PolygonQuoteLoose(msgspec.Struct, gc=False):
    """The slow path's: null is the same as absent, and the time may lack."""

    participant_timestamp: Int64 | None = 0
    bid_price: float | None = NAN
    ask_price: float | None = NAN
    bid_size: float | None = NAN
    ask_size: float | None = NAN
    bid_exchange: Int32 | None = -1
    ask_exchange: Int32 | None = -1
    ticker: str | None = ""


class PolygonTrade(PolygonRow):
    """`/v3/trades` of coins."""

    price: float = NAN
    size: float = NAN
    exchange: Int32 = -1
    id: str | int = ""
    conditions: list[int] | None = None
    ticker: str = ""


class PolygonTradeLoose(msgspec.Struct):
    """As `PolygonQuoteLoose`."""

    participant_timestamp: Int64 | None = 0
    price: float | None = NAN
    size: float | None = NAN
    exchange: Int32 | None = -1
    id: str | int | None = ""
    conditions: list[int] | None = None
    ticker: str | None = ""


class Envelope(msgspec.Struct):
    """What stands around the rows."""

    status: str = ""
    request_id: str | None = None
    next_url: str | None = None
    ticker: str | None = None
    error: str | None = None
    message: str | None = None
    results_count: int | None = msgspec.field(name="resultsCount", default=None)
    results: Any = msgspec.UNSET


class _Quotes(Envelope):
    results: list[PolygonQuote] | msgspec.UnsetType | None = msgspec.UNSET


class _Trades(Envelope):
    results: list[PolygonTrade] | msgspec.UnsetType | None = msgspec.UNSET


Validate = Callable[[str, str, npt.NDArray[np.int64], Sequence[Any], int, RawText], Validated]


@attrs.frozen(kw_only=True)
class Shape:
    """How the rows of one kind are read."""

    kind: str
    decode: Callable[[Body], Envelope]
    """A whole page. Raises: msgspec.ValidationError when a row does not fit."""
    decode_loose: Callable[[msgspec.Raw], PolygonRow]
    """One row, with every null replaced by the field's word for absent. Raises: msgspec.DecodeError."""
    validated: Validate
    """(symbol, source, ts_ns, rows, now_ns, raw)."""
    identity: Callable[[Any], Identity]
    """What makes a row the same as another (UPSTREAM 1.12), but for its occurrence number."""


def _validated_quotes(
    symbol: str, source: str, ts_ns: npt.NDArray[np.int64], rows: Sequence[Any], now_ns: int, raw: RawText
) -> Validated:
    prices = (_floats(rows, "bid_price"), _floats(rows, "ask_price"))
    sizes = (_if_any(_floats(rows, "bid_size")), _if_any(_floats(rows, "ask_size")))
    return validate_quotes(symbol, source, ts_ns, *prices, *sizes, now_ns=now_ns, raw=raw)


def _validated_trades(
    symbol: str, source: str, ts_ns: npt.NDArray[np.int64], rows: Sequence[Any], now_ns: int, raw: RawText
) -> Validated:
    ids = [str(row.id) if row.id != "" else None for row in rows]
    conditions = [conditions_text(row.conditions) for row in rows]
    price, size = _floats(rows, "price"), _floats(rows, "size")
    return validate_trades(symbol, source, ts_ns, price, size, ids, conditions, now_ns=now_ns, raw=raw)


def _floats(rows: Sequence[Any], name: str) -> npt.NDArray[np.float64]:
    return np.fromiter(map(attrgetter(name), rows), np.float64, len(rows))


def _if_any(sizes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64] | None:
    """None when the vendor gives none (currencies)."""
    return None if np.isnan(sizes).all() else sizes


def _known(price: float) -> float | None:
    return None if price != price else price  # NaN is not itself


def _quote_identity(row: PolygonQuote) -> Identity:
    prices = (_known(row.bid_price), _known(row.ask_price))
    return (row.participant_timestamp, *prices, row.bid_exchange, row.ask_exchange)


def _trade_identity(row: PolygonTrade) -> Identity:
    return (row.participant_timestamp, row.exchange, str(row.id), _known(row.price), _known(row.size))


def _loose(loose: type[msgspec.Struct], strict: type[PolygonRow]) -> Callable[[msgspec.Raw], PolygonRow]:
    decode = msgspec.json.Decoder(loose).decode
    fields = msgspec.structs.fields(loose)

    def decode_loose(raw: msgspec.Raw) -> PolygonRow:
        values = msgspec.structs.astuple(decode(raw))
        return strict(*(field.default if value is None else value for field, value in zip(fields, values, strict=True)))

    return decode_loose


SHAPES = {
    "quotes": Shape(
        kind="quotes",
        decode=msgspec.json.Decoder(_Quotes).decode,
        decode_loose=_loose(PolygonQuoteLoose, PolygonQuote),
        validated=_validated_quotes,
        identity=_quote_identity,
    ),
    "trades": Shape(
        kind="trades",
        decode=msgspec.json.Decoder(_Trades).decode,
        decode_loose=_loose(PolygonTradeLoose, PolygonTrade),
        validated=_validated_trades,
        identity=_trade_identity,
    ),
}
"""By kind."""
