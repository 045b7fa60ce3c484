"""Whether the vendor answers: REST with the key, the stream without logging in (an account has few sessions)."""

from __future__ import annotations

import ssl
from functools import partial
from urllib.parse import urlsplit

from runtime.errors import ConfigError, NotConnected
from runtime.settings import Settings

PROBE_S_MAX = 5.0


def rest(settings: Settings) -> str:
    """One small request with the key. Raises: ConfigError (the key is refused), NotConnected."""
    import httpx

    key = settings.vendors.polygon.api_key
    url = f"{settings.rest_url.rstrip('/')}/v3/quotes/C:EUR-USD"
    headers = {"Authorization": f"Bearer {key.reveal()}"} if key else {}
    try:
        answer = httpx.get(url, params={"limit": 1}, headers=headers, timeout=PROBE_S_MAX)
    except httpx.HTTPError as exc:
        raise NotConnected(f"{settings.rest_url}: {str(exc) or type(exc).__name__}") from exc
    if answer.status_code in (401, 403):
        raise ConfigError(f"{settings.rest_url} refuses the API key (status {answer.status_code}): set POLYGON_API_KEY")
    if answer.status_code != httpx.codes.OK:
        raise NotConnected(f"{settings.rest_url}: status {answer.status_code}")
    return f"{settings.rest_url} answers"


def stream(settings: Settings) -> str:
    """The host of the live stream takes a connection (with TLS for wss). Raises: NotConnected."""
    import trio

    url = urlsplit(settings.stream_url)
    secure = url.scheme == "wss"
    host, port = url.hostname or "", url.port or (443 if secure else 80)
    try:
        trio.run(partial(_connect, host, port, secure=secure))
    except trio.TooSlowError as exc:
        raise NotConnected(f"{settings.stream_url}: no connection within {PROBE_S_MAX:g} s") from exc
    except (OSError, trio.BrokenResourceError) as exc:
        raise NotConnected(f"{settings.stream_url}: {exc.__cause__ or exc}") from exc
    return f"{settings.stream_url} takes connections"


async def _connect(host: str, port: int, *, secure: bool) -> None:
    import trio

    with trio.fail_after(PROBE_S_MAX):
        line = await trio.open_tcp_stream(host, port)
        try:
            if secure:
                tls = trio.SSLStream(line, ssl.create_default_context(), server_hostname=host, https_compatible=True)
                await tls.do_handshake()
        finally:
            await trio.aclose_forcefully(line)
