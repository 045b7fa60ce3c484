"""The listening socket of the HTTP server, made once at the start: a port that is taken is a matter for a person."""

from __future__ import annotations

import errno
import socket

import psutil

from runtime.errors import ConfigError
from runtime.settings_rules import split_host_port

BACKLOG = 64


def open_listener(listen: str) -> socket.socket:
    """A bound and listening socket for `host:port` of `health.listen`.

    Made before the tree and lent to the actor, so that the port is ours over its restarts.
    Raises: ConfigError naming who has the port, or why the address cannot be used.
    """
    host, port = split_host_port(listen)
    family, address = _resolve(host, port)
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as exc:
        listener.close()
        if exc.errno == errno.EADDRINUSE:
            raise ConfigError(f"port {port} is in use by {_owner_of(port)}: set health.listen or stop it") from exc
        raise ConfigError(f'health.listen = "{listen}": {exc.strerror}: {_advice(exc)}') from exc
    listener.setblocking(False)
    return listener


def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, tuple[object, ...]]:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as exc:
        raise ConfigError(
            f'health.listen: "{host}" is not an address of this machine: {exc.strerror}: set it to one'
        ) from exc
    return family, address


def _advice(error: OSError) -> str:
    if error.errno == errno.EADDRNOTAVAIL:
        return "set it to an address of this machine, or to 0.0.0.0 for all of them"
    if error.errno == errno.EACCES:
        return "set it to a port from 1024 on, or give this user the right to lower ones"
    return "set it to another address or port"


def _owner_of(port: int) -> str:
    """Who listens on `port`, as well as the machine lets us see."""
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                return f"process {connection.pid} ({psutil.Process(connection.pid).name()})"
    except (psutil.Error, OSError):
        pass
    return "another program"


def url_of(listener: socket.socket) -> str:
    """`http://127.0.0.1:8800`, without a slash: whoever appends a path brings his own."""
    return _url(*listener.getsockname()[:2])


def url_at(listen: str) -> str:
    """As `url_of` would say for `host:port`, without listening. Raises: ConfigError."""
    _, address = _resolve(*split_host_port(listen))
    return _url(str(address[0]), int(str(address[1])))


def _url(host: str, port: int) -> str:
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{shown}:{port}"
