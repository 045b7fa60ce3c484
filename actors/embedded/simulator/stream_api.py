"""The WebSocket endpoints `/forex` and `/crypto`: the shell around `stream_session`, `outbox` and `hub`."""

from __future__ import annotations

from functools import partial

import attrs
import trio
from starlette.responses import Response
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from actors.embedded.simulator.hub import Hub
from actors.embedded.simulator.lane import CLOSE_POLICY, Connection, Lane
from actors.embedded.simulator.outbox import Outbox
from actors.embedded.simulator.stream_session import AUTH_TIMEOUT, CONNECTED, Outcome, Session, status_event
from actors.embedded.simulator.wire import Wire
from actors.embedded.simulator.world import World

FAREWELL_S = 1.0
"""How long a client may take to answer a close before the connection is closed without."""
CONNECTIONS_MAX = 200
WIRE_KEY = "simulator.wire"
"""Where the server puts the connection's `Wire` into the ASGI scope."""


def routes(world: World) -> list[WebSocketRoute]:
    """One endpoint per asset class; none where the world has no stream."""
    if world.hub is None:
        return []
    return [
        WebSocketRoute(f"/{lane.asset.name}", partial(_endpoint, world, world.hub, lane)) for lane in world.hub.lanes
    ]


async def _endpoint(world: World, hub: Hub, lane: Lane, socket: WebSocket) -> None:
    if lane.refuse or len(lane.connections) >= CONNECTIONS_MAX:
        lane.counts.refused += 1
        await socket.send_denial_response(Response("no stream at the moment", 503))
        return
    await socket.accept()
    connection = Connection(
        session=Session(asset=lane.asset, symbols=lane.feed.symbols, key_problem=world.keys.problem),
        outbox=Outbox(hub.buffer_bytes),
        wire=socket.scope.get(WIRE_KEY) if isinstance(socket.scope.get(WIRE_KEY), Wire) else None,
        quirk_due=hub.quirks,
    )
    lane.counts.opened += 1
    lane.connections.append(connection)
    connection.outbox.put(status_event(*CONNECTED))
    try:
        await _Conversation(hub=hub, lane=lane, connection=connection, socket=socket).run()
    finally:
        connection.leaving = True
        lane.connections.remove(connection)


@attrs.define(kw_only=True, eq=False)
class _Conversation:
    """The tasks of one connection: whoever ends first ends it."""

    hub: Hub
    lane: Lane
    connection: Connection
    socket: WebSocket
    came_back: bool = False

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write, nursery.cancel_scope)
            nursery.start_soon(self._demand_key)
            await self._read()
            nursery.cancel_scope.cancel()

    async def _read(self) -> None:
        """Until the client is gone."""
        while True:
            try:
                text = await self.socket.receive_text()
            except (WebSocketDisconnect, KeyError):  # KeyError: a binary message, which the vendor does not take
                return
            if self.connection.leaving:
                continue
            self._hear(text)

    def _hear(self, text: str) -> None:
        heard = self.connection.session.hear(text)
        if heard.outcome is Outcome.REFUSED:
            self.lane.counts.auth_failed += 1
            self.connection.finish(CLOSE_POLICY, heard.answers[0])
            return
        self.hub.heard(self.lane, self.connection, heard, came_back=self.came_back)
        if heard.outcome is Outcome.AUTHENTICATED:
            self.lane.counts.authenticated += 1
            self.came_back = self.lane.admit(self.connection, refuse_new=self.hub.refuse_new)

    async def _write(self, scope: trio.CancelScope) -> None:
        """A frame at a time; a send that a slow client blocks is bounded by the pump (`STUCK_S`, full buffer)."""
        clock = self.hub.time.clock
        while (frame := await self.connection.outbox.take()) is not None:
            self.connection.sending_since_s = clock.monotonic_s()
            await self.socket.send_text(frame)
            self.connection.sending_since_s = None
        await self.socket.close(self.connection.outbox.close_code or 1000)
        scope.deadline = trio.current_time() + FAREWELL_S

    async def _demand_key(self) -> None:
        await trio.sleep(self.hub.auth_timeout_s)
        if not self.connection.session.key and not self.connection.leaving:
            self.lane.counts.auth_timeout += 1
            self.connection.finish(CLOSE_POLICY, status_event(*AUTH_TIMEOUT))
