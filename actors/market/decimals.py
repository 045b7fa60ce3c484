"""Decimals in float64, vectorised: which floats print back as a short decimal, and exact sums of them.

A double holds every decimal of up to 15 significant digits distinguishably, so such a float *is* its decimal:
x = m / 10**d with an integer m < 10**15. Division of two exactly representable numbers is correctly rounded, so the
test `rint(x * 10**d) / 10**d == x` finds m and d without ever printing.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

DIGITS_MAX = 15
SCALE_MAX = 22
"""10**22 is the largest power of ten that a double holds exactly."""
_MANTISSA_MAX = 10.0**DIGITS_MAX
_EXACT_MAX = 2**53
_SUM_MAX = 2.0**62
_POWERS = np.array([float(10**d) for d in range(SCALE_MAX + 1)])
_SAMPLE = 64


def decimal_scales(values: Floats) -> npt.NDArray[np.int8]:
    """Per value the smallest d <= 22 with value = m / 10**d and |m| < 10**15; -1 where there is none.

    Those with -1 have more than 15 significant digits, more than 22 decimals, or are not finite.
    """
    scales = np.full(values.shape, -1, np.int8)
    left = np.flatnonzero(np.isfinite(values))
    for scale in range(SCALE_MAX + 1):
        if not left.size:
            break
        fits = _fits(values[left], scale)
        scales[left[fits]] = scale
        left = left[~fits]
    return scales


def prints_back(values: Floats) -> Bools:
    """True where the value is a decimal below 10**15 of at most 15 significant digits and 22 decimals; NaN: False.

    What a vendor wrote with more digits than a double holds arrives as a float of 16 or 17 digits and is found here.
    Fast when most values share one scale, as the prices of one instrument do.
    """
    guess = max(0, int(decimal_scales(values[:_SAMPLE]).max(initial=0)))
    good = _fits(values, guess)
    rest = np.flatnonzero(~good)
    if rest.size:
        good[rest] = decimal_scales(values[rest]) >= 0
    return good


def common_scale(values: Floats) -> int | None:
    """The smallest d such that every value is m / 10**d with |m| < 10**15, or None when no single d does it."""
    if not values.size:
        return 0
    low = int(decimal_scales(values[:_SAMPLE]).max())
    if low < 0:
        return None
    good = _fits(values, low)
    if good.all():
        return low
    scales = decimal_scales(values[~good])
    if scales.min() < 0:
        return None
    high = max(low, int(scales.max()))
    return high if _fits(values, high).all() else None


def scaled(values: Floats, scale: int) -> Ints:
    """The integers m of value = m / 10**scale; the caller knows that `scale` fits."""
    return np.asarray(np.rint(values * _POWERS[scale])).astype(np.int64)


def unscaled(mantissas: Ints, scale: int) -> Floats:
    """The doubles nearest to m / 10**scale, correctly rounded whatever the size of m."""
    result = mantissas / _POWERS[scale]
    for at in np.flatnonzero(np.abs(mantissas) > _EXACT_MAX):  # rare: int/int of Python rounds once, NumPy twice
        result[at] = int(mantissas[at]) / 10**scale
    return np.asarray(result)


def exact_sums(values: Floats, starts: Ints) -> Floats:
    """Sum of each run of `values` that begins at one of `starts` (ascending, first 0), exact in decimal.

    A run whose values are no decimals of one scale gets the correctly rounded sum of its doubles. Each run's sum
    depends on that run alone, whatever stands beside it in the batch.
    """
    if not values.any():  # no sizes at all: quotes
        return np.zeros(len(starts))
    scale = common_scale(values)
    if scale is not None and float(np.abs(values).sum()) * _POWERS[scale] < _SUM_MAX:
        return unscaled(np.add.reduceat(scaled(values, scale), starts), scale)
    if len(starts) == 1:
        return np.array([math.fsum(values)])
    alone = np.zeros(1, np.int64)
    return np.concatenate([exact_sums(run, alone) for run in np.split(values, starts[1:])])


def exact_products(a: Floats, b: Floats, starts: Ints) -> Floats:
    """Sum of a times b over each run, as `exact_sums`: exact in decimal, then rounded once.

    A run whose factors have no scales, or whose sum needs more than 62 bits, gets the rounded sum of rounded products.
    """
    plain = a * b
    scale_a, scale_b = common_scale(a), common_scale(b)
    scale = SCALE_MAX + 1 if scale_a is None or scale_b is None else scale_a + scale_b
    if scale <= SCALE_MAX and float(np.abs(plain).sum()) * _POWERS[scale] < _SUM_MAX:
        assert scale_a is not None
        return unscaled(np.add.reduceat(scaled(a, scale_a) * scaled(b, scale - scale_a), starts), scale)
    if len(starts) == 1:
        return np.array([math.fsum(plain)])
    alone = np.zeros(1, np.int64)
    parts = zip(np.split(a, starts[1:]), np.split(b, starts[1:]), strict=True)
    return np.concatenate([exact_products(x, y, alone) for x, y in parts])


def midpoints(low: Floats, high: Floats) -> Floats:
    """(low + high) / 2 per row, exact in decimal (one digit more than the sides), correctly rounded to a double."""
    scale = common_scale(np.concatenate((low, high)))
    if scale is not None and scale < SCALE_MAX:
        return unscaled((scaled(low, scale) + scaled(high, scale)) * 5, scale + 1)
    scales = np.maximum(decimal_scales(low), decimal_scales(high)).astype(np.int64)
    plain = np.asarray((low + high) / 2)
    for scale in np.unique(scales[(scales >= 0) & (scales < SCALE_MAX)]):
        rows = np.flatnonzero(scales == scale)
        rows = rows[_fits(low[rows], scale) & _fits(high[rows], scale)]
        plain[rows] = unscaled((scaled(low[rows], scale) + scaled(high[rows], scale)) * 5, int(scale) + 1)
    return plain


def _fits(values: Floats, scale: int) -> Bools:
    with np.errstate(over="ignore", invalid="ignore"):  # too large or NaN: does not fit
        mantissas = np.rint(values * _POWERS[scale])
    return np.asarray((mantissas / _POWERS[scale] == values) & (np.abs(mantissas) < _MANTISSA_MAX))
