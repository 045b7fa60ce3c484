"""When a market trades, from the zone's own rules: no dates are listed here (UPSTREAM 3).

The currency week is Sunday 17:00 to Friday 17:00 in New York: always 120 hours, since clocks change in its closed
hours; only New York's daylight saving counts. Vendors differ at the edges (one opens Sunday 19:00Z), so a session says
where silence is a hole, never which ticks to refuse.
"""

from __future__ import annotations

import datetime
from zoneinfo import ZoneInfo

from actors.market.symbols import AssetClass, parse_symbol

NS_PER_S = 1_000_000_000
_NEW_YORK = ZoneInfo("America/New_York")
_ROLL = datetime.time(17)
_EPOCH_SUNDAY = datetime.date(1970, 1, 4)
_NS_PER_DAY = 86_400 * NS_PER_S


def sessions(symbol: str, from_ns: int, to_ns: int) -> list[tuple[int, int]]:
    """The open hours of `symbol` inside [from_ns, to_ns): disjoint [from, to) in ns UTC, ascending.

    Raises: ValueError for an unknown symbol and for stocks, whose calendar does not exist yet.
    """
    asset_class = parse_symbol(symbol).asset_class
    if from_ns >= to_ns:
        return []
    if asset_class is AssetClass.CRYPTO:
        return [(from_ns, to_ns)]
    if asset_class is AssetClass.FX:
        return _currency_weeks(from_ns, to_ns)
    raise ValueError(f"no session calendar for {symbol!r} yet: {asset_class}")


def _currency_weeks(from_ns: int, to_ns: int) -> list[tuple[int, int]]:
    days_since = from_ns // _NS_PER_DAY - 3  # from the Sunday of 1970-01-04
    sunday = _EPOCH_SUNDAY + datetime.timedelta(weeks=days_since // 7 - 1)  # a week early: zones may lag the date
    found = []
    while (opens := _new_york_roll_ns(sunday)) < to_ns:
        closes = _new_york_roll_ns(sunday + datetime.timedelta(days=5))
        if closes > from_ns:
            found.append((max(opens, from_ns), min(closes, to_ns)))
        sunday += datetime.timedelta(weeks=1)
    return found


def _new_york_roll_ns(day: datetime.date) -> int:
    return int(datetime.datetime.combine(day, _ROLL, _NEW_YORK).timestamp()) * NS_PER_S
