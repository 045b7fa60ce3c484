"""Live rows and heartbeats in, between slices: at every step exactly the candles of what is stored and passed."""

import itertools
from decimal import Decimal

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.aggregator import core as core_module
from actors.aggregator.day import Day
from actors.aggregator.stream import Stream
from actors.market.coverage import UNCONFIRMED_FINAL
from actors.market.flags import Flag
from tests.support.aggregator import (
    BASES,
    DAY,
    HOUR,
    LATENESS_NS,
    LIVE,
    MINUTE,
    T0,
    Bench,
    every,
    latest,
    live_frames,
    names,
    quotes,
    slice_frames,
    trades,
)

S = 10**9


# What is out and when ----------------------------------------------------------------------------------------------


def test_a_live_candle_comes_out_when_heartbeats_pass_its_end_by_the_lateness():
    bench = Bench()
    assert bench.live([(T0 + 5 * S, 1.3, 1.4), (T0 + 55 * S, 1.31, 1.41)], beat=(T0, T0 + 58 * S)) == []
    assert bench.live(beat=(T0 + MINUTE, T0 + MINUTE + 2 * S - 1)) == []
    found = bench.live(beat=(T0 + MINUTE, T0 + MINUTE + 2 * S))
    assert names(found) == [("1m", b, 0) for b in sorted(BASES)]
    bid = next(row for row in found if row["basis"] == "bid")
    assert (bid["open"], bid["high"], bid["low"], bid["close"], bid["ticks"]) == (1.3, 1.31, 1.3, 1.31, 2)
    assert (bid["final"], bid["source"], bid["origin"]) == (False, "polygon", "ticks")
    bench.check()


def test_ticks_move_no_watermark_however_far_ahead_they_are():
    bench = Bench()
    assert bench.live([(T0 + 5 * S, 1.3, 1.4), (T0 + 50 * MINUTE, 1.3, 1.4)], beat=(T0, T0 + 59 * S)) == []
    assert len(bench.live([(T0 + 40 * S, 1.2, 1.4)], beat=(T0 + MINUTE, T0 + MINUTE + 2 * S))) == 3
    bench.check()


def test_a_heartbeat_closes_when_nothing_trades_and_an_older_one_reopens_nothing():
    bench = Bench()
    bench.live(every(10 * S, T0, T0 + 5 * MINUTE))
    found = bench.live(beat=(T0, T0 + 5 * MINUTE + 2 * S))
    assert {row["timeframe"] for row in found} == {"1m", "5m"}
    assert bench.live(beat=(T0, T0 + 3 * MINUTE)) == []
    bench.check()


def test_coarse_candles_close_by_the_watermark_and_a_quiet_stream_gives_none():
    bench = Bench()
    for start in range(T0, T0 + DAY, 30 * MINUTE):
        bench.live(every(10 * MINUTE, start, start + 30 * MINUTE), beat=(start, start + 30 * MINUTE))
    assert "1d" not in {row["timeframe"] for row in bench.rows}
    found = bench.live(beat=(T0 + DAY, T0 + DAY + 2 * S))
    assert {row["timeframe"] for row in found} == {"5m", "15m", "1h", "4h", "1d"} - {"5m"}
    assert not any(row["final"] for row in bench.rows)
    bench.check()
    assert bench.live(beat=(T0 + DAY, T0 + 3 * DAY)) == []


def test_a_gap_over_days_closes_what_was_open_before_it():
    bench = Bench()
    bench.live(every(MINUTE, T0, T0 + 3 * MINUTE), beat=(T0, T0 + 3 * MINUTE))
    late = T0 + 4 * DAY
    found = bench.live(beat=(late, late + MINUTE))
    assert {row["timeframe"] for row in found} == {"1m", "5m", "15m", "1h", "4h", "1d"}
    bench.check()


