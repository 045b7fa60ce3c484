"""Oracles: the vendors' own minute files, a loop over Decimals, polars."""

import datetime
from decimal import Decimal

import attrs
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.market import candles
from actors.market.candles import NO_BARS, NS_PER_MINUTE, TIMEFRAMES, Bars, fold, merge, roll_up
from actors.market.flags import Flag
from actors.market.rules import validate_quotes, validate_trades

T0 = 1_398_902_400_000_000_000  # 2014-05-01T00:00Z
PRICES = ("open", "high", "low", "close")


def quotes(rows, **sizes):
    ts, bid, ask = (np.array(c) for c in zip(*rows, strict=True)) if rows else (np.zeros(0, np.int64),) * 3
    got = validate_quotes(
        "C:EURUSD",
        "polygon",
        ts.astype(np.int64),
        bid.astype(float),
        ask.astype(float),
        **sizes,
        now_ns=T0 + 10**18,
        raw=lambda r: [""] * len(r),
    )
    assert got.rejected.num_rows == 0
    return got.rows


def trades(rows):
    ts, price, size = (np.array(c) for c in zip(*rows, strict=True))
    got = validate_trades(
        "X:BTCUSD",
        "polygon",
        ts,
        price.astype(float),
        size.astype(float),
        now_ns=T0 + 10**18,
        raw=lambda r: [""] * len(r),
    )
    assert got.rejected.num_rows == 0
    return got.rows


def table(bars):
    """start -> (open, high, low, close, ticks) in exact decimals."""
    columns = [getattr(bars, name).tolist() for name in PRICES]
    rows = zip(bars.ts_ns.tolist(), *columns, bars.ticks.tolist(), strict=True)
    return {t: (*(Decimal(repr(p)) for p in prices), n) for t, *prices, n in rows}


def slow_fold(rows, basis, step_ns):
    """The 20-line loop: exact decimals, one tick at a time, ties in the order given."""
    bars = {}
    for ts, bid, ask in sorted(rows, key=lambda row: row[0]):
        bid, ask = Decimal(repr(bid)), Decimal(repr(ask))
        price = {"bid": bid, "ask": ask, "mid": (bid + ask) / 2}[basis]
        start = ts - ts % step_ns
        if start not in bars:
            bars[start] = [price, price, price, price, 0]
        bar = bars[start]
        bar[1], bar[2], bar[3] = max(bar[1], price), min(bar[2], price), price
        bar[4] += 1
    return {start: tuple(bar) for start, bar in bars.items()}


tick = st.tuples(
    st.integers(0, 40).map(lambda i: T0 + i * 20_000_000_000),  # every 20 s: many ties, many exactly on a minute
    st.integers(130_000, 130_050).map(lambda m: m / 1e5),
    st.integers(130_000, 130_050).map(lambda m: m / 1e5),
)


@given(st.lists(tick, max_size=80), st.sampled_from(["bid", "ask", "mid"]), st.sampled_from([1, 5]))
def test_fold_equals_the_slow_loop_in_any_order_of_rows(rows, basis, minutes):
    step_ns = minutes * NS_PER_MINUTE
    assert table(fold("quotes", quotes(rows), step_ns=step_ns)[basis]) == slow_fold(rows, basis, step_ns)


@given(st.lists(tick, min_size=1, max_size=80), st.sampled_from([5, 15, 60]))
def test_rolled_up_minutes_equal_a_fold_of_the_ticks(rows, minutes):
    direct = fold("quotes", quotes(rows), step_ns=minutes * NS_PER_MINUTE)
    rolled = {
        b: roll_up(m, step_ns=minutes * NS_PER_MINUTE)
        for b, m in fold("quotes", quotes(rows), step_ns=NS_PER_MINUTE).items()
    }
    for basis in ("bid", "ask", "mid"):
        assert table(rolled[basis]) == table(direct[basis])
        assert (rolled[basis].flags == direct[basis].flags).all()


def joined(earlier, later):
    """Both batches' candles: merged where both have the minute."""
    starts = np.union1d(earlier.ts_ns, later.ts_ns)

    def at(bars, wanted):
        rows = np.searchsorted(bars.ts_ns, wanted)
        have = np.isin(wanted, bars.ts_ns)
        columns = {}
        for field in attrs.fields(Bars):
            column = getattr(bars, field.name)
            columns[field.name] = np.zeros(len(wanted), column.dtype)
            columns[field.name][have] = column[rows[have]]
        return Bars(**columns)

    merged = merge(at(earlier, later.ts_ns), later)
    alone = np.setdiff1d(starts, later.ts_ns)
    kept = at(earlier, alone)
    order = np.argsort(np.concatenate((merged.ts_ns, kept.ts_ns)))
    names = [field.name for field in attrs.fields(Bars)]
    return Bars(**{n: np.concatenate((getattr(merged, n), getattr(kept, n)))[order] for n in names})


