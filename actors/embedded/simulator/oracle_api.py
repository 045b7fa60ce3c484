"""Outside the vendor's API: what the server really holds and what it was asked. For tests only; needs no key.

`/oracle/quotes/{ticker}` reads the feed's columns and not the rendered pages, so it can convict them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import partial

import attrs
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from actors.embedded.simulator import replies
from actors.embedded.simulator.feed import InParts, NoQuotes, Part
from actors.embedded.simulator.query import BadRequest, instant_range
from actors.embedded.simulator.symbols import canonical
from actors.embedded.simulator.world import World

TRADES_SCHEMA = pa.schema(
    [
        *(("ts_ns", pa.int64()), ("price", pa.string()), ("size", pa.string())),
        *(("trade_id", pa.int64()), ("condition", pa.int64())),
    ]
)
SCHEMA = pa.schema([("ts_ns", pa.int64()), ("bid", pa.string()), ("ask", pa.string())])
FORMATS = ("ndjson", "arrow", "count")
_EOS = b"\xff\xff\xff\xff\x00\x00\x00\x00"


def routes(world: World) -> list[Route]:
    """`/healthz` and `/oracle/…`."""
    return [
        Route("/healthz", partial(health, world), methods=["GET"]),
        Route("/oracle/requests", partial(requests, world), methods=["GET"]),
        Route("/oracle/quotes/{ticker}", partial(quotes, world), methods=["GET"]),
        Route("/oracle/trades/{ticker}", partial(trades, world), methods=["GET"]),
    ]


async def health(world: World, request: Request) -> Response:
    """200 as soon as the server answers."""
    del request
    body = {"service": "market-simulator", "status": "healthy", "feed": world.feed.description}
    return replies.json_response({**body, "symbols": list(world.symbols)})


async def requests(world: World, request: Request) -> Response:
    """The ledger: `requests`, `rows`, `by` path and status, the `recent` ones."""
    del request
    return replies.json_response(world.ledger.report())


async def quotes(world: World, request: Request) -> Response:
    """Every quote of [from, to) up to the market's now, in time order; prices as text, as the feed has them.

    Parameters `from`, `to` (date or ns) and `format`: `ndjson` (a line per row), `arrow` (IPC stream) or `count`.
    """
    return await _answer(world, request, _Kind(world.feed, SCHEMA, partial(_quote_columns, world)))


async def trades(world: World, request: Request) -> Response:
    """The same for trades: ts_ns, price, size, trade_id, condition."""
    feed = NoQuotes(description="no trades") if world.trades is None else world.trades
    return await _answer(world, request, _Kind(feed, TRADES_SCHEMA, partial(_trade_columns, world)))


def _quote_columns(world: World, symbol: str, part: Part) -> list[pa.Array]:
    held = world.feed.quotes(symbol, part)
    return [pa.array(held.ts_ns), held.bid, held.ask]


def _trade_columns(world: World, symbol: str, part: Part) -> list[pa.Array]:
    assert world.trades is not None
    held = world.trades.trades(symbol, part)
    return [pa.array(held.ts_ns), held.price, held.size, pa.array(held.trade_id), pa.array(held.condition)]


@attrs.frozen
class _Kind:
    """One kind of ticks: where it is, its columns, and how a part gives them."""

    feed: InParts
    schema: pa.Schema
    columns: Callable[[str, Part], list[pa.Array]]


async def _answer(world: World, request: Request, kind: _Kind) -> Response:
    params = request.query_params
    symbol, form = canonical(request.path_params["ticker"]), params.get("format", "ndjson")
    request_id = world.entropy.new_id()
    if symbol not in kind.feed.symbols:
        return replies.error(404, "NOT_FOUND", f"nothing of {symbol}", request_id)
    if form not in FORMATS:
        text = f"'format' must be one of {', '.join(FORMATS)}, not '{form}'."
        return replies.error(400, "ERROR", text, request_id)
    try:
        from_ns = instant_range("from", params["from"])[0] if "from" in params else 0
        to_ns = instant_range("to", params["to"])[0] if "to" in params else world.market_now_ns() + 1
    except BadRequest as error:
        return replies.error(400, "ERROR", str(error), request_id)
    batches = _batches(world, kind, symbol, from_ns, min(to_ns, world.market_now_ns() + 1))
    if form == "count":
        count = 0
        async for batch in batches:
            count += batch.num_rows
        return replies.json_response({"symbol": symbol, "count": count})
    if form == "arrow":
        return StreamingResponse(_arrow(kind.schema, batches), media_type="application/vnd.apache.arrow.stream")
    return StreamingResponse(_ndjson(batches), media_type="application/x-ndjson")


async def _batches(world: World, kind: _Kind, symbol: str, from_ns: int, to_ns: int) -> AsyncIterator[pa.RecordBatch]:
    for part in kind.feed.parts(symbol, from_ns, to_ns):
        batch = await world.offload(partial(_batch, kind, symbol, part, from_ns, to_ns))
        if batch.num_rows:
            yield batch


def _batch(kind: _Kind, symbol: str, part: Part, from_ns: int, to_ns: int) -> pa.RecordBatch:
    batch = pa.RecordBatch.from_arrays(kind.columns(symbol, part), schema=kind.schema)
    start, stop = np.searchsorted(batch.column(0).to_numpy(), (from_ns, to_ns)).tolist()
    return batch.slice(start, stop - start)


async def _arrow(schema: pa.Schema, batches: AsyncIterator[pa.RecordBatch]) -> AsyncIterator[bytes]:
    yield schema.serialize().to_pybytes()
    async for batch in batches:
        yield batch.serialize().to_pybytes()
    yield _EOS


async def _ndjson(batches: AsyncIterator[pa.RecordBatch]) -> AsyncIterator[bytes]:
    async for batch in batches:
        pieces: list[object] = []
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            quote = '"' if pa.types.is_string(column.type) else ""
            pieces += (f',"{name}":{quote}', pc.cast(column, pa.string()), quote)
        pieces[0] = f"{{{str(pieces[0])[1:]}"
        yield ("\n".join(pc.binary_join_element_wise(*pieces, "}", "").to_pylist()) + "\n").encode()
