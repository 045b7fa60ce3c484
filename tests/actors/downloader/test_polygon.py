"""Polygon over HTTP: what is asked, whose fault each refusal is, and what no answer can make us do.

The wire tests run real HTTP/1.1 bytes through httpx over in-memory streams, so that deadlines cost no real time.
"""

from __future__ import annotations

import gzip
import json
from contextlib import aclosing
from urllib.parse import parse_qs, urlsplit

import httpcore
import httpx
import pytest
import trio
import trio.testing

from actors.downloader.polygon import PolygonHistory, PolygonLimits
from runtime.actor import offload_inline
from runtime.clock import NS_PER_HOUR, NS_PER_MINUTE, NS_PER_S, VirtualClock
from runtime.errors import PermanentSourceError, RetryableSourceError
from runtime.ratelimit import RateLimit

T0 = 1_398_938_400 * NS_PER_S
END = T0 + NS_PER_HOUR
KEY = "secret-key"


def quote(ts_ns, bid=1.1, ask=1.2, **more):
    return {
        "ask_exchange": 48,
        "ask_price": ask,
        "bid_exchange": 48,
        "bid_price": bid,
        "participant_timestamp": ts_ns,
    } | more


def answer(rows=(), *, next_url=None, **more):
    body = (
        {"results": list(rows), "status": "OK", "request_id": "r1"}
        | ({"next_url": next_url} if next_url else {})
        | more
    )
    return httpx.Response(200, json=body)


def source(handler, *, rest_url="http://vendor.test", budget=None, transport=None, **limits):
    asked = []

    class Vendor(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request):
            asked.append(request)
            await trio.lowlevel.checkpoint()
            made = handler(request, len(asked))
            return httpx.Response(made.status_code, headers=made.headers, stream=httpx.ByteStream(made.content))

    history = PolygonHistory(
        rest_url=rest_url,
        api_key=KEY,
        budget=budget or RateLimit(),
        clock=VirtualClock(T0 + 2 * NS_PER_HOUR),
        offload=offload_inline,
        limits=PolygonLimits(**limits),
        transport=transport or Vendor(),
    )
    return history, asked


async def collect(history, symbol="C:EURUSD", from_ns=T0, to_ns=END, kind="quotes"):
    pages = []
    async with aclosing(history.pages(symbol, kind, from_ns, to_ns)) as chain:
        pages += [page async for page in chain]
    await history.close()
    return pages


def times(pages):
    return [t for page in pages for t in page.rows.column("ts_ns").to_pylist()]


async def test_the_question_is_spelled_as_the_endpoint_wants_it():
    history, asked = source(lambda request, n: answer())
    (page,) = await collect(history)
    (request,) = asked
    assert request.url.raw_path.decode().partition("?")[0] == "/v3/quotes/C:EUR-USD"
    assert parse_qs(request.url.query.decode()) == {
        "timestamp.gte": [str(T0)],
        "timestamp.lt": [str(END)],
        "order": ["asc"],
        "sort": ["timestamp"],
        "limit": ["50000"],
    }
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert KEY not in str(request.url)
    assert (page.rows.num_rows, page.proven_to_ns, page.request_id) == (0, END, "r1")


async def test_rows_become_accepted_columns_with_exact_numbers():
    ts_ns = T0 + 16_036_581  # a float64 would make …580 of it
    history, _ = source(
        lambda request, n: answer([quote(ts_ns, 1.38709, 1.38712), quote(ts_ns, 1.5, bid_size=2, ask_size=0.5)])
    )
    (page,) = await collect(history)
    assert page.rows.select(["symbol", "ts_ns", "bid", "ask", "bid_size", "ask_size", "source"]).to_pylist() == [
        {"symbol": "C:EURUSD", "ts_ns": ts_ns, "bid": 1.38709, "ask": 1.38712, "bid_size": None, "ask_size": None, "source": "polygon"},
        {"symbol": "C:EURUSD", "ts_ns": ts_ns, "bid": 1.5, "ask": 1.2, "bid_size": 2.0, "ask_size": 0.5, "source": "polygon"},
    ]  # fmt: skip


