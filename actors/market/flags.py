"""Bits of the `flags` column: what is remarkable about a row that was accepted all the same (UPSTREAM 4).

A candle carries the bits of every tick in it. A bit keeps its number for ever: rows in the databases hold it.
"""

from __future__ import annotations

import enum


class Flag(enum.IntFlag):
    """Numbers are stored; add new ones at the end. The comment names the rule of UPSTREAM 4."""

    CROSSED = 1 << 0  # 10: bid > ask; takes part in candles, as in the vendors' own bars
    GONE = 1 << 1  # candles: this revision says that the bar ceased to exist (`ticks` = 0); views hide it
    FUTURE = 1 << 2  # 18: event time ahead of the corrected clock
    WIDE = 1 << 3  # 12: spread far above its rolling median
    SPIKE = 1 << 4  # 13: jumped away and came back
    OFF_GRID = 1 << 5  # 15: price between the instrument's steps
    BLOCK = 1 << 6  # 16: size above the bound
    REVISED = 1 << 7  # 23: same identity as an earlier row, other content
    STUCK = 1 << 8  # 26: price did not move for longer than is normal
    OFF_SESSION = 1 << 9  # 27: outside the trading session
    CORRECTED = 1 << 10  # 28: corrected or cancelled by the vendor
    VWAP_OUTSIDE = 1 << 11  # 7: vendor bar with vwap outside [low, high]
    COUNT_ODD = 1 << 12  # 9: vendor bar whose volume and count do not fit each other
    DISAGREES = 1 << 13  # 33, 34: differs from the vendor's own bar or from a second source
