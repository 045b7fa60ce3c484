"""What the server knows about where its ticks come from: columns of quotes, in parts, by symbol.

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


class Feed(Protocol):
    """A pure source of ticks."""

    @property
    def description(self) -> str:
        """For people: which market this is."""
        ...

    @property
    def symbols(self) -> tuple[str, ...]:
        """Symbols with quotes, spelled `C:EURUSD`."""
        ...

    def is_open(self, instant_ns: int) -> bool:
        """Whether its market trades at `instant_ns`."""
        ...

    def parts(self, symbol: str, from_ns: int, to_ns: int, *, descending: bool = False) -> Iterator[Part]:
        """The parts that may hold quotes of [from_ns, to_ns), in time order or the reverse."""
        ...

    def quotes(self, symbol: str, part: Part) -> Quotes:
        """All quotes of a part that `parts` named. Blocking; the same answer at every call."""
        ...
