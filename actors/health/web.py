"""The HTTP surface: routes, limits and the guard. What it says comes from `probes`, `report` and the metrics."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

import attrs
import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from actors.health.guard import is_own_host, is_own_origin
from actors.health.live import STREAM_S_MAX, EventStreams, candles
from actors.health.page import SCRIPT_HASH, page
from actors.health.port import BackfillRequest, CancelBackfill, SubmitBackfill, orderable
from actors.health.probes import Probes
from actors.health.recent import RecentCandles
from actors.health.report import About, report
from actors.market.symbols import feeds
from runtime.board import Board
from runtime.clock import Clock
from runtime.errors import ConfigError, NotConnected
from runtime.metrics import CONTENT_TYPE, BoardCollector, Metrics, render
from runtime.settings import resolve_interval

BODY_BYTES_MAX = 64 * 1024
REQUESTS_MAX = 32
"""Answered at the same time; more are told to come again."""
REQUEST_S_MAX = 10.0
SYMBOLS_MAX = 1_000
EXPECTED = "expected an object with symbols, from, to and optionally kinds, refetch"
EVENTS = "/api/events"
_HEADERS = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "content-security-policy": (
        f"default-src 'none'; script-src '{SCRIPT_HASH}'; style-src 'unsafe-inline'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "referrer-policy": "no-referrer",
}


@attrs.frozen(kw_only=True)
class Surface:
    """What the routes answer from."""

    probes: Probes
    about: About
    board: Board
    clock: Clock
    metrics: Metrics
    collector: BoardCollector
    listen_host: str
    kinds: tuple[str, ...]
    """Kinds that a backfill may ask for."""
    submit: SubmitBackfill
    cancel: CancelBackfill
    recent: RecentCandles = attrs.field(factory=RecentCandles)
    streams: EventStreams = attrs.field(factory=EventStreams)

    def app(self) -> ASGIApp:
        """The ASGI application."""
        routes = [
            Route("/livez", self.livez),
            Route("/readyz", self.readyz),
            Route("/healthz", self.healthz),
            Route("/metrics", self.scrape),
            Route("/api/status", self.status),
            Route(EVENTS, self.events),
            Route("/api/candles", self.candles),
            Route("/api/backfill", self.backfill, methods=["POST"]),
            Route("/api/backfill/cancel", self.cancel_backfill, methods=["POST"]),
            Route("/", self.index),
        ]
        return _Guarded(Starlette(routes=routes), self.listen_host)

    async def livez(self, _: Request) -> Response:
        """200 while the process makes progress: that this line runs proves that the event loop does."""
        live = self.probes.judge(self.board, self.clock.monotonic_s()).live
        return PlainTextResponse("live\n" if live else "no progress\n", 200 if live else 503)

    async def readyz(self, _: Request) -> Response:
        """200 while data is accepted and kept, also when degraded."""
        verdict = self.probes.judge(self.board, self.clock.monotonic_s())
        text = "ready\n" if verdict.ready else "\n".join(["not ready", *verdict.reasons, ""])
        return PlainTextResponse(text, 200 if verdict.ready else 503)

    async def healthz(self, _: Request) -> Response:
        """The verdict with its reasons. Always 200: who wants a code asks /readyz or /livez."""
        return JSONResponse(self.probes.judge(self.board, self.clock.monotonic_s()).to_json())

    async def scrape(self, _: Request) -> Response:
        """Prometheus' text format."""
        return Response(render(self.metrics, self.collector), headers={"content-type": CONTENT_TYPE})

    async def status(self, _: Request) -> Response:
        """Everything."""
        return JSONResponse(self._report())

    async def events(self, _: Request) -> Response:
        """The same once a second, as server-sent events."""
        if self.streams.is_full:
            return _refused(503, "too many pages are open: ask for /api/status instead")
        return StreamingResponse(self.streams.events(self._report), media_type="text/event-stream")

    async def candles(self, request: Request) -> Response:
        """?symbol=&timeframe=&basis=&limit= -> the newest bars, the open one included."""
        try:
            return JSONResponse(await candles(request.query_params, self.recent, self.board))
        except ConfigError as exc:
            return _refused(400, str(exc))

    async def index(self, _: Request) -> Response:
        """The page for people."""
        return HTMLResponse(page(self._report()))

    def _report(self) -> dict[str, Any]:
        dead_letters = self.metrics.dead_letters()
        return report(self.probes, self.about, self.board, self.clock, dead_letters=dead_letters)

    async def backfill(self, request: Request) -> Response:
        """Take on a backfill: {"symbols": […], "from": …, "to": …, "kinds": […]?, "refetch": bool?} -> {"job": id}."""
        if (refused := _not_ours(request)) is not None:
            return refused
        try:
            wanted = self._wanted(await _body(request))
            job = await self.submit(wanted)
        except ConfigError as exc:
            return _refused(400, str(exc))
        except NotConnected as exc:
            return _refused(503, str(exc))
        return JSONResponse({"job": job}, 202)

    async def cancel_backfill(self, request: Request) -> Response:
        """Give a backfill up: {"job": id} -> the same, when it is forgotten."""
        if (refused := _not_ours(request)) is not None:
            return refused
        try:
            job = _job(await _body(request))
            await self.cancel(job)
        except ConfigError as exc:
            return _refused(400, str(exc))
        except NotConnected as exc:
            return _refused(503, str(exc))
        return JSONResponse({"job": job})

    def _wanted(self, body: bytes) -> BackfillRequest:
        """Raises: ConfigError saying what is wrong."""
        fields = _object(body, EXPECTED)
        if unknown := set(fields) - {"symbols", "kinds", "from", "to", "refetch"}:
            raise ConfigError(f"{EXPECTED}, not {', '.join(sorted(unknown))}")
        kinds = _texts(fields, "kinds", list(self.kinds))
        if other := set(kinds) - set(self.kinds):
            raise ConfigError(f"kinds: {', '.join(sorted(other))} is not one of {', '.join(self.kinds)}")
        symbols = tuple(orderable(text) for text in _texts(fields, "symbols", []))
        try:
            feeds(symbols, kinds)
        except ValueError as exc:
            raise ConfigError(f"kinds: {exc}") from exc
        refetch = fields.get("refetch", False)
        if not isinstance(refetch, bool):
            raise ConfigError("refetch: expected true or false")
        texts = {name: fields.get(name) for name in ("from", "to")}
        for name, text in texts.items():
            if not isinstance(text, str) or not text:
                raise ConfigError(f"{name}: expected a UTC date, an instant or a distance like -2h")
        try:
            from_ns, to_ns = resolve_interval(
                str(texts["from"]), str(texts["to"]), self.clock.wall_ns(), earlier="choose an earlier `to`, like -1m"
            )
        except ValueError as exc:
            raise ConfigError(f"from or to: {exc}") from exc
        return BackfillRequest(symbols=symbols, kinds=kinds, from_ns=from_ns, to_ns=to_ns, refetch=refetch)


