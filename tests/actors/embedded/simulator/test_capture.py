"""A recording of Binance's stream as trades of X:BTCUSDT, on the stream and in the pages."""

from __future__ import annotations

import gzip
import json

import pytest

from actors.embedded.simulator.capture import open_capture
from actors.embedded.simulator.market_maker import make_market
from actors.embedded.simulator.options import Options
from actors.embedded.simulator.recordings import check_recording, open_any
from runtime.errors import ConfigError

MS = 1_000_000


def line(t, price, size, ms, maker, *, stream="btcusdt@trade"):
    data = {"e": "trade", "E": ms + 1, "s": "BTCUSDT", "t": t, "p": price, "q": size, "T": ms, "m": maker, "M": True}
    return f"{ms * MS} {json.dumps({'stream': stream, 'data': data}, separators=(',', ':'))}\n"


@pytest.fixture
def folder(tmp_path):
    def make(lines, name="btcusdt_20240808.gz"):
        below = tmp_path / "spot"
        below.mkdir(exist_ok=True)
        with gzip.open(below / name, "wt") as out:
            out.writelines(lines)
        return below

    return make


def test_trades_are_taken_other_lines_passed_over(folder):
    path = folder(
        [
            line(7, "61837.63000000", "0.02000000", 5, maker=True),
            '1 {"stream":"btcusdt@bookTicker","data":{"u":1}}\n',
            '2 {"lastUpdateId":1,"bids":[],"asks":[]}\n',
            line(8, "61838.00000000", "10.00000000", 5, maker=False),
        ]
    )
    capture = open_capture(path)
    assert capture.symbols == ("X:BTCUSDT",)
    (part,) = capture.parts("X:BTCUSDT", 0, 10**18)
    trades = capture.trades("X:BTCUSDT", part)
    assert trades.ts_ns.tolist() == [5 * MS, 5 * MS]
    assert trades.price.to_pylist() == ["61837.63", "61838"]
    assert trades.size.to_pylist() == ["0.02", "10"]
    assert trades.trade_id.tolist() == [7, 8]
    assert trades.condition.tolist() == [1, 2], "the buyer made the market, so the seller took: 1"
    assert list(capture.parts("X:BTCUSDT", 0, 5 * MS)) == []


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        (["1 {}\n"], "no trade in it"),
        ([line(1, "1", "1", 1, maker=True), line(1, "abc", "1", 1, maker=True)], "price or size"),
        (['1 {"stream":"btcusdt@trade","data":{"t":1}}\n'], "line 1"),
    ],
)
def test_a_damaged_file_is_named(folder, lines, named):
    path = folder(lines)
    with pytest.raises(ConfigError, match=named):
        open_capture(path)


def test_a_cut_file_is_named(folder):
    path = folder([line(n, "1", "1", n, maker=True) for n in range(1_000)])
    file = path / "btcusdt_20240808.gz"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(ConfigError, match=r"btcusdt_20240808\.gz"):
        open_capture(path)


def test_a_folder_above_will_do_but_two_feeds_are_a_question(folder, tmp_path):
    path = folder([line(1, "1", "1", 1, maker=True)])
    assert open_any(tmp_path).folder == path
    (tmp_path / "oanda" / "tick" / "eurusd").mkdir(parents=True)
    (tmp_path / "oanda" / "tick" / "eurusd" / "20140501_quote.zip").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"holds 2 feeds, name one of them: .*oanda \| .*spot"):
        check_recording(tmp_path)


async def test_it_is_served_as_trades_from_its_first_minute_on(kit, folder):
    first = 60_000 * 400_000 + 30_000
    path = folder([line(n, "60000.5", "0.5", first + n * 100, maker=True) for n in range(100)])
    clock = kit.Clock(kit.T0)
    from actors.embedded.simulator.assembly import make_world
    from runtime.actor import offload_inline

    world = make_world(Options(recording=path, replay_speed=100.0), clock=clock, offload=offload_inline)
    time = world.hub.time
    async with kit.client(world) as client:
        assert time.now_ns() == (first - 30_000) * MS
        assert not (await client.get("/v3/trades/X:BTC-USDT?order=asc")).json().get("results")
        time.begin()
        clock.now_s += 0.35
        rows = (await client.get("/v3/trades/X:BTC-USDT?order=asc")).json()["results"]
        assert len(rows) == 51
        assert (await client.get("/v3/quotes/C:EUR-USD")).status_code == 404
        count = (await client.get("/oracle/trades/X:BTC-USDT?format=count")).json()
        assert count == {"symbol": "X:BTCUSDT", "count": 51}


def test_the_real_captures_hold_what_is_known_of_them(shared_data):
    """Counts and ids: counted independently of this code when the recordings were chosen."""
    market = make_market(Options(recording=shared_data / "hftbacktest"), clock=None)
    assert market.trades.symbols == ("X:BTCUSDT", "X:ETHUSDT")
    known = {"X:BTCUSDT": (9_757, 3735683259, 3735693015), "X:ETHUSDT": (6_106, 1520538925, 1520545030)}
    for symbol, (count, first, last) in known.items():
        (part,) = market.trades.parts(symbol, 0, 2**62)
        ids = market.trades.trades(symbol, part).trade_id
        assert (len(ids), ids[0], ids[-1]) == (count, first, last)
        assert set((ids[1:] - ids[:-1]).tolist()) == {1}
