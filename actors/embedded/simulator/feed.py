"""What the server knows about where its ticks come from: columns of quotes or trades, in parts, by symbol.

A *part* is a fixed piece of time (an hour of the synthetic market, a file of a recording) that is made or loaded as a
whole and never changes; what has not happened yet is cut off by the reader (`pages.py`), not here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import attrs
import numpy as np
import numpy.typing as npt
import pyarrow as pa

Instants = npt.NDArray[np.int64]


@attrs.frozen(kw_only=True)
class Part:
    """A piece of time [from_ns, to_ns), ns UTC; parts of one symbol never overlap."""

    from_ns: int
    to_ns: int


@attrs.frozen(kw_only=True, eq=False)
class Quotes:
    """The quotes of one part; prices are the decimals as text, so that what was recorded is what is served."""

    ts_ns: Instants
    """Ascending; order within equal times is the order of arrival."""
    bid: pa.StringArray
    ask: pa.StringArray


@attrs.frozen(kw_only=True, eq=False)
class Trades:
    """The trades of one part; decimals as text, ids as the vendor's."""

    ts_ns: Instants
    """Ascending; order within equal times is the order of arrival."""
    price: pa.StringArray
    size: pa.StringArray
    trade_id: Instants
    condition: Instants
    """1 = the seller was the aggressor, 2 = the buyer (notes UPSTREAM 1.5)."""


class InParts(Protocol):
    """Ticks of any kind, in parts."""

    @property
    def description(self) -> str:
        """For people: which market this is."""
        ...

    @property
    def symbols(self) -> tuple[str, ...]:
        """Symbols that have ticks here, spelled `C:EURUSD`, `X:BTCUSD`."""
        ...

    def parts(self, symbol: str, from_ns: int, to_ns: int, *, descending: bool = False) -> Iterator[Part]:
        """The parts that may hold ticks of [from_ns, to_ns), in time order or the reverse."""
        ...


class TradeFeed(InParts, Protocol):
    """A pure source of trades; its market never closes."""

    def trades(self, symbol: str, part: Part) -> Trades:
        """All trades of a part that `parts` named. Blocking; the same answer at every call."""
        ...


class Feed(InParts, Protocol):
    """A pure source of quotes."""

    def is_open(self, instant_ns: int) -> bool:
        """Whether its market trades at `instant_ns`."""
        ...

    def quotes(self, symbol: str, part: Part) -> Quotes:
        """All quotes of a part that `parts` named. Blocking; the same answer at every call."""
        ...


@attrs.frozen(kw_only=True)
class NoQuotes:
    """A market without foreign exchange: a recording of crypto alone."""

    description: str
    symbols: tuple[str, ...] = ()

    def is_open(self, instant_ns: int) -> bool:
        """Never."""
        del instant_ns
        return False

    def parts(self, symbol: str, from_ns: int, to_ns: int, *, descending: bool = False) -> Iterator[Part]:
        """None."""
        del symbol, from_ns, to_ns, descending
        return iter(())

    def quotes(self, symbol: str, part: Part) -> Quotes:
        """Unreachable: there is no part."""
        raise KeyError(symbol, part)
