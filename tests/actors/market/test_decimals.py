import itertools
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.market.decimals import common_scale, decimal_scales, exact_products, exact_sums, midpoints, prints_back

decimals_15 = st.builds(lambda m, d: Decimal(m).scaleb(-d), st.integers(1, 10**15 - 1), st.integers(0, 22))
any_positive = st.floats(min_value=1e-30, max_value=9e14, allow_nan=False, allow_infinity=False)


@given(st.lists(decimals_15, min_size=1, max_size=20))
def test_every_decimal_of_15_digits_is_recognised(values):
    assert prints_back(np.array([float(v) for v in values])).all()


@given(st.lists(any_positive, min_size=1, max_size=20))
def test_a_float_is_recognised_exactly_when_15_digits_print_back(values):
    """Oracle: printing. `%.15g` gives the nearest 15-digit decimal; more than 22 decimals are refused."""
    expected = [float(f"{v:.15g}") == v and -Decimal(repr(v)).normalize().as_tuple().exponent <= 22 for v in values]
    assert prints_back(np.array(values)).tolist() == expected


@given(st.lists(decimals_15, min_size=1, max_size=20))
def test_scale_is_the_number_of_decimals(values):
    expected = [max(0, -v.normalize().as_tuple().exponent) for v in values]
    assert decimal_scales(np.array([float(v) for v in values])).tolist() == expected


def test_nan_and_infinity_are_no_decimals():
    assert prints_back(np.array([np.nan, np.inf, -np.inf, 1e300, 1.5])).tolist() == [False, False, False, False, True]
    assert common_scale(np.array([1.5, np.nan])) is None


def test_scale_beyond_the_sample_is_found():
    values = np.full(1000, 1.25)
    values[999] = 1.38676
    assert common_scale(values) == 5


@given(st.lists(st.tuples(decimals_15, decimals_15), min_size=1, max_size=20))
def test_midpoint_is_the_correctly_rounded_half(pairs):
    bid, ask = (np.array([float(p[i]) for p in pairs]) for i in (0, 1))
    got = midpoints(bid, ask)
    for one, (low, high) in zip(got, pairs, strict=True):
        half = (Fraction(low) + Fraction(high)) / 2
        if abs(low.adjusted() - high.adjusted()) <= 1 and max(-low.as_tuple().exponent, -high.as_tuple().exponent) < 22:
            exact = half.numerator / half.denominator  # int/int rounds once
            assert one == pytest.approx(exact, rel=3e-16)


@given(st.lists(st.tuples(st.integers(1, 10**7), st.integers(0, 50)), min_size=1, max_size=50), st.integers(0, 6))
def test_midpoint_of_prices_on_one_grid_prints_as_the_exact_decimal(pairs, scale):
    low = [Decimal(m).scaleb(-scale) for m, _ in pairs]
    high = [Decimal(m + s).scaleb(-scale) for m, s in pairs]
    got = midpoints(np.array([float(v) for v in low]), np.array([float(v) for v in high]))
    assert [Decimal(repr(float(v))) for v in got] == [(a + b) / 2 for a, b in zip(low, high, strict=True)]


def test_float_midpoint_would_not_be_exact():
    """Positive control: the plain float half is wrong for ordinary prices."""
    bid = np.arange(138000, 139000) / 1e5
    ask = bid + 0.0
    ask = (np.arange(138000, 139000) + 13) / 1e5
    exact = midpoints(bid, ask)
    assert [repr(float(v)) for v in exact] == [str(Decimal(2 * m + 13) / 200000) for m in range(138000, 139000)]
    assert (exact != (bid + ask) / 2).any()


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=60), st.integers(0, 8), st.data())
def test_sums_are_exact_in_decimal(mantissas, scale, data):
    starts = sorted(data.draw(st.sets(st.integers(0, len(mantissas) - 1))) | {0})
    values = [Decimal(m).scaleb(-scale) for m in mantissas]
    got = exact_sums(np.array([float(v) for v in values]), np.array(starts))
    bounds = [*starts, len(values)]
    expected = [sum(values[a:b]) for a, b in itertools.pairwise(bounds)]
    assert [Decimal(repr(float(v))) for v in got] == expected


@given(
    st.lists(st.tuples(st.integers(1, 10**7), st.integers(1, 10**8)), min_size=1, max_size=60),
    st.integers(0, 4),
    st.integers(0, 8),
    st.data(),
)
def test_sums_of_products_are_exact_in_decimal(pairs, price_scale, size_scale, data):
    starts = sorted(data.draw(st.sets(st.integers(0, len(pairs) - 1))) | {0})
    prices = [Decimal(m).scaleb(-price_scale) for m, _ in pairs]
    sizes = [Decimal(m).scaleb(-size_scale) for _, m in pairs]
    got = exact_products(np.array([float(p) for p in prices]), np.array([float(q) for q in sizes]), np.array(starts))
    products = [p * q for p, q in zip(prices, sizes, strict=True)]
    assert got.tolist() == [float(sum(products[a:b])) for a, b in itertools.pairwise([*starts, len(pairs)])]


def test_a_sum_of_products_depends_on_its_run_alone():
    prices, sizes = np.array([1.1, 1.1, 123456789012345.0]), np.array([1.1, 0.3, 1e-15])
    assert exact_products(prices, sizes, np.array([0, 2]))[0] == 1.54
    assert exact_products(prices[:2], sizes[:2], np.array([0]))[0] == 1.54
    assert (prices * sizes)[:2].sum() != 1.54, "control: floats alone would not do"
