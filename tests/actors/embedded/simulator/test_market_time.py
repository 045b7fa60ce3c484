"""Market time: stands until somebody subscribes, runs at its speed, survives the process, waits for the pump."""

from __future__ import annotations

import pytest

from actors.embedded.simulator.market_time import ClockFile, MarketTime

SECOND = 1_000_000_000
START = 1_398_902_400 * SECOND


@pytest.fixture
def clock(kit):
    return kit.Clock(kit.T0)


def test_without_a_recording_it_is_the_wall_clock(clock, kit):
    time = MarketTime(clock=clock)
    assert time.running
    assert time.now_ns() == kit.T0
    time.begin()
    clock.now_ns += 5
    assert time.now_ns() == kit.T0 + 5


def test_a_recording_stands_until_it_begins_and_then_runs_at_its_speed(clock):
    time = MarketTime(clock=clock, start_ns=START, speed=500.0)
    clock.now_s += 100
    assert (time.running, time.now_ns()) == (False, START)
    time.begin()
    clock.now_s += 2
    time.begin()
    assert (time.running, time.now_ns()) == (True, START + 1_000 * SECOND)
    clock.now_ns += 10**15
    assert time.now_ns() == START + 1_000 * SECOND, "a step of the wall clock changes nothing"


def test_it_waits_for_a_pump_that_is_held_up(clock):
    time = MarketTime(clock=clock, start_ns=START, speed=500.0, lead_s=0.04)
    time.given(START)
    time.begin()
    clock.now_s += 0.02
    assert time.now_ns() == START + 10 * SECOND
    clock.now_s += 5
    assert time.now_ns() == START + 20 * SECOND
    time.given(time.due_ns())
    assert time.now_ns() == START + 2_510 * SECOND


def test_a_killed_process_goes_on_where_the_market_would_be(clock, tmp_path, kit):
    def time(market="a recording"):
        file = ClockFile(path=tmp_path / "market.clock", market=market)
        return MarketTime(clock=clock, start_ns=START, speed=500.0, file=file)

    first = time()
    first.resume()
    assert not first.running
    first.begin()
    clock.now_ns += 3 * SECOND
    clock.now_s = 7.0  # another process, another monotonic clock
    second = time()
    second.resume()
    assert (second.running, second.now_ns()) == (True, START + 1_500 * SECOND)
    clock.now_s += 1
    assert second.now_ns() == START + 2_000 * SECOND
    other = time("another recording")
    other.resume()
    assert not other.running
    (tmp_path / "market.clock").write_text("{")
    damaged = time()
    damaged.resume()
    assert not damaged.running