@pytest.mark.parametrize("host", ["https://api.massive.com:443", "http://evil.test", ""])
async def test_next_url_never_decides_where_the_key_goes(host):
    def handler(request, n):
        if b"cursor" in request.url.query:
            return answer([quote(T0 + 2)])
        if f"timestamp.gte={T0 + 1}".encode() in request.url.query:
            return answer([quote(T0 + 1), quote(T0 + 2)])
        return answer([quote(T0 + 1)], next_url=f"{host}/v3/quotes/C:EUR-USD?cursor=YXA9MQ%3D%3D")

    history, asked = source(handler, rest_url="http://vendor.test/")
    assert times(await collect(history)) == [T0 + 1, T0 + 2]
    assert {request.url.host for request in asked} == {"vendor.test"}
    assert any(request.url.raw_path == b"/v3/quotes/C:EUR-USD?cursor=YXA9MQ%3D%3D" for request in asked)


@pytest.mark.parametrize("url", ["@evil.test/x", "evil.test", "?cursor=1", "http://[::1/x", "https://evil.test"])
async def test_a_next_url_without_a_path_is_not_followed(url):
    history, asked = source(lambda request, n: answer([quote(T0 + 1)], next_url=url))
    with pytest.raises(RetryableSourceError, match="next_url"):
        await collect(history)
    assert {request.url.host for request in asked} == {"vendor.test"}


@pytest.mark.parametrize(
    ("status", "body", "error", "words"),
    [
        (400, {"status": "ERROR", "error": "bad timestamp"}, PermanentSourceError, "malformed.*bad timestamp"),
        (
            401,
            {"status": "ERROR", "error": "Unknown API Key"},
            PermanentSourceError,
            "Unknown API Key.*POLYGON_API_KEY",
        ),
        (401, b"", PermanentSourceError, "POLYGON_API_KEY"),
        (
            403,
            {"status": "NOT_AUTHORIZED", "message": "not entitled"},
            PermanentSourceError,
            "plan.*not entitled.*C:EURUSD",
        ),
        (404, {"status": "NOT_FOUND", "message": "Ticker not found"}, PermanentSourceError, "unknown symbol"),
        (404, b"<html>", RetryableSourceError, "rest_url"),
        (410, {"status": "ERROR", "error": "recording file x.zip: bad"}, PermanentSourceError, "recording file x.zip"),
        (405, b"", PermanentSourceError, "405"),
        (408, b"", RetryableSourceError, "408"),
        (429, {"status": "ERROR", "error": "exceeded the maximum"}, RetryableSourceError, "rate limit.*exceeded"),
        (429, b"", RetryableSourceError, "rate limit"),
        (301, b"", RetryableSourceError, "301"),
        (499, b"", RetryableSourceError, "499"),
        (500, b"oops", RetryableSourceError, "500"),
        (502, b"<html>Bad gateway</html>", RetryableSourceError, "502"),
        (503, b"", RetryableSourceError, "503"),
        (504, b"", RetryableSourceError, "504"),
    ],
)
async def test_each_status_is_an_error_by_whose_fault_it_is(status, body, error, words):
    def handler(request, n):
        return httpx.Response(status, json=body) if isinstance(body, dict) else httpx.Response(status, content=body)

    history, asked = source(handler)
    with pytest.raises(error, match=words) as caught:
        await collect(history)
    assert len(asked) == 1, "the source must not retry"
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({}, 12.0),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "nonsense"}, 12.0),
        ({"retry-after": "Thu, 01 May 2014 12:00:30 GMT"}, 30.0),
    ],
)
async def test_a_429_says_when_to_come_back_and_drains_the_budget_of_the_key(headers, wait_s, autojump_clock):
    budget = RateLimit()
    history, _ = source(lambda request, n: httpx.Response(429, headers=headers), budget=budget)
    with pytest.raises(RetryableSourceError) as caught:
        await collect(history)
    assert caught.value.retry_after_s == pytest.approx(wait_s)
    began_s = trio.current_time()
    await budget.acquire()
    assert trio.current_time() - began_s == pytest.approx(wait_s)


