"""The steps of a filling disk, and how long it lasts."""

from __future__ import annotations

import attrs
import pytest

from actors.buffer.ladder import FillRate, Level, Space, describe, judge

GB = 10**9
SPACE = Space(
    volume_used=10 * GB,
    volume_free=90 * GB,
    unverified_bytes=0,
    retention_bytes=20 * GB,
    room_bytes=100_000_000,
    runway_failed=False,
    refused=False,
)


def volume(used: float, total: float) -> Space:
    return attrs.evolve(SPACE, volume_used=int(used * GB), volume_free=int((total - used) * GB))


@pytest.mark.parametrize(
    ("space", "before", "level"),
    [
        (SPACE, Level.FINE, Level.FINE),
        (volume(35, 50), Level.FINE, Level.WARN),
        (volume(900, 1000), Level.FINE, Level.FINE),  # 100 GB free: the log can grow to its full size
        (volume(45, 50), Level.FINE, Level.WARN),  # 90 %, but a quarter of the log's size is still free
        (volume(27, 31), Level.FINE, Level.SHED),
        (volume(26.1, 31), Level.FINE, Level.WARN),
        (volume(26.1, 31), Level.SHED, Level.SHED),  # 84.2 %: not left yet
        (volume(25, 31), Level.SHED, Level.WARN),
        (volume(34.5, 50), Level.WARN, Level.WARN),
        (volume(33, 50), Level.WARN, Level.FINE),
        (attrs.evolve(SPACE, unverified_bytes=15 * GB), Level.FINE, Level.WARN),  # a dead sink, on a large disk
        (attrs.evolve(SPACE, unverified_bytes=17 * GB), Level.FINE, Level.SHED),
        (attrs.evolve(SPACE, runway_failed=True), Level.FINE, Level.NO_RUNWAY),
        (attrs.evolve(SPACE, runway_failed=True, refused=True), Level.SHED, Level.FULL),
        (SPACE, Level.FULL, Level.FINE),
    ],
)
def test_the_level(space: Space, before: Level, level: Level) -> None:
    assert judge(space, before) is level
    assert (describe(space, level) == "") is (level is Level.FINE)


def test_seconds_until_loss_follow_the_rate_of_the_last_minute() -> None:
    rate = FillRate()
    assert rate.seconds_until_loss(SPACE, Level.FINE) is None
    for second in range(600):
        rate.seen(second * 1_000_000, float(second))
    assert rate.seconds_until_loss(SPACE, Level.FINE) == pytest.approx(90_100, rel=0.01)
    assert rate.seconds_until_loss(SPACE, Level.NO_RUNWAY) == pytest.approx(100, rel=0.01)
    assert rate.seconds_until_loss(SPACE, Level.FULL) == 0.0
    for second in range(600, 1800):
        rate.seen(599_000_000, float(second))
    assert rate.seconds_until_loss(SPACE, Level.FINE) is None