@pytest.mark.parametrize(
    ("tick", "want"),
    [
        ((T0 + 5 * S, 1.2, 1.5), (1.2, 1.35, 1.2, 1.32)),  # before the first: a new open and low
        ((T0 + 10 * S, 1.2, 1.5), (1.3, 1.35, 1.2, 1.32)),  # as old as the first, came later: not the open
        ((T0 + 40 * S, 1.29, 1.5), (1.3, 1.35, 1.29, 1.29)),  # as old as the last, came later: the close
        ((T0 + 39 * S, 1.4, 1.5), (1.3, 1.4, 1.3, 1.32)),
        ((T0 + 59 * S, 1.31, 1.5), (1.3, 1.35, 1.3, 1.31)),
    ],
)
@pytest.mark.parametrize("age", [0, 30 * MINUTE, 3 * DAY])
def test_a_late_tick_changes_what_it_changes_at_any_age(tick, want, age):
    bench = Bench()
    bench.live([(T0 + 10 * S, 1.3, 1.5), (T0 + 20 * S, 1.35, 1.5), (T0 + 40 * S, 1.32, 1.5)])
    bench.live(beat=(T0, T0 + 2 * MINUTE + age))
    found = bench.live([tick])
    bid = next(row for row in found if (row["timeframe"], row["basis"]) == ("1m", "bid"))
    assert (bid["open"], bid["high"], bid["low"], bid["close"], bid["ticks"]) == (*want, 4)
    assert bid["revision"] == bench.log.groups[-1].stamp_ns
    bench.check()


def test_a_late_tick_into_an_empty_minute_gives_a_candle_at_once():
    bench = Bench()
    bench.live(every(MINUTE, T0, T0 + MINUTE), beat=(T0, T0 + 5 * MINUTE + LATENESS_NS))
    found = bench.live([(T0 + 3 * MINUTE, 1.3, 1.31)])
    assert {(row["timeframe"], row["ts_ns"]) for row in found} == {("1m", T0 + 3 * MINUTE), ("5m", T0)}
    bench.check()


def test_a_group_over_midnight_is_one_output():
    bench = Bench()
    midnight = T0 + DAY
    bench.live(every(S, midnight - 10 * S, midnight + 10 * S), beat=(midnight, midnight + 10 * S))
    bench.check()
    assert {row["timeframe"] for row in bench.rows} == {"1m", "5m", "15m", "1h", "4h", "1d"}


def test_live_candles_go_to_the_live_partition():
    bench = Bench()
    bench.log.append(live_frames(quotes(every(S, T0, T0 + 10 * S)), (T0, T0 + 2 * MINUTE)))
    (output,) = bench.core.apply(bench.log.groups, suppressed_to=0).outputs
    assert {frame.partition for frame in output.frames} == {LIVE}


def test_a_rejected_slice_beside_heartbeats_is_not_live():
    """Rows under a quarantined record make no candle."""
    import attrs

    from actors.market import schema
    from actors.market.coverage import coverage_batch, coverage_records

    bench = Bench()
    rows, cover = slice_frames(T0, T0 + HOUR, quotes(every(MINUTE, T0, T0 + HOUR)))
    record = coverage_records(schema.decode(schema.schema_message("coverage"), cover.body))[0]
    (body,) = schema.encode("coverage", coverage_batch([attrs.evolve(record, status="quarantined")]))
    assert bench.take((rows, msgspec.structs.replace(cover, body=body.body))) == []
    assert bench.live(beat=(T0, T0 + 2 * HOUR)) == []


# Slices over live rows ---------------------------------------------------------------------------------------------


def test_a_provisional_slice_replaces_but_is_not_final_and_a_final_one_is():
    bench = Bench()
    ticks = every(10 * S, T0, T0 + 5 * MINUTE)
    bench.live(ticks[3:9], beat=(T0, T0 + 5 * MINUTE + LATENESS_NS))
    found = bench.slice(T0, T0 + 5 * MINUTE, ticks, final=False)
    assert found
    assert not any(row["final"] for row in found)
    assert bench.slice(T0, T0 + 5 * MINUTE, ticks, final=False) == []
    found = bench.slice(T0, T0 + 5 * MINUTE, ticks)
    assert names(found) == sorted([("1m", b, m) for b in BASES for m in range(5)] + [("5m", b, 0) for b in BASES])
    assert all(row["final"] for row in found)
    bench.check()