@pytest.mark.parametrize(
    ("body", "content_type", "words"),
    [
        (b'{"results":[],"status":"OK"', "application/json", "not whole JSON"),
        (b'{"results":[],"status":"OK"} trailing', "application/json", "not whole JSON"),
        (b"", "application/json", "not whole JSON"),
        (b"\xff\xfe", "application/json", "not whole JSON"),
        (b'{"deep":' + b"[" * 5_000, "application/json", "not whole JSON"),
        (b"<html>busy</html>", "text/html", "text/html"),
        (b'{"results":[],"status":"OK"}', "text/plain", "text/plain"),
        (b'{"status":"ERROR","error":"internal"}', "application/json", "status 'ERROR'.*internal"),
        (b'{"results":[]}', "application/json", "status ''"),
        (b'{"results":{},"status":"OK"}', "application/json", "wrong schema"),
        (b"[]", "application/json", "wrong schema"),
        (b'{"results":[],"resultsCount":3,"status":"OK"}', "application/json", "resultsCount 3, rows 0"),
        (b'{"results":[],"ticker":"C:GBP-USD","status":"OK"}', "application/json", "C:GBP-USD"),
    ],
)
async def test_a_200_that_is_not_a_whole_good_page_is_not_believed(body, content_type, words):
    history, _ = source(lambda request, n: httpx.Response(200, content=body, headers={"content-type": content_type}))
    with pytest.raises(RetryableSourceError, match=words):
        await collect(history)


@pytest.mark.parametrize(
    "body",
    [
        {"status": "OK", "queryCount": 0, "resultsCount": 0, "ticker": "C:EUR-USD"},
        {"status": "OK", "results": None},
        {"status": "DELAYED", "results": []},
        {"status": "OK", "results": [], "unknown": {"extra": 1}},
    ],
)
async def test_every_empty_form_is_asked_and_nothing_there(body):
    history, asked = source(lambda request, n: httpx.Response(200, json=body))
    (page,) = await collect(history)
    assert (page.rows.num_rows, page.proven_to_ns, len(asked)) == (0, END, 1)


async def test_an_answer_with_neither_rows_nor_a_count_is_believed_only_twice():
    history, asked = source(lambda request, n: httpx.Response(200, json={"status": "OK"}))
    (page,) = await collect(history)
    assert (page.rows.num_rows, len(asked)) == (0, 2)
    history, asked = source(
        lambda request, n: httpx.Response(200, json={"status": "OK"}) if n == 1 else answer([quote(T0)])
    )
    assert times(await collect(history)) == [T0]


async def test_a_page_of_another_symbol_is_not_believed():
    history, _ = source(lambda request, n: answer([quote(T0, ticker="C:GBP-USD")]))
    with pytest.raises(RetryableSourceError, match="asked for C:EUR-USD"):
        await collect(history)


def raw_page(*rows):
    return httpx.Response(200, content=b'{"results":[' + b",".join(rows) + b'],"status":"OK"}', headers={"content-type": "application/json"})  # fmt: skip


async def test_bad_rows_are_refused_one_by_one_as_they_were_sent():
    good = json.dumps(quote(T0 + 9)).encode()
    bad = [
        b'{"participant_timestamp":%d,"bid_price":"1.1","ask_price":1.2}' % (T0 + 1),
        b'{"participant_timestamp":"soon","bid_price":1.1,"ask_price":1.2}',
        b'{"participant_timestamp":%d,"bid_price":-1,"ask_price":1.2}' % (T0 + 2),
        b'{"bid_price":1.1,"ask_price":1.2}',
        b'{"participant_timestamp":1398938400,"bid_price":1.1,"ask_price":1.2}',
        b"[1]",
        b'{"participant_timestamp":%d,"bid_price":1.1,"ask_price":1e999}' % (T0 + 3),
    ]
    half = b'{"participant_timestamp":%d,"bid_price":1.1,"ask_price":null}' % (T0 + 8)
    history, _ = source(lambda request, n: raw_page(*bad, half, good))
    (page,) = await collect(history)
    assert times([page]) == [T0 + 8, T0 + 9]
    assert page.rows.column("ask").to_pylist() == [None, 1.2]
    assert sorted(page.rejected.column("raw").to_pylist()) == sorted(row.decode() for row in bad)
    by_raw = {row["raw"]: (row["reason"], row["ts_ns"]) for row in page.rejected.to_pylist()}
    assert by_raw[bad[0].decode()] == ("wrong-type", T0 + 1)
    assert by_raw[bad[1].decode()] == ("wrong-type", 0)
    assert by_raw[bad[2].decode()] == ("price-not-positive", T0 + 2)
    assert by_raw[bad[3].decode()] == ("time-magnitude", 0)


async def test_a_page_full_of_bad_rows_is_a_changed_schema_not_poison():
    rows = [b'{"ts":%d}' % (T0 + i) for i in range(50)]
    history, _ = source(lambda request, n: raw_page(*rows))
    with pytest.raises(RetryableSourceError, match="50 of 50 rows have a time of a wrong magnitude"):
        await collect(history)
    rows = [b'{"participant_timestamp":"x"}'] * 50
    history, _ = source(lambda request, n: raw_page(*rows))
    with pytest.raises(RetryableSourceError, match="50 of 50 rows are not quotes"):
        await collect(history)


