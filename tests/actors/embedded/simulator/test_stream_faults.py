"""Every fault of docs/live.md over real sockets: what the client sees, and that the oracle tells the same."""

from __future__ import annotations

import pytest
import trio
import trio_websocket

MS = 1_000_000
SECOND = 1_000 * MS


@pytest.fixture
def rows(kit):
    """600 quotes, 100 ms apart from T0 on."""
    return [(kit.T0 + i * 100 * MS + MS, f"1.{10000 + i}", f"1.{10010 + i}") for i in range(600)]


@pytest.fixture
def feed(kit, rows):
    return kit.Feed(rows=rows)


def times(events):
    return [event["t"] for event in events]


def as_streamed(rows):
    return [ts // MS for ts, _, _ in rows]


async def fired(live):
    return (await live.get("/oracle/faults"))["fired"]


async def fates(live, symbol="C:EURUSD"):
    return (await live.get(f"/oracle/stream/{symbol}"))["totals"]


@pytest.mark.parametrize("code", [1000, 1001, 1006, 1008, 1011])
async def test_disconnect_closes_with_its_code_and_refuses_for_a_while(kit, feed, rows, code):
    async with kit.live(feed, at_ns=kit.T0) as live:
        async with live.client("C.EUR/USD") as client:
            await live.at(kit.T0 + SECOND)
            await live.fault(fault="disconnect", code=code, for_s=5)
            assert await client.read_to_the_end() == code
            assert times(client.events) == as_streamed(rows[:10]) or code == 1006
        with pytest.raises(trio_websocket.ConnectionRejected) as rejected:
            await live.refused()
        assert rejected.value.status_code == 503
        assert (await live.get("/v1/marketstatus/now"))["market"], "the pages go on"
        await live.real(5.1)
        await live.at(kit.T0 + 10 * SECOND)
        async with live.client("C.EUR/USD") as again:
            await live.at(kit.T0 + 11 * SECOND)
            assert times(await again.read_events(10)) == as_streamed(rows[100:110]), "the gap is not filled"
        (one,) = await fired(live)
        assert (one["fault"], one["connections"], one["over"], one["lasts_s"]) == ("disconnect", 1, True, "5.0")
        assert (await live.get("/oracle/stream"))["lanes"]["forex"]["refused"] == 1


async def test_an_outage_can_take_the_pages_down_too(kit, feed):
    async with kit.live(feed, at_ns=kit.T0) as live:
        await live.fault(fault="disconnect", for_market_s=60, rest=True)
        async with kit.client(live.world) as client:
            assert (await client.get("/v3/quotes/C:EUR-USD")).status_code == 503
            await live.at(kit.T0 + 61 * SECOND)
            assert (await client.get("/v3/quotes/C:EUR-USD")).status_code == 200


@pytest.mark.parametrize("reset", [False, True])
async def test_abort_cuts_in_the_middle_of_a_frame_at_the_byte(kit, feed, reset):
    async with kit.live(feed, at_ns=kit.T0) as live:
        async with live.client("C.EUR/USD") as client:
            await live.fault(fault="abort", bytes=100, reset=reset)
            (connection,) = live.hub.lanes[0].connections
            before = connection.wire.sent_bytes
            await live.at(kit.T0 + 5 * SECOND)
            assert await client.read_to_the_end() == 1006
            assert connection.wire.sent_bytes - before == 100, "a frame of some 4,000 bytes"
        assert not client.events
        assert (await fired(live))[0]["connections"] == 1


async def test_abort_by_seed_cuts_somewhere_else_each_time(kit, feed):
    cuts = set()
    for seed in range(4):
        async with kit.live(feed, at_ns=kit.T0, fault_seed=seed) as live, live.client("C.EUR/USD") as client:
            await live.fault(fault="abort")
            before = live.hub.lanes[0].connections[0].wire
            start = before.sent_bytes
            await live.at(kit.T0 + 60 * SECOND)
            assert await client.read_to_the_end() == 1006
            cuts.add(before.sent_bytes - start)
    assert len(cuts) == 4


async def test_silence_drops_rows_while_pings_go_on(kit, feed, rows):
    async with kit.live(feed, at_ns=kit.T0) as live, live.client("C.EUR/USD") as client:
        await live.fault(fault="silence", for_s=3)
        await live.at(kit.T0 + 2 * SECOND)
        with trio.fail_after(2):
            await client.socket.ping()
        assert not await client.read_for()
        await live.real(3.1)
        await live.at(kit.T0 + 3 * SECOND)
        assert times(await client.read_events(10)) == as_streamed(rows[20:30])
        assert await fates(live) == {"sent": 10, "silence": 20}
        assert (await fired(live))[0]["rows"] == 20


async def test_silence_without_pings_is_a_dead_line_that_breaks_at_last(kit, feed, rows):
    async with kit.live(feed, at_ns=kit.T0) as live, live.client("C.EUR/USD") as client:
        await live.fault(fault="silence-no-ping", for_s=30)
        await live.at(kit.T0 + 2 * SECOND)
        with pytest.raises(trio.TooSlowError), trio.fail_after(0.1):
            await client.socket.ping()
        assert not await client.read_for()
        async with live.client("C.EUR/USD", key="another") as other:
            await live.at(kit.T0 + 3 * SECOND)
            assert times(await other.read_events(10)) == as_streamed(rows[20:30]), "a new line is fine"
        await live.real(30.1)
        assert await client.read_to_the_end() == 1006
        assert (await fired(live))[0] | {"connections": 1, "over": True} == (await fired(live))[0]


async def test_a_gap_gives_no_sign_and_the_pages_have_the_rows(kit, feed, rows):
    async with kit.live(feed, at_ns=kit.T0) as live, live.client("C.EUR/USD") as client:
        await live.fault(fault="gap", rows=15)
        await live.at(kit.T0 + SECOND)
        await live.at(kit.T0 + 4 * SECOND)
        assert times(await client.read_events(25)) == as_streamed(rows[15:40])
        page = await live.get("/v3/quotes/C:EUR-USD?order=asc&limit=50000")
        assert kit.rows([page]) == rows[:40]
        runs = (await live.get("/oracle/stream/C:EUR-USD"))["runs"]
        assert [(run["outcome"], run["rows"], run["first_ns"], run["last_ns"]) for run in runs] == [
            ("gap:1", 15, rows[0][0], rows[14][0]),
            ("sent", 25, rows[15][0], rows[39][0]),
        ]
        assert (await fired(live))[0]["over"]


async def test_late_rows_come_once_and_not_later_than_told(kit, feed, rows):
    async with kit.live(feed, at_ns=kit.T0) as live, live.client("C.EUR/USD") as client:
        await live.fault(fault="late", p=0.2, delay_s=5)
        for second in range(1, 67, 5):
            now = kit.T0 + second * SECOND
            await live.at(now)
            totals = live.hub.lanes[0].disturber.book("C:EURUSD").totals
            seen = set(times(await client.read_events(totals["sent"] + totals["late-sent"])))
            assert seen <= set(as_streamed(row for row in rows if row[0] <= now)), "none before its time"
            assert seen >= set(as_streamed(row for row in rows if row[0] <= now - 5 * SECOND)), "none too late"
        assert len(client.events) == 600
        assert sorted(times(client.events)) == as_streamed(rows), "each once"
        assert times(client.events) != as_streamed(rows), "not in order"
        told = await fates(live)
        assert told["late"] == told["late-sent"] == (await fired(live))[0]["rows"]
        assert 80 < told["late"] < 160
        assert told["sent"] + told["late"] == 600


async def test_after_a_reconnect_the_last_events_come_again(kit, feed, rows):
    async with kit.live(feed, at_ns=kit.T0) as live:
        await live.fault(fault="replay", n=25)
        async with live.client("C.EUR/USD") as client:
            await live.at(kit.T0 + 4 * SECOND)
            assert times(await client.read_events(40)) == as_streamed(rows[:40]), "not at the first connection"
        for _ in range(2):
            async with live.client("C.EUR/USD") as again:
                assert times(await again.read_events(25)) == as_streamed(rows[15:40])
        assert await fates(live) == {"replay": 50, "sent": 40}


async def test_a_burst_holds_back_and_then_gives_all_at_once(kit, feed, rows):
    async with kit.live(feed, at_ns=kit.T0) as live, live.client("C.EUR/USD") as client:
        await live.fault(fault="burst", for_s=2)
        for second in (1, 2, 3):
            await live.at(kit.T0 + second * SECOND)
        assert not await client.read_for()
        await live.real(2.1)
        assert times(await client.read_events(30)) == as_streamed(rows[:30])
        assert await fates(live) == {"sent": 30}
        assert (await fired(live))[0]["rows"] == 30


async def test_a_fault_of_one_asset_leaves_the_other_alone(kit, feed):
    trades = kit.Trades(rows=[(kit.T0 + SECOND, "1.5", "2", 1, 1)])
    async with (
        kit.live(feed, trades, at_ns=kit.T0) as live,
        live.client("C.*") as forex,
        live.client("XT.*", asset="crypto") as crypto,
    ):
        await live.fault(fault="gap", rows=10, asset="forex")
        await live.at(kit.T0 + 2 * SECOND)
        assert len(await forex.read_events(10)) == 10
        await crypto.read_events(1)


async def test_triggers_market_time_events_and_repetition(kit, feed):
    async with kit.live(feed, at_ns=kit.T0) as live, live.client("C.EUR/USD") as client:
        await live.fault(fault="gap", rows=1, when={"at": "2024-03-05T10:00:02Z"})
        await live.fault(fault="gap", rows=1, when={"events": 30})
        await live.fault(fault="gap", rows=1, when={"after_s": 100, "every_s": 50, "times": 3})
        counts = []
        for second, real in ((1, 0), (3, 0), (4, 0), (5, 99), (6, 2), (7, 49), (8, 2), (9, 500), (10, 500)):
            await live.real(real)
            await live.at(kit.T0 + second * SECOND)
            await live.real(0)
            counts.append(live.hub.faults.fired_total)
        assert counts == [0, 1, 2, 2, 3, 3, 4, 5, 5]
        report = await live.get("/oracle/faults")
        assert (report["fired_total"], report["armed_total"], report["by_kind"]) == (5, 0, {"gap": 5})
        await client.read_events(95)


async def test_faults_wait_until_the_market_runs_and_can_be_forgotten(kit, feed):
    async with kit.live(feed, at_ns=kit.T0) as live:
        await live.fault(fault="gap", when={"after_s": 1})
        async with kit.client(live.world) as client:
            assert (await client.get("/oracle/faults")).json()["armed_total"] == 1
            assert (await client.delete("/oracle/faults")).json() == {"disarmed": 1}
            answer = await client.post("/oracle/faults", content='{"fault": "gap"}\n{"fault": "earthquake"}')
            assert answer.status_code == 400
            assert "line 2: fault 'earthquake'" in answer.json()["error"]


async def test_rows_held_back_until_nobody_listens_are_lost_and_said_so(kit, feed, rows):
    async with kit.live(feed, at_ns=kit.T0) as live:
        await live.fault(fault="burst", for_s=2)
        async with live.client("C.EUR/USD"):
            await live.at(kit.T0 + SECOND)
        await live.until(lambda: not live.hub.lanes[0].connections)
        await live.real(2.1)
        assert await fates(live) == {"lost": 10}