def test_confirmation_that_finds_what_live_had_changes_nothing_but_final():
    bench = Bench()
    ticks = every(10 * S, T0, T0 + HOUR)
    for start in range(0, 360, 7):
        bench.live(ticks[start : start + 7])
    bench.live(beat=(T0, T0 + HOUR + LATENESS_NS))
    before = latest(bench.rows)
    bench.slice(T0, T0 + HOUR, ticks)
    after = latest(bench.rows)
    assert {key: row[:-1] for key, row in after.items()} == {key: row[:-1] for key, row in before.items()}
    assert {row[-1] for row in before.values()} == {False}
    assert {row[-1] for row in after.values()} == {True}


def test_a_minute_that_confirmation_does_not_have_is_gone():
    bench = Bench()
    ticks = every(30 * S, T0, T0 + 5 * MINUTE)
    bench.live(ticks, beat=(T0, T0 + 5 * MINUTE + LATENESS_NS))
    found = bench.slice(T0, T0 + 5 * MINUTE, ticks[2:])
    assert names([row for row in found if row["flags"] & Flag.GONE]) == [("1m", b, 0) for b in sorted(BASES)]
    bench.check()


def test_hours_confirmed_in_any_order_never_take_back_a_coarse_candle():
    bench = Bench()
    ticks = every(10 * MINUTE, T0, T0 + 2 * HOUR)
    bench.live(ticks, beat=(T0, T0 + 2 * HOUR))
    bench.live(beat=(T0 + 5 * HOUR, T0 + 5 * HOUR + MINUTE))  # the stream was away over the end of the 4h candle
    for hour in (1, 0, 2):
        start = T0 + hour * HOUR
        found = bench.slice(start, start + HOUR, [t for t in ticks if start <= t[0] < start + HOUR])
        assert not any(row["flags"] & Flag.GONE for row in found)
        bench.check()
    bench.slice(T0 + 3 * HOUR, T0 + 4 * HOUR, [])
    bench.check()
    assert latest(bench.rows)["4h", "bid", T0][-1]


def test_history_before_the_first_live_instant_waits_for_its_end_as_ever():
    """A watermark far ahead must not put out coarse candles half loaded, once per slice."""
    bench = Bench()
    live = T0 + 2 * DAY
    bench.live(every(S, live, live + 10 * S), beat=(live, live + 5 * MINUTE))
    for quarter in range(4):
        start = T0 + quarter * 15 * MINUTE
        found = bench.slice(start, start + 15 * MINUTE, every(MINUTE, start, start + 15 * MINUTE))
        assert ("1h" in {row["timeframe"] for row in found}) == (quarter == 3)
    bench.check()


def test_a_candle_that_history_and_live_share_comes_out_by_the_watermark():
    """Live began at 00:30; the hour's first half is history and nothing trades live."""
    bench = Bench()
    bench.live(beat=(T0 + 30 * MINUTE, T0 + 31 * MINUTE))
    bench.slice(T0, T0 + 30 * MINUTE, every(MINUTE, T0, T0 + 30 * MINUTE))
    found = bench.live(beat=(T0 + 59 * MINUTE, T0 + HOUR + LATENESS_NS))
    assert {row["timeframe"] for row in found} == {"1h"}
    bench.check()


def test_a_live_row_after_a_final_slice_is_counted_and_no_longer_final():
    bench = Bench()
    bench.slice(T0, T0 + 5 * MINUTE, every(10 * S, T0, T0 + 5 * MINUTE))
    found = bench.live([(T0 + 61 * S, 1.2, 1.3)])
    assert {(row["timeframe"], row["ts_ns"], row["final"]) for row in found} == {
        ("1m", T0 + MINUTE, False),
        ("5m", T0, False),
    }
    bench.check()


def test_ticks_of_two_vendors_in_a_minute_make_it_mixed():
    bench = Bench()
    bench.live([(T0, 1.3, 1.4)], source="polygon")
    bench.live([(T0 + S, 1.3, 1.4)], source="dukascopy", beat=(T0, T0 + 2 * MINUTE))
    assert {row["source"] for row in bench.rows} == {"mixed"}
    bench.check()