async def test_413_halves_the_range_and_delivers_it_in_order():
    asked_ns = []

    def handler(request, n):
        query = parse_qs(urlsplit(str(request.url)).query)
        low, high = int(query["timestamp.gte"][0]), int(query["timestamp.lt"][0])
        asked_ns.append(high - low)
        if high - low > NS_PER_HOUR // 4:
            return httpx.Response(413)
        return answer([quote(t) for t in range(T0, END, 7 * NS_PER_MINUTE) if low <= t < high])

    history, _ = source(handler)
    pages = await collect(history)
    assert times(pages) == list(range(T0, END, 7 * NS_PER_MINUTE))
    assert pages[-1].proven_to_ns == END
    assert [page.proven_to_ns for page in pages] == sorted(page.proven_to_ns for page in pages)
    history, asked = source(lambda request, n: httpx.Response(413))
    with pytest.raises(PermanentSourceError, match="413"):
        await collect(history)
    assert len(asked) < 12


async def test_what_does_not_exist_is_not_asked():
    history, asked = source(lambda request, n: answer())
    with pytest.raises(PermanentSourceError, match="has no candles"):
        await collect(history, kind="candles")
    with pytest.raises(PermanentSourceError, match="did you mean 'C:EURUSD'"):
        await collect(history, symbol="EUR/USD")
    assert asked == []


async def test_each_request_takes_from_the_budget_of_the_key(autojump_clock):
    from runtime.ratelimit import BudgetLimits

    def handler(request, n):
        if b"cursor" in request.url.query:
            return answer([quote(T0 + 2)])
        both = f"timestamp.gte={T0 + 1}".encode() in request.url.query
        return (
            answer([quote(T0 + 1), quote(T0 + 2)])
            if both
            else answer([quote(T0 + 1)], next_url="http://x/v3/q?cursor=1")
        )

    began_s = trio.current_time()
    history, asked = source(handler, budget=RateLimit(BudgetLimits(requests_max=1, window_s=60.0)))
    await collect(history)
    assert (len(asked), round(trio.current_time() - began_s)) == (3, 120)


async def test_closed_under_a_chain_it_is_an_outage_not_a_crash():
    history, asked = source(lambda request, n: answer([quote(T0 + n)], next_url=f"/v3/q?cursor={n}"))
    async with aclosing(history.pages("C:EURUSD", "quotes", T0, END)) as chain:
        await anext(chain)
        await history.close()
        with pytest.raises(RetryableSourceError, match="closed"):
            await anext(chain)
    assert len(asked) == 1


def test_the_key_is_not_shown():
    history, _ = source(lambda request, n: answer())
    assert KEY not in repr(history)


# --- the wire ---


class MemoryStream(httpcore.AsyncNetworkStream):
    def __init__(self, stream):
        self._stream = stream

    async def read(self, max_bytes, timeout=None):
        with _deadline(timeout, httpcore.ReadTimeout):
            try:
                return bytes(await self._stream.receive_some(max_bytes))
            except trio.BrokenResourceError as exc:
                raise httpcore.ReadError("reset") from exc

    async def write(self, buffer, timeout=None):
        await self._stream.send_all(buffer)

    async def aclose(self):
        await self._stream.aclose()

    def get_extra_info(self, info):
        return None


class _deadline:
    def __init__(self, seconds, error):
        self._scope = trio.CancelScope(deadline=trio.current_time() + (seconds or 1e9))
        self._error = error

    def __enter__(self):
        self._scope.__enter__()

    def __exit__(self, *exc):
        swallowed = self._scope.__exit__(*exc)
        if self._scope.cancelled_caught:
            raise self._error("too slow")
        return swallowed


class MemoryNetwork(httpcore.AsyncNetworkBackend):
    """Every connection is answered by `serve(stream)` after the request came."""

    def __init__(self, nursery, serve):
        self._nursery, self._serve = nursery, serve

    async def connect_tcp(self, host, port, timeout=None, local_address=None, socket_options=None):
        if self._serve is None:
            with _deadline(timeout, httpcore.ConnectTimeout):
                await trio.sleep_forever()
        ours, theirs = trio.testing.memory_stream_pair()
        self._nursery.start_soon(self._run, theirs)
        return MemoryStream(ours)

    async def _run(self, stream):
        head = b""
        while b"\r\n\r\n" not in head:
            head += bytes(await stream.receive_some(65536))
        try:
            await self._serve(stream, head)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return


