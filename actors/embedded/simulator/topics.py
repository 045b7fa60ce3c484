"""The topics of the stream: `C.EUR/USD`, `C.EUR-USD`, `C.*`, `XT.BTC-USD` (notes UPSTREAM 1.3 and 1.8): pure."""

from __future__ import annotations

import attrs

from actors.embedded.simulator.symbols import base_and_quote

EVERY = "*"


@attrs.frozen(kw_only=True)
class Asset:
    """One stream of the vendor: an asset class, its only event and the prefix of its symbols."""

    name: str
    event: str
    prefix: str


FOREX = Asset(name="forex", event="C", prefix="C:")
CRYPTO = Asset(name="crypto", event="XT", prefix="X:")
ASSETS = (FOREX, CRYPTO)


def topic_symbol(asset: Asset, topic: str, symbols: tuple[str, ...]) -> str | None:
    """The symbol (or EVERY) that a topic names; None when it is unknown, of another class or not offered."""
    event, dot, pair = topic.partition(".")
    if event != asset.event or not dot:
        return None
    if pair == EVERY:
        return EVERY
    for separator in ("/", "-"):
        base, found, quote = pair.partition(separator)
        if found:
            symbol = f"{asset.prefix}{base}{quote}"
            return symbol if symbol in symbols and base_and_quote(symbol) == (base, quote) else None
    return None