@given(st.lists(st.lists(tick, max_size=12), min_size=1, max_size=6))
def test_batches_merged_in_order_of_arrival_equal_one_fold_of_all(batches):
    """Open and close by (time, arrival), whatever the order of times; the last batch wins a tie for the close."""
    whole = fold("quotes", quotes([row for rows in batches for row in rows]), step_ns=NS_PER_MINUTE)
    for basis, want in whole.items():
        got = NO_BARS
        for rows in batches:
            got = joined(got, fold("quotes", quotes(rows), step_ns=NS_PER_MINUTE)[basis])
        for field in attrs.fields(Bars):
            assert getattr(got, field.name).tolist() == getattr(want, field.name).tolist(), (basis, field.name)


def test_no_ticks_give_no_bars():
    assert all(len(bars) == 0 for bars in fold("quotes", quotes([]), step_ns=NS_PER_MINUTE).values())
    assert len(roll_up(candles.NO_BARS, step_ns=NS_PER_MINUTE)) == 0


def test_a_tick_on_the_border_opens_the_next_interval():
    rows = [(T0 + NS_PER_MINUTE - 1, 1.1, 1.2), (T0 + NS_PER_MINUTE, 1.3, 1.4)]
    assert table(fold("quotes", quotes(rows), step_ns=NS_PER_MINUTE)["bid"]) == {
        T0: (Decimal("1.1"),) * 4 + (1,),
        T0 + NS_PER_MINUTE: (Decimal("1.3"),) * 4 + (1,),
    }


def test_of_ticks_with_equal_time_the_first_that_came_opens_and_the_last_closes():
    rows = [(T0, 1.2, 1.3), (T0, 1.1, 1.3), (T0, 1.3, 1.3)]
    bars = fold("quotes", quotes([(T0 + 5, 1.15, 1.3), *rows]), step_ns=NS_PER_MINUTE)["bid"]
    assert (bars.open[0], bars.close[0], bars.high[0], bars.low[0]) == (1.2, 1.15, 1.3, 1.1)


def test_a_one_sided_quote_counts_for_its_side_and_not_for_mid():
    rows = quotes([(T0, 1.1, np.nan), (T0 + 1, np.nan, 1.4), (T0 + 2, 1.2, 1.3)])
    bars = fold("quotes", rows, step_ns=NS_PER_MINUTE)
    assert {basis: bars[basis].ticks.tolist() for basis in bars} == {"bid": [2], "ask": [2], "mid": [1]}
    assert bars["mid"].close[0] == 1.25
    only_bid = fold("quotes", quotes([(T0, 1.1, np.nan)]), step_ns=NS_PER_MINUTE)
    assert (len(only_bid["bid"]), len(only_bid["ask"]), len(only_bid["mid"])) == (1, 0, 0)


def test_a_candle_inherits_the_flags_of_its_ticks():
    rows = quotes([(T0, 1.2, 1.1), (T0 + 1, 1.1, 1.2), (T0 + NS_PER_MINUTE, 1.1, 1.2)])
    assert fold("quotes", rows, step_ns=NS_PER_MINUTE)["mid"].flags.tolist() == [Flag.CROSSED, 0]


def test_quote_sizes_add_up_per_side_where_the_vendor_gives_them():
    rows = quotes([(T0, 1.1, 1.2), (T0 + 1, 1.1, 1.2)], bid_size=np.array([0.1, 0.2]), ask_size=np.array([np.nan, 3.0]))
    bars = fold("quotes", rows, step_ns=NS_PER_MINUTE)
    assert (bars["bid"].volume[0], bars["ask"].volume[0], bars["mid"].volume[0]) == (0.3, 3.0, 0.0)
    assert np.isnan(bars["bid"].vwap[0])


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 10**9), st.integers(1, 10**12)), min_size=1, max_size=60))
def test_trades_give_exact_volume_and_a_mean_price_inside_the_bar(rows):
    rows = sorted((T0 + s * 10**10, p / 100, q / 1e8) for s, p, q in rows)
    bars = fold("trades", trades(rows), step_ns=NS_PER_MINUTE)["last"]
    for at, start in enumerate(bars.ts_ns.tolist()):
        inside = [(Decimal(repr(p)), Decimal(repr(q))) for t, p, q in rows if start <= t < start + NS_PER_MINUTE]
        volume = sum(q for _, q in inside)
        assert float(volume) == bars.volume[at]
        assert bars.vwap[at] == pytest.approx(float(sum(p * q for p, q in inside) / volume), rel=1e-12)
        assert bars.low[at] <= bars.vwap[at] <= bars.high[at]


def test_sums_do_not_depend_on_what_else_is_in_the_batch():
    """A run of sizes of no common scale must not turn the neighbour's exact sum into a float sum."""
    ordinary = [(T0, 1.0, 0.1), (T0 + 1, 1.0, 0.2)]
    wild = [(T0 + NS_PER_MINUTE, 1.0, 1e-22), (T0 + NS_PER_MINUTE + 1, 1.0, 123456789012345.0)]
    both = fold("trades", trades(ordinary + wild), step_ns=NS_PER_MINUTE)["last"].volume
    assert both.tolist() == [0.3, fold("trades", trades(wild), step_ns=NS_PER_MINUTE)["last"].volume[0]]