async def over_the_wire(serve, *, rest_url="http://vendor.test", to_ns=END, **limits):
    transport = httpx.AsyncHTTPTransport()
    async with trio.open_nursery() as nursery:
        transport._pool._network_backend = MemoryNetwork(nursery, serve)
        history, _ = source(None, transport=transport, rest_url=rest_url, **limits)
        try:
            result = await collect(history, to_ns=to_ns)
        except RetryableSourceError as exc:
            result = exc
        nursery.cancel_scope.cancel()
    return result


BODY = json.dumps({"results": [quote(T0 + i) for i in range(200)], "status": "OK"}).encode()


def head(length, *, encoding=""):
    extra = f"content-encoding: {encoding}\r\n" if encoding else ""
    return f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{extra}content-length: {length}\r\n\r\n".encode()


async def test_wire_a_whole_page_arrives(autojump_clock):
    heads = []

    async def serve(stream, request):
        heads.append(request.lower())
        await stream.send_all(head(len(BODY)) + BODY)

    assert times(await over_the_wire(serve)) == [T0 + i for i in range(200)]
    assert b"accept-encoding: gzip\r\n" in heads[0]
    await over_the_wire(serve, rest_url="http://127.0.0.1:8801")
    assert b"accept-encoding: identity\r\n" in heads[1], "packing costs CPU on both ends of a loopback"


async def test_wire_gzip_is_unpacked_and_checked_to_its_trailer(autojump_clock):
    packed = gzip.compress(BODY)

    def serving(content):
        async def serve(stream, request):
            await stream.send_all(head(len(content), encoding="gzip") + content)

        return serve

    assert len(times(await over_the_wire(serving(packed)))) == 200
    assert "gzip" in str(await over_the_wire(serving(packed[:-8])))  # JSON whole, trailer missing
    assert "gzip" in str(await over_the_wire(serving(packed[:-8] + b"\0" * 8)))  # wrong checksum
    assert "gzip" in str(await over_the_wire(serving(b"not gzip at all")))
    assert "gzip" in str(await over_the_wire(serving(gzip.compress(b" " * 10_000_000)), page_bytes_max=1_000_000))


async def test_wire_a_body_cut_short_is_not_a_page(autojump_clock):
    async def serve(stream, request):
        await stream.send_all(head(len(BODY)) + BODY[:-10])
        await stream.aclose()

    assert "RemoteProtocolError" in str(await over_the_wire(serve))


async def test_wire_a_cut_body_without_a_length_is_not_a_page(autojump_clock):
    async def serve(stream, request):
        await stream.send_all(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n" + BODY[:-10]
        )
        await stream.aclose()

    assert "not whole JSON" in str(await over_the_wire(serve))


async def test_wire_a_stall_after_the_head_ends_at_the_read_deadline(autojump_clock):
    async def serve(stream, request):
        await stream.send_all(head(len(BODY)))
        await trio.sleep_forever()

    began_s = trio.current_time()
    assert "ReadTimeout" in str(await over_the_wire(serve))
    assert trio.current_time() - began_s == pytest.approx(15.0)


async def test_wire_a_slow_drip_ends_at_the_deadline_of_the_page(autojump_clock):
    async def serve(stream, request):
        await stream.send_all(head(len(BODY)))
        for byte in BODY:
            await stream.send_all(bytes([byte]))
            await trio.sleep(10)

    began_s = trio.current_time()
    assert "no whole page within 30 s" in str(await over_the_wire(serve))
    assert trio.current_time() - began_s == pytest.approx(30.0)


async def test_wire_a_black_hole_ends_at_the_connect_deadline(autojump_clock):
    began_s = trio.current_time()
    assert "ConnectTimeout" in str(await over_the_wire(None))
    assert trio.current_time() - began_s == pytest.approx(5.0)


async def test_wire_a_hang_up_without_an_answer_is_an_outage(autojump_clock):
    async def serve(stream, request):
        await stream.aclose()

    assert isinstance(await over_the_wire(serve), RetryableSourceError)


async def test_wire_an_endless_body_is_cut_off(autojump_clock):
    async def serve(stream, request):
        await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n")
        while True:
            await stream.send_all(b" " * 65536)

    assert "more than 1000000 bytes" in str(await over_the_wire(serve, page_bytes_max=1_000_000))
