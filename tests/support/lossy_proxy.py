"""A TCP proxy that passes a COMMIT on to PostgreSQL, waits for its answer, and cuts the line instead of giving it."""

from __future__ import annotations

from contextlib import asynccontextmanager

import trio


class LossyProxy:
    """`commits_to_lose` counts down; the server has committed when the client's connection breaks."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.commits_to_lose = 0
        self.lost = 0
        self.port = 0

    @asynccontextmanager
    async def serve(self):
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(trio.serve_tcp, self._pass_on, 0)
            self.port = listeners[0].socket.getsockname()[1]
            yield self
            nursery.cancel_scope.cancel()

    async def _pass_on(self, client: trio.SocketStream) -> None:
        server = await trio.open_tcp_stream("127.0.0.1", self._port)
        cutting = trio.Event()

        async def up(nursery: trio.Nursery) -> None:
            async for data in client:
                if b"COMMIT;" in data and self.commits_to_lose:
                    self.commits_to_lose -= 1
                    cutting.set()
                await server.send_all(data)
            nursery.cancel_scope.cancel()

        async def down(nursery: trio.Nursery) -> None:
            async for data in server:
                if cutting.is_set():
                    assert b"COMMIT" in data
                    self.lost += 1
                    break
                await client.send_all(data)
            nursery.cancel_scope.cancel()

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(up, nursery)
                nursery.start_soon(down, nursery)
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(client)
                await trio.aclose_forcefully(server)
