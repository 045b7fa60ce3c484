"""What happens as the disk fills up, one step after the other (DURABLE_LOG.md 8). Pure.

A share of the volume alone says little: 15 % of a large disk is plenty. So a step counts only when what is free is
also small beside what the log may keep (`docs/decisions/0006-filling-disk.md`).
"""

from __future__ import annotations

import math
from enum import IntEnum

import attrs

WARN_SHARE = 0.70
SHED_SHARE = 0.85
BACK_SHARE = 0.02
"""A step is left again this far below the share that entered it."""
SHED_FREE_PART = 4
"""Backfill stops only when less than this part of `retention_bytes` is free."""
RATE_WINDOW_S = 60.0


class Level(IntEnum):
    """How full it is."""

    FINE = 0
    WARN = 1
    """Told to people."""
    SHED = 2
    """What can be downloaded again stops: backfill."""
    NO_RUNWAY = 3
    """No space for another segment: what is accepted goes into the space that is already ours."""
    FULL = 4
    """That is used up as well: nothing is accepted but the record of the loss."""


@attrs.frozen(kw_only=True)
class Space:
    """What the disk and the log say."""

    volume_used: int
    volume_free: int
    """For us."""
    unverified_bytes: int
    """Of the log: what may not be trimmed, whatever the retention."""
    retention_bytes: int
    room_bytes: int
    """Guaranteed: the rest of the current segment and the runway."""
    runway_failed: bool
    refused: bool
    """The last commit found no space."""

    @property
    def share(self) -> float:
        """Of the volume, in use; as `df` counts."""
        return self.volume_used / max(1, self.volume_used + self.volume_free)


def judge(space: Space, before: Level) -> Level:
    """The level now; `before` gives hysteresis."""
    if space.refused:
        return Level.FULL
    if space.runway_failed:
        return Level.NO_RUNWAY
    backlog = space.unverified_bytes / max(1, space.retention_bytes)
    for level, share, free_max in (
        (Level.SHED, SHED_SHARE, space.retention_bytes // SHED_FREE_PART),
        (Level.WARN, WARN_SHARE, space.retention_bytes),
    ):
        enough = share - (BACK_SHARE if before >= level else 0.0)
        if backlog >= enough or (space.share >= enough and space.volume_free < free_max):
            return level
    return Level.FINE


def describe(space: Space, level: Level) -> str:
    """For people; "" when all is fine."""
    free = f"{space.volume_free / 1e9:,.2f} GB free, {space.share:.0%} of the volume in use"
    backlog = f"{space.unverified_bytes / 1e9:,.2f} GB not verified in every sink"
    return {
        Level.FINE: "",
        Level.WARN: f"the disk fills up: {free}, {backlog}",
        Level.SHED: f"the disk fills up, backfill is stopped: {free}, {backlog}",
        Level.NO_RUNWAY: f"no space for another segment, {space.room_bytes:,} bytes are left in reserve: {free}",
        Level.FULL: f"the disk is full, nothing is accepted: {free}",
    }[level]


@attrs.define
class FillRate:
    """Bytes per second appended, over about a minute."""

    _position: int | None = None
    _at_s: float = 0.0
    _rate: float = 0.0

    def seen(self, position: int, now_s: float) -> None:
        """The end of the log at monotonic `now_s`."""
        if self._position is not None and now_s > self._at_s:
            past_s = now_s - self._at_s
            weight = 1.0 - math.exp(-past_s / RATE_WINDOW_S)
            self._rate += weight * ((position - self._position) / past_s - self._rate)
        self._position, self._at_s = position, now_s

    def seconds_until_loss(self, space: Space, level: Level) -> float | None:
        """How long it lasts when nobody verifies and nobody frees space; None while nothing is appended."""
        if level is Level.FULL:
            return 0.0
        if self._rate < 1.0:
            return None
        free = 0 if level is Level.NO_RUNWAY else space.volume_free
        return round((free + space.room_bytes) / self._rate, 1)
