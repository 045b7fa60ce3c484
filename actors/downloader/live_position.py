"""What the log remembers for the producer `live/SYMBOL/KIND`: the session, how far it came, and what is owed. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable

import attrs
import msgspec

from actors.downloader.jobs import floor_minute
from actors.market.coverage import IntervalSet
from runtime.log.frame import POSITION_BYTES_MAX

LISTS_BYTES_MAX = (POSITION_BYTES_MAX - 440) // 2
"""Of each of `past` and `again`; the rest holds a session id, four instants, four counts and the JSON around them."""


class _Json(msgspec.Struct, kw_only=True):
    session: str = ""
    seam: int = 0
    to: int = 0
    first: int = 0
    told: int = 0
    rows: list[tuple[int, int]] = []
    past: list[tuple[int, int]] = []
    again: list[tuple[int, int]] = []


@attrs.frozen(kw_only=True)
class LivePosition:
    """Instants in ns UTC; the buffer reads `first` (actors/buffer/seam.py)."""

    session: str = ""
    """Of the connection that appended last; empty: never live."""
    seam_ns: int = 0
    """Its rows begin here, a whole minute."""
    to_ns: int = 0
    """It is contiguous up to here; at least `seam_ns`."""
    first_ns: int = 0
    """The first live instant ever of this feed."""
    told_ns: int = 0
    """Our wall clock when `to_ns` was said; 0: not known."""
    rows: tuple[tuple[int, int], ...] = ()
    """(start of an hour, live rows in it that were durable), of the newest few hours that are not confirmed."""
    past: IntervalSet = attrs.field(factory=IntervalSet)
    """Whole minutes that former sessions hold, as far as history did not take them into its own position."""
    again: IntervalSet = attrs.field(factory=IntervalSet)
    """Whole minutes that are owed: rows came too late for their slice."""

    @property
    def live(self) -> IntervalSet:
        """Whole minutes that live sessions hold, this one's included."""
        return self.past.add(self.seam_ns, floor_minute(self.to_ns)) if self.session else self.past

    def to_bytes(self) -> bytes:
        """JSON of at most POSITION_BYTES_MAX. A past minute left out costs a refetch; what is owed only grows."""
        past = self.past.to_json(bytes_max=LISTS_BYTES_MAX)
        again = json.dumps(list(widened(self.again, LISTS_BYTES_MAX)), separators=(",", ":"))
        head: dict[str, object] = {
            "session": self.session,
            "seam": self.seam_ns,
            "to": self.to_ns,
            "first": self.first_ns,
        }
        head |= {"told": self.told_ns, "rows": self.rows}
        return f'{msgspec.json.encode(head).decode()[:-1]},"past":{past},"again":{again}}}'.encode()

    @classmethod
    def from_bytes(cls, text: bytes) -> LivePosition:
        """The inverse; empty bytes are a new producer."""
        if not text:
            return cls()
        found = msgspec.json.decode(text, type=_Json)
        return cls(
            session=found.session,
            seam_ns=found.seam,
            to_ns=found.to,
            first_ns=found.first,
            told_ns=found.told,
            rows=tuple(found.rows),
            past=IntervalSet(found.past),
            again=IntervalSet(found.again),
        )


def widened(intervals: IntervalSet, bytes_max: int) -> IntervalSet:
    """`intervals` with the narrowest gaps closed until their JSON fits: more than was asked for, never less."""
    kept = list(intervals)
    while len(json.dumps(kept, separators=(",", ":"))) > bytes_max:
        gap = min(range(len(kept) - 1), key=lambda i: kept[i + 1][0] - kept[i][1])
        kept[gap : gap + 2] = [(kept[gap][0], kept[gap + 1][1])]
    return IntervalSet(kept)


def without(intervals: IntervalSet, other: Iterable[tuple[int, int]]) -> IntervalSet:
    """The instants of `intervals` that are not in `other`."""
    cut = IntervalSet(list(other))
    return IntervalSet([part for start, end in intervals for part in cut.missing(start, end)])


def common(intervals: IntervalSet, other: Iterable[tuple[int, int]]) -> IntervalSet:
    """The instants that are in both."""
    return without(intervals, without(intervals, other))
