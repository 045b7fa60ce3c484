"""Outside the vendor's API: the stream's faults and what it was given. For tests only; needs no key."""

from __future__ import annotations

from functools import partial

import attrs
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from actors.embedded.simulator import replies
from actors.embedded.simulator.faults import BadFault, Fault, parse_fault, parse_script
from actors.embedded.simulator.hub import Hub
from actors.embedded.simulator.lane import Lane
from actors.embedded.simulator.symbols import canonical
from actors.embedded.simulator.world import World
from runtime.clock import format_ns

BODY_BYTES_MAX = 1 << 20


def routes(world: World) -> list[Route]:
    """`/oracle/faults`, `/oracle/stream` and `/oracle/stream/{ticker}`; none where the world has no stream."""
    if world.hub is None:
        return []
    hub = world.hub
    return [
        Route("/oracle/faults", partial(faults, hub), methods=["GET"]),
        Route("/oracle/faults", partial(arm, world, hub), methods=["POST"]),
        Route("/oracle/faults", partial(disarm, hub), methods=["DELETE"]),
        Route("/oracle/stream", partial(stream, hub), methods=["GET"]),
        Route("/oracle/stream/{ticker}", partial(stream_of, world, hub), methods=["GET"]),
    ]


async def faults(hub: Hub, request: Request) -> Response:
    """The armed and the fired, with what each touched."""
    del request
    return replies.json_response(hub.faults.report())


async def arm(world: World, hub: Hub, request: Request) -> Response:
    """One fault as JSON, or several as JSON lines; answers with their numbers."""
    body = await request.body()
    try:
        found = _parse(body)
    except (BadFault, UnicodeDecodeError) as error:
        return replies.error(400, "ERROR", str(error), world.entropy.new_id())
    return replies.json_response({"armed": [hub.faults.arm(fault) for fault in found]})


def _parse(body: bytes) -> list[Fault]:
    if len(body) > BODY_BYTES_MAX:
        raise BadFault(f"more than {BODY_BYTES_MAX} bytes")
    text = body.decode().strip()
    if "\n" not in text or text.startswith("{\n"):
        return [parse_fault(text)]
    return parse_script(text)


async def disarm(hub: Hub, request: Request) -> Response:
    """Forget those that wait; those that run go on to their end."""
    del request
    return replies.json_response({"disarmed": hub.faults.disarm()})


async def stream(hub: Hub, request: Request) -> Response:
    """The market's clock, and totals of every lane and symbol."""
    del request
    now_ns = hub.time.now_ns()
    return replies.json_response(
        {
            "market_now_ns": now_ns,
            "market_now": format_ns(now_ns),
            "running": hub.time.running,
            "speed": hub.time.speed,
            "lanes": {lane.asset.name: _lane(lane) for lane in hub.lanes},
        }
    )


def _lane(lane: Lane) -> dict[str, object]:
    symbols = {symbol: dict(sorted(book.totals.items())) for symbol, book in sorted(lane.disturber.ledger.items())}
    return {
        **attrs.asdict(lane.counts),
        "connections": len(lane.connections),
        "position_ns": lane.position_ns,
        "symbols": symbols,
    }


async def stream_of(world: World, hub: Hub, request: Request) -> Response:
    """Every row of one symbol that was due on the stream while somebody was subscribed, in runs of one fate."""
    symbol = canonical(request.path_params["ticker"])
    for lane in hub.lanes:
        if symbol in lane.feed.symbols:
            return replies.json_response({"symbol": symbol, **lane.disturber.book(symbol).report()})
    return replies.error(404, "NOT_FOUND", f"no stream of {symbol}", world.entropy.new_id())
