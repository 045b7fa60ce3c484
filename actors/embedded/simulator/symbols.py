"""The universe of the synthetic market, and the spellings in which the vendor's REST paths name a pair.

Spellings: notes UPSTREAM 1.3 (`C:EURUSD` for bars, `C:EUR-USD` for ticks). Prices are about those of 2024; they only
have to look right.
"""

from __future__ import annotations

import attrs


@attrs.frozen(kw_only=True)
class Instrument:
    """How one symbol of the synthetic market behaves; prices in points of `10 ** -decimals`."""

    symbol: str
    price: float
    """Centre of the price in its own unit."""
    decimals: int
    spread_points: float
    ticks_per_s: float
    """Mean over a day."""
    step_points: float
    """Standard deviation of the move between two ticks."""
    kind: str = "quotes"


def _pair(symbol: str, price: float, spread_points: float, ticks_per_s: float, *, decimals: int = 5) -> Instrument:
    return Instrument(
        symbol=f"C:{symbol}",
        price=price,
        decimals=decimals,
        spread_points=spread_points,
        ticks_per_s=ticks_per_s,
        step_points=max(1.0, price * 10**decimals * 1e-5),
    )


UNIVERSE: tuple[Instrument, ...] = (
    _pair("EURUSD", 1.0850, 7, 3.0),
    _pair("GBPUSD", 1.2700, 11, 2.8),
    _pair("USDJPY", 151.20, 10, 3.0, decimals=3),
    _pair("USDCHF", 0.8850, 12, 2.2),
    _pair("AUDUSD", 0.6600, 9, 2.4),
    _pair("USDCAD", 1.3600, 13, 2.2),
    _pair("NZDUSD", 0.6050, 14, 2.0),
    _pair("EURJPY", 164.00, 16, 2.4, decimals=3),
    _pair("EURGBP", 0.8540, 11, 2.0),
    _pair("GBPJPY", 192.00, 24, 2.4, decimals=3),
    _pair("EURCHF", 0.9600, 15, 2.0),
    # Crypto has trades and no quotes (notes UPSTREAM 1.5): named here so that the trades endpoint finds it.
    Instrument(
        symbol="X:BTCUSD",
        price=67_000.0,
        decimals=2,
        spread_points=100,
        ticks_per_s=4.0,
        step_points=250,
        kind="trades",
    ),
)


def canonical(ticker: str) -> str:
    """`C:EUR-USD` or `C:EURUSD` as `C:EURUSD`. Case is kept, as the vendor's symbols are case sensitive."""
    market, colon, pair = ticker.partition(":")
    base, dash, quote = pair.partition("-")
    return f"{market}{colon}{base}{quote}" if dash and base and quote else ticker


_LONG_QUOTES = ("FDUSD", "USDT", "USDC", "BUSD", "TUSD")


def base_and_quote(symbol: str) -> tuple[str, str]:
    """`C:EURUSD` as (`EUR`, `USD`), `X:BTCUSDT` as (`BTC`, `USDT`): three letters, or a known longer quote."""
    pair = symbol.partition(":")[2]
    length = next((len(quote) for quote in _LONG_QUOTES if pair.endswith(quote) and len(pair) > len(quote)), 3)
    return pair[:-length], pair[-length:]


def rest_spelling(symbol: str) -> str:
    """`C:EURUSD` as `C:EUR-USD`, the way tick endpoints spell it."""
    base, quote = base_and_quote(symbol)
    return f"{symbol.partition(':')[0]}:{base}-{quote}"


def stream_spelling(symbol: str) -> str:
    """As the stream's payload spells it: `C:EURUSD` is `EUR/USD`, `X:BTCUSD` is `BTC-USD`."""
    return ("/" if symbol.startswith("C:") else "-").join(base_and_quote(symbol))
