"""Polygon's stream over a real socket: each step has an end, and every end is an error by whose fault it is."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
import trio_websocket
from wsproto.events import Ping, Pong, TextMessage

from actors.downloader.polygon_stream import PolygonStream, StreamLimits
from actors.downloader.port import Alive
from actors.market.symbols import AssetClass
from runtime.errors import PermanentSourceError, RetryableSourceError, SourceError

Socket = trio_websocket.WebSocketConnection
QUICK = StreamLimits(connect_s=1.0, auth_s=0.3, subscribe_s=0.3, ping_every_s=0.05, pong_s=0.3, close_s=0.2)
ONE_PING = attrs.evolve(QUICK, ping_every_s=10.0)
"""A ping that meets a server of trio_websocket in its closing handshake kills it."""
EUR, JPY = "C:EURUSD", "C:USDJPY"
SYMBOLS = (EUR, JPY)


def status(word: str, message: str = "") -> dict[str, str]:
    return {"ev": "status", "status": word, "message": message}


def quote(ms: int, pair: str = "EUR/USD") -> dict[str, object]:
    return {"ev": "C", "p": pair, "x": "44", "a": 1.1, "b": 1.0, "t": ms}


async def say(socket: Socket, *events: dict[str, object]) -> None:
    await socket.send_message(json.dumps(events))


async def heard(socket: Socket) -> dict[str, str]:
    return json.loads(await socket.get_message())


async def greet(socket: Socket) -> None:
    """As the vendor does, up to the confirmed subscription."""
    await say(socket, status("connected", "Connected Successfully"))
    assert await heard(socket) == {"action": "auth", "params": "KEY"}
    await say(socket, status("auth_success", "authenticated"))
    asked = await heard(socket)
    assert asked["action"] == "subscribe"
    await say(socket, *(status("success", f"subscribed to: {topic}") for topic in asked["params"].split(",")))


@attrs.define
class Line:
    """What a test sees of a connection."""

    source: PolygonStream
    nursery: trio.Nursery
    paths: list[str]

    async def connect(self):
        return await self.source.connect(self.nursery, AssetClass.FX, SYMBOLS)

    async def error(self, words: str, kind: type = RetryableSourceError) -> SourceError:
        """How the next data, or its lack, ends the connection."""
        stream = await self.connect()
        with pytest.raises(kind, match=re.escape(words)) as caught:
            await ticks_of(stream, 1)
        return caught.value


@asynccontextmanager
async def vendor(serve: Callable[[Socket], Awaitable[None]], limits: StreamLimits = QUICK):
    paths: list[str] = []

    async def handle(request: trio_websocket.WebSocketRequest) -> None:
        paths.append(request.path)
        socket = await request.accept()
        try:
            await serve(socket)
        except trio_websocket.ConnectionClosed:
            return

    with trio.fail_after(10):
        async with trio.open_nursery() as servers:
            server = await servers.start(trio_websocket.serve_websocket, handle, "127.0.0.1", 0, None)
            async with trio.open_nursery() as nursery:
                url = f"ws://127.0.0.1:{server.port}"
                yield Line(PolygonStream(stream_url=url, api_key="KEY", limits=limits), nursery, paths)
                nursery.cancel_scope.cancel()
            servers.cancel_scope.cancel()


async def ticks_of(stream, rows: int) -> list:
    found: list = []
    while sum(len(ticks.ts_ns) for ticks in found) < rows:
        found += [event for event in await stream.receive() if not isinstance(event, Alive)]
    return found


async def refused(
    serve: Callable[[Socket], Awaitable[None]], words: str, kind: type = RetryableSourceError
) -> Exception:
    """The error of connecting."""
    async with vendor(serve) as line:
        with pytest.raises(kind, match=re.escape(words)) as caught:
            await line.connect()
    return caught.value


async def test_ticks_arrive_in_columns_and_answered_pings_between_them():
    async def serve(socket: Socket) -> None:
        await greet(socket)
        await say(socket, quote(1_000), quote(2_000, "USD/JPY"), quote(3_000))
        await trio.sleep_forever()

    async with vendor(serve) as line:
        began_s = trio.current_time()
        stream = await line.connect()
        found = await ticks_of(stream, 3)
        alive: list[Alive] = []
        while len(alive) < 2:
            alive += [event for event in await stream.receive() if isinstance(event, Alive)]
    assert line.paths == ["/forex"]
    assert {t.symbol: t.ts_ns.tolist() for t in found} == {EUR: [10**9, 3 * 10**9], JPY: [2 * 10**9]}
    assert began_s <= alive[0].sent_s < alive[1].sent_s


async def test_data_that_comes_before_the_subscription_is_confirmed_is_not_lost():
    async def serve(socket: Socket) -> None:
        await say(socket, status("connected"))
        await heard(socket)
        await say(socket, status("auth_success"))
        await heard(socket)
        await say(socket, status("success", "subscribed to: C.EUR/USD"), quote(1_000))
        await say(socket, quote(2_000), status("success", "subscribed to: C.USD/JPY"))
        await trio.sleep_forever()

    async with vendor(serve) as line:
        found = await ticks_of(await line.connect(), 2)
    assert [n for t in found for n in t.ts_ns.tolist()] == [10**9, 2 * 10**9]


async def test_a_vendor_that_never_answers_ends_each_step_in_time():
    async def mute(socket: Socket) -> None:
        await trio.sleep_forever()

    async def deaf(socket: Socket) -> None:
        await say(socket, status("connected"))
        await heard(socket)
        await say(socket, status("auth_success"))
        await trio.sleep_forever()

    await refused(mute, "no answer to the authentication within 0.3 s")
    await refused(deaf, "subscription not confirmed within 0.3 s")


async def test_a_port_where_nobody_listens_is_an_outage():
    async with trio.open_nursery() as nursery:
        source = PolygonStream(stream_url="ws://127.0.0.1:1", api_key="KEY", limits=QUICK)
        with pytest.raises(RetryableSourceError, match=r"127\.0\.0\.1:1"):
            await source.connect(nursery, AssetClass.FX, SYMBOLS)
        nursery.cancel_scope.cancel()


async def say_nothing(stream: trio.SocketStream) -> None:
    await trio.sleep_forever()


async def test_a_server_that_takes_the_line_and_says_nothing_is_an_outage():
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, say_nothing, 0)
        port = listeners[0].socket.getsockname()[1]
        limits = attrs.evolve(QUICK, connect_s=0.2)
        source = PolygonStream(stream_url=f"ws://127.0.0.1:{port}", api_key="KEY", limits=limits)
        with trio.fail_after(2), pytest.raises(RetryableSourceError, match="no connection"):
            await source.connect(nursery, AssetClass.FX, SYMBOLS)
        nursery.cancel_scope.cancel()


async def test_a_vendor_that_takes_no_connections_is_an_outage():
    async def refuse(request: trio_websocket.WebSocketRequest) -> None:
        await request.reject(503, body=b"no stream at the moment")

    async with trio.open_nursery() as servers:
        server = await servers.start(trio_websocket.serve_websocket, refuse, "127.0.0.1", 0, None)
        source = PolygonStream(stream_url=f"ws://127.0.0.1:{server.port}", api_key="KEY", limits=QUICK)
        with pytest.raises(RetryableSourceError, match="refused with 503 no stream at the moment"):
            await source.connect(servers, AssetClass.FX, SYMBOLS)
        servers.cancel_scope.cancel()


async def test_a_wrong_key_is_no_outage():
    async def serve(socket: Socket) -> None:
        await say(socket, status("connected"))
        await heard(socket)
        await say(socket, status("auth_failed", "authentication failed"))

    await refused(serve, "does not know the API key", PermanentSourceError)


async def test_an_eviction_names_its_wait():
    async def serve(socket: Socket) -> None:
        await greet(socket)
        await say(socket, status("max_connections", "Maximum number of websocket connections exceeded. "))
        await trio.sleep(0.1)
        await socket.aclose(1008, "policy")

    async with vendor(serve, ONE_PING) as line:
        error = await line.error("another connection uses this API key")
    assert isinstance(error, RetryableSourceError)
    assert error.retry_after_s == 60.0


async def test_a_plan_without_one_topic_streams_the_others():
    async def serve(socket: Socket) -> None:
        await say(socket, status("connected"))
        await heard(socket)
        await say(socket, status("auth_success"))
        await heard(socket)
        await say(socket, status("error", "not entitled to: C.USD/JPY"), status("success", "subscribed to: C.EUR/USD"))
        await say(socket, quote(1_000))
        await trio.sleep_forever()

    async with vendor(serve) as line:
        stream = await line.connect()
        assert stream.refused == {JPY: "not entitled to: C.USD/JPY"}
        assert await ticks_of(stream, 1)


async def test_what_was_received_comes_before_the_end_of_the_connection():
    async def serve(socket: Socket) -> None:
        await greet(socket)
        for ms in range(50):
            await say(socket, quote(ms))
        await trio.sleep(0.1)
        await socket.aclose(1001, "going away")

    async with vendor(serve, ONE_PING) as line:
        stream = await line.connect()
        await trio.sleep(0.2)
        assert len(await ticks_of(stream, 50)) == 50
        with pytest.raises(RetryableSourceError, match="1001"):
            await ticks_of(stream, 1)


async def test_a_line_that_breaks_is_an_outage():
    async def serve(socket: Socket) -> None:
        await greet(socket)
        await socket._stream.aclose()  # no closing handshake: what a cable does

    async with vendor(serve) as line:
        await line.error("1006")


async def test_a_ping_without_answer_ends_the_connection(monkeypatch):
    async def never(socket: Socket, event: object) -> None:
        return

    monkeypatch.setattr(trio_websocket.WebSocketConnection, "_handle_ping_event", never)

    async def serve(socket: Socket) -> None:
        await greet(socket)
        await trio.sleep_forever()

    async with vendor(serve) as line:
        await line.error("ping not answered within 0.3 s")


@pytest.mark.parametrize("frames", [1, 16, 60, 400])
async def test_the_answer_of_a_ping_never_overtakes_what_the_vendor_sent_before_it(frames, monkeypatch):
    async def in_one_piece(socket: Socket, event: Ping) -> None:
        parts = [socket._wsproto.send(TextMessage(data=json.dumps([quote(ms)]))) for ms in range(frames)]
        parts.append(socket._wsproto.send(Pong(payload=bytes(event.payload))))
        await socket._stream.send_all(b"".join(parts))

    monkeypatch.setattr(trio_websocket.WebSocketConnection, "_handle_ping_event", in_one_piece)

    async def serve(socket: Socket) -> None:
        await greet(socket)
        await trio.sleep_forever()

    async with vendor(serve, ONE_PING) as line:
        stream = await line.connect()
        found: list = []
        while not any(isinstance(event, Alive) for event in found):
            found += await stream.receive()
    assert len(found) == frames + 1


async def test_one_topic_that_is_never_answered_holds_up_no_other():
    async def serve(socket: Socket) -> None:
        await say(socket, status("connected"))
        await heard(socket)
        await say(socket, status("auth_success"))
        await heard(socket)
        await say(socket, status("success", "subscribed to: C.EUR/USD"))
        await say(socket, quote(1_000))
        await trio.sleep_forever()

    async with vendor(serve) as line:
        stream = await line.connect()
        assert stream.refused == {JPY: "subscription not confirmed within 0.3 s"}
        assert await ticks_of(stream, 1)


@pytest.mark.parametrize(
    "said", [status("success", "unsubscribed to: C.USD/JPY"), status("error", "not authorized any more: C.USD-JPY")]
)
async def test_a_subscription_taken_away_ends_the_connection(said):
    async def serve(socket: Socket) -> None:
        await greet(socket)
        await say(socket, status("error", "what is C.XAU/USD?"), said)
        await trio.sleep_forever()

    async with vendor(serve) as line:
        await line.error("took a subscription away")


async def test_half_an_array_ends_the_connection():
    async def serve(socket: Socket) -> None:
        await greet(socket)
        await socket.send_message('[{"ev":"C","p":"EUR')
        await trio.sleep_forever()

    async with vendor(serve) as line:
        await line.error("not whole JSON")


async def test_a_frame_over_the_bound_ends_the_connection():
    async def serve(socket: Socket) -> None:
        await greet(socket)
        await socket.send_message("[" + " " * 5_000 + "]")
        await trio.sleep_forever()

    async with vendor(serve, attrs.evolve(QUICK, frame_bytes_max=4_000)) as line:
        await line.error("1009")


async def test_a_reader_that_is_slow_holds_no_more_than_its_bound():
    sent: list[int] = []

    async def serve(socket: Socket) -> None:
        await greet(socket)
        for n in range(3_000):
            await say(socket, *(quote(ms) for ms in range(100)))
            sent.append(n)

    limits = attrs.evolve(QUICK, queue_bytes=100_000, queue_frames=1_000, pong_s=5.0)
    async with vendor(serve, limits) as line:
        stream = await line.connect()
        await trio.sleep(0.5)
        held = stream._bytes
        assert 0 < held <= 100_000
        assert len(sent) < 3_000
        assert len(await ticks_of(stream, 5_000)) >= 50


async def test_unknown_events_are_counted_and_ignored():
    async def serve(socket: Socket) -> None:
        await greet(socket)
        await say(socket, {"ev": "NEW"}, quote(1_000))
        await trio.sleep_forever()

    async with vendor(serve) as line:
        assert len(await ticks_of(await line.connect(), 1)) == 1
        assert line.source.counters() == {"unknown-event": 1}


async def test_the_key_is_not_in_what_is_printed():
    assert "KEY" not in repr(PolygonStream(stream_url="wss://h", api_key="KEY"))
