"""One budget per key: never more than n requests in any window, and silence after a 429."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from runtime.ratelimit import Budget, BudgetLimits, RateLimit

FREE_PLAN = BudgetLimits(requests_max=5, window_s=60.0)


def test_unlimited_never_waits():
    budget = Budget(BudgetLimits())
    assert [budget.take(0.0) for _ in range(1000)] == [0.0] * 1000


@given(st.lists(st.floats(0, 40), max_size=60), st.integers(1, 7))
def test_no_window_ever_holds_more_than_its_requests(gaps, requests_max):
    """The oracle counts, for every request that went out, those in the window that ends with it."""
    budget = Budget(BudgetLimits(requests_max=requests_max, window_s=60.0))
    now_s, went_out = 0.0, []
    for gap_s in gaps:
        now_s += gap_s
        wait_s = budget.take(now_s)
        if wait_s == 0.0:
            went_out.append(now_s)
        else:
            assert sum(now_s - 60.0 < at_s for at_s in went_out) == requests_max, "made to wait without need"
    for end_s in went_out:
        assert sum(end_s - 60.0 < at_s <= end_s for at_s in went_out) <= requests_max


@pytest.mark.parametrize(
    ("retry_after_s", "wait_s"),
    [(None, 12.0), (3.0, 3.0), (0.0, 0.0), (86_400.0, 900.0)],
)
def test_a_429_closes_the_budget_for_as_long_as_the_vendor_says(retry_after_s, wait_s):
    budget = Budget(BudgetLimits())
    assert budget.drain(100.0, retry_after_s) == wait_s
    assert budget.take(100.0) == wait_s
    assert budget.take(100.0 + wait_s) == 0.0


def test_a_429_without_retry_after_waits_for_the_end_of_the_window():
    budget = Budget(FREE_PLAN)
    budget.take(0.0)
    assert budget.drain(10.0) == 50.0
    assert budget.drain(55.0) == 12.0  # nearly over by our count, which the vendor does not share


def test_a_shorter_second_429_does_not_shorten_the_wait():
    budget = Budget(BudgetLimits())
    budget.drain(0.0, 100.0)
    budget.drain(1.0, 5.0)
    assert budget.take(50.0) == 50.0


async def test_users_of_one_key_share_it_and_are_served_in_turn(autojump_clock):
    limit = RateLimit(FREE_PLAN)
    served = []

    async def user(name):
        for _ in range(3):
            await limit.acquire()
            served.append((name, trio.current_time()))
            await trio.lowlevel.checkpoint()

    began_s = trio.current_time()
    async with trio.open_nursery() as nursery:
        for name in "abcd":
            nursery.start_soon(user, name)
    at = [round(t - began_s) for _, t in served]
    assert at == [0] * 5 + [60] * 5 + [120] * 2
    assert {name for name, _ in served} == set("abcd")


async def test_nobody_asks_while_it_is_drained(autojump_clock):
    limit = RateLimit()
    await limit.acquire()
    assert limit.drain() == 12.0
    began_s = trio.current_time()
    await limit.acquire()
    assert trio.current_time() - began_s == pytest.approx(12.0)


async def test_cancelled_while_waiting_it_takes_nothing(autojump_clock):
    limit = RateLimit(BudgetLimits(requests_max=1, window_s=60.0))
    await limit.acquire()
    with trio.move_on_after(10):
        await limit.acquire()
    began_s = trio.current_time()
    await limit.acquire()
    assert trio.current_time() - began_s == pytest.approx(50.0)


def test_a_budget_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        BudgetLimits(requests_max=0)


async def test_other_limits_hold_from_the_next_request_on(autojump_clock):
    limit = RateLimit(BudgetLimits(requests_max=1))
    await limit.acquire()
    limit.change(BudgetLimits(requests_max=3))
    await limit.acquire()
    await limit.acquire()
    assert trio.current_time() == 0
    limit.change(BudgetLimits())
    await limit.acquire()
    assert trio.current_time() == 0
