"""Floors far below what was measured (fold 30 M quotes/s, rules 9 M rows/s on two cores), so that only a change of
kind, such as a loop over rows, breaks them."""

import timeit

import numpy as np
import pytest

from actors.market.candles import NS_PER_MINUTE, fold
from actors.market.rules import validate_quotes

pytestmark = pytest.mark.bench
T0 = 1_398_902_400 * 10**9
ROWS = 500_000


@pytest.fixture(scope="module")
def columns():
    noise = np.random.default_rng(1)
    bid = np.round(1.38 + noise.normal(0, 0.001, ROWS), 5)
    return T0 + np.cumsum(noise.integers(0, 10**9, ROWS)), bid, np.round(bid + 0.0001, 5)


def validated(columns):
    return validate_quotes("C:EURUSD", "polygon", *columns, now_ns=T0 + 10**18, raw=lambda r: [""] * len(r)).rows


def rows_per_s(call):
    return ROWS / min(timeit.repeat(call, number=1, repeat=5))


def test_three_bases_of_quotes_are_folded_at_five_million_a_second(columns):
    batch = validated(columns)
    assert rows_per_s(lambda: fold("quotes", batch, step_ns=NS_PER_MINUTE)) > 5e6


def test_quotes_are_validated_at_two_million_a_second(columns):
    assert rows_per_s(lambda: validated(columns)) > 2e6
