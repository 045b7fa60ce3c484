"""What history does behind a live stream, what the two remember, and what they tell each other."""

from __future__ import annotations

import json

import attrs
from hypothesis import given
from hypothesis import strategies as st

from actors.downloader.jobs import Position, Quarantined, Wanted
from actors.downloader.live_feed import owed_minutes
from actors.downloader.live_plan import LiveView, plan_live, settled_to
from actors.downloader.live_position import LivePosition, common, widened, without
from actors.downloader.seam import FeedSeam, MinuteCounts, Orders, Seam
from actors.market.coverage import IntervalSet
from runtime.clock import NS_PER_HOUR, NS_PER_MINUTE
from runtime.log.frame import POSITION_BYTES_MAX
from runtime.log.types import ProducerState

M = NS_PER_MINUTE
JOB = Wanted(job="j", from_ns=0, to_ns=30 * M, refetch=False)


def sets(*pairs) -> IntervalSet:
    return IntervalSet([(a * M, b * M) for a, b in pairs])


def view(**over) -> LiveView:
    given_ns = {k: v * M if isinstance(v, int) else v for k, v in over.items()}
    return attrs.evolve(LiveView(from_ns=0, first_ns=100 * M, seam_ns=100 * M), **given_ns)


def work(position: Position, live: LiveView, available: int, jobs=()):
    found = plan_live(position, jobs, available * M, live)
    return None if found is None else [(a // M, b // M) for a, b in found.intervals]


def covered(*pairs, confirmed=()) -> Position:
    return Position(covered=sets(*pairs), confirmed=sets(*confirmed))


def test_history_ends_at_the_seam_while_a_session_is_up():
    assert work(covered((0, 50)), view(), 120) == [(50, 100)]
    assert work(covered((0, 100)), view(), 120) is None


def test_without_a_session_history_follows_the_clock():
    assert work(covered((0, 50)), view(seam_ns=None, first_ns=None), 60) == [(50, 60)]
    assert work(covered((0, 100)), view(seam_ns=None, live=sets((100, 110))), 115) == [(110, 115)]


def test_the_gap_between_two_sessions_comes_before_old_history():
    two = view(seam_ns=130, live=sets((100, 110)))
    assert work(covered(), two, 200) == [(110, 130)]
    assert work(covered((110, 130)), two, 200) == [(0, 100)]


def test_a_gap_older_than_the_configured_history_is_wanted_too():
    assert work(covered(), view(from_ns=500, first_ns=100, seam_ns=600, live=sets((100, 110))), 700) == [(110, 600)]


def test_a_configured_end_is_kept_and_what_lies_behind_it_is_not_wanted():
    ends = view(until_ns=40, settled_to_ns=60)
    assert work(covered((0, 30)), ends, 200) == [(30, 40)]
    assert work(covered((0, 40)), ends, 200) == [(0, 40)], "settled hours are confirmed as far as they are wanted"
    assert work(covered((0, 40), confirmed=[(0, 40)]), ends, 200) is None


def test_a_persons_job_counts_live_minutes_as_there():
    assert work(covered((0, 10)), view(first_ns=20, seam_ns=20, live=sets((20, 25))), 30, [JOB]) == [(10, 20), (25, 30)]


def test_what_is_owed_is_fetched_when_it_is_over():
    assert work(covered((0, 100)), view(owed=sets((105, 107), (119, 122))), 120) == [(105, 107), (119, 120)]


def test_settled_hours_that_were_not_fetched_since_are_confirmed_those_behind_live_first():
    live = view(first_ns=130, seam_ns=130, settled_to_ns=240)
    assert work(covered((0, 130), confirmed=[(0, 60)]), live, 250) == [(120, 240)]
    assert work(covered((0, 130), confirmed=[(0, 60), (120, 240)]), live, 250) == [(60, 120)]


def test_without_confirmation_nothing_is_fetched_twice():
    assert work(covered((0, 100)), view(), 10_000) is None


def test_the_first_hour_is_confirmed_from_where_history_begins():
    assert work(covered((7, 100)), view(from_ns=7, settled_to_ns=60), 200) == [(7, 60)]


def test_what_is_quarantined_waits():
    assert work(covered((0, 100)), view(settled_to_ns=120, not_yet=sets((60, 120))), 200) == [(0, 60)]


def test_an_hour_settles_only_after_its_end_and_the_settle_time():
    settle = 20 * M
    assert settled_to(10 * NS_PER_HOUR + settle - 1, settle) == 9 * NS_PER_HOUR
    assert settled_to(10 * NS_PER_HOUR + settle, settle) == 10 * NS_PER_HOUR


# --- positions

minutes = st.lists(st.tuples(st.integers(0, 30_000_000), st.integers(1, 500)), max_size=60).map(
    lambda pairs: IntervalSet([(a * M, (a + n) * M) for a, n in pairs])
)


@given(minutes, minutes)
def test_a_live_position_fits_and_never_forgets_what_is_owed(past, again):
    told = LivePosition(session="f" * 32, seam_ns=2**62, to_ns=2**62, first_ns=2**62, past=past, again=again)
    text = told.to_bytes()
    assert len(text) <= POSITION_BYTES_MAX
    found = LivePosition.from_bytes(text)
    assert (found.session, found.seam_ns, found.to_ns, found.first_ns) == ("f" * 32, 2**62, 2**62, 2**62)
    assert not list(without(again, found.again))
    assert not list(without(found.past, past))


@given(minutes, minutes)
def test_a_history_position_with_confirmations_fits(covers, confirms):
    quarantined = tuple(Quarantined(2**60, 2**60, 10**9, -(2**62)) for _ in range(3))
    told = Position(covered=covers, confirmed=confirms, quarantined=quarantined, job="j" * 64, job_done_to=2**62)
    text = told.to_bytes()
    assert len(text) <= POSITION_BYTES_MAX
    found = Position.from_bytes(text)
    assert found.quarantined == quarantined
    assert not list(without(found.covered, covers))
    assert not list(without(found.confirmed, confirms))


def test_all_confirmed_is_said_in_one_word():
    told = covered((1, 2), confirmed=[(1, 2)])
    assert json.loads(told.to_bytes())["confirmed"] is True
    assert Position.from_bytes(told.to_bytes()) == told


@given(minutes, minutes)
def test_interval_arithmetic_agrees_with_counting_minutes(one, other):
    def count(intervals) -> set[int]:
        return {m for a, b in intervals for m in range(a // M, b // M)}

    assert count(without(one, other)) == count(one) - count(other)
    assert count(common(one, other)) == count(one) & count(other)


def test_widened_closes_the_narrowest_gap():
    assert widened(sets((0, 1), (5, 6), (7, 8)), 50) == sets((0, 1), (5, 8))


def test_a_final_slice_ends_the_quarantine_of_what_it_overlaps():
    held = (
        Position().with_quarantined(Quarantined(0, 60 * M, 5, 7)).with_quarantined(Quarantined(60 * M, 120 * M, 5, 7))
    )
    wanted = Wanted(job="", from_ns=0, to_ns=None, refetch=False)
    assert held.after_slice(0, 60 * M, wanted).quarantined == held.quarantined
    assert [q.from_ns for q in held.after_slice(0, 30 * M, wanted, confirms=True).quarantined] == [60 * M]


# --- the seam object


def test_an_order_that_comes_while_its_minute_is_fetched_stays_open():
    orders = Orders()
    orders.add(sets((5, 8)), 1.0)
    orders.begin(sets((0, 7)), 1.5)
    orders.add(sets((6, 7)), 2.0)
    orders.done(0, 7 * M)
    assert orders.open == sets((6, 8))
    assert orders.owed == sets((6, 8))


def test_an_order_whose_fetch_failed_is_open_again():
    orders = Orders()
    orders.add(sets((5, 8)), 1.0)
    orders.begin(sets((0, 60)), 1.5)
    assert orders.owed == sets((5, 8))
    orders.give_back(3.0)
    assert orders.open == sets((5, 8))


def test_orders_wait_for_company_but_a_stream_that_is_always_late_cannot_put_them_off():
    orders = Orders()
    asked_s = [0.0]
    for second in range(200):
        orders.add(sets((5, 6)), second)
        if due := orders.due(second + 0.5, quiet_s=1.0, wait_s=60.0):
            orders.begin(due, second + 0.5)
            asked_s.append(second + 0.5)
            orders.done(0, 7 * M)
            orders.give_back(second + 0.9)
    assert asked_s == [0.0, 60.5, 121.5, 182.5]
    assert orders.due(200.5, quiet_s=1.0, wait_s=60.0) == sets((5, 6))  # quiet now


def test_a_long_download_of_something_else_does_not_put_orders_off():
    orders = Orders()
    for second in range(62):
        orders.add(sets((5, 6)), second)
        orders.begin(sets((100, 200)), second)
        orders.give_back(second)
    assert orders.due(61.0, quiet_s=1.0, wait_s=60.0) == sets((5, 6))


def test_rows_older_than_all_that_is_wanted_order_nothing():
    feed = FeedSeam()
    feed.lower_ns = 10 * M
    feed.order(sets((1, 2), (9, 11), (20, 21)), 1.0)
    assert feed.orders.owed == sets((10, 11), (20, 21))


def test_the_counts_of_forgotten_minutes_are_gone_and_they_are_bounded():
    counts = MinuteCounts()
    counts.add([(n * M, 2) for n in range(10_000)])
    assert counts.rows(0, 10_000 * M) == 2 * 3 * 24 * 60
    counts.forget(9_990 * M, 10_000 * M)
    assert counts.rows(9_980 * M, 10_000 * M) == 20


def test_a_session_that_ended_leaves_its_whole_minutes_until_history_takes_them_over():
    feed = FeedSeam()
    feed.begin(10 * M)
    feed.live_to_ns = 15 * M + 30
    assert feed.live == sets((10, 15))
    feed.end()
    assert (feed.seam_ns, feed.past) == (None, sets((10, 15)))
    feed.taken_over(sets((0, 12)))
    assert feed.past == sets((12, 15))


def test_a_new_process_finds_the_seam_in_the_log():
    position = LivePosition(
        session="s", seam_ns=10 * M, to_ns=15 * M + 1, first_ns=2 * M, past=sets((2, 5)), again=sets((3, 4))
    )
    feed = Seam(lambda name: ProducerState(sequence=1, position=position.to_bytes())).feed("C:EURUSD", "quotes")
    assert (feed.first_ns, feed.seam_ns) == (2 * M, None)
    assert feed.past == sets((2, 5), (10, 15))
    assert feed.orders.open == sets((3, 4))


def test_refused_rows_before_the_seam_whose_minute_nobody_asked_for_yet_owe_nothing():
    refused = tuple(sets((5, 12)))
    owed = owed_minutes(refused, 10 * M, 8 * M)
    assert IntervalSet(owed) == sets((5, 8), (10, 12))
