"""What people are shown of a live feed."""

from __future__ import annotations

import numpy as np
import pytest

from actors.downloader.live_facts import LiveFacts
from actors.downloader.port import Ticks


def quotes(rows: int, bid: float, ask: float) -> Ticks:
    numbers = (np.linspace(1.0, bid, rows), np.linspace(1.0, ask, rows))
    ts_ns = np.arange(rows, dtype=np.int64)
    return Ticks(symbol="C:EURUSD", kind="quotes", ts_ns=ts_ns, numbers=numbers, texts=(), raw=lambda which: [])


def test_before_the_first_tick_there_is_nothing_to_show() -> None:
    assert LiveFacts(began_s=5.0).look(6.0) is None


def test_the_last_tick_and_when_it_came() -> None:
    facts = LiveFacts(began_s=0.0)
    facts.saw(quotes(3, 1.25, 1.26), 7.0)
    state = facts.look(9.0)
    assert state is not None
    assert (state.symbol, state.kind, state.prices, state.ts_ns, state.heard_s) == (
        "C:EURUSD", "quotes", (1.25, 1.26), 2, 7.0,
    )  # fmt: skip


@pytest.mark.parametrize("seconds", [1, 30])
def test_a_steady_pace_is_told_from_the_beginning_on(seconds: int) -> None:
    facts = LiveFacts(began_s=0.0)
    for half in range(1, 2 * seconds + 1):
        facts.saw(quotes(20, 1.0, 1.0), half / 2)
        state = facts.look(half / 2)
    assert state is not None
    assert state.ticks_per_s == pytest.approx(40.0)


def test_a_feed_that_falls_silent_comes_to_rest() -> None:
    facts = LiveFacts(began_s=0.0)
    facts.saw(quotes(100, 1.0, 1.0), 0.5)
    for half in range(1, 200):
        state = facts.look(half / 2)
    assert state is not None
    assert state.ticks_per_s < 0.01
