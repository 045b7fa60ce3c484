"""Source switching: over fast, back slowly (4.4, must-show 6)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import ConfigError
from supervisors.engine.failover import Failover, FailoverLimits

LIMITS = FailoverLimits(fall_n=3, fall_of=5, rise_after_s=30.0, dwell_s=60.0)


def replay(failover: Failover, seconds: int, health) -> list[tuple[int, str, str]]:
    """Look at every source each second; the switches made: (second, from, to)."""
    made = []
    for now in range(seconds):
        for name in failover.preference:
            failover.observe(name, health(name, now), float(now))
        switch = failover.decide(float(now))
        if switch:
            made.append((now, switch.source, switch.to))
    return made


def flapping(name: str, now: int) -> bool:
    return name != "polygon" or now % 20 < 10


def test_an_hour_of_ten_seconds_up_ten_down_gives_at_most_six_switches() -> None:
    failover = Failover(("polygon", "dukascopy"), LIMITS, now_s=0.0)
    blind = 0
    made = []
    for now in range(3600):
        for name in failover.preference:
            failover.observe(name, flapping(name, now), float(now))
        switch = failover.decide(float(now))
        made += [switch] if switch else []
        blind += not flapping(failover.active, now)
    assert 1 <= len(made) <= 6
    assert blind <= 3 * len(made)  # never longer than it takes to notice


def test_without_the_penalty_a_short_rise_time_would_flap() -> None:
    """Positive control: it is the growing penalty that keeps an eager configuration calm."""
    eager = FailoverLimits(fall_n=2, fall_of=3, rise_after_s=3.0, dwell_s=5.0, penalty_max=1.0)
    calm = FailoverLimits(fall_n=2, fall_of=3, rise_after_s=3.0, dwell_s=5.0, penalty_max=64.0)
    assert len(replay(Failover(("polygon", "b"), eager, now_s=0.0), 3600, flapping)) > 100
    assert len(replay(Failover(("polygon", "b"), calm, now_s=0.0), 3600, flapping)) <= 6


def test_over_at_the_third_failure_and_back_after_health_and_dwell() -> None:
    failover = Failover(("a", "b", "c"), LIMITS, now_s=0.0)
    made = replay(failover, 400, lambda name, now: name != "a" or not 100 <= now < 110)
    assert made == [(102, "a", "b"), (222, "b", "a")]  # twice the dwell of 60 s, once flapped


def test_the_best_source_that_is_up_takes_over() -> None:
    failover = Failover(("a", "b", "c"), LIMITS, now_s=0.0)
    made = replay(failover, 30, lambda name, now: name == "c" or now < 10)
    assert made == [(12, "a", "c")] or made == [(12, "a", "b"), (13, "b", "c")]


def test_when_all_are_down_nothing_changes() -> None:
    failover = Failover(("a", "b"), LIMITS, now_s=0.0)
    made = replay(failover, 100, lambda name, now: now < 10)
    assert len(made) <= 1


def test_after_all_were_down_the_first_that_answers_again_is_used() -> None:
    failover = Failover(("a", "b"), LIMITS, now_s=0.0)
    made = replay(failover, 60, lambda name, now: now < 10 or (name == "b" and now >= 30))
    assert made[-1] == (32, "a", "b")


def test_a_pin_beats_health_and_ends_when_given_back() -> None:
    failover = Failover(("a", "b"), LIMITS, now_s=0.0)
    failover.pin("b")
    assert replay(failover, 100, lambda name, now: name == "a") == [(0, "a", "b")]
    failover.pin(None)
    switch = failover.decide(100.0)
    assert switch is not None
    assert switch.to == "a"
    with pytest.raises(ConfigError, match=r"'x' is no source.*\['a', 'b'\]"):
        failover.pin("x")


def test_a_source_that_serves_long_enough_is_forgiven() -> None:
    failover = Failover(("a", "b"), LIMITS, now_s=0.0)
    replay(failover, 300, lambda name, now: name != "a" or not 100 <= now < 110)
    assert failover.penalty("a") == 2.0
    for now in range(300, 4300):
        failover.observe("a", True, float(now))
        failover.decide(float(now))
    assert failover.penalty("a") == 1.0


def test_the_next_look_is_when_the_way_back_opens() -> None:
    failover = Failover(("a", "b"), LIMITS, now_s=0.0)
    replay(failover, 150, lambda name, now: name != "a" or not 100 <= now < 110)
    at_s = failover.next_look_s()
    assert at_s == 222.0
    assert failover.decide(at_s - 0.001) is None
    assert failover.decide(at_s) is not None


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 40), st.sets(st.sampled_from("abc"))), max_size=30))
def test_never_on_a_down_source_for_long_while_another_is_up(spells: list[tuple[int, set[str]]]) -> None:
    failover = Failover(("a", "b", "c"), LIMITS, now_s=0.0)
    now = 0
    bad = 0
    for seconds, up in spells:
        for _ in range(seconds):
            for name in "abc":
                failover.observe(name, name in up, float(now))
            failover.decide(float(now))
            steady = [n for n in up if not failover._sources[n].is_down]
            bad = bad + 1 if failover.active not in up and steady else 0
            assert bad <= LIMITS.fall_of
            now += 1


@pytest.mark.parametrize(
    "fields", [{"fall_n": 0}, {"fall_n": 6}, {"rise_after_s": -1.0}, {"dwell_s": -1.0}, {"penalty_max": 0.5}]
)
def test_impossible_limits_are_refused_by_name(fields: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(fields))):
        FailoverLimits(**fields)
