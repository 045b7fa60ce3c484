"""One instrument, four spellings (UPSTREAM 1.3), its asset class and its place in the log.

Canonical everywhere in Holdfast is the vendor's aggregate spelling: `C:EURUSD`, `X:BTCUSD`, `AAPL`.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable
from enum import StrEnum

import attrs


class AssetClass(StrEnum):
    """Decides calendar, kinds and bounds."""

    FX = "fx"
    CRYPTO = "crypto"
    STOCK = "stock"


KINDS_OF: dict[AssetClass, tuple[str, ...]] = {
    AssetClass.FX: ("quotes",),
    AssetClass.CRYPTO: ("trades",),  # the vendor has no crypto quotes over REST
    AssetClass.STOCK: ("trades", "quotes"),
}
"""Kinds of ticks that exist for an asset class; nothing else is asked for."""

CRYPTO_QUOTE_CURRENCIES: tuple[str, ...] = (
    *("USDT", "USDC", "USD", "EUR", "GBP", "JPY", "AUD", "CAD", "CHF", "KRW", "TRY", "BRL", "NZD", "SGD", "HKD", "INR"),
    *("MXN", "ZAR", "BTC", "ETH"),
)
"""Second halves of `X:` symbols, longest first where one ends with another: bases have one to many letters, so a
symbol cannot be split by position. BUSD and TUSD are left out on purpose: X:BNBUSD is BNB in USD."""

_FX = re.compile(r"[A-Z]{6}")
_CRYPTO = re.compile(r"[A-Z0-9]{2,20}")
_STOCK = re.compile(r"[A-Z][A-Za-z0-9]{0,9}(?:\.[A-Z]{1,2})?")
_STREAM = re.compile(r"(C|CA|CAS|XT|XA|XAS|XQ|T|Q|A|AM)\.(.+)")
_FORMS = "C:EURUSD (currencies), X:BTCUSD (crypto), AAPL (stocks)"
_PREFIX = {AssetClass.FX: "C:", AssetClass.CRYPTO: "X:", AssetClass.STOCK: ""}
_STREAM_TICKS = {AssetClass.FX: "C", AssetClass.CRYPTO: "XT", AssetClass.STOCK: "T"}
_STREAM_SEPARATOR = {AssetClass.FX: "/", AssetClass.CRYPTO: "-", AssetClass.STOCK: ""}


@attrs.frozen
class Symbol:
    """An instrument; `str()` is the canonical spelling."""

    asset_class: AssetClass
    base: str
    """First half of a pair, or the stock's ticker."""
    quote: str
    """Second half of a pair: the currency of the price; empty for stocks."""

    def __str__(self) -> str:
        return f"{_PREFIX[self.asset_class]}{self.base}{self.quote}"

    @property
    def rest(self) -> str:
        """`C:EUR-USD`: the spelling of the REST endpoints of ticks."""
        dash = "-" if self.quote else ""
        return f"{_PREFIX[self.asset_class]}{self.base}{dash}{self.quote}"

    @property
    def stream(self) -> str:
        """`C.EUR/USD`, `XT.BTC-USD`, `T.AAPL`: what to subscribe to for ticks."""
        return f"{_STREAM_TICKS[self.asset_class]}.{self.stream_payload}"

    @property
    def stream_payload(self) -> str:
        """`EUR/USD`, `BTC-USD`, `AAPL`: how the stream's messages name it."""
        return f"{self.base}{_STREAM_SEPARATOR[self.asset_class]}{self.quote}"

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of ticks this instrument has."""
        return KINDS_OF[self.asset_class]


def parse_symbol(text: str) -> Symbol:
    """The instrument of a canonical spelling.

    Raises: ValueError with what is wrong and, for the vendor's other spellings, what to write instead.
    """
    for asset_class, prefix in _PREFIX.items():
        if prefix and text.startswith(prefix):
            return _pair(asset_class, text, text[len(prefix) :])
    if _STOCK.fullmatch(text) and not _STREAM.fullmatch(text):
        return Symbol(AssetClass.STOCK, text, "")
    raise ValueError(f"unknown symbol {text!r}{_hint(text)}; known forms: {_FORMS}")


def feeds(symbols: Iterable[str], kinds: Iterable[str]) -> list[tuple[str, str]]:
    """Every (symbol, kind) that exists, each once, in order: kinds that an asset class lacks are left out.

    Raises: ValueError for an unknown symbol, and when none is left.
    """
    symbols, kinds = list(symbols), list(kinds)
    found = dict.fromkeys((symbol, kind) for symbol in symbols for kind in kinds if kind in parse_symbol(symbol).kinds)
    if not found:
        raise ValueError(f"none of {', '.join(symbols)} has {', '.join(kinds)}")
    return list(found)


def from_rest(text: str) -> Symbol:
    """The instrument of `C:EUR-USD`, `X:BTC-USD`, `AAPL`. Raises: ValueError."""
    prefix, body = text[:2], text[2:]
    for asset_class in (AssetClass.FX, AssetClass.CRYPTO):
        if prefix == _PREFIX[asset_class]:
            return from_stream_payload(asset_class, body)
    return parse_symbol(text)


def from_stream(text: str) -> Symbol:
    """The instrument of `C.EUR/USD`, `CA.EUR/USD`, `C.EUR-USD` (newer), `XT.BTC-USD`, `T.AAPL`. Raises: ValueError."""
    match = _STREAM.fullmatch(text)
    if not match:
        raise ValueError(f"unknown stream channel {text!r}; known forms: C.EUR/USD, XT.BTC-USD, T.AAPL")
    first = match[1][0]
    asset_class = {"C": AssetClass.FX, "X": AssetClass.CRYPTO}.get(first, AssetClass.STOCK)
    return from_stream_payload(asset_class, match[2])


def from_stream_payload(asset_class: AssetClass, text: str) -> Symbol:
    """The instrument of `EUR/USD`, `BTC-USD`, `AAPL` as messages name it. Raises: ValueError."""
    if asset_class is AssetClass.STOCK:
        return parse_symbol(text)
    base, separator, quote = text.replace("/", "-").partition("-")
    symbol = _pair(asset_class, text, base + quote)
    if not separator or (symbol.base, symbol.quote) != (base, quote):
        raise ValueError(f"unknown {asset_class} pair {text!r}: read as {symbol.base} in {symbol.quote or 'nothing'}")
    return symbol


def partition_of(symbol: str, n: int, *, history: bool) -> int:
    """The log partition of a canonical symbol: crc32 mod n for live rows, the same + n for history (DESIGN 2)."""
    return zlib.crc32(symbol.encode()) % n + (n if history else 0)


def _pair(asset_class: AssetClass, text: str, body: str) -> Symbol:
    if asset_class is AssetClass.FX:
        if not _FX.fullmatch(body):
            raise ValueError(f"unknown symbol {text!r}{_hint(text)}: a currency pair is C: and six capital letters")
        return Symbol(asset_class, body[:3], body[3:])
    if _CRYPTO.fullmatch(body):
        for quote in CRYPTO_QUOTE_CURRENCIES:
            if body.endswith(quote) and len(body) > len(quote):
                return Symbol(asset_class, body[: -len(quote)], quote)
    known = " ".join(CRYPTO_QUOTE_CURRENCIES)
    raise ValueError(f"unknown symbol {text!r}{_hint(text)}: X:<coin><currency>, currency one of {known}")


def _hint(text: str) -> str:
    """`, did you mean …` for spellings of the vendor's other endpoints, and for a pair without its prefix."""
    body = re.sub(r"^[CX]:|^(?:C|CA|CAS|XT|XA|XAS|XQ)\.", "", text.upper())
    plain = body.replace("/", "").replace("-", "")
    for prefix, pattern in (("X:", _CRYPTO), ("C:", _FX)):
        wanted = text.upper().startswith(prefix[0]) and text[1:2] in {":", ".", "T", "A", "Q"}
        if (wanted or prefix == "C:") and pattern.fullmatch(plain) and prefix + plain != text:
            return f", did you mean {prefix + plain!r}?"
    return ""
