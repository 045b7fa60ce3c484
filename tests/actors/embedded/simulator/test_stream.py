"""The streams over real sockets: what notes UPSTREAM 1.8 says the vendor does."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
import trio
import trio.lowlevel
import trio_websocket

from runtime.errors import ConfigError

MS = 1_000_000
SECOND = 1_000 * MS


@pytest.fixture
def rows(kit):
    """600 quotes, 100 ms apart from T0 on, not on whole milliseconds."""
    return [(kit.T0 + i * 100 * MS + 123_456, f"1.{10000 + i}", f"1.{10010 + i}") for i in range(600)]


@pytest.fixture
def feed(kit, rows):
    return kit.Feed(rows=rows)


def quotes(events):
    return [(event["t"], event["b"], event["a"]) for event in events]


def as_streamed(rows):
    return [(ts // MS, bid, ask) for ts, bid, ask in rows]


async def test_the_conversation_and_the_events_are_the_vendors(kit, feed, rows):
    async with kit.live(feed, at_ns=kit.T0 + 50 * MS, quirks=False) as live, live.client() as client:
        assert await client.read_statuses(1) == ["connected"]
        await client.say("auth", "k")
        assert await client.read_statuses(2) == ["connected", "auth_success"]
        await client.say("subscribe", "C.EUR/USD")
        await client.read_statuses(3)
        assert client.statuses[-1] == {"ev": "status", "status": "success", "message": "subscribed to: C.EUR/USD"}
        await live.at(kit.T0 + 10 * SECOND)
        events = await client.read_events(99)
        assert quotes(events) == as_streamed(rows[1:100])
        assert events[0] == {
            "ev": "C",
            "p": "EUR/USD",
            "x": events[0]["x"],
            "a": "1.10011",
            "b": "1.10001",
            "t": rows[1][0] // MS,
        }
        assert events[0]["x"] in (48, "48")
        assert max(len(frame) for frame in client.frames) > 1, "several events in one frame"


async def test_the_pages_show_the_same_rows_with_the_markets_now(kit, feed, rows):
    async with kit.live(feed, at_ns=kit.T0) as live, live.client("C.EUR-USD") as client:
        await live.at(kit.T0 + 3 * SECOND)
        await client.read_events(30)
        page = await live.get("/v3/quotes/C:EUR-USD?order=asc&limit=50000")
        assert kit.rows([page]) == rows[:30]
        status = await live.get("/v1/marketstatus/now")
        assert status["serverTime"] == "2024-03-05T05:00:03.000-05:00"
        await live.at(kit.T0 + 4 * SECOND)
        again = await live.get("/v3/quotes/C:EUR-USD?order=asc&limit=50000")
        assert kit.rows([again]) == rows[:40], "a request for now returns more later"


async def test_trades_have_the_vendors_fields_on_both_sides(kit, feed):
    trades = [(kit.T0 + i * SECOND + 999_999, f"6000{i}.5", "0.25", 7_000 + i, 1 + i % 2) for i in range(5)]
    async with kit.live(feed, kit.Trades(rows=trades), at_ns=kit.T0) as live:
        async with live.client("XT.BTC-USD", asset="crypto") as client:
            await live.at(kit.T0 + 10 * SECOND)
            events = await client.read_events(5)
        page = await live.get("/v3/trades/X:BTC-USD?order=asc")
    t = (kit.T0 + SECOND) // MS
    assert events[1] == {
        "ev": "XT",
        "pair": "BTC-USD",
        "p": "60001.5",
        "t": t,
        "s": "0.25",
        "c": [2],
        "i": 7_001,
        "x": 1,
        "r": t,
    }
    assert page["results"][1] == {
        "conditions": [2],
        "exchange": 1,
        "id": "7001",
        "participant_timestamp": trades[1][0],
        "price": "60001.5",
        "size": "0.25",
    }
    assert [row["id"] for row in page["results"]] == [str(event["i"]) for event in events]


async def test_trades_come_in_chains_like_quotes(kit, feed):
    trades = [(kit.T0 + i * MS, "1.5", "2", i, 1) for i in range(25)]
    async with kit.client(kit_world_with_trades(kit, feed, trades)) as client:
        pages = await kit.chain(client, "/v3/trades/X:BTC-USD?order=asc&limit=10")
        assert [int(row["id"]) for page in pages for row in page["results"]] == list(range(25))
        assert len(pages) == 3
        assert "/v3/trades/X:BTC-USD?cursor=" in pages[0]["next_url"]
        assert (await client.get("/v3/trades/C:EUR-USD")).status_code == 404
        assert (await client.get("/v3/quotes/X:BTC-USD")).status_code == 404


def kit_world_with_trades(kit, feed, rows):
    from actors.embedded.simulator.market_maker import market_of
    from actors.embedded.simulator.pages import PartCache
    from runtime.actor import offload_inline

    trades = kit.Trades(rows=rows)
    load = market_of(0, feed, trades).trade_pages
    return kit.world(feed, trades=trades, trade_cache=PartCache(trades, offload_inline, load=load))


async def test_topics_are_answered_one_by_one_and_a_repeated_one_with_silence(kit, feed):
    async with kit.live(feed) as live, live.client("C.EUR/USD") as client:
        before = len(client.statuses)
        await client.say("subscribe", "C.EUR/USD,C.EUR-USD,C.ABC/DEF,CA.EUR/USD,XT.BTC-USD,nonsense")
        await client.say("subscribe", "C.*")
        await client.read_statuses(before + 5)
        await client.read_for()
        told = [(one["status"], one["message"]) for one in client.statuses[before:]]
    assert told == [
        ("error", "unknown topic: C.ABC/DEF"),
        ("error", "unknown topic: CA.EUR/USD"),
        ("error", "unknown topic: XT.BTC-USD"),
        ("error", "unknown topic: nonsense"),
        ("success", "subscribed to: C.*"),
    ]


async def test_after_unsubscribing_nothing_comes(kit, feed):
    async with kit.live(feed, at_ns=kit.T0) as live, live.client("C.EUR/USD") as client:
        await live.at(kit.T0 + SECOND)
        await client.read_events(10)
        before = len(client.statuses)
        await client.say("unsubscribe", "C.EUR-USD")
        await client.read_statuses(before + 1)
        assert client.statuses[-1]["message"] == "unsubscribed to: C.EUR-USD"
        await live.at(kit.T0 + 5 * SECOND)
        assert len(await client.read_for()) == 10


async def test_without_a_key_nothing_is_subscribed(kit, feed):
    async with kit.live(feed, at_ns=kit.T0) as live, live.client() as client:
        await client.say("subscribe", "C.EUR/USD")
        await client.socket.send_message("not json")
        await client.say("dance", "")
        await client.read_statuses(4)
        told = [(one["status"], one["message"]) for one in client.statuses[1:]]
        assert told == [
            ("error", "not authenticated"),
            ("error", "invalid message"),
            ("error", "unknown action: dance"),
        ]
        await live.at(kit.T0 + SECOND)
        assert not await client.read_for()


async def test_a_wrong_key_is_told_so_and_closed(kit, feed):
    async with kit.live(feed) as live, live.client() as client:
        await client.say("auth", "wrong")
        assert await client.read_to_the_end() == 1008
        assert client.statuses[-1]["status"] == "auth_failed"


async def test_who_never_gives_a_key_is_closed(kit, feed):
    async with kit.live(feed, auth_timeout_s=0.05) as live, live.client() as client:
        assert await client.read_to_the_end() == 1008
        assert client.statuses[-1]["status"] == "auth_timeout"


async def test_a_second_connection_with_the_same_key_evicts_the_first(kit, feed):
    async with kit.live(feed, at_ns=kit.T0) as live, live.client("C.EUR/USD") as first:
        async with live.client("C.EUR/USD", key="another") as other, live.client("C.EUR/USD") as second:
            assert await first.read_to_the_end() == 1008
            assert first.statuses[-1]["status"] == "max_connections"
            await live.at(kit.T0 + SECOND)
            await second.read_events(10)
            await other.read_events(10)
        assert not first.events
        assert (await live.get("/oracle/stream"))["lanes"]["forex"]["evicted"] == 1


async def test_keys_are_counted_for_each_asset_class(kit, feed):
    trades = kit.Trades(rows=[(kit.T0 + MS, "1.5", "2", 1, 1)])
    async with (
        kit.live(feed, trades, at_ns=kit.T0) as live,
        live.client("C.EUR/USD") as forex,
        live.client("XT.*", asset="crypto") as crypto,
    ):
        await live.at(kit.T0 + SECOND)
        await forex.read_events(10)
        await crypto.read_events(1)


async def test_variant_the_newcomer_is_refused(kit, feed):
    async with (
        kit.live(feed, at_ns=kit.T0, refuse_second_connection=True) as live,
        live.client("C.EUR/USD") as first,
        live.client() as second,
    ):
        await second.say("auth", "k")
        assert await second.read_to_the_end() == 1008
        assert [one["status"] for one in second.statuses] == ["connected", "auth_success", "max_connections"]
        await live.at(kit.T0 + SECOND)
        await first.read_events(10)


async def test_an_unknown_event_shares_a_frame_with_data(kit, feed, rows):
    async with kit.live(feed, at_ns=kit.T0) as live, live.client("C.EUR/USD") as client:
        await live.at(kit.T0 + SECOND)
        assert quotes(await client.read_events(10)) == as_streamed(rows[:10])
        assert len(client.unknown) == 1
        assert any({"NEW", "C"} <= {one["ev"] for one in frame} for frame in client.frames)


async def test_pings_are_answered(kit, feed):
    async with kit.live(feed) as live, live.client("C.EUR/USD") as client:
        with trio.fail_after(2):
            await client.socket.ping()


@pytest.mark.parametrize(("buffer", "killed"), [(1 << 20, 1), (16 << 20, 0)])
async def test_a_client_that_does_not_read_is_killed_and_others_are_not_held_up(kit, buffer, killed):
    rows = [(kit.T0 + i * MS, "1.12345", "1.12346") for i in range(1, 25_001)]
    feed = kit.Feed(rows=rows, part_ns=1_000 * SECOND)
    async with kit.live(feed, at_ns=kit.T0, stream_buffer_bytes=buffer) as live:
        slow = await trio.open_tcp_stream("127.0.0.1", live.port)
        slow.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 4_096)
        async with slow:
            await _subscribe_raw(slow, key="slow")
            lane = live.hub.lanes[0]
            lane.connections[0].wire.socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_SNDBUF, 4_096)
            await live.until(lambda: "C:EURUSD" in lane.wanted())
            async with live.client("C.EUR/USD") as quick:
                for step in range(1, 6):
                    await live.at(kit.T0 + 5 * step * SECOND)
                    await quick.read_events(step * 5_000)
            assert lane.counts.too_slow == killed
            if not killed:
                return
            await live.until(lambda: not lane.connections)
            with suppress(trio.BrokenResourceError), trio.fail_after(5):
                while await slow.receive_some(1 << 20):
                    pass


HANDSHAKE = (
    b"GET /forex HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


async def _subscribe_raw(stream, *, key):
    await stream.send_all(HANDSHAKE)
    answer = b""
    while b"Connected Successfully" not in answer:
        answer += await stream.receive_some(100)
    for action, params in (("auth", key), ("subscribe", "C.*")):
        text = json.dumps({"action": action, "params": params}).encode()
        await stream.send_all(bytes([0x81, 0x80 | len(text), 0, 0, 0, 0]) + text)


@pytest.mark.parametrize("rubbish", [b"\x81\x05hello", b"\xff" * 100, b"\x81\xfe\xff\xff" + b"x" * 50])
@pytest.mark.parametrize("early", [True, False])
async def test_a_client_that_breaks_the_protocol_harms_only_itself(kit, feed, rubbish, early, caplog):
    async with kit.live(feed, at_ns=kit.T0) as live, live.client("C.EUR/USD") as client:
        async with await trio.open_tcp_stream("127.0.0.1", live.port) as rude:
            await rude.send_all(HANDSHAKE + rubbish if early else HANDSHAKE)
            if not early:
                await rude.receive_some(100)
                await rude.send_all(rubbish)
            with trio.fail_after(5), suppress(trio.BrokenResourceError):
                while await rude.receive_some(10_000):
                    await trio.lowlevel.checkpoint()
                    if not early and rubbish[1] == 0xFE:
                        break  # a long message that never ends: nothing wrong yet
        await live.at(kit.T0 + SECOND)
        await client.read_events(10)


async def test_a_frame_is_never_larger_than_the_vendors_megabyte(kit):
    rows = [(kit.T0 + i * MS, "1.12345", "1.12346") for i in range(1, 50_001)]
    feed = kit.Feed(rows=rows, part_ns=1_000 * SECOND)
    async with kit.live(feed, at_ns=kit.T0) as live, live.client("C.EUR/USD") as client:
        await live.at(kit.T0 + 100 * SECOND)
        await client.read_events(50_000)
        assert 5_000 < max(len(json.dumps(frame, separators=(",", ":"))) for frame in client.frames) < 1 << 20


async def test_there_is_no_stream_of_other_things(kit, feed):
    async with kit.live(feed) as live:
        with pytest.raises(trio_websocket.ConnectionRejected) as rejected:
            await live.refused("stocks")
    assert rejected.value.status_code == 403


async def test_a_part_that_cannot_be_read_costs_only_its_rows(kit, rows):
    class Damaged(kit.Feed):
        def quotes(self, symbol, part):
            if part.from_ns == kit.T0 + 10 * SECOND:
                raise ConfigError("damaged")
            return super().quotes(symbol, part)

    feed = Damaged(rows=rows, part_ns=10 * SECOND)
    async with kit.live(feed, at_ns=kit.T0) as live, live.client("C.EUR/USD") as client:
        for second in (5, 15, 25):
            await live.at(kit.T0 + second * SECOND)
        assert quotes(await client.read_events(150)) == as_streamed([*rows[:100], *rows[200:250]])
