"""What the live and the history downloader tell each other about one feed: a small object lent by the tree.

Everything here can be read back from the log's producer positions, so either side may be a new incarnation at any
time. Both run on the Trio thread: no locks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import attrs
import trio

from actors.downloader.claims import Claims
from actors.downloader.jobs import floor_minute
from actors.downloader.live_position import LivePosition, common, without
from actors.market.coverage import IntervalSet
from runtime.clock import NS_PER_HOUR, NS_PER_MINUTE
from runtime.log.types import Interval, ProducerState
from runtime.market_clock import MarketClock

COUNTED_HOURS_MAX = 4
"""Of rows not confirmed yet, whose sum survives a kill in the live position."""
COUNTED_MINUTES_MAX = 3 * 24 * 60
"""Of rows not confirmed yet; older minutes are forgotten first, and are confirmed without this check."""


@attrs.define(eq=False)
class Orders:
    """Minutes to be fetched once more. An order that comes while its minute is being fetched stays open."""

    open: IntervalSet = attrs.field(factory=IntervalSet)
    begun: IntervalSet = attrs.field(factory=IntervalSet)
    newest_s: float = 0.0
    """Monotonic time of the newest one."""
    waiting_s: float = 0.0
    """And since when the open ones wait."""
    _asked: bool = False

    @property
    def owed(self) -> IntervalSet:
        """All that is not durable yet."""
        return IntervalSet([*self.open, *self.begun])

    def add(self, minutes: Iterable[Interval], now_s: float) -> None:
        """Whole minutes."""
        if not self.open:
            self.waiting_s = now_s
        self.open = IntervalSet([*self.open, *minutes])
        self.newest_s = now_s

    def due(self, now_s: float, *, quiet_s: float, wait_s: float) -> IntervalSet:
        """What is to be asked for now: no more came for `quiet_s`, or they waited `wait_s` while more kept coming."""
        ready = now_s - self.newest_s >= quiet_s or now_s - self.waiting_s >= wait_s
        return self.open if ready else IntervalSet()

    def begin(self, intervals: Iterable[Interval], now_s: float) -> None:
        """A question that covers these intervals is about to be asked."""
        asked = common(self.open, intervals)
        if asked:
            self.waiting_s, self._asked = now_s, True
        self.begun = IntervalSet([*self.begun, *asked])
        self.open = without(self.open, asked)

    def done(self, from_ns: int, to_ns: int) -> None:
        """Its slice is durable."""
        self.begun = without(self.begun, [(from_ns, to_ns)])

    def give_back(self, now_s: float) -> None:
        """What was begun and did not become durable is open again. A wait begins anew: other work has its turn."""
        if self._asked:
            self.waiting_s, self._asked = now_s, False
        self.open, self.begun = self.owed, IntervalSet()

    def forget_before(self, from_ns: int) -> None:
        """Nobody wants what is older: a stream that repeats the past would have us fetch years."""
        oldest_ns = next((start for start, _ in self.open), from_ns)
        if oldest_ns < from_ns:
            self.open = without(self.open, [(oldest_ns, from_ns)])


@attrs.define(eq=False)
class MinuteCounts:
    """Live rows per minute that are in the log and not confirmed."""

    _rows: dict[int, int] = attrs.field(factory=dict)
    _before: dict[int, int] = attrs.field(factory=dict)
    """Start of an hour -> rows that a former process had in it: by the log, which does not say in which minutes."""

    def restore(self, hours: Iterable[tuple[int, int]]) -> None:
        """As the log says; once for each process, before anything is counted."""
        if not self._rows and not self._before:
            self._before = dict(hours)

    @property
    def hours(self) -> tuple[tuple[int, int], ...]:
        """(start of an hour, rows) of the newest."""
        found = dict(self._before)
        for minute_ns, rows in self._rows.items():
            hour_ns = minute_ns - minute_ns % NS_PER_HOUR
            found[hour_ns] = found.get(hour_ns, 0) + rows
        return tuple(sorted(found.items())[-COUNTED_HOURS_MAX:])

    def add(self, counts: Iterable[tuple[int, int]]) -> None:
        """(start of the minute in ns, rows)."""
        for minute_ns, rows in counts:
            self._rows[minute_ns] = self._rows.get(minute_ns, 0) + rows
        if len(self._rows) > COUNTED_MINUTES_MAX:
            for minute_ns in sorted(self._rows)[: len(self._rows) - COUNTED_MINUTES_MAX]:
                del self._rows[minute_ns]

    def rows(self, from_ns: int, to_ns: int) -> int:
        """In [from, to), whole minutes; what a former process had only of whole hours."""
        before = sum(n for hour_ns, n in self._before.items() if from_ns <= hour_ns and hour_ns + NS_PER_HOUR <= to_ns)
        return before + sum(self._rows.get(minute_ns, 0) for minute_ns in range(from_ns, to_ns, NS_PER_MINUTE))

    def forget(self, from_ns: int, to_ns: int) -> None:
        """These minutes are confirmed."""
        for minute_ns in range(from_ns, to_ns, NS_PER_MINUTE):
            self._rows.pop(minute_ns, None)
        self._before = {
            hour_ns: n for hour_ns, n in self._before.items() if hour_ns + NS_PER_HOUR > to_ns or hour_ns < from_ns
        }


@attrs.define(eq=False, kw_only=True)
class FeedSeam:
    """One (symbol, kind)."""

    first_ns: int | None = None
    """The first live instant ever; None: it never was live."""
    seam_ns: int | None = None
    """Where the session that is up begins; None while none is: then history follows the market's clock."""
    asked_to_ns: int = 0
    """History has asked for minutes up to here, whatever the clock says now: it is a guess until its rate is known."""
    past: IntervalSet = attrs.field(factory=IntervalSet)
    """Whole minutes of sessions that ended, as far as history did not take them over."""
    lower_ns: int | None = None
    """Where what is wanted begins; None until history knows."""
    orders: Orders = attrs.field(factory=Orders)
    counts: MinuteCounts = attrs.field(factory=MinuteCounts)
    claims: Claims = attrs.field(factory=Claims)
    shift_ns: int | None = None
    """Added to a history_from that is relative to now: how far the market's clock was from ours when first asked."""
    live_to_ns: int = 0
    """The session that is up is durable and contiguous up to here."""
    changed: trio.Event = attrs.field(factory=trio.Event)
    """For the history lane: replaced each time it is set."""

    @property
    def live(self) -> IntervalSet:
        """Whole minutes that live sessions hold."""
        return self.past if self.seam_ns is None else self.past.add(self.seam_ns, floor_minute(self.live_to_ns))

    def restore(self, position: LivePosition) -> None:
        """As the log says: a former session is over, what was owed is owed."""
        self.seam_ns = None
        if position.session:
            self.first_ns = position.first_ns
            self.past = IntervalSet([*self.past, *position.live])
            self.counts.restore(position.rows)
            if without(position.again, self.orders.owed):
                self.orders.open = IntervalSet([*self.orders.open, *position.again])
        self.wake()

    def begin(self, seam_ns: int) -> None:
        """A session is up, its rows begin at `seam_ns`."""
        self.first_ns = seam_ns if self.first_ns is None else min(self.first_ns, seam_ns)
        self.seam_ns = self.live_to_ns = seam_ns
        self.wake()

    def end(self) -> None:
        """It is over. What it holds is what the log says of it."""
        self.past = self.live
        self.seam_ns = None
        self.wake()

    def order(self, minutes: Iterable[Interval], now_s: float) -> None:
        """Rows of these minutes came too late."""
        self.orders.add(minutes, now_s)
        self.forget_unwanted()
        self.wake()

    def review(self, market: MarketClock, now_s: float) -> list[Interval]:
        """What was claimed while the vendor's clock was wrong is to be asked for (once more)."""
        wrong = self.claims.review(market, now_s)
        if wrong:
            self.order(wrong, now_s)
        return wrong

    def forget_unwanted(self) -> None:
        """What is owed before the beginning of all that is wanted."""
        if self.lower_ns is not None:
            self.orders.forget_before(self.lower_ns)

    def asked(self, intervals: Iterable[Interval]) -> None:
        """History asks for them, or has."""
        self.asked_to_ns = max([self.asked_to_ns, *(to_ns for _, to_ns in intervals)])

    def taken_over(self, covered: IntervalSet) -> None:
        """History's durable position says so."""
        self.past = without(self.past, covered)

    def wake(self) -> None:
        """The history lane looks again."""
        self.changed.set()
        self.changed = trio.Event()


@attrs.define(eq=False)
class Seam:
    """All feeds of one process. Owned by the tree, lent to the downloaders."""

    lookup: Callable[[str], ProducerState]
    """From the open log."""
    _feeds: dict[tuple[str, str], FeedSeam] = attrs.field(factory=dict)

    def feed(self, symbol: str, kind: str) -> FeedSeam:
        """Of one (symbol, kind), as the log remembers it."""
        if (symbol, kind) not in self._feeds:
            feed = self._feeds[symbol, kind] = FeedSeam()
            feed.restore(LivePosition.from_bytes(self.lookup(live_producer(symbol, kind)).position))
        return self._feeds[symbol, kind]


def live_producer(symbol: str, kind: str) -> str:
    """The name of the producer of its live rows."""
    return f"live/{symbol}/{kind}"
