"""The stream's events as text, rendered once per part (notes UPSTREAM 1.8): `C` of foreign exchange, `XT` of crypto.

Times are cut to milliseconds, as the vendor's stream does; prices are the same decimals that the pages serve. `x` of
`C` comes as a number or as a string, by part: both were seen.
"""

from __future__ import annotations

import zlib

import pyarrow as pa
import pyarrow.compute as pc

from actors.embedded.simulator.feed import Instants, Quotes, Trades
from actors.embedded.simulator.hashing import combine
from actors.embedded.simulator.pages import CRYPTO_EXCHANGE, EXCHANGE, RenderedPart
from actors.embedded.simulator.symbols import stream_spelling

NS_PER_MS = 1_000_000
UNKNOWN_EVENT = b'{"ev":"NEW","note":"events that nobody knows yet must not drop the rest of their frame"}'


def exchange_text(symbol: str, from_ns: int, seed: int) -> str:
    """`x` of the events of a part, as JSON."""
    as_string = combine(seed, zlib.crc32(symbol.encode()), from_ns) % 4 == 0
    return f'"{EXCHANGE}"' if as_string else f"{EXCHANGE}"


def render_quote_events(symbol: str, quotes: Quotes, seed: int) -> RenderedPart:
    """Each quote as an event `C`."""
    if len(quotes.ts_ns) == 0:
        return RenderedPart(ts_ns=quotes.ts_ns, rows=pa.array([], pa.string()))
    x = exchange_text(symbol, int(quotes.ts_ns[0]), seed)
    head = f'{{"ev":"C","p":"{stream_spelling(symbol)}","x":{x},"a":'
    rows = pc.binary_join_element_wise(head, quotes.ask, ',"b":', quotes.bid, ',"t":', _ms_text(quotes.ts_ns), "},", "")
    return RenderedPart(ts_ns=quotes.ts_ns, rows=rows)


def render_trade_events(symbol: str, trades: Trades) -> RenderedPart:
    """Each trade as an event `XT`; `i` is a number here and a string in the pages."""
    if len(trades.ts_ns) == 0:
        return RenderedPart(ts_ns=trades.ts_ns, rows=pa.array([], pa.string()))
    ms = _ms_text(trades.ts_ns)
    number, condition = (pc.cast(pa.array(column), pa.string()) for column in (trades.trade_id, trades.condition))
    pieces = (
        *(f'{{"ev":"XT","pair":"{stream_spelling(symbol)}","p":', trades.price, ',"t":', ms, ',"s":', trades.size),
        *(',"c":[', condition, '],"i":', number, f',"x":{CRYPTO_EXCHANGE},"r":', ms, "},"),
    )
    return RenderedPart(ts_ns=trades.ts_ns, rows=pc.binary_join_element_wise(*pieces, ""))


def _ms_text(ts_ns: Instants) -> pa.StringArray:
    return pc.cast(pa.array(ts_ns // NS_PER_MS), pa.string())