def _not_ours(request: Request) -> Response | None:
    """The answer to a page of another site, or to a form."""
    if not is_own_origin(request.headers.get("origin"), request.headers.get("host", "")):
        return _refused(403, "another site's page may not order history")
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        return _refused(415, "send application/json")
    return None


def _job(body: bytes) -> str:
    """Raises: ConfigError."""
    expected = 'expected an object with "job" alone, a text'
    fields = _object(body, expected)
    if set(fields) != {"job"} or not isinstance(fields["job"], str):
        raise ConfigError(expected)
    return fields["job"]


def _object(body: bytes, expected: str) -> dict[str, Any]:
    """Raises: ConfigError."""
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise ConfigError(f"not JSON: {exc}") from exc
    if not isinstance(fields, dict):
        raise ConfigError(expected)
    return fields


def _texts(fields: dict[str, Any], name: str, default: list[str]) -> tuple[str, ...]:
    values = fields.get(name, default)
    fine = isinstance(values, list) and 0 < len(values) <= SYMBOLS_MAX and all(isinstance(v, str) and v for v in values)
    if not fine:
        raise ConfigError(f"{name}: expected a list of 1 to {SYMBOLS_MAX} names")
    return tuple(dict.fromkeys(values))


async def _body(request: Request) -> bytes:
    body = bytearray()
    async with aclosing(request.stream()) as chunks:
        async for chunk in chunks:
            body += chunk
            if len(body) > BODY_BYTES_MAX:
                raise ConfigError(f"larger than {BODY_BYTES_MAX} bytes")
    return bytes(body)


def _refused(code: int, why: str) -> Response:
    return JSONResponse({"error": why}, code)


class _Guarded:
    """Bounds the requests in time and number, refuses foreign Host headers, adds the headers."""

    def __init__(self, app: ASGIApp, listen_host: str) -> None:
        self._app = app
        self._listen_host = listen_host
        self._room = trio.CapacityLimiter(REQUESTS_MAX)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def send_with_headers(message: Any) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                extra = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *extra]}
            await send(message)

        # A stream of events ends by itself (`live.STREAM_S_MAX`); what is left of that is for its last write.
        allowed_s = STREAM_S_MAX + REQUEST_S_MAX if scope["path"] == EVENTS else REQUEST_S_MAX
        with trio.move_on_after(allowed_s) as deadline:
            await self._bounded(scope, receive, send_with_headers)
        if deadline.cancelled_caught and not started:
            await _refused(503, f"not answered within {REQUEST_S_MAX:g} s")(scope, receive, send_with_headers)

    async def _bounded(self, scope: Scope, receive: Receive, send: Callable[[Any], Awaitable[None]]) -> None:
        authority = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "")
        if not is_own_host(authority, self._listen_host):
            text = "this server answers only to its own address (Host header); see health.listen"
            await _refused(421, text)(scope, receive, send)
            return
        try:
            self._room.acquire_on_behalf_of_nowait(send)
        except trio.WouldBlock:
            await _refused(503, "too many requests at once")(scope, receive, send)
            return
        try:
            await self._app(scope, receive, send)
        finally:
            self._room.release_on_behalf_of(send)
