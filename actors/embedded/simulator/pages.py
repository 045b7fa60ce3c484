"""From a feed to the bytes of a page: rows are rendered once per part, vectorised, and a page is a slice of that text.

Measured (one core of this machine's class): a part renders at some 4-6 million rows/s, a page of 50,000 rows of a
cached part is one copy of about 6 MB. Nothing here holds a Python object per row.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Protocol, cast

import attrs
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import trio

from actors.embedded.simulator.feed import Feed, InParts, Instants, Part, Quotes, Trades
from actors.embedded.simulator.query import Query
from runtime.actor import Offload

CACHE_BYTES_MAX = 32 * 2**20
EXCHANGE = 48
"""The vendor's samples know one venue for foreign exchange."""

CRYPTO_EXCHANGE = 1

_SKELETON = (
    f'{{"ask_exchange":{EXCHANGE},"ask_price":',
    f',"bid_exchange":{EXCHANGE},"bid_price":',
    ',"participant_timestamp":',
    "},",
)


class Rows(Protocol):
    """The rows of a part as JSON text, in time order; each row ends with a comma."""

    @property
    def ts_ns(self) -> Instants:
        """When each happened."""
        ...

    @property
    def size_bytes(self) -> int:
        """Memory that keeping it costs."""
        ...

    def text(self, start: int, stop: int, *, descending: bool) -> memoryview:
        """Rows start … stop - 1 joined by commas, without the last comma; at least one row."""
        ...


Load = Callable[[str, Part], Rows]
"""(symbol, part) to its rows. Blocking, pure."""


@attrs.frozen(kw_only=True, eq=False)
class RenderedPart:
    """The rows of a part as JSON text, in time order; each row ends with a comma."""

    ts_ns: Instants
    rows: pa.StringArray

    @property
    def size_bytes(self) -> int:
        """Memory that keeping it costs."""
        return int(self.rows.nbytes) + int(self.ts_ns.nbytes)

    def text(self, start: int, stop: int, *, descending: bool) -> memoryview:
        """Rows start … stop - 1 joined by commas, without the last comma; at least one row."""
        if descending:
            block = self.rows.take(pa.array(np.arange(stop - 1, start - 1, -1)))
        else:
            block = self.rows.slice(start, stop - start)
        _, offsets_buffer, data = block.buffers()
        offsets = np.frombuffer(offsets_buffer, np.int32)[block.offset : block.offset + len(block) + 1]
        return memoryview(data)[int(offsets[0]) : int(offsets[-1]) - 1]


def render(quotes: Quotes) -> RenderedPart:
    """Each quote as one JSON object in the vendor's field names (notes UPSTREAM 1.5)."""
    before_ask, before_bid, before_ts, end = _SKELETON
    if len(quotes.ts_ns) == 0:
        return RenderedPart(ts_ns=quotes.ts_ns, rows=pa.array([], pa.string()))
    ts = pc.cast(pa.array(quotes.ts_ns), pa.string())
    rows = pc.binary_join_element_wise(before_ask, quotes.ask, before_bid, quotes.bid, before_ts, ts, end, "")
    return RenderedPart(ts_ns=quotes.ts_ns, rows=rows)


def render_trades(trades: Trades) -> RenderedPart:
    """Each trade as one JSON object in the vendor's field names (notes UPSTREAM 1.5)."""
    if len(trades.ts_ns) == 0:
        return RenderedPart(ts_ns=trades.ts_ns, rows=pa.array([], pa.string()))
    ts, number, condition = (
        pc.cast(pa.array(column), pa.string()) for column in (trades.ts_ns, trades.trade_id, trades.condition)
    )
    pieces = (
        *('{"conditions":[', condition, f'],"exchange":{CRYPTO_EXCHANGE},"id":"', number),
        *('","participant_timestamp":', ts, ',"price":', trades.price, ',"size":', trades.size, "},"),
    )
    return RenderedPart(ts_ns=trades.ts_ns, rows=pc.binary_join_element_wise(*pieces, ""))


@attrs.define(eq=False)
class PartCache:
    """Rendered parts by (symbol, start), the least recently used given up first beyond `bytes_max`."""

    feed: InParts
    offload: Offload
    bytes_max: int = CACHE_BYTES_MAX
    load: Load | None = None
    """What to keep; None: the pages of a feed of quotes."""
    _parts: OrderedDict[tuple[str, int], Rows] = attrs.field(factory=OrderedDict, init=False)
    _loading: trio.Lock = attrs.field(factory=trio.Lock, init=False)

    def has(self, symbol: str, part: Part) -> bool:
        """Whether `get` would return at once."""
        return (symbol, part.from_ns) in self._parts

    async def get(self, symbol: str, part: Part) -> Rows:
        """The part, loaded in a worker thread if it is not here; one load at a time, so none is done twice."""
        key = (symbol, part.from_ns)
        if key not in self._parts:
            async with self._loading:
                if key not in self._parts:
                    self._parts[key] = await self.offload(partial(self._load, symbol, part))
                    self._shrink()
        self._parts.move_to_end(key)
        return self._parts[key]

    def _load(self, symbol: str, part: Part) -> Rows:
        if self.load is not None:
            return self.load(symbol, part)
        return render(cast("Feed", self.feed).quotes(symbol, part))

    def _shrink(self) -> None:
        held = sum(part.size_bytes for part in self._parts.values())
        while held > self.bytes_max and len(self._parts) > 1:
            _, gone = self._parts.popitem(last=False)
            held -= gone.size_bytes


@attrs.frozen(kw_only=True)
class Page:
    """One page: its rows as text, and where the chain goes on (None: this is its end)."""

    texts: list[memoryview]
    rows: int
    rest: Query | None


async def cut_page(cache: PartCache, symbol: str, query: Query, now_ns: int) -> Page:
    """The first `limit` rows of a query in its direction, of what has happened by `now_ns`.

    The rest is named by the last row's time and the number of rows of that time already served, so a border may cut
    a group of equal times, and rows that happen meanwhile neither shift nor hide any.
    """
    to_ns = min(query.to_ns, now_ns + 1)
    texts: list[memoryview] = []
    room, skip = query.limit, query.skip
    rest: Query | None = None
    for part in cache.feed.parts(symbol, query.from_ns, to_ns, descending=query.descending):
        rendered = await cache.get(symbol, part)
        start, stop = np.searchsorted(rendered.ts_ns, (query.from_ns, to_ns)).tolist()
        passed = min(skip, stop - start)
        skip -= passed
        start, stop = (start, stop - passed) if query.descending else (start + passed, stop)
        if start == stop:
            continue
        if not room:
            break
        take = min(room, stop - start)
        first, end = (stop - take, stop) if query.descending else (start, start + take)
        texts.append(rendered.text(first, end, descending=query.descending))
        rest = _rest(query, rendered.ts_ns, first if query.descending else end - 1)
        room -= take
        if take < stop - start:
            break
    else:
        rest = None
    return Page(texts=texts, rows=query.limit - room, rest=rest)


def _rest(query: Query, ts_ns: Instants, last: int) -> Query:
    """What follows row `last` of a part."""
    at_ns = int(ts_ns[last])
    group_start, group_stop = np.searchsorted(ts_ns, (at_ns, at_ns + 1)).tolist()
    if query.descending:
        return attrs.evolve(query, to_ns=at_ns + 1, skip=group_stop - last)
    return attrs.evolve(query, from_ns=at_ns, skip=last + 1 - group_start)
