"""The law of the waits (4.1), against its formula."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.backoff import Backoff, BackoffCounter


@given(st.floats(0.01, 10.0), st.floats(1.0, 100.0), st.floats(0.0, 1.0), st.integers(0, 5000), st.floats(0.0, 0.999))
def test_the_delay_is_the_formula(initial_s: float, times: float, jitter: float, attempt: int, draw: float) -> None:
    """min(cap, base * 2^n) * (1 + jitter * u); one peer's "exponential" was linear, its jitter nanoseconds."""
    law = Backoff(initial_s=initial_s, max_s=initial_s * times, jitter=jitter)
    nominal_s = initial_s
    for _ in range(min(attempt, 10)):  # 2^10 is past every cap drawn here
        nominal_s = min(nominal_s * 2, law.max_s)
    assert law.delay_s(attempt, draw) == pytest.approx(nominal_s * (1 + jitter * draw))


def test_doubling_stops_at_the_cap_and_never_overflows() -> None:
    law = Backoff(initial_s=1.0, max_s=10.0, jitter=0.0)
    assert [law.delay_s(n, 0.9) for n in (0, 1, 2, 3, 4, 10**9)] == [1, 2, 4, 8, 10, 10]


def test_a_healthy_run_starts_the_count_again() -> None:
    counter = BackoffCounter(Backoff(initial_s=1.0, max_s=9.0, jitter=0.0))
    assert [counter.next_s(0.5) for _ in range(3)] == [1, 2, 4]
    counter.ran(4.9)  # healthy is (1 + 9) / 2 by default
    assert counter.next_s(0.5) == 8
    counter.ran(5.0)
    assert counter.next_s(0.5) == 1


def test_the_longest_total_is_what_the_window_check_needs() -> None:
    assert Backoff(initial_s=1.0, max_s=4.0, jitter=0.5).delay_total_s_max(4) == (1 + 2 + 4 + 4) * 1.5


@pytest.mark.parametrize(
    "fields",
    [
        {"initial_s": 0.0},
        {"max_s": float("inf")},
        {"jitter": 1.5},
        {"initial_s": 5.0, "max_s": 1.0},
        {"reset_after_s": 0.0},
    ],
)
def test_impossible_laws_are_refused(fields: dict) -> None:
    with pytest.raises(ValueError, match=f"Backoff.{'max_s' if len(fields) == 2 else next(iter(fields))}"):
        Backoff(**fields)
