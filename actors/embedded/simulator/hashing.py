"""Randomness that is a function of (key, lane, counter): any place of the market can be drawn without what precedes it.

splitmix64's finaliser over a counter (Steele, Lea, Flood 2014). Only integer operations and one exact scaling, so the
numbers are the same on every machine and for every version of NumPy, which its own generators do not promise.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_MASK = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15


def mix(value: int) -> int:
    """A 64-bit hash of a 64-bit integer."""
    value = (value + _GOLDEN) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def combine(*values: int) -> int:
    """A 64-bit hash of several integers in order."""
    key = 0
    for value in values:
        key = mix(key ^ (value & _MASK))
    return key


def unit(key: int) -> float:
    """One float in [0, 1) for a hashed key."""
    return (key >> 11) * 2.0**-53


def draws(key: int, lane: int, count: int) -> Floats:
    """`count` floats in [0, 1), shape (count,), one stream per (key, lane)."""
    start = np.uint64(combine(key, lane))
    x = start + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return (x >> np.uint64(11)).astype(np.float64) * 2.0**-53