def test_without_confirmation_contiguous_minutes_are_final_and_stay_so():
    bench = Bench()
    for minute in range(5):
        start = T0 + minute * MINUTE
        for second in range(1, 61):
            rows = [(start + (second - 1) * S, 1.3, 1.31)] if second % 10 == 0 else []
            bench.live(rows, beat=(start, start + second * S), reason=UNCONFIRMED_FINAL)
    bench.live(beat=(T0 + 5 * MINUTE, T0 + 5 * MINUTE + 2 * S), reason=UNCONFIRMED_FINAL)
    assert {(row["timeframe"], row["final"]) for row in bench.rows} == {("1m", True), ("5m", True)}
    found = bench.live([(T0 + 3 * S, 1.2, 1.3)])
    assert found
    assert all(row["final"] for row in found)
    bench.check()


def test_without_confirmation_a_minute_with_a_hole_is_not_final():
    bench = Bench()
    bench.live([(T0, 1.3, 1.31)], beat=(T0, T0 + 30 * S), reason=UNCONFIRMED_FINAL)
    bench.live(beat=(T0 + 45 * S, T0 + MINUTE), reason=UNCONFIRMED_FINAL)
    bench.live(beat=(T0 + MINUTE, T0 + 2 * MINUTE), reason=UNCONFIRMED_FINAL)
    assert {row["final"] for row in bench.rows} == {False}
    bench.check()


# Any interleaving --------------------------------------------------------------------------------------------------

HOURS = (T0 + DAY - HOUR, T0 + DAY)
price = st.integers(1300, 1303).map(lambda m: m / 1000)
spot = st.integers(0, 2 * 360 - 1).map(lambda n: HOURS[0] + n * 10 * S)
tick = st.tuples(spot, price, price)
vendor = st.sampled_from(["polygon", "polygon", "dukascopy"])


@st.composite
def a_batch(draw):
    """Rows in any order of time, ties and repetitions included, perhaps with a heartbeat."""
    rows = draw(st.lists(tick, min_size=1, max_size=12))
    return "live", rows, draw(st.none() | a_beat_interval()), draw(vendor), ""


@st.composite
def a_beat_interval(draw):
    to_ns = HOURS[0] + draw(st.integers(1, 2 * 3600 + 200)) * S
    return (to_ns - 1) // MINUTE * MINUTE - draw(st.integers(0, 2)) * MINUTE, to_ns


@st.composite
def a_beat(draw):
    return "live", [], draw(a_beat_interval()), "polygon", draw(st.sampled_from(["", "", UNCONFIRMED_FINAL]))


