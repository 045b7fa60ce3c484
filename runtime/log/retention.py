"""Which segments may go. Pure.

A segment may go when every required consumer has verified past its last frame AND its retention is over, by time or
by size, whichever ends first (DURABLE_LOG.md 7). A filling disk shortens the time (DESIGN.md 2: to 6 h); nothing lets
an unverified frame go.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import attrs

from runtime.clock import NS_PER_S
from runtime.log.segment import HEADER_BYTES, Segment

PRESSED_S = 6 * 3600
"""Retention while the disk fills up."""
GAP_SHARE = 7
"""The time between two segments counts as at most this part of the retention: by age alone, so many always stay.

The wall clock is all there is to tell how old a segment is over restarts, and it may jump. A jump of a year then costs
a seventh of the retention instead of all of it; a quiet log, whose segments really are days apart, keeps a few more.
"""


@attrs.frozen(kw_only=True)
class Retention:
    """How long verified frames are kept, for sinks that lose what they had."""

    seconds: int = 604_800
    bytes: int = 20 << 30


def new_start(
    segments: Sequence[Segment], *, verified: int, now_ns: int, retention: Retention, pressed: bool = False
) -> int:
    """The position that the log may begin at: a segment's base; the first one's if nothing may go.

    `verified`: everything below it is in every required consumer, durably said so. A segment is as old as its
    successor, which was made when it was full. The last segment always stays.
    """
    keep_s = min(retention.seconds, PRESSED_S) if pressed else retention.seconds
    # A filling disk is a better reason to give a comfort up than a clock that may be wrong is to keep it.
    ages = lived_ns(segments, now_ns=now_ns, gap_max_ns=keep_s * NS_PER_S // (1 if pressed else GAP_SHARE))
    total = segments[-1].base - segments[0].base + HEADER_BYTES * len(segments) if segments else 0
    start = segments[0].base if segments else 0
    for segment, after in itertools.pairwise(segments):
        if after.base > verified or after.header is None:
            break
        old = ages[after.base] >= keep_s * NS_PER_S - GAP_SHARE  # less what the division rounds off
        if not old and total <= retention.bytes:
            break
        start = after.base
        total -= after.base - segment.base + HEADER_BYTES
    return start


def lived_ns(segments: Sequence[Segment], *, now_ns: int, gap_max_ns: int) -> dict[int, int]:
    """Base -> ns since the segment was made: the gaps between them, each at least 0 and at most `gap_max_ns`."""
    ages: dict[int, int] = {}
    age, later_ns = 0, now_ns
    for segment in reversed(segments):
        if segment.header is not None:
            age += min(max(0, later_ns - segment.header.created_ns), gap_max_ns)
            later_ns = segment.header.created_ns
        ages[segment.base] = age
    return ages
