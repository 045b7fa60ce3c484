"""A market for load tests: every symbol ticks `rate` times a second, evenly, without end (`--rate N`).

A row is a function of (seed, symbol, second, rate). Prices walk through a table of 2,048 neighbouring values, so making
a second is look-ups; rows of pages and events are made by columns (`fixed_rows.py`). Ticks lie between milliseconds:
the stream cuts their time, the pages do not.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from functools import lru_cache

import attrs
import numpy as np
import pyarrow as pa

from actors.embedded.simulator.events import exchange_text
from actors.embedded.simulator.feed import Instants, Part, Quotes, Trades
from actors.embedded.simulator.fixed_rows import Bytes, FixedRows, digits, join, table
from actors.embedded.simulator.hashing import combine, draws
from actors.embedded.simulator.pages import CRYPTO_EXCHANGE, EXCHANGE
from actors.embedded.simulator.symbols import UNIVERSE, Instrument, stream_spelling
from actors.embedded.simulator.synthetic import decimal_text
from runtime.clock import NS_PER_S

PRICES = 2_048
SIZES = 1_000
FIRST_ID = 100_000_000_000_000
"""15 digits, as all ids here have."""
RATE_MAX = 500_000
_NS_PER_MS = 1_000_000


@attrs.frozen(kw_only=True, eq=False)
class _Tables:
    """What all seconds of one symbol share."""

    walk: Instants
    """Place in the price table, relative to the second's, shape (rate,)."""
    bid: Bytes
    ask: Bytes
    size: Bytes
    bid_text: pa.StringArray
    ask_text: pa.StringArray
    size_text: pa.StringArray