def test_polars_agrees_on_all_timeframes():
    """polars' own grouping; fold and roll-up must both equal it on a random week with ties."""
    seed = np.random.default_rng(7)
    ts = np.sort(T0 + seed.integers(0, 7 * 86_400_000, 50_000) * 1_000_000)
    bid = (seed.integers(-500, 500, ts.size).cumsum() % 9000 + 130_000) / 1e5
    rows = quotes(list(zip(ts.tolist(), bid.tolist(), (bid + 0.5).tolist(), strict=True)))
    frame = pl.DataFrame({"ts": ts, "bid": bid}).with_columns(pl.col("ts").cast(pl.Datetime("ns")))
    minutes = fold("quotes", rows, step_ns=NS_PER_MINUTE)["bid"]
    for name, length in TIMEFRAMES.items():
        want = frame.group_by_dynamic("ts", every=datetime.timedelta(minutes=length), closed="left").agg(
            pl.col("bid").first().alias("open"),
            pl.col("bid").max().alias("high"),
            pl.col("bid").min().alias("low"),
            pl.col("bid").last().alias("close"),
            pl.len().alias("ticks"),
        )
        for bars in (
            roll_up(minutes, step_ns=length * NS_PER_MINUTE),
            fold("quotes", rows, step_ns=length * NS_PER_MINUTE)["bid"],
        ):
            assert bars.ts_ns.tolist() == want["ts"].cast(pl.Int64).to_list(), name
            for column in (*PRICES, "ticks"):
                assert getattr(bars, column).tolist() == want[column].to_list(), (name, column)


# The vendors' own bars --------------------------------------------------------------------------------------------


def compare_with_vendor(feed, days):
    """(minutes equal, minutes differing, minutes only on one side); a minute is equal when all eight prices are."""
    equal, differing, alone = 0, 0, 0
    for day in days:
        want = feed.minutes(day)
        bars = fold("quotes", feed.ticks(day), step_ns=NS_PER_MINUTE, bases=("bid", "ask"))
        got = {(b, t): row[:4] for b in bars for t, row in table(bars[b]).items()}
        alone += len(got.keys() ^ want.keys())
        verdict = {}
        for basis, start in got.keys() & want.keys():
            same = got[basis, start] == tuple(map(Decimal, want[basis, start]))
            verdict[start] = verdict.get(start, True) and same
        equal += sum(verdict.values())
        differing += len(verdict) - sum(verdict.values())
    return equal, differing, alone


def test_one_day_equals_the_vendors_minutes(lean_forex):
    assert compare_with_vendor(lean_forex("oanda"), ["20140501"]) == (1363, 0, 0)


@pytest.mark.parametrize(("name", "minutes"), [("oanda", 15_366), ("fxcm", 15_857)])
def test_all_days_equal_the_vendors_minutes(lean_forex, tick_days, name, minutes):
    """DATA 1 and 2: every bar and all eight prices, as decimals; FXCM's with 10 % crossed quotes."""
    assert compare_with_vendor(lean_forex(name), tick_days) == (minutes, 0, 0)


def test_control_left_open_intervals_differ_from_the_vendor(lean_forex, tick_days, monkeypatch):
    """DATA 1: with intervals (T, T+step] eight OANDA minutes change."""
    real = candles.fold_prices

    def left_open(ts_ns, *rest, **options):
        return real(ts_ns - 1, *rest, **options)

    monkeypatch.setattr(candles, "fold_prices", left_open)
    equal, differing, _ = compare_with_vendor(lean_forex("oanda"), tick_days)
    assert (equal, differing) == (15_366 - 8, 8)


def test_control_ties_in_another_order_differ_from_the_vendor(lean_forex, tick_days, monkeypatch):
    """4,494 OANDA ticks share their millisecond with the one before; time alone does not order them."""
    real = candles.fold_prices

    def ties_reversed(ts_ns, price, flags, size, **options):
        order = np.lexsort((-np.arange(len(ts_ns)), ts_ns))
        return real(ts_ns, price[order], flags, size, **options)

    monkeypatch.setattr(candles, "fold_prices", ties_reversed)
    _, differing, alone = compare_with_vendor(lean_forex("oanda"), tick_days[:5])
    assert differing > 0
    assert alone == 0


def test_mid_and_higher_timeframes_of_a_real_day_equal_the_slow_loop(lean_forex):
    batch = lean_forex("oanda").ticks("20140505")
    rows = list(zip(*(batch.column(c).to_pylist() for c in ("ts_ns", "bid", "ask")), strict=True))
    minutes = fold("quotes", batch, step_ns=NS_PER_MINUTE)
    for length in TIMEFRAMES.values():
        for basis in ("bid", "mid"):
            want = slow_fold(rows, basis, length * NS_PER_MINUTE)
            assert table(roll_up(minutes[basis], step_ns=length * NS_PER_MINUTE)) == want
