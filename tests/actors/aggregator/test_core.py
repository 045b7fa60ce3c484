"""Slices in, candles out: any order and repetition of slices ends in the candles of what they hold in the end."""

import itertools
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.aggregator import views
from actors.market.candles import TIMEFRAMES
from actors.market.coverage import REBUILD
from actors.market.flags import Flag
from tests.support.aggregator import (
    BASES,
    DAY,
    EUR,
    HISTORY,
    HOUR,
    MINUTE,
    T0,
    Bench,
    every,
    latest,
    names,
    quotes,
    slice_frames,
    trades,
)


@st.composite
def one_slice(draw):
    """Inside one of four hours around a midnight, on a grid of five minutes; few distinct prices, many ties."""
    hour = T0 + DAY + draw(st.integers(-2, 1)) * HOUR
    low = draw(st.integers(0, 11))
    high = draw(st.integers(low + 1, 12))
    from_ns, to_ns = hour + 5 * low * MINUTE, hour + 5 * high * MINUTE
    spots = st.integers(0, (to_ns - from_ns) // (10 * 10**9) - 1).map(lambda n: from_ns + n * 10 * 10**9)
    price = st.integers(1300, 1303).map(lambda m: m / 1000)
    ticks = draw(st.lists(st.tuples(spots, price, price), max_size=25))
    return from_ns, to_ns, sorted(ticks, key=lambda row: row[0]), draw(st.sampled_from(["polygon", "dukascopy"]))


@given(st.lists(one_slice(), max_size=8))
def test_latest_candles_equal_the_slow_fold_of_what_the_slices_hold_in_the_end(slices):
    bench = Bench()
    for one in slices:
        bench.slice(*one)
    bench.check()


@given(st.lists(one_slice(), min_size=1, max_size=5, unique_by=lambda s: s[0] // HOUR), st.data())
def test_any_order_and_repetition_of_disjoint_slices_ends_in_the_same_candles(slices, data):
    reference = Bench()
    for one in slices:
        reference.slice(*one)
    other = Bench()
    again = data.draw(st.lists(st.sampled_from(slices), max_size=4))
    for one in data.draw(st.permutations([*slices, *again])):
        other.slice(*one)
    assert latest(other.rows) == latest(reference.rows)


def test_a_minute_of_a_slice_is_final_at_once():
    bench = Bench()
    found = bench.slice(T0, T0 + 2 * MINUTE, every(10**10, T0, T0 + 2 * MINUTE))
    assert names(found) == [("1m", b, m) for b in sorted(BASES) for m in (0, 1)]
    first = next(row for row in found if row["basis"] == "mid")
    assert first | {"revision": 0} == {
        "symbol": EUR,
        "timeframe": "1m",
        "basis": "mid",
        "ts_ns": T0,
        "open": 1.305,
        "high": 1.305,
        "low": 1.305,
        "close": 1.305,
        "volume": 0.0,
        "vwap": None,
        "ticks": 6,
        "origin": "ticks",
        "source": "polygon",
        "final": True,
        "flags": 0,
        "revision": 0,
    }


def test_candles_go_to_the_partition_of_their_input():
    bench = Bench()
    bench.log.append(slice_frames(T0, T0 + HOUR, quotes(every(MINUTE, T0, T0 + HOUR))))
    (output,) = bench.core.apply(bench.log.groups, suppressed_to=0).outputs
    assert {frame.partition for frame in output.frames} == {HISTORY}
    assert output.input_end == bench.log.end


def test_a_whole_day_of_hours_gives_every_timeframe_once():
    bench = Bench()
    for hour in range(24):
        start = T0 + hour * HOUR
        bench.slice(start, start + HOUR, every(MINUTE, start, start + HOUR, 1.3 + hour / 100))
    bench.check()
    counts = {tf: sum(row["timeframe"] == tf for row in bench.rows) for tf in TIMEFRAMES}
    assert counts == {"1m": 4320, "5m": 864, "15m": 288, "1h": 72, "4h": 18, "1d": 3}
    assert all(row["final"] for row in bench.rows)


def test_a_coarse_candle_waits_for_its_end_and_is_not_final_while_its_start_is_unknown():
    bench = Bench()
    half = T0 + 30 * MINUTE
    assert "1h" not in {row["timeframe"] for row in bench.slice(T0 + 15 * MINUTE, half, every(MINUTE, T0, half)[15:])}
    found = bench.slice(half, T0 + HOUR, every(MINUTE, half, T0 + HOUR))
    assert {(row["timeframe"], row["final"], row["ticks"]) for row in found if row["timeframe"] == "1h"} == {
        ("1h", False, 45)
    }
    found = bench.slice(T0, T0 + 15 * MINUTE, [])
    assert names(found) == [("1h", b, 0) for b in sorted(BASES)], "nothing came but the hour is final now"
    assert {(row["final"], row["ticks"]) for row in found} == {(True, 45)}
    bench.check()


def test_an_empty_slice_gives_no_candle_but_closes_the_ones_it_ends():
    bench = Bench()
    bench.slice(T0, T0 + 3 * MINUTE, every(MINUTE, T0, T0 + 3 * MINUTE))
    found = bench.slice(T0 + 3 * MINUTE, T0 + 5 * MINUTE, [])
    assert names(found) == [("5m", b, 0) for b in sorted(BASES)]


def test_the_same_slice_again_gives_nothing():
    bench = Bench()
    ticks = every(MINUTE, T0, T0 + HOUR)
    bench.slice(T0, T0 + HOUR, ticks)
    assert bench.slice(T0, T0 + HOUR, ticks) == []
    assert bench.slice(T0 + 5 * MINUTE, T0 + 7 * MINUTE, ticks[5:7]) == []


def test_a_changed_tick_revises_exactly_the_candles_above_it():
    bench = Bench()
    ticks = every(MINUTE, T0, T0 + HOUR)
    bench.slice(T0, T0 + HOUR, ticks)
    ticks[7] = (ticks[7][0], 1.2, ticks[7][2])
    found = bench.slice(T0, T0 + HOUR, ticks)
    want = [(tf, b, m) for tf, m in (("15m", 0), ("1h", 0), ("1m", 7), ("5m", 5)) for b in ("bid", "mid")]
    assert names(found) == want
    bench.check()


def test_a_change_that_no_candle_of_an_hour_sees_still_revises_its_minute_only():
    """The minute's open changes inside the hour's range: 5m, 15m and 1h keep all their columns."""
    bench = Bench()
    ticks = [(T0 + i * 10**10, 1.3 + (i % 5) / 100, 1.5) for i in range(360)]
    bench.slice(T0, T0 + HOUR, ticks)
    ticks[12], ticks[13] = (ticks[12][0], *ticks[13][1:]), (ticks[13][0], *ticks[12][1:])
    found = bench.slice(T0, T0 + HOUR, ticks)
    assert names(found) == [("1m", "bid", 2), ("1m", "mid", 2)]


def test_a_vanished_minute_is_said_to_be_gone_and_may_come_back():
    bench = Bench()
    ticks = every(MINUTE, T0, T0 + 5 * MINUTE)
    bench.slice(T0, T0 + 5 * MINUTE, ticks)
    found = bench.slice(T0, T0 + 5 * MINUTE, ticks[1:])
    gone = [row for row in found if row["flags"] & Flag.GONE]
    assert names(gone) == [("1m", b, 0) for b in sorted(BASES)]
    assert {(row["ticks"], row["volume"], row["final"]) for row in gone} == {(0, 0.0, True)}
    bench.check()
    found = bench.slice(T0, T0 + 5 * MINUTE, [])
    assert sum(row["timeframe"] == "5m" for row in found if row["flags"] & Flag.GONE) == 3
    bench.check()
    bench.slice(T0, T0 + 5 * MINUTE, ticks)
    bench.check()


def test_equal_ticks_put_out_nothing_unless_candles_were_lost():
    """The log lost candles that no sink had: whatever was in them, a slice that says so makes all of them again."""
    bench = Bench()
    ticks = every(MINUTE, T0, T0 + 50 * MINUTE)
    bench.slice(T0, T0 + HOUR, every(MINUTE, T0, T0 + 55 * MINUTE))
    kept = bench.rows.copy()
    bench.slice(T0, T0 + HOUR, ticks)  # five minutes vanish: said in a group that is lost
    assert bench.slice(T0, T0 + HOUR, ticks) == []  # positive control: a refetch alone heals nothing
    bench.rows = kept
    with pytest.raises(AssertionError):
        bench.check()
    bench.rows = []
    found = bench.slice(T0, T0 + HOUR, ticks, reason=REBUILD)
    bench.check()
    assert {row["timeframe"] for row in found} == {"1m", "5m", "15m", "1h"}  # longer ones are not over
    minutes = [row for row in found if row["timeframe"] == "1m" and row["basis"] == "mid"]
    assert [bool(row["flags"] & Flag.GONE) for row in sorted(minutes, key=lambda row: row["ts_ns"])] == [
        *[False] * 50,
        *[True] * 10,
    ]


def test_candles_made_again_are_not_put_out_twice_by_a_replay():
    bench = Bench()
    ticks = every(MINUTE, T0, T0 + HOUR)
    bench.slice(T0, T0 + HOUR, ticks)
    assert bench.slice(T0, T0 + HOUR, ticks, reason=REBUILD)
    again = Bench()
    applied = again.core.apply(bench.log.groups, suppressed_to=bench.log.groups[-1].end_position)
    assert applied.outputs == []


def test_another_vendor_for_a_part_makes_the_coarse_candle_mixed():
    bench = Bench()
    ticks = every(MINUTE, T0, T0 + 10 * MINUTE)
    bench.slice(T0, T0 + 10 * MINUTE, ticks)
    found = bench.slice(T0, T0 + 2 * MINUTE, ticks[:2], "dukascopy")
    assert {(row["timeframe"], row["source"]) for row in found} == {("1m", "dukascopy"), ("5m", "mixed")}
    bench.check()


def test_only_asked_timeframes_and_bases_are_put_out():
    bench = Bench(timeframes=("1h",), bases=("bid",))
    found = bench.slice(T0, T0 + HOUR, every(MINUTE, T0, T0 + HOUR))
    assert names(found) == [("1h", "bid", 0)]


def test_symbols_and_kinds_do_not_touch_each_other():
    bench = Bench(bases=("bid", "last"))
    bench.take(slice_frames(T0, T0 + HOUR, quotes(every(MINUTE, T0, T0 + HOUR))))
    rows = trades([(T0 + i * MINUTE, 60000.5 + i, 0.1) for i in range(60)])
    found = bench.take(slice_frames(T0, T0 + HOUR, rows, kind="trades", symbol="X:BTCUSD"))
    assert {(row["symbol"], row["basis"]) for row in found} == {("X:BTCUSD", "last")}
    (hour,) = [row for row in found if row["timeframe"] == "1h"]
    assert (hour["volume"], hour["ticks"], hour["vwap"]) == (6.0, 60, pytest.approx(60030.0))
    other = slice_frames(T0, T0 + HOUR, quotes(every(MINUTE, T0, T0 + HOUR), symbol="C:USDJPY"), symbol="C:USDJPY")
    assert {row["symbol"] for row in bench.take(other)} == {"C:USDJPY"}


def test_rows_outside_of_their_slice_make_no_candle():
    bench = Bench()
    rows = quotes(every(MINUTE, T0, T0 + 10 * MINUTE))
    found = bench.take(slice_frames(T0, T0 + 5 * MINUTE, rows))
    assert max(row["ts_ns"] for row in found) == T0 + 4 * MINUTE


@pytest.mark.parametrize("status", ["missing", "quarantined"])
def test_coverage_that_is_no_slice_changes_nothing(status, monkeypatch):
    bench = Bench()
    from actors.market import coverage

    real = coverage.Coverage.__init__
    monkeypatch.setattr(coverage.Coverage, "__init__", lambda self, **k: real(self, **k | {"status": status}))
    frames = slice_frames(T0, T0 + HOUR, quotes(every(MINUTE, T0, T0 + HOUR)))
    assert bench.take(frames) == []


def test_control_without_the_final_bit_in_the_comparison_an_edge_stays_open_for_ever(monkeypatch):
    bench = Bench()
    real = views._same

    def blind(old, i, new, j):
        return real(old, i, new, j) | (old.bars.ticks[i] == new.bars.ticks[j])

    monkeypatch.setattr(views, "_same", blind)
    half = T0 + 30 * MINUTE
    bench.slice(half, T0 + HOUR, every(MINUTE, half, T0 + HOUR))
    bench.slice(T0, half, [])
    with pytest.raises(AssertionError):
        bench.check()


def recorded_day(feed, day):
    """(ts_ns, bid, ask) of a day of a recording."""
    batch = feed.ticks(day)
    return list(zip(*(batch.column(c).to_pylist() for c in ("ts_ns", "bid", "ask")), strict=True))


def vendor_minutes(rows):
    """(basis, start) -> prices of the latest 1m candles of the sides; every one must be final."""
    minutes = {key[1:]: row for key, row in latest(rows).items() if key[0] == "1m" and key[1] != "mid"}
    assert all(row[-1] for row in minutes.values())
    return {key: row[:4] for key, row in minutes.items()}


@pytest.mark.slow
def test_a_recorded_day_by_slices_equals_its_ticks_by_the_slow_loop_in_every_timeframe(lean_forex):
    bench = Bench()
    ticks = recorded_day(lean_forex("oanda"), "20140505")
    start = ticks[0][0] // DAY * DAY
    for low in range(start, start + DAY, HOUR):
        bench.slice(low, low + HOUR, [t for t in ticks if low <= t[0] < low + HOUR])
    bench.check()
    assert {key[0] for key in latest(bench.rows)} == set(TIMEFRAMES)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "minutes", "utc_offset"), [("oanda", 15_366, 0), ("fxcm", 15_857, -5)])
def test_recorded_fortnight_by_slices_equals_the_vendors_minutes(lean_forex, tick_days, name, minutes, utc_offset):
    """All hours from 2014-05-01 to 05-16 of the feed's clock, closed ones too: none differs, none missing, none extra."""
    feed, bench, want = lean_forex(name), Bench(), {}
    start = T0 - utc_offset * HOUR
    by_hour = {}
    for day in tick_days:
        want |= {key: tuple(map(Decimal, prices)) for key, prices in feed.minutes(day).items()}
        batch = feed.ticks(day)
        hours = batch.column("ts_ns").to_numpy() // HOUR * HOUR
        edges = [0, *(np.flatnonzero(np.diff(hours)) + 1).tolist(), len(hours)]
        by_hour |= {int(hours[a]): batch.slice(a, b - a) for a, b in itertools.pairwise(edges)}
    nothing = quotes([])
    for low in range(start, start + 15 * DAY, HOUR):
        bench.take(slice_frames(low, low + HOUR, by_hour.pop(low, nothing)))
    assert not by_hour
    got = vendor_minutes(bench.rows)
    assert got == want
    assert len(got) == 2 * minutes
