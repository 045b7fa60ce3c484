"""The vendor's clock, from answers that are late, rounded and sometimes stepped."""

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import market_clock
from runtime.market_clock import MarketClock, Sample

S = 10**9
Y2014 = 1_398_902_400 * S


@attrs.define
class Hands:
    """A clock set by hand: wall and monotonic are 1.7e18 ns apart."""

    monotonic: float = 50.0

    def wall_ns(self) -> int:
        return 1_700_000_000 * S + round(self.monotonic * S)

    def monotonic_s(self) -> float:
        return self.monotonic


@attrs.define
class Vendor:
    """Tells its time to the second, over a line that takes a while in each direction."""

    hands: Hands = attrs.field(factory=Hands)
    start_ns: int = Y2014
    rate: float = 1.0
    since_s: float = 50.0
    resolution_ns: int = S

    def true_ns(self) -> int:
        return self.start_ns + round((self.hands.monotonic - self.since_s) * self.rate * S)

    def pace(self, rate: float, step_ns: int = 0) -> None:
        self.start_ns, self.since_s, self.rate = self.true_ns() + step_ns, self.hands.monotonic, rate

    def answer(self, there_s: float = 0.01, back_s: float = 0.01) -> Sample:
        sent_s = self.hands.monotonic
        self.hands.monotonic += there_s
        told = self.true_ns() // self.resolution_ns * self.resolution_ns
        self.hands.monotonic += back_s
        return Sample(sent_s=sent_s, received_s=self.hands.monotonic, vendor_ns=told, resolution_ns=self.resolution_ns)


def ask(clock: MarketClock, vendor: Vendor, times: int, *, every_s: float = 1.01) -> None:
    for _ in range(times):
        clock.observe(vendor.answer())
        vendor.hands.monotonic += every_s


def test_without_an_answer_it_is_the_wall_clock():
    hands = Hands()
    clock = MarketClock(hands)
    assert clock.now_ns() == hands.wall_ns()
    assert clock.now_ns(hands.monotonic + 2.5) == hands.wall_ns() + 2_500_000_000
    assert clock.bounds_ns() == (hands.wall_ns(), hands.wall_ns())
    assert (clock.known, clock.rate, clock.offset_s, clock.state()) == (False, 1.0, 0.0, None)


def test_the_first_answer_bounds_the_time_by_its_rounding_and_its_way():
    vendor = Vendor(start_ns=Y2014 + 700_000_000)
    clock = MarketClock(vendor.hands)
    clock.observe(vendor.answer(there_s=0.2, back_s=0.3))
    low, high = clock.bounds_ns()
    assert low <= vendor.true_ns() <= high
    assert high - low == 1_500_000_000
    assert clock.known


def test_more_answers_narrow_the_bounds_and_a_real_vendor_has_rate_one():
    vendor = Vendor(start_ns=Y2014 - 1_270_000_000)
    clock = MarketClock(vendor.hands)
    ask(clock, vendor, 60)
    low, high = clock.bounds_ns()
    assert low <= vendor.true_ns() <= high
    assert high - low < 60_000_000, "asked at many phases of the second, the rounding no longer matters"
    assert clock.rate == 1.0
    assert clock.offset_s == pytest.approx((vendor.true_ns() - vendor.hands.wall_ns()) / S, abs=0.03)
    assert clock.state().error_s < 0.03


@given(
    st.floats(-1e9, 1e9),
    st.sampled_from([0.0, 0.5, 1.0, 10.0, 500.0, 2000.0]),
    st.lists(st.tuples(st.floats(0.001, 0.4), st.floats(0.001, 0.4), st.floats(0.2, 3.0)), min_size=2, max_size=40),
    st.sampled_from([1, 1_000_000, S]),
    st.floats(0.0, 5.0),
)
def test_the_true_time_lies_between_the_bounds_at_any_rate_and_any_delays(offset_s, rate, answers, resolution, after_s):
    vendor = Vendor(start_ns=Y2014 + round(offset_s * S), rate=rate, resolution_ns=resolution)
    clock = MarketClock(vendor.hands)
    for there_s, back_s, pause_s in answers:
        clock.observe(vendor.answer(there_s, back_s))
        vendor.hands.monotonic += pause_s
    span_s = sum(sum(a) for a in answers)
    if rate == 1.0 or span_s > 10:  # before that another clock may pass for one that runs like ours, or stands
        low, high = clock.bounds_ns()
        assert low - 1000 <= vendor.true_ns() <= high + 1000
        vendor.hands.monotonic += after_s
        low, high = clock.bounds_ns()
        assert low - 1000 <= vendor.true_ns() <= high + 1000


