"""The vendor's answers as bytes: bodies in its several forms, errors, gzip (notes UPSTREAM 1.6 and 1.7)."""

from __future__ import annotations

import json
import zlib
from functools import partial

from starlette.responses import Response

from actors.embedded.simulator.hashing import combine
from actors.embedded.simulator.pages import Page
from runtime.actor import Offload

GZIP_BYTES_MIN = 1_024
GZIP_LEVEL = 1
EMPTY_FORMS = (b'"status":"OK"', b'"results":null,"status":"OK"', b'"results":[],"status":"OK"')

_TOO_MANY = (
    "You've exceeded the maximum requests per minute, please wait or upgrade your subscription to continue. "
    "https://polygon.io/pricing"
)


def page_body(page: Page, request_id: str, next_url: str, empty_form: int) -> bytes:
    """A page of ticks. `next_url` empty means the last one; `empty_form` (0-2) is used when there are no rows."""
    pieces: list[bytes | memoryview] = [b"{"]
    if page.rows:
        pieces.append(b'"results":[')
        for index, text in enumerate(page.texts):
            pieces += (b",", text) if index else (text,)
        pieces.append(b'],"status":"OK"')
    else:
        pieces.append(EMPTY_FORMS[empty_form])
    pieces.append(f',"request_id":"{request_id}"'.encode())
    if next_url:
        pieces.append(f',"next_url":"{next_url}"'.encode())
    pieces.append(b"}")
    return b"".join(pieces)


def error(http_status: int, status: str, message: str, request_id: str, *, field: str = "error") -> Response:
    """An error as the vendor words it: `field` is `error` or `message`."""
    body = {"status": status, "request_id": request_id, field: message}
    return json_response(body, http_status)


def too_many(request_id: str, wait_s: float, seed: int) -> Response:
    """429; by seed and request with the documented body, the same with `Retry-After` (proxies add it), or no body."""
    form = combine(seed, int(request_id, 16)) % 4
    answer = Response(status_code=429) if form == 3 else error(429, "ERROR", _TOO_MANY, request_id)
    if form in (1, 3):
        answer.headers["retry-after"] = str(max(1, -int(-wait_s // 1)))
    return answer


def bad_gateway() -> Response:
    """What the edge says while the vendor is down: HTML, as notes UPSTREAM 1.7 has it."""
    return Response("<html><body><h1>503 Service Unavailable</h1></body></html>", 503, media_type="text/html")


def json_response(body: object, http_status: int = 200) -> Response:
    """Small bodies."""
    return Response(json.dumps(body, separators=(",", ":")), http_status, media_type="application/json")


async def packed(body: bytes, accept_encoding: str, offload: Offload) -> Response:
    """A JSON body, compressed at the cheapest level in a worker thread where the client asks for gzip."""
    answer_headers = {"vary": "Accept-Encoding"}
    if len(body) >= GZIP_BYTES_MIN and _wants_gzip(accept_encoding):
        body = await offload(partial(_gzip, body))
        answer_headers["content-encoding"] = "gzip"
    return Response(body, media_type="application/json", headers=answer_headers)


def _wants_gzip(accept_encoding: str) -> bool:
    for item in accept_encoding.lower().split(","):
        coding, _, parameters = item.partition(";")
        if coding.strip() in ("gzip", "*"):
            return parameters.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False


def _gzip(body: bytes) -> bytes:
    packer = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, 31)
    return packer.compress(body) + packer.flush()