@st.composite
def a_slice(draw):
    hour = draw(st.sampled_from(HOURS))
    low = draw(st.integers(0, 11))
    high = draw(st.integers(low + 1, 12))
    from_ns, to_ns = hour + 5 * low * MINUTE, hour + 5 * high * MINUTE
    inside = st.integers(0, (to_ns - from_ns) // (10 * S) - 1).map(lambda n: from_ns + n * 10 * S)
    rows = sorted(draw(st.lists(st.tuples(inside, price, price), max_size=12)), key=lambda row: row[0])
    return "slice", rows, (from_ns, to_ns), draw(vendor), draw(st.booleans())


events = st.lists(a_batch() | a_beat() | a_slice(), max_size=9)


def play(bench, event):
    what, rows, interval, source, extra = event
    if what == "slice":
        return bench.slice(*interval, rows, source, final=extra)
    return bench.live(rows, beat=interval, source=source, reason=extra)


@given(events)
def test_after_every_step_the_candles_are_the_slow_fold_of_what_is_stored(steps):
    bench = Bench()
    for step in steps:
        play(bench, step)
        bench.check()


@given(events, st.lists(tick, max_size=15), st.lists(tick, max_size=15), st.permutations(range(8)))
def test_after_final_coverage_nothing_of_live_is_left(steps, first, second, order):
    """Whatever came before, in the end there are exactly the candles of the final slices, every one final."""
    ticks = {HOURS[0]: first, HOURS[1]: second}
    finals = []
    for hour, low in itertools.product(HOURS, range(4)):
        from_ns = hour + 15 * low * MINUTE
        rows = sorted((t for t in ticks[hour] if from_ns <= t[0] < from_ns + 15 * MINUTE), key=lambda row: row[0])
        finals.append((from_ns, from_ns + 15 * MINUTE, rows))
    bench, clean = Bench(), Bench()
    for step in steps:
        play(bench, step)
    for index in order:
        bench.slice(*finals[index])
    for one in finals:
        clean.slice(*one)
    touched = {"5m", "15m", "1h", "1m"}
    got, want = ({k: v for k, v in latest(b.rows).items() if k[0] in touched} for b in (bench, clean))
    assert got == want
    assert all(row[-1] for row in got.values())


@given(events, st.integers(0, 12), st.data())
def test_stopped_anywhere_and_resumed_from_older_state_it_ends_in_the_same_candles(steps, cut, data):
    """Day files newer than the checkpoint, in any subset: the replay adds no live row twice."""
    from actors.aggregator.core import CODE_VERSION, Core
    from actors.aggregator.store import DayStore
    from tests.support.aggregator import STATE

    whole = Bench()
    for step in steps:
        play(whole, step)
    groups, disk = whole.log.groups, whole.core.store.disk
    disk = type(disk)()

    def life():
        store = DayStore(disk=disk, directory=STATE, log_id="log-1", code=CODE_VERSION, days_max=100)
        begin = store.open(10**12)
        return begin, Core(
            store=store, timeframes=whole.core.timeframes, bases=BASES, lateness_ns=whole.core.lateness_ns
        )

    cut = min(cut, len(groups))
    early = data.draw(st.integers(0, cut))
    _, core = life()
    outputs = core.apply(groups[:early], suppressed_to=0).outputs
    core.store.write_days(core.store.dirty)
    core.store.write_checkpoint(groups[early - 1].end_position if early else 0)
    outputs += core.apply(groups[early:cut], suppressed_to=0).outputs
    core.store.write_days([key for key in core.store.dirty if data.draw(st.booleans())])
    begin, core = life()
    last = max((output.input_end for output in outputs), default=0)
    core.lateness_replayed_ns, core.lateness_ns = core.lateness_ns, 0
    again = core.apply([g for g in groups if g.position >= begin and g.end_position <= last], suppressed_to=last)
    assert again.outputs == []
    core.lateness_ns = whole.core.lateness_ns
    rest = core.apply([g for g in groups if g.position >= begin and g.end_position > last], suppressed_to=last)
    straight = Bench()
    want = straight.core.apply(groups, suppressed_to=0).outputs
    assert [o for o in want if o.input_end > last] == rest.outputs


def test_the_state_of_an_open_candle_survives_its_file():
    bench = Bench()
    bench.live([(T0 + 10 * S, 1.3, 1.5), (T0 + 40 * S, 1.32, 1.5)], beat=(T0, T0 + 50 * S))
    store = bench.core.store
    store.write_days(store.dirty)
    store.write_checkpoint(bench.log.end)
    assert store.open(10**12) == bench.log.end
    bench.live([(T0 + 40 * S, 1.29, 1.5), (T0 + 10 * S, 1.1, 1.5)])
    bench.live(beat=(T0 + MINUTE, T0 + 2 * MINUTE))
    bench.check()
    assert latest(bench.rows)["1m", "bid", T0][:5] == (*map(Decimal, ("1.3", "1.32", "1.1", "1.29")), 4)


# Trades ------------------------------------------------------------------------------------------------------------

trade = st.tuples(
    st.integers(0, 29).map(lambda n: T0 + n * 10 * S),
    st.integers(1, 10**7).map(lambda m: m / 100),
    st.integers(1, 10**9).map(lambda m: m / 1e8),
)


@given(st.lists(st.lists(trade, min_size=1, max_size=8), min_size=1, max_size=8))
def test_trades_folded_batch_by_batch_have_exact_volume_and_mean_price(batches):
    bench = Bench(bases=("last",))
    for rows in batches:
        bench.take(live_frames(trades(rows), kind="trades", symbol="X:BTCUSD"))
    bench.take(live_frames(None, (T0, T0 + HOUR), kind="trades", symbol="X:BTCUSD"))
    ticks = sorted((row for rows in batches for row in rows), key=lambda row: row[0])
    minutes = [row for row in bench.rows if row["timeframe"] in {"1m", "5m"}]
    step = {"1m": MINUTE, "5m": 5 * MINUTE}
    assert {row["ts_ns"] for row in minutes if row["timeframe"] == "1m"} == {t // MINUTE * MINUTE for t, _, _ in ticks}
    for row in minutes:
        end = row["ts_ns"] + step[row["timeframe"]]
        inside = [(Decimal(repr(p)), Decimal(repr(q))) for t, p, q in ticks if row["ts_ns"] <= t < end]
        prices = [p for p, _ in inside]
        volume, notional = sum(q for _, q in inside), sum(p * q for p, q in inside)
        shown = [Decimal(repr(row[name])) for name in ("open", "high", "low", "close")]
        assert shown == [prices[0], max(prices), min(prices), prices[-1]]
        assert (row["basis"], row["ticks"], row["volume"]) == ("last", len(inside), float(volume))
        if notional < 10**5:  # fifteen digits hold it: not a bit may differ from one fold of all
            assert row["vwap"] == min(max(float(notional) / float(volume), row["low"]), row["high"])
        assert row["vwap"] == pytest.approx(float(notional / volume), rel=1e-12)


# Open candles ------------------------------------------------------------------------------------------------------


def test_open_candles_show_what_is_not_out_yet():
    bench = Bench(timeframes=("1m", "5m"), bases=("bid",))
    bench.live([(T0 + 10 * S, 1.3, 1.4), (T0 + 70 * S, 1.31, 1.41)], beat=(T0 + MINUTE, T0 + 71 * S))
    (shown,) = bench.core.open_bars()
    assert shown.symbol == "C:EURUSD"
    assert shown.watermark_ns == T0 + 69 * S
    assert [(b.timeframe, b.ts_ns, b.open, b.close, b.ticks) for b in shown.bars] == [
        ("1m", T0 + MINUTE, 1.31, 1.31, 1),
        ("5m", T0, 1.3, 1.31, 2),
    ]
    assert bench.core.open_bars() == []
    bench.live(beat=(T0 + MINUTE, T0 + 5 * MINUTE + LATENESS_NS))
    assert bench.core.open_bars()[0].bars == ()


def test_open_candles_are_bounded_when_no_heartbeat_comes():
    bench = Bench(timeframes=("1m",), bases=("bid",))
    bench.live(every(10 * S, T0, T0 + HOUR))
    (shown,) = bench.core.open_bars()
    assert [bar.ts_ns for bar in shown.bars] == [T0 + minute * MINUTE for minute in range(55, 60)]


# Positive controls -------------------------------------------------------------------------------------------------


def confirmed_run(bench):
    """A late tick, a quiet end, no confirmation: what the mutants below get wrong."""
    ticks = every(10 * S, T0, T0 + 3 * MINUTE)
    bench.live(ticks[:6], beat=(T0, T0 + 30 * S))
    bench.live(ticks[7:], beat=(T0, T0 + 2 * MINUTE + 5 * S))
    bench.live(ticks[6:7])
    bench.live(beat=(T0 + 2 * MINUTE, T0 + 2 * MINUTE + 55 * S))
    bench.check()


def test_the_run_of_the_controls_is_right_without_them():
    confirmed_run(Bench())


def test_control_a_late_tick_ignored(monkeypatch):
    real = core_module.fold

    def deaf(kind, batch, **options):
        ts_ns = batch.column("ts_ns").to_numpy()
        watermark = next(iter(bench.core.store.streams.values())).watermark_ns or 0
        return real(kind, batch.filter(pa.array(ts_ns >= watermark // MINUTE * MINUTE)), **options)

    monkeypatch.setattr(core_module, "fold", deaf)
    bench = Bench()
    with pytest.raises(AssertionError):
        confirmed_run(bench)


def test_control_the_newest_tick_as_watermark(monkeypatch):
    """What arrival or wall time as a watermark does: it closes what is still open."""
    real = Stream.advanced

    def hasty(self, reached_ns, touched_days, *, lateness_ns):
        return real(self, [*reached_ns, T0 + 3 * MINUTE + lateness_ns], touched_days, lateness_ns=lateness_ns)

    monkeypatch.setattr(Stream, "advanced", hasty)
    with pytest.raises(AssertionError):
        confirmed_run(Bench())


def test_control_a_tie_given_to_the_first_that_came(monkeypatch):
    from actors.aggregator import day

    real = day.merge
    monkeypatch.setattr(day, "merge", lambda a, b: real(b, a) if a.ticks.all() else real(a, b))
    bench = Bench()
    bench.live([(T0, 1.3, 1.4)])
    bench.live([(T0, 1.2, 1.4)], beat=(T0, T0 + 2 * MINUTE))
    with pytest.raises(AssertionError):
        bench.check()


def test_control_a_provisional_slice_taken_for_final(monkeypatch):
    real = Day.replace
    monkeypatch.setattr(Day, "replace", lambda self, *a, final: real(self, *a, final=True))
    bench = Bench()
    bench.slice(T0, T0 + 5 * MINUTE, every(10 * S, T0, T0 + 5 * MINUTE), final=False)
    with pytest.raises(AssertionError):
        bench.check()


def test_control_a_day_that_does_not_know_its_last_input_counts_live_rows_twice(monkeypatch):
    bench = Bench()
    bench.live(every(10 * S, T0, T0 + MINUTE))
    store = bench.core.store
    real = store.touched
    monkeypatch.setattr(type(store), "touched", lambda self, day, end: real(day, 0))
    bench.live(every(10 * S, T0, T0 + MINUTE))
    bench.core.apply(bench.log.groups[-1:], suppressed_to=10**12)  # the replay of what the day holds already
    bench.live(beat=(T0, T0 + 2 * MINUTE))
    with pytest.raises(AssertionError):
        bench.check()


# Recordings --------------------------------------------------------------------------------------------------------


def as_live(bench, batch, start, end, *, rng, rows_max=40):
    """A recording as live groups of random sizes, with a heartbeat about every second of market time, as live sends."""
    ts_ns = batch.column("ts_ns").to_numpy()
    at, begin = 0, start
    while begin < end:
        second = min(end, begin + int(rng.integers(1, 40)) * S)
        until = int(np.searchsorted(ts_ns, second))
        while at < until:
            size = min(until - at, int(rng.integers(1, rows_max)))
            bench.take(live_frames(batch.slice(at, size)))
            at += size
        for minute in range(begin // MINUTE * MINUTE, second, MINUTE):
            bench.take(live_frames(None, (minute, min(minute + MINUTE, second))))
        begin = second


def vendor_minutes(rows):
    """(basis, start) -> (prices, final) of the latest 1m candles of the sides."""
    found = {key[1:]: row for key, row in latest(rows).items() if key[0] == "1m" and key[1] != "mid"}
    return {key: row[:4] for key, row in found.items()}, [row[-1] for row in found.values()]


@pytest.mark.slow
@pytest.mark.parametrize("day", ["20140504", "20140505"])
def test_a_recorded_day_live_equals_the_vendors_minutes_and_confirmation_only_makes_it_final(lean_forex, day):
    feed, bench = lean_forex("oanda"), Bench(timeframes=("1m", "5m", "1h"))
    batch = feed.ticks(day)
    ts_ns = batch.column("ts_ns").to_numpy()
    start = int(ts_ns[0]) // DAY * DAY
    as_live(bench, batch, int(ts_ns[0]) // HOUR * HOUR, start + DAY, rng=np.random.default_rng(3))
    bench.take(live_frames(None, (start + DAY, start + DAY + 3 * S)))
    want = {key: tuple(map(Decimal, prices)) for key, prices in feed.minutes(day).items()}
    got, final = vendor_minutes(bench.rows)
    assert got == want
    assert not any(final)
    assert len(bench.rows) == len(latest(bench.rows)), "everything came in order: no candle was revised"
    live = latest(bench.rows)
    for low in range(start, start + DAY, HOUR):
        a, b = np.searchsorted(ts_ns, [low, low + HOUR])
        bench.take(slice_frames(low, low + HOUR, batch.slice(a, b - a), source="oanda"))
    got, final = vendor_minutes(bench.rows)
    assert got == want
    assert all(final)
    assert {k: v[:-1] for k, v in latest(bench.rows).items()} == {k: v[:-1] for k, v in live.items()}


@pytest.mark.slow
def test_a_recorded_day_with_a_gap_late_ticks_and_a_replay_ends_in_the_vendors_minutes(lean_forex):
    """3 % arrive up to 30 min late, two hours are lost, the last thousand rows are sent again: confirmation mends all."""
    feed, bench = lean_forex("oanda"), Bench(timeframes=("1m", "15m"))
    rng = np.random.default_rng(5)
    batch = feed.ticks("20140505")
    ts_ns = batch.column("ts_ns").to_numpy()
    start = int(ts_ns[0]) // DAY * DAY
    late = np.flatnonzero(rng.random(len(ts_ns)) < 0.03)
    arrival = ts_ns.copy()
    arrival[late] += rng.integers(0, 30 * MINUTE, late.size)
    lost = (ts_ns >= start + 9 * HOUR) & (ts_ns < start + 11 * HOUR)
    order = np.argsort(arrival, kind="stable")
    order = order[~lost[order]]
    again = np.searchsorted(arrival[order], start + 15 * HOUR)
    order = np.concatenate((order[:again], order[again - 1000 : again], order[again:]))
    for low in range(0, len(order), 100):
        rows = order[low : low + 100]
        reached = int(arrival[rows].max()) // S * S
        minute = (reached - 1) // MINUTE * MINUTE
        bench.take(live_frames(batch.take(pa.array(rows)), (minute, reached)))
        if low == 5000:
            gap = np.searchsorted(ts_ns, [start + 9 * HOUR, start + 10 * HOUR])
            bench.take(
                slice_frames(
                    start + 9 * HOUR,
                    start + 10 * HOUR,
                    batch.slice(gap[0], gap[1] - gap[0]),
                    source="oanda",
                    final=False,
                )
            )
    want = {key: tuple(map(Decimal, prices)) for key, prices in feed.minutes("20140505").items()}
    assert vendor_minutes(bench.rows)[0] != want
    for low in range(start, start + DAY, HOUR):
        a, b = np.searchsorted(ts_ns, [low, low + HOUR])
        bench.take(slice_frames(low, low + HOUR, batch.slice(a, b - a), source="oanda"))
    got, final = vendor_minutes(bench.rows)
    assert got == want
    assert all(final)


@pytest.mark.slow
def test_captured_trades_live_equal_a_loop_over_decimals(binance_trades):
    """Binance 2024-08-08: by exchange time, over midnight; OHLCV and vwap of every minute, and confirmation keeps all."""
    rows = binance_trades("btcusdt")
    assert len(rows) == 9757
    bench = Bench(timeframes=("1m", "5m", "1h", "1d"), bases=("last",))
    symbol = {"kind": "trades", "symbol": "X:BTCUSDT"}
    for low in range(0, len(rows), 17):
        part = [(t, float(p), float(q)) for t, p, q in rows[low : low + 17]]
        reached = part[-1][0] // S * S
        minute = (reached - 1) // MINUTE * MINUTE
        bench.take(live_frames(trades(part, symbol="X:BTCUSDT"), (minute, reached), **symbol))
    end = (rows[-1][0] // MINUTE + 1) * MINUTE
    bench.take(live_frames(None, (end - MINUTE, end + 3 * S), **symbol))
    want = {}
    for t, text_price, text_size in rows:
        p, q = Decimal(text_price), Decimal(text_size)
        bar = want.setdefault(t // MINUTE * MINUTE, [p, p, p, p, Decimal(0), Decimal(0), 0])
        bar[1], bar[2], bar[3] = max(bar[1], p), min(bar[2], p), p
        bar[4], bar[5], bar[6] = bar[4] + q, bar[5] + p * q, bar[6] + 1

    def check(final):
        newest = {row["ts_ns"]: row for row in bench.rows if row["timeframe"] == "1m"}
        assert newest.keys() == want.keys()
        for start, (o, h, low, c, volume, notional, ticks) in want.items():
            row = newest[start]
            shown = [Decimal(repr(row[n])) for n in ("open", "high", "low", "close", "volume")]
            assert shown == [o, h, low, c, volume]
            assert row["vwap"] == float(notional) / float(volume)
            assert (row["ticks"], row["final"], row["basis"]) == (ticks, final, "last")

    check(final=False)
    assert len(want) == 7
    first = rows[0][0] // MINUTE * MINUTE
    split = [first, (first // HOUR + 1) * HOUR, end]
    for a, b in itertools.pairwise(split):
        part = [(t, float(p), float(q)) for t, p, q in rows if a <= t < b]
        bench.take(slice_frames(a, b, trades(part, symbol="X:BTCUSDT"), **symbol))
    check(final=True)
