"""When foreign exchange trades: Sunday 17:00 to Friday 17:00 New York (notes UPSTREAM 3).

New York's daylight saving follows the rule of 2007 (second Sunday of March to first Sunday of November), written out
here because a fresh machine may have no time zone database; both changes fall into the closed hours.
"""

from __future__ import annotations

import datetime

from runtime.clock import NS_PER_DAY, NS_PER_HOUR

_EPOCH = datetime.date(1970, 1, 1)
_WINTER_CLOSE_H = 22
_SUMMER_CLOSE_H = 21


def _sunday_on_or_after(year: int, month: int, day: int) -> int:
    """Days since the epoch."""
    first = datetime.date(year, month, day)
    return (first - _EPOCH).days + (6 - first.weekday()) % 7


def is_summer(instant_ns: int) -> bool:
    """Whether New York has daylight saving time (UTC-04) at `instant_ns`."""
    year = (_EPOCH + datetime.timedelta(days=instant_ns // NS_PER_DAY)).year
    starts_ns = _sunday_on_or_after(year, 3, 8) * NS_PER_DAY + 7 * NS_PER_HOUR
    ends_ns = _sunday_on_or_after(year, 11, 1) * NS_PER_DAY + 6 * NS_PER_HOUR
    return starts_ns <= instant_ns < ends_ns


def roll_hour_utc(instant_ns: int) -> int:
    """The hour of the UTC day at which New York's clock shows 17:00."""
    return _SUMMER_CLOSE_H if is_summer(instant_ns) else _WINTER_CLOSE_H


def fx_open(instant_ns: int) -> bool:
    """Whether the foreign exchange session runs at `instant_ns`."""
    weekday = (instant_ns // NS_PER_DAY + 3) % 7  # 1970-01-01 was a Thursday; Monday is 0
    hour = instant_ns % NS_PER_DAY // NS_PER_HOUR
    if weekday == 5:
        return False
    if weekday == 4:
        return bool(hour < roll_hour_utc(instant_ns))
    if weekday == 6:
        return bool(hour >= roll_hour_utc(instant_ns))
    return True


def new_york_offset_h(instant_ns: int) -> int:
    """Hours to add to UTC for New York's clock: -4 or -5."""
    return -4 if is_summer(instant_ns) else -5
