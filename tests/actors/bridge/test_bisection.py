"""Halving finds exactly the refused rows, within bounds; and a window has room for so many of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.bridge.bisection import Allowance, Bisection, PoisonLimits


def asked(rows: int, bad: set[int], *, found_max: int = 100, questions_max: int = 3000) -> tuple[Bisection, int]:
    search, count = Bisection(rows, found_max, questions_max), 0
    while (span := search.next) is not None:
        count += 1
        search.answer("no" if bad & set(range(*span)) else "")
    return search, count


@given(st.data())
def test_exactly_the_refused_rows_are_found(data):
    rows = data.draw(st.integers(0, 400))
    bad = data.draw(st.sets(st.integers(0, rows - 1), max_size=20)) if rows else set()
    search, count = asked(rows, bad)
    assert search.found.keys() == bad
    assert not search.gave_up
    assert count <= 1 + 2 * len(bad) * rows.bit_length()


def test_one_row_of_many_costs_a_few_questions():
    assert asked(100_000, {77_777})[1] <= 35


def test_it_gives_up_behind_what_is_allowed():
    search, count = asked(100_000, set(range(100_000)), found_max=10)
    assert search.gave_up
    assert count < 100


def test_rows_that_are_refused_only_together_are_not_asked_for_for_ever():
    search, count = Bisection(100_000, 10, 50), 0
    while (span := search.next) is not None:
        count += 1
        search.answer("together" if span[1] - span[0] > 1 else "")
    assert (search.found, search.gave_up, count) == ({}, True, 50)


@pytest.mark.parametrize(
    ("delivered", "aside", "room"), [(0, 0, 10), (0, 10, 0), (5_000, 10, 40), (10**6, 0, 100), (5_000, 60, 0)]
)
def test_room_is_a_share_of_an_hour_and_at_least_a_few(delivered, aside, room):
    allowance = Allowance(PoisonLimits())
    allowance.note(0.0, delivered=delivered, put_aside=aside)
    assert allowance.room(3000.0, 0) == room
    assert allowance.room(2 * 3600.0, 0) == 10, "the hour is over"