def test_a_recording_at_five_hundred_times_is_followed_after_two_answers():
    vendor = Vendor(rate=500.0)
    clock = MarketClock(vendor.hands)
    ask(clock, vendor, 2)
    low, high = clock.bounds_ns()
    assert low <= vendor.true_ns() <= high
    ask(clock, vendor, 20)
    assert clock.rate == pytest.approx(500, rel=0.005)
    assert abs(clock.now_ns() - vendor.true_ns()) < 8 * S, "16 ms of real time"


def test_a_standing_clock_that_starts_to_run_is_followed_from_the_second_answer_on():
    vendor = Vendor(rate=0.0)
    clock = MarketClock(vendor.hands)
    ask(clock, vendor, 10)
    assert clock.rate == 0.0
    assert clock.bounds_ns()[0] <= Y2014 <= clock.bounds_ns()[1]
    vendor.pace(500.0)
    vendor.hands.monotonic += 0.4
    ask(clock, vendor, 3)
    assert clock.rate == pytest.approx(500, rel=0.05)
    low, high = clock.bounds_ns()
    assert low <= vendor.true_ns() <= high


@pytest.mark.parametrize("step_s", [-18_000, -30, 30, 18_000])
def test_a_step_of_the_vendors_clock_is_believed_when_answers_agree_for_half_a_minute(step_s):
    vendor = Vendor()
    clock = MarketClock(vendor.hands)
    ask(clock, vendor, 20)
    vendor.pace(1.0, step_s * S)
    ask(clock, vendor, 25)
    assert clock.doubtful
    low, high = clock.bounds_ns()
    assert low <= vendor.true_ns() <= high, "in doubt both are allowed for"
    assert min(abs(low - vendor.true_ns()), abs(high - vendor.true_ns())) < 2 * S, "and not more than both"
    ask(clock, vendor, 7)
    assert not clock.doubtful
    low, high = clock.bounds_ns()
    assert low <= vendor.true_ns() <= high < low + 2 * S
    assert clock.rate == 1.0


@pytest.mark.parametrize("step_s", [-18_000, -30, 30, 18_000])
def test_a_step_of_a_clock_that_is_hardly_known_is_believed_at_once(step_s):
    vendor = Vendor()
    clock = MarketClock(vendor.hands)
    ask(clock, vendor, 5)
    vendor.pace(1.0, step_s * S)
    ask(clock, vendor, 3)
    low, high = clock.bounds_ns()
    assert low <= vendor.true_ns() <= high
    assert not clock.doubtful


@pytest.mark.parametrize("step_s", [-600, -6, 8, 600, 86_400])
@pytest.mark.parametrize("wrong", [1, 2, 14])
def test_wrong_answers_for_some_seconds_are_not_believed_and_both_are_allowed_for(step_s, wrong):
    """One server of many has a wrong clock: live would claim ten minutes that are still to come."""
    vendor = Vendor()
    clock = MarketClock(vendor.hands)
    ask(clock, vendor, 20)
    for _ in range(3):
        for _ in range(wrong):
            vendor.pace(1.0, step_s * S)
            ask(clock, vendor, 1, every_s=0)
            vendor.pace(1.0, -step_s * S)
            vendor.hands.monotonic += 1.01
            assert clock.doubtful
            low, high = clock.bounds_ns()
            wrong_ns = vendor.true_ns() + step_s * S
            assert low <= min(vendor.true_ns(), wrong_ns) and max(vendor.true_ns(), wrong_ns) <= high  # noqa: PT018
            assert abs(clock.now_ns() - vendor.true_ns()) < S, "the guess is not moved"
        ask(clock, vendor, 1)
        assert not clock.doubtful
        low, high = clock.bounds_ns()
        assert low <= vendor.true_ns() <= high < low + 2 * S


