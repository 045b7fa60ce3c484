"""Who may ask the HTTP server: not a web page of somebody else that the operator's browser has open. Pure.

DNS rebinding: a page from evil.example lets its name point to 127.0.0.1 and so reads what listens there. The browser
still sends `Host: evil.example`, so only names that mean this server are answered. Cross-site requests that change
something are told by their Origin.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_WILDCARDS = frozenset({"0.0.0.0", "::", ""})


def host_of(authority: str) -> str:
    """`[::1]:8800` and `::1`, `localhost:8800` and `LOCALHOST.` to the bare host; "" when it is none."""
    try:
        return (urlsplit(f"//{authority}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def is_own_host(authority: str, listen_host: str) -> bool:
    """True when a request with this Host header means us.

    Listening on every address, any IP literal does: rebinding needs a name.
    """
    host = host_of(authority)
    if not host:
        return False
    if host in _LOOPBACK or host == listen_host.lower():
        return True
    return listen_host in _WILDCARDS and _is_ip(host)


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_own_origin(origin: str | None, authority: str) -> bool:
    """True when a request that changes something comes from our own page, or from no page at all (curl, the CLI)."""
    if origin is None:
        return True
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and parts.netloc.lower() == authority.lower()
