"""What a producer's positions around damage in the log say of the rows that were in it. Pure.

A frame whose header is rotten names no rows, but its producer's next position does: what that one adds to the position
before is missing, or was in the neighbour, which is fetched again with it. More is asked for than was lost, never less.
"""

from __future__ import annotations

import attrs

from actors.downloader.jobs import Position, ceil_minute, floor_minute
from actors.downloader.live_position import LivePosition, without
from actors.market.coverage import IntervalSet
from runtime.clock import NS_PER_HOUR, NS_PER_MINUTE
from runtime.log.losses import LostProducer

HISTORY, LIVE = "history", "live"


@attrs.frozen(kw_only=True)
class LostRows:
    """To be fetched again; whole minutes."""

    symbol: str
    kind: str
    from_ns: int
    to_ns: int


def lost_rows(producer: LostProducer) -> tuple[LostRows, ...]:
    """Intervals that hold everything that `producer` lost; none if it was no rows of a vendor's."""
    room, _, feed = producer.name.partition("/")
    symbol, _, kind = feed.rpartition("/")
    if room not in (HISTORY, LIVE) or not symbol:
        return ()
    missing = _of_history(producer) if room == HISTORY else _of_live(producer)
    return tuple(
        LostRows(symbol=symbol, kind=kind, from_ns=floor_minute(start), to_ns=ceil_minute(end))
        for start, end in missing
    )


def _of_history(producer: LostProducer) -> IntervalSet:
    """New in `covered` or `confirmed`; of a refetch, which adds to neither, as many hours as groups are gone."""
    before, after = Position.from_bytes(producer.before), Position.from_bytes(producer.after)
    parts = [*without(after.covered, before.covered), *without(after.confirmed, before.confirmed)]
    if (after.job, after.job_done_to) != (before.job, before.job_done_to) and after.job:
        begin = after.job_done_to - (producer.groups + 1) * NS_PER_HOUR
        if after.job == before.job:
            begin = max(begin, before.job_done_to)
        parts += [(begin, after.job_done_to)] if begin < after.job_done_to else []
    if before.job and before.job != after.job:  # a job ended in there; how, nobody knows
        parts.append((before.job_done_to, before.job_done_to + producer.groups * NS_PER_HOUR))
    return IntervalSet(parts)


def _of_live(producer: LostProducer) -> IntervalSet:
    """What the stream came further by; rows may come a little late."""
    before, after = LivePosition.from_bytes(producer.before), LivePosition.from_bytes(producer.after)
    begin = (before.to_ns or after.seam_ns) - NS_PER_MINUTE
    return IntervalSet([(begin, after.to_ns)]) if begin < after.to_ns else IntervalSet()
