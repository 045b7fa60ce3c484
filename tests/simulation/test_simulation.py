"""A few dozen seeds with every `make test`; the campaign is `make simulate`. In processes of their own: Trio is patched."""

from __future__ import annotations

import os

import pytest

from tests.simulation.campaign import Campaign, run_seeds, told
from tests.simulation.draw import CLASSES, LIVE_CLASSES, draw
from tests.simulation.market import MINUTE, Known, candles

JOBS = min(2, os.cpu_count() or 1)
ONCE_FAILED = (6, 8, 13, 14, 37, 38, 47, 50, 75, 78, 97, 139, 144)
"""Seeds that showed a bug of the product or of the harness, in some version of both."""

BACKLOGS = (66, 111, 131, 185, 288)
"""Seeds in which a slice comes while live rows that it replaces wait for a sink that is down."""


@pytest.mark.slow
def test_seeds_that_once_failed() -> None:
    failed = [told(result) for result in run_seeds(ONCE_FAILED, jobs=JOBS) if result.failure]
    assert not failed, "\n".join(failed)


@pytest.mark.slow
def test_a_few_dozen_seeds_hold_and_repeat_themselves() -> None:
    campaign = Campaign(first=1_000, seeds=24, jobs=JOBS, checked_twice=4)
    assert campaign.run(), "\n".join(told(result) for result in campaign.failed)


@pytest.mark.slow
@pytest.mark.parametrize("mutant", ["no_sync", "slice_without_delete", "cursor_before_the_answer", "the_dead_work"])
def test_a_broken_promise_is_noticed(mutant: str) -> None:
    """A sample; all of them by `python -m tests.simulation mutants`."""
    assert any(result.failure for result in run_seeds(range(6), jobs=JOBS, mutant=mutant))


@pytest.mark.slow
@pytest.mark.parametrize("mutant", ["after_ignored", "slice_unstamped"])
def test_slices_that_overtake_a_live_backlog_are_noticed(mutant: str) -> None:
    assert any(result.failure for result in run_seeds(BACKLOGS, jobs=JOBS, mutant=mutant))
    assert not any(result.failure for result in run_seeds(BACKLOGS, jobs=JOBS))


def test_a_seed_is_always_the_same_draw_and_leaves_a_third_of_the_classes_out() -> None:
    draws = [draw(seed) for seed in range(300)]
    assert draw(17) == draws[17]
    for classes, some in ((CLASSES, draws), (LIVE_CLASSES, [one for one in draws if one.live is not None])):
        off = sum(one.rates[name] == 0.0 for one in some for name in classes)
        assert 0.3 < off / (len(some) * len(classes)) < 0.45
    assert 0.22 < sum(one.live is not None for one in draws) / 300 < 0.38


def test_the_oracles_candles_by_hand() -> None:
    ticks = [(0, 10, 20), (5, 30, 40), (5, 20, 30), (MINUTE, 40, 50)]
    found = candles("quotes", ticks, Known(sliced={0, 1, 4}, final={0, 4}))
    assert found["1m", "bid", 0] == (0.0001, 0.0003, 0.0001, 0.0002, 3, True)
    assert found["1m", "mid", 0] == (0.00015, 0.00035, 0.00015, 0.00025, 3, True)
    assert found["1m", "ask", MINUTE] == (0.0005, 0.0005, 0.0005, 0.0005, 1, False)
    assert found["5m", "bid", 0] == (0.0001, 0.0004, 0.0001, 0.0004, 4, False)
    assert ("15m", "bid", 0) not in found


def test_the_oracles_live_candles_by_hand() -> None:
    ticks = [(0, 10, 2), (5, 30, 1), (MINUTE, 40, 5)]
    found = candles("trades", ticks, Known(sliced=set(), final=set(), touched={0, 1}, closed_to=1))
    assert found["1m", "last", 0] == (0.0001, 0.0003, 0.0001, 0.0003, 2, False, 0.00003, round(50 / 3 / 1e5, 9))
    assert found.keys() == {("1m", "last", 0)}, "the second minute is open"