@lru_cache(maxsize=32)
def _tables(root: int, symbol: str, rate: int) -> _Tables:
    instrument = _instrument(symbol)
    middle = round(instrument.price * 10**instrument.decimals)
    points = np.arange(middle - PRICES // 2, middle + PRICES // 2, dtype=np.int64)
    bid = decimal_text(points, instrument.decimals)
    ask = decimal_text(points + int(instrument.spread_points), instrument.decimals)
    size = decimal_text(np.arange(1, SIZES + 1, dtype=np.int64), 5)
    return _Tables(
        walk=np.cumsum(np.floor(draws(root, 1, rate) * 3).astype(np.int64) - 1),
        bid=table(bid.to_pylist()),
        ask=table(ask.to_pylist()),
        size=table(size.to_pylist()),
        bid_text=bid,
        ask_text=ask,
        size_text=size,
    )


def _instrument(symbol: str) -> Instrument:
    return next(one for one in UNIVERSE if one.symbol == symbol)


@attrs.frozen(kw_only=True)
class RateMarket:
    """A `Feed` (kind `quotes`) or a `TradeFeed` (kind `trades`) that begins at `begin_ns`, a whole second."""

    seed: int
    rate: int
    begin_ns: int
    kind: str
    only: frozenset[str] = frozenset()

    @property
    def description(self) -> str:
        """For people."""
        return f"synthetic market, seed {self.seed}, {self.rate} ticks/s for each symbol"

    @property
    def symbols(self) -> tuple[str, ...]:
        """Every symbol of this kind."""
        every = (one.symbol for one in UNIVERSE if one.kind == self.kind)
        return tuple(symbol for symbol in every if not self.only or symbol in self.only)

    def is_open(self, instant_ns: int) -> bool:
        """Always, once begun."""
        return instant_ns >= self.begin_ns

    def parts(self, symbol: str, from_ns: int, to_ns: int, *, descending: bool = False) -> Iterator[Part]:
        """The seconds that touch [from_ns, to_ns)."""
        del symbol
        seconds = range(max(from_ns, self.begin_ns) // NS_PER_S, -(-to_ns // NS_PER_S))
        for second in reversed(seconds) if descending else seconds:
            yield Part(from_ns=second * NS_PER_S, to_ns=(second + 1) * NS_PER_S)

    def quotes(self, symbol: str, part: Part) -> Quotes:
        """The second's quotes."""
        held = self._tables(symbol)
        place = pa.array(self._places(symbol, part))
        return Quotes(ts_ns=self._times(part), bid=held.bid_text.take(place), ask=held.ask_text.take(place))

    def trades(self, symbol: str, part: Part) -> Trades:
        """The second's trades; ids are contiguous from the market's begin on."""
        held, place, number = self._tables(symbol), self._places(symbol, part), self._ids(part)
        return Trades(
            ts_ns=self._times(part),
            price=held.bid_text.take(pa.array(place)),
            size=held.size_text.take(pa.array(number % SIZES)),
            trade_id=number,
            condition=1 + place % 2,
        )

    def quote_pages(self, symbol: str, part: Part) -> FixedRows:
        """As `pages.render(self.quotes(…))`."""
        held, place, ts_ns = self._tables(symbol), self._places(symbol, part), self._times(part)
        head = f'{{"ask_exchange":{EXCHANGE},"ask_price":'
        prices = (held.ask[place], f',"bid_exchange":{EXCHANGE},"bid_price":', held.bid[place])
        return join(ts_ns, [head, *prices, ',"participant_timestamp":', *_nanoseconds(part, ts_ns), "},"])

    def trade_pages(self, symbol: str, part: Part) -> FixedRows:
        """As `pages.render_trades(self.trades(…))`."""
        held, place, ts_ns = self._tables(symbol), self._places(symbol, part), self._times(part)
        number = self._ids(part)
        head = ('{"conditions":[', _condition(place), f'],"exchange":{CRYPTO_EXCHANGE},"id":"', digits(number, 15))
        when = ('","participant_timestamp":', *_nanoseconds(part, ts_ns))
        return join(ts_ns, [*head, *when, ',"price":', held.bid[place], ',"size":', held.size[number % SIZES], "},"])

    def quote_events(self, symbol: str, part: Part) -> FixedRows:
        """As `events.render_quote_events(self.quotes(…))`."""
        held, place, ts_ns = self._tables(symbol), self._places(symbol, part), self._times(part)
        x = exchange_text(symbol, part.from_ns, self.seed)
        head = f'{{"ev":"C","p":"{stream_spelling(symbol)}","x":{x},"a":'
        return join(
            ts_ns, [head, held.ask[place], ',"b":', held.bid[place], ',"t":', *_milliseconds(part, ts_ns), "},"]
        )

    def trade_events(self, symbol: str, part: Part) -> FixedRows:
        """As `events.render_trade_events(self.trades(…))`."""
        held, place, ts_ns = self._tables(symbol), self._places(symbol, part), self._times(part)
        number, ms = self._ids(part), _milliseconds(part, ts_ns)
        head = (f'{{"ev":"XT","pair":"{stream_spelling(symbol)}","p":', held.bid[place], ',"t":', *ms)
        what = (',"s":', held.size[number % SIZES], ',"c":[', _condition(place), '],"i":', digits(number, 15))
        return join(ts_ns, [*head, *what, f',"x":{CRYPTO_EXCHANGE},"r":', *ms, "},"])

    def _root(self, symbol: str) -> int:
        return combine(self.seed, zlib.crc32(symbol.encode()), self.rate)

    def _tables(self, symbol: str) -> _Tables:
        return _tables(self._root(symbol), symbol, self.rate)

    def _times(self, part: Part) -> Instants:
        return part.from_ns + np.arange(self.rate, dtype=np.int64) * NS_PER_S // self.rate

    def _ids(self, part: Part) -> Instants:
        seconds = (part.from_ns - self.begin_ns) // NS_PER_S
        return FIRST_ID + seconds * self.rate + np.arange(self.rate, dtype=np.int64)

    def _places(self, symbol: str, part: Part) -> Instants:
        """Places in the price table: the walk from the second's own start, mirrored at the table's ends."""
        start = combine(self._root(symbol), part.from_ns // NS_PER_S) % (2 * PRICES)
        place = (self._tables(symbol).walk + start) % (2 * PRICES)
        mirrored: Instants = np.where(place < PRICES, place, 2 * PRICES - 1 - place)
        return mirrored


def _condition(place: Instants) -> Bytes:
    return (ord("1") + place % 2).astype(np.uint8).reshape(-1, 1)


def _nanoseconds(part: Part, ts_ns: Instants) -> tuple[str, Bytes]:
    return str(part.from_ns // NS_PER_S), digits(ts_ns - part.from_ns, 9)


def _milliseconds(part: Part, ts_ns: Instants) -> tuple[str, Bytes]:
    return str(part.from_ns // NS_PER_S), digits((ts_ns - part.from_ns) // _NS_PER_MS, 3)
