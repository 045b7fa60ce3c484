"""The two health probes: one HTTP request, one PostgreSQL greeting. Trio sockets, no driver, no thread."""

from __future__ import annotations

import struct

import trio

from runtime.errors import NotConnected

ANSWER_BYTES_MAX = 64 * 1024


async def _exchange(port: int, request: bytes, *, until_closed: bool) -> bytes:
    """Send `request` to a loopback port, return the first bytes of the answer (all of them when `until_closed`).

    Raises: NotConnected when nobody listens or the connection breaks.
    """
    try:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            await stream.send_all(request)
            answer = bytearray()
            async for chunk in stream:
                answer += chunk
                if not until_closed or len(answer) > ANSWER_BYTES_MAX:
                    break
            return bytes(answer)
    except (OSError, trio.BrokenResourceError) as exc:
        raise NotConnected(f"127.0.0.1:{port}: {exc}") from exc


async def probe_http(port: int, path: str, *, timeout_s: float) -> bytes:
    """GET `path`, return the body of a 200.

    Raises: NotConnected for anything else, a late answer included.
    """
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n"
    try:
        with trio.fail_after(timeout_s):
            answer = await _exchange(port, request.encode(), until_closed=True)
    except trio.TooSlowError as exc:
        raise NotConnected(f"127.0.0.1:{port}{path}: no answer in {timeout_s:g} s") from exc
    head, _, body = answer.partition(b"\r\n\r\n")
    status = head.split(b"\r\n", 1)[0].decode("latin-1")
    if " 200" not in status:
        raise NotConnected(f"127.0.0.1:{port}{path}: {status or 'connection closed'}")
    return body


async def probe_postgres(port: int, *, user: str, database: str, timeout_s: float) -> None:
    """What pg_isready does: greet the server; being asked for a password means that it takes connections.

    Raises: NotConnected with the server's own words (`the database system is starting up`) otherwise.
    Source: PostgreSQL manual, "Message Formats", StartupMessage, AuthenticationRequest, ErrorResponse (protocol 3.0).
    """
    fields = f"user\0{user}\0database\0{database}\0application_name\0holdfast probe\0\0".encode()
    startup = struct.pack("!ii", len(fields) + 8, 196608) + fields
    try:
        with trio.fail_after(timeout_s):
            answer = await _exchange(port, startup, until_closed=False)
    except trio.TooSlowError as exc:
        raise NotConnected(f"127.0.0.1:{port}: no answer in {timeout_s:g} s") from exc
    if answer[:1] == b"R":
        return
    if answer[:1] == b"E":
        words = {part[:1]: part[1:] for part in answer[5:].split(b"\0") if part}
        raise NotConnected(f"127.0.0.1:{port}: {words.get(b'M', b'?').decode('utf-8', 'replace')}")
    raise NotConnected(f"127.0.0.1:{port}: not PostgreSQL, or the connection was closed")
