"""The vendor's side of the server: the door every request passes, quotes and the market's status."""

from __future__ import annotations

import datetime
import zlib
from collections.abc import Awaitable, Callable
from urllib.parse import urlencode

import attrs
import trio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from actors.embedded.simulator import replies
from actors.embedded.simulator.access import key_of
from actors.embedded.simulator.hashing import combine
from actors.embedded.simulator.ledger import Asked
from actors.embedded.simulator.pages import PartCache, cut_page
from actors.embedded.simulator.query import BadRequest, Query, parse, to_cursor
from actors.embedded.simulator.session import fx_open, new_york_offset_h
from actors.embedded.simulator.symbols import canonical
from actors.embedded.simulator.world import NEXT_HOST, World
from runtime.clock import NS_PER_S
from runtime.errors import ConfigError

ANSWER_TIMEOUT_S = 60.0
Handler = Callable[[World, Request, str], Awaitable[tuple[Response, int]]]
"""(world, request, request id) to (answer, rows in it)."""


def routes(world: World) -> list[Route]:
    """Every path of the vendor's API that is spoken here."""
    return [
        _route(world, "/v3/quotes/{ticker}", quotes),
        _route(world, "/v3/trades/{ticker}", trades),
        _route(world, "/v1/marketstatus/now", market_status),
    ]


def _route(world: World, path: str, handler: Handler) -> Route:
    async def endpoint(request: Request) -> Response:
        return await _admit(world, request, handler)

    return Route(path, endpoint, methods=["GET"])


async def _admit(world: World, request: Request, handler: Handler) -> Response:
    """Key, budget, latency, handler, books: in this order for every endpoint."""
    request_id = world.entropy.new_id()
    key = key_of(request.headers.get("authorization", ""), request.query_params.get("apiKey", ""))
    rows = 0
    if world.hub is not None and world.hub.rest_down:
        answer = replies.bad_gateway()
    elif problem := world.keys.problem(key):
        answer = replies.error(401, "ERROR", problem, request_id)
    elif wait_s := world.budget.take(key, world.clock.monotonic_s()):
        answer = replies.too_many(request_id, wait_s, world.manners.seed)
    else:
        try:
            with trio.fail_after(ANSWER_TIMEOUT_S + world.manners.latency_s):
                await trio.sleep(world.manners.latency_s)
                answer, rows = await handler(world, request, request_id)
        except BadRequest as error:
            answer = replies.error(400, "ERROR", str(error), request_id)
        except ConfigError as error:  # a file of the recording is damaged: no outage, asking again gives the same
            answer = replies.error(410, "ERROR", str(error), request_id)
        except trio.TooSlowError:
            answer = replies.error(504, "ERROR", "The request timed out.", request_id)
    world.ledger.note(_asked(world, request, request_id, answer.status_code, rows))
    return answer


def _asked(world: World, request: Request, request_id: str, status: int, rows: int) -> Asked:
    return Asked(
        at_ns=world.clock.wall_ns(),
        path=request.url.path,
        query=urlencode([(name, value) for name, value in request.query_params.multi_items() if name != "apiKey"]),
        status=status,
        rows=rows,
        request_id=request_id,
    )


async def quotes(world: World, request: Request, request_id: str) -> tuple[Response, int]:
    """`GET /v3/quotes/{ticker}`: one page of quotes."""
    return await _ticks(world, world.cache, "/v3/quotes", request, request_id)


async def trades(world: World, request: Request, request_id: str) -> tuple[Response, int]:
    """`GET /v3/trades/{ticker}`: one page of trades."""
    return await _ticks(world, world.trade_cache, "/v3/trades", request, request_id)


async def _ticks(
    world: World, cache: PartCache | None, path: str, request: Request, request_id: str
) -> tuple[Response, int]:
    ticker = request.path_params["ticker"]
    symbol = canonical(ticker)
    query = parse(request.query_params)
    if cache is None or symbol not in cache.feed.symbols:
        return replies.error(404, "NOT_FOUND", f"Data not found for {ticker}.", request_id, field="message"), 0
    page_query = attrs.evolve(query, limit=min(query.limit, world.manners.page_rows_max))
    page = await cut_page(cache, symbol, page_query, world.market_now_ns())
    form = combine(world.manners.seed, zlib.crc32(symbol.encode()), query.from_ns, query.to_ns) % 4
    rest = page.rest
    if not page.rows and form == 3 and not query.last:
        rest = attrs.evolve(query, last=True)
    body = replies.page_body(page, request_id, _next_url(f"{path}/{ticker}", query, rest), form % 3)
    return await replies.packed(body, request.headers.get("accept-encoding", ""), world.offload), page.rows


def _next_url(path: str, query: Query, rest: Query | None) -> str:
    if rest is None:
        return ""
    return f"{NEXT_HOST}{path}?cursor={to_cursor(attrs.evolve(rest, limit=query.limit))}"


async def market_status(world: World, request: Request, request_id: str) -> tuple[Response, int]:
    """`GET /v1/marketstatus/now`: what is open, and the market's clock to the millisecond."""
    del request, request_id
    await trio.lowlevel.checkpoint()
    now_ns = world.market_now_ns()
    zone = datetime.timezone(datetime.timedelta(hours=new_york_offset_h(now_ns)))
    milliseconds = now_ns % NS_PER_S // 1_000_000
    local = datetime.datetime.fromtimestamp(now_ns // NS_PER_S, zone).replace(microsecond=milliseconds * 1_000)
    body = {
        "afterHours": False,
        "currencies": {"crypto": "open", "fx": "open" if world.feed.is_open(now_ns) else "closed"},
        "earlyHours": False,
        "exchanges": {"nasdaq": "closed", "nyse": "closed", "otc": "closed"},
        "market": "open" if fx_open(now_ns) else "closed",
        "serverTime": local.isoformat(timespec="milliseconds"),
    }
    return replies.json_response(body), 0
