"""Outside the vendor's API: what the server really holds and what it was asked. For tests only; needs no key.

`/oracle/quotes/{ticker}` reads the feed's columns and not the rendered pages, so it can convict them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from actors.embedded.simulator import replies
from actors.embedded.simulator.feed import Part
from actors.embedded.simulator.query import BadRequest, instant_range
from actors.embedded.simulator.symbols import canonical
from actors.embedded.simulator.world import World

SCHEMA = pa.schema([("ts_ns", pa.int64()), ("bid", pa.string()), ("ask", pa.string())])
FORMATS = ("ndjson", "arrow", "count")
_EOS = b"\xff\xff\xff\xff\x00\x00\x00\x00"


def routes(world: World) -> list[Route]:
    """`/healthz` and `/oracle/…`."""
    return [
        Route("/healthz", partial(health, world), methods=["GET"]),
        Route("/oracle/requests", partial(requests, world), methods=["GET"]),
        Route("/oracle/quotes/{ticker}", partial(quotes, world), methods=["GET"]),
    ]


async def health(world: World, request: Request) -> Response:
    """200 as soon as the server answers."""
    del request
    body = {"service": "market-simulator", "status": "healthy", "feed": world.feed.description}
    return replies.json_response({**body, "symbols": list(world.feed.symbols)})


async def requests(world: World, request: Request) -> Response:
    """The ledger: `requests`, `rows`, `by` path and status, the `recent` ones."""
    del request
    return replies.json_response(world.ledger.report())


async def quotes(world: World, request: Request) -> Response:
    """Every quote of [from, to) up to the market's now, in time order; prices as text, as the feed has them.

    Parameters `from`, `to` (date or ns) and `format`: `ndjson` (a line per row), `arrow` (IPC stream) or `count`.
    """
    params = request.query_params
    symbol, form = canonical(request.path_params["ticker"]), params.get("format", "ndjson")
    request_id = world.entropy.new_id()
    if symbol not in world.feed.symbols:
        return replies.error(404, "NOT_FOUND", f"no quotes of {symbol}", request_id)
    if form not in FORMATS:
        text = f"'format' must be one of {', '.join(FORMATS)}, not '{form}'."
        return replies.error(400, "ERROR", text, request_id)
    try:
        from_ns = instant_range("from", params["from"])[0] if "from" in params else 0
        to_ns = instant_range("to", params["to"])[0] if "to" in params else world.market_now_ns() + 1
    except BadRequest as error:
        return replies.error(400, "ERROR", str(error), request_id)
    batches = _batches(world, symbol, from_ns, min(to_ns, world.market_now_ns() + 1))
    if form == "count":
        count = 0
        async for batch in batches:
            count += batch.num_rows
        return replies.json_response({"symbol": symbol, "count": count})
    if form == "arrow":
        return StreamingResponse(_arrow(batches), media_type="application/vnd.apache.arrow.stream")
    return StreamingResponse(_ndjson(batches), media_type="application/x-ndjson")


async def _batches(world: World, symbol: str, from_ns: int, to_ns: int) -> AsyncIterator[pa.RecordBatch]:
    for part in world.feed.parts(symbol, from_ns, to_ns):
        batch = await world.offload(partial(_batch, world, symbol, part, from_ns, to_ns))
        if batch.num_rows:
            yield batch


def _batch(world: World, symbol: str, part: Part, from_ns: int, to_ns: int) -> pa.RecordBatch:
    held = world.feed.quotes(symbol, part)
    start, stop = np.searchsorted(held.ts_ns, (from_ns, to_ns)).tolist()
    columns = [pa.array(held.ts_ns), held.bid, held.ask]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA).slice(start, stop - start)


async def _arrow(batches: AsyncIterator[pa.RecordBatch]) -> AsyncIterator[bytes]:
    yield SCHEMA.serialize().to_pybytes()
    async for batch in batches:
        yield batch.serialize().to_pybytes()
    yield _EOS


async def _ndjson(batches: AsyncIterator[pa.RecordBatch]) -> AsyncIterator[bytes]:
    async for batch in batches:
        ts, bid, ask = batch.columns
        pieces = ('{"ts_ns":', pc.cast(ts, pa.string()), ',"bid":"', bid, '","ask":"', ask, '"}')
        yield ("\n".join(pc.binary_join_element_wise(*pieces, "").to_pylist()) + "\n").encode()