def test_a_wrong_server_that_answers_now_and_then_is_never_believed():
    vendor = Vendor()
    clock = MarketClock(vendor.hands)
    ask(clock, vendor, 20)
    for _ in range(100):
        vendor.pace(1.0, 600 * S)
        ask(clock, vendor, 2, every_s=0.01)
        vendor.pace(1.0, -600 * S)
        ask(clock, vendor, 1)
        assert abs(clock.now_ns() - vendor.true_ns()) < S


@pytest.mark.parametrize("rate", [0.0, 30.0, 300.0])
def test_a_steady_clock_that_runs_otherwise_from_now_on_is_followed_in_the_end(rate):
    """The answers never agree at our rate: doubt has an end."""
    vendor = Vendor()
    clock = MarketClock(vendor.hands)
    ask(clock, vendor, 20)
    vendor.pace(rate)
    ask(clock, vendor, 110)
    assert not clock.doubtful
    low, high = clock.bounds_ns()
    assert low <= vendor.true_ns() <= high
    assert clock.rate == pytest.approx(rate, rel=0.05)


def test_doubt_is_forgotten_when_no_other_answer_comes():
    vendor = Vendor()
    clock = MarketClock(vendor.hands)
    ask(clock, vendor, 20)
    vendor.pace(1.0, -600 * S)
    ask(clock, vendor, 1)
    vendor.pace(1.0, 600 * S)
    assert clock.doubtful
    assert not clock.steady
    vendor.hands.monotonic += market_clock.DOUBT_S_MAX
    assert not clock.doubtful
    low, high = clock.bounds_ns()
    assert low <= vendor.true_ns() <= high < low + 2 * S


def test_control_without_the_doubt_one_wrong_answer_moves_the_clock(monkeypatch):
    monkeypatch.setattr(MarketClock, "_doubts", lambda *_: False)
    vendor = Vendor()
    clock = MarketClock(vendor.hands)
    ask(clock, vendor, 20)
    vendor.pace(1.0, 600 * S)
    ask(clock, vendor, 1, every_s=0)
    vendor.pace(1.0, -600 * S)
    assert clock.bounds_ns()[0] > vendor.true_ns() + 500 * S


def test_a_step_of_our_own_wall_clock_changes_nothing_but_the_offset():
    vendor = Vendor()
    clock = MarketClock(vendor.hands)
    ask(clock, vendor, 5)
    before, offset = clock.now_ns(), clock.offset_s
    wall_ns = Hands.wall_ns
    clock.clock = type("Stepped", (Hands,), {"wall_ns": lambda self: wall_ns(self) + 5 * 3600 * S})(
        vendor.hands.monotonic
    )
    assert clock.now_ns() == before
    assert clock.offset_s == pytest.approx(offset - 5 * 3600, abs=1e-6)


def test_an_overtaken_answer_is_ignored():
    vendor = Vendor()
    clock = MarketClock(vendor.hands)
    slow = vendor.answer()
    ask(clock, vendor, 3)
    bounds = clock.bounds_ns()
    clock.observe(slow)
    assert clock.bounds_ns() == bounds


def test_time_until_an_instant_of_the_market_is_told_in_our_seconds():
    vendor = Vendor(rate=500.0)
    clock = MarketClock(vendor.hands)
    ask(clock, vendor, 10)
    assert clock.elapse_s(clock.now_ns() + 1000 * S) == pytest.approx(2.0, rel=0.02)
    assert clock.elapse_s(clock.now_ns() - S) == 0.0
    standing = MarketClock(vendor.hands)
    vendor.pace(0.0)
    ask(standing, vendor, 10)
    assert standing.elapse_s(standing.now_ns() + 1000 * S) == float("inf")


def test_control_without_the_rounding_the_true_time_lies_outside(monkeypatch):
    """An answer taken as a point: up to a second behind, which is a seam in a minute that had begun."""
    vendor = Vendor(start_ns=Y2014 + 900_000_000)
    clock = MarketClock(vendor.hands)
    real = market_clock._bounds
    monkeypatch.setattr(
        market_clock,
        "_bounds",
        lambda samples, *rates: real([attrs.evolve(s, resolution_ns=0) for s in samples], *rates),
    )
    clock.observe(vendor.answer())
    assert clock.bounds_ns()[1] < vendor.true_ns()
