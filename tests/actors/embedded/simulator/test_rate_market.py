"""The market with a rate: even, the same for a seed, and its fast rows are those of the slow way."""

from __future__ import annotations

import json

import numpy as np
import pytest

from actors.embedded.simulator.events import render_quote_events, render_trade_events
from actors.embedded.simulator.market_maker import make_market
from actors.embedded.simulator.options import Options
from actors.embedded.simulator.pages import render, render_trades
from actors.embedded.simulator.rate_market import RateMarket
from actors.embedded.simulator.symbols import UNIVERSE
from runtime.clock import NS_PER_S, parse_instant_ns

BEGIN = parse_instant_ns("2026-01-01")
SYMBOLS = [(one.symbol, one.kind) for one in UNIVERSE]


def market(kind, rate, seed=3):
    return RateMarket(seed=seed, rate=rate, begin_ns=BEGIN, kind=kind)


def part_of(feed, symbol, second):
    (part,) = feed.parts(symbol, BEGIN + second * NS_PER_S, BEGIN + (second + 1) * NS_PER_S)
    return part


@pytest.mark.parametrize("rate", [1, 7, 1_000])
@pytest.mark.parametrize(("symbol", "kind"), SYMBOLS)
def test_fast_rows_are_the_slow_rows(symbol, kind, rate):
    feed = market(kind, rate)
    part = part_of(feed, symbol, 5)
    if kind == "quotes":
        held = feed.quotes(symbol, part)
        pairs = [
            (feed.quote_pages(symbol, part), render(held)),
            (feed.quote_events(symbol, part), render_quote_events(symbol, held, feed.seed)),
        ]
    else:
        trades = feed.trades(symbol, part)
        pairs = [
            (feed.trade_pages(symbol, part), render_trades(trades)),
            (feed.trade_events(symbol, part), render_trade_events(symbol, trades)),
        ]
    for fast, slow in pairs:
        assert np.array_equal(fast.ts_ns, slow.ts_ns)
        for start, stop, descending in ((0, rate, False), (0, rate, True), (rate // 2, rate // 2 + 1, True)):
            text = bytes(fast.text(start, stop, descending=descending))
            assert text == bytes(slow.text(start, stop, descending=descending))
            json.loads(b"[" + text + b"]")


def test_it_ticks_evenly_and_ids_are_contiguous_over_seconds():
    feed = market("trades", 333)
    trades = [feed.trades("X:BTCUSD", part) for part in feed.parts("X:BTCUSD", BEGIN - 1, BEGIN + 3 * NS_PER_S)]
    assert len(trades) == 3
    ids = np.concatenate([one.trade_id for one in trades])
    assert np.all(np.diff(ids) == 1)
    steps = np.diff(np.concatenate([one.ts_ns for one in trades]))
    assert set(steps.tolist()) <= {NS_PER_S // 333, NS_PER_S // 333 + 1}
    assert list(feed.parts("X:BTCUSD", BEGIN - 10 * NS_PER_S, BEGIN)) == [], "nothing before it began"


def test_seed_symbol_and_second_decide():
    def bids(seed, symbol, second):
        feed = market("quotes", 50, seed)
        return feed.quotes(symbol, part_of(feed, symbol, second)).bid.to_pylist()

    assert bids(1, "C:EURUSD", 9) == bids(1, "C:EURUSD", 9)
    assert len({tuple(bids(*which)) for which in ((1, "C:EURUSD", 9), (2, "C:EURUSD", 9), (1, "C:EURUSD", 10))}) == 3
    assert len(set(bids(1, "C:EURUSD", 9))) > 5, "it moves"


def test_a_restarted_market_begins_where_it_began(kit, tmp_path):
    clock = kit.Clock(BEGIN + 90 * NS_PER_S)
    options = Options(rate=10, market_clock=tmp_path / "clock")
    first = make_market(options, clock).quotes
    clock.now_ns += 3_600 * NS_PER_S
    assert first.begin_ns == BEGIN + 60 * NS_PER_S
    assert make_market(options, clock).quotes == first
    assert make_market(Options(rate=20, market_clock=tmp_path / "clock"), clock).quotes.begin_ns > first.begin_ns
    told = make_market(Options(rate=10, market_from="2026-01-01"), clock).quotes
    assert told.begin_ns == BEGIN
