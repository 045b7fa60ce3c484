"""Which segments may go. Pure.

A segment may go when every required consumer has verified past its last frame AND its retention is over, by time or
by size, whichever ends first (DURABLE_LOG.md 7). A filling disk shortens the time (DESIGN.md 2: to 6 h); nothing lets
an unverified frame go.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import attrs

from runtime.log.segment import HEADER_BYTES, Segment

PRESSED_S = 6 * 3600
"""Retention while the disk fills up."""


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
    total = segments[-1].base - segments[0].base + HEADER_BYTES * len(segments) if segments else 0
    start = segments[0].base if segments else 0
    for segment, after in itertools.pairwise(segments):
        if after.base > verified or after.header is None:
            break
        old = now_ns - after.header.created_ns >= keep_s * 1_000_000_000
        if not old and total <= retention.bytes:
            break
        start = after.base
        total -= after.base - segment.base + HEADER_BYTES
    return start
