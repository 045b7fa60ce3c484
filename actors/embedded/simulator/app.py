"""The ASGI application: vendor's paths, oracle's paths, errors in the vendor's shape."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from actors.embedded.simulator import oracle_api, oracle_stream_api, replies, stream_api, vendor_api
from actors.embedded.simulator.world import World


def make_app(world: World) -> Starlette:
    """The whole server over one world."""

    async def refuse(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        status = "NOT_FOUND" if error.status_code == 404 else "ERROR"
        text = f"{error.detail}: {request.method} {request.url.path}"
        return replies.error(error.status_code, status, text, world.entropy.new_id(), field="message")

    return Starlette(
        routes=[
            *oracle_api.routes(world),
            *oracle_stream_api.routes(world),
            *stream_api.routes(world),
            *vendor_api.routes(world),
        ],
        exception_handlers={HTTPException: refuse},
    )
