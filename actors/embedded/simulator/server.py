"""The process: a listening socket, hypercorn's Trio worker, the stream's pump, and a quiet end."""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import h11
import pyarrow as pa
import trio
import wsproto.utilities
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState, Framework
from starlette.applications import Starlette

from actors.embedded.simulator.app import make_app
from actors.embedded.simulator.assembly import make_world
from actors.embedded.simulator.options import Options
from actors.embedded.simulator.stream_api import WIRE_KEY
from actors.embedded.simulator.wire import Wire
from actors.embedded.simulator.world import World
from runtime.errors import ConfigError

BACKLOG = 128
_OF_THE_PORT = (errno.EADDRINUSE, errno.EACCES)
GRACE_S = 1.0
KEEP_ALIVE_S = 75.0
PING_S = 20.0
MESSAGE_BYTES_MAX = 1 << 20
CLIENTS_FAULT = (
    *(h11.ProtocolError, wsproto.utilities.ProtocolError, OSError),
    *(trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError),
)
"""What a client that breaks the protocol, or vanishes, can make of hypercorn's handler: it must harm only itself."""


def run(options: Options, say: Callable[[str], None]) -> None:
    """Serve until SIGTERM or Ctrl-C. `say` gets one line with the address once connections are taken.

    Raises: ConfigError when option, recording or port must be mended by a person.
    """
    world = make_world(options)
    listener = listen(options.host, options.port)
    pa.set_memory_pool(pa.system_memory_pool())  # pages come and go: a third less memory than with Arrow's default
    trio.run(_serve, world, listener, say)


def listen(host: str, port: int) -> socket.socket:
    """Bound here and not by hypercorn, so that a taken port is one clear line and port 0 is known."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, proto)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(BACKLOG)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        advice = "choose another --port" if error.errno in _OF_THE_PORT else "set --host to an address of this machine"
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}; {advice}") from error
    return listener


async def _serve(world: World, listener: socket.socket, say: Callable[[str], None]) -> None:
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    stopping = trio.Event()
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_leave_at_the_latest, stopping)
            async with trio.open_nursery() as serving:
                await serving.start(serve_world, world, listener, stopping)
                say(f"market simulator: serving Polygon's API on http://{shown}:{port} ({world.feed.description})")
                async for _ in signals:
                    break
                stopping.set()
            nursery.cancel_scope.cancel()


async def serve_world(
    world: World,
    listener: socket.socket,
    stopping: trio.Event,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve one world on a listening socket, the stream's pump included, until `stopping`; then GRACE_S for those who
    are being served. Also the way in for tests that want a real server inside their own loop.

    hypercorn's connection handler is used directly, not its `serve`: only so can a connection's `Wire` stand between
    it and the socket, and be known to the application.
    """
    app, config, context = make_app(world), _config(), WorkerContext(None)
    listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(listener))]

    async def handle(stream: trio.SocketStream) -> None:
        wire = Wire(stream)
        wrapped = ASGIWrapper(cast("Any", _with_wire(app, wire)))
        try:
            await TCPServer(wrapped, config, context, ConnectionState({}), cast("Any", wire))
        except* CLIENTS_FAULT:
            wire.abort()

    async with trio.open_nursery() as pump:
        if world.hub is not None:
            world.hub.time.resume()
            pump.start_soon(world.hub.run)
        async with trio.open_nursery() as connections, trio.open_nursery() as accepting:
            await accepting.start(partial(trio.serve_listeners, handle, listeners, handler_nursery=connections))
            task_status.started()
            await stopping.wait()
            accepting.cancel_scope.cancel()
            await context.terminated.set()
            connections.cancel_scope.deadline = trio.current_time() + GRACE_S
        pump.cancel_scope.cancel()


def _with_wire(app: Starlette, wire: Wire) -> Framework:
    async def framework(scope: Any, receive: Any, send: Any) -> None:
        scope[WIRE_KEY] = wire
        await app(scope, receive, send)

    return cast("Framework", framework)  # both are ASGI, each with types of its own


def _config() -> Config:
    config = Config()
    config.loglevel = "WARNING"
    config.graceful_timeout = GRACE_S
    config.keep_alive_timeout = KEEP_ALIVE_S
    config.keep_alive_max_requests = sys.maxsize
    config.include_server_header = False
    config.websocket_ping_interval = PING_S
    config.websocket_max_message_size = MESSAGE_BYTES_MAX
    return config


async def _leave_at_the_latest(stopping: trio.Event) -> None:
    """End the process although a client does not read: hypercorn shields its sends from cancellation.

    Nothing is lost by it, this process keeps nothing.
    """
    await stopping.wait()
    await trio.sleep(2 * GRACE_S)
    os._exit(0)
