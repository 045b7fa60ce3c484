"""The process: a listening socket, hypercorn's Trio worker, and a quiet end."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from typing import cast

import pyarrow as pa
import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from hypercorn.typing import Framework

from actors.embedded.simulator.app import make_app
from actors.embedded.simulator.assembly import make_world
from actors.embedded.simulator.options import Options
from actors.embedded.simulator.world import World
from runtime.errors import ConfigError

BACKLOG = 128
GRACE_S = 1.0
KEEP_ALIVE_S = 75.0


def run(options: Options, say: Callable[[str], None]) -> None:
    """Serve until SIGTERM or Ctrl-C. `say` gets one line with the address once connections are taken.

    Raises: ConfigError when option, recording or port must be mended by a person.
    """
    world = make_world(options)
    listener = _listen(options.host, options.port)
    pa.set_memory_pool(pa.system_memory_pool())  # pages come and go: a third less memory than with Arrow's default
    trio.run(_serve, world, listener, say)


def _listen(host: str, port: int) -> socket.socket:
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
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}; choose another --port") from error
    return listener


async def _serve(world: World, listener: socket.socket, say: Callable[[str], None]) -> None:
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    app = cast("Framework", make_app(world))  # both are ASGI, each with types of its own
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.backlog = BACKLOG
    config.loglevel = "WARNING"
    config.graceful_timeout = GRACE_S
    config.keep_alive_timeout = KEEP_ALIVE_S
    config.keep_alive_max_requests = sys.maxsize
    config.include_server_header = False
    stopping = trio.Event()
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:

        async def until_signal() -> None:
            async for _ in signals:
                stopping.set()
                return

        async with trio.open_nursery() as nursery:
            nursery.start_soon(_leave_at_the_latest, stopping)
            async with trio.open_nursery() as serving:
                await serving.start(partial(serve, app, config, shutdown_trigger=until_signal))
                say(f"market simulator: serving Polygon's API on http://{shown}:{port} ({world.feed.description})")
            nursery.cancel_scope.cancel()


async def _leave_at_the_latest(stopping: trio.Event) -> None:
    """End the process although a client does not read: hypercorn shields its sends from cancellation.

    Nothing is lost by it, this process keeps nothing.
    """
    await stopping.wait()
    await trio.sleep(2 * GRACE_S)
    os._exit(0)
