"""A history lane's view of the live stream beside it: which clock holds, what is final, what to wait for.

Without a live stream the wall clock holds, every slice is final, and nothing is owed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import attrs

from actors.downloader.jobs import NOTHING, Position, Quarantined, Wanted, Work, floor_minute, missing, plan
from actors.downloader.live_plan import LiveView, plan_live, settled_to
from actors.downloader.live_position import without
from actors.downloader.producer import Covers
from actors.downloader.seam import FeedSeam
from actors.downloader.slices import Framed
from actors.market.coverage import IntervalSet
from runtime.clock import NS_PER_HOUR, NS_PER_MINUTE, NS_PER_S, Clock
from runtime.market_clock import MarketClock

LOOK_S_MAX = 5.0
LOOK_S_MIN = 0.02
REFUSALS_MAX = 3
"""So many hours in a row that are refused for good: it is the symbol or the plan, not the hour."""


@attrs.frozen(kw_only=True)
class ConfirmRules:
    """When an hour counts as settled, and what happens then."""

    confirm: bool = True
    """False: every slice is final at once, contiguous live minutes are too."""
    settle_s: float = 1200.0
    """Of the market's clock, after the end of the hour."""
    order_delay_s: float = 1.0
    """Orders wait this long for company."""
    order_wait_s: float = 60.0
    """While more keep coming: so long, and so often are the same minutes fetched again at most."""
    quarantine_retry_s: float = 60.0
    clock_wait_s: float = 60.0
    """How long to wait for the market's clock before ours is believed."""


@attrs.define(kw_only=True, eq=False)
class Behind:
    """Of one lane."""

    clock: Clock
    rules: ConfirmRules
    minute_settle_s: float
    """A minute is asked for only this long after it ended."""
    market: MarketClock | None = None
    """None: no live stream."""
    seam: FeedSeam | None = None
    relative: bool = False
    """The configured history begins at a distance back from now."""
    _began_s: float = attrs.field(default=math.nan, init=False)
    _not_before_s: dict[tuple[int, int], float] = attrs.field(factory=dict, init=False)
    """Intervals that are not asked for before this monotonic time."""
    _asked: IntervalSet = attrs.field(default=NOTHING, init=False)
    """Of the work under way, not durable yet."""
    asked_wall_ns: int = attrs.field(default=0, init=False)
    """Our wall clock when it was asked for."""
    _refusals: int = attrs.field(default=0, init=False)
    """In a row."""

    def now_ns(self) -> int:
        """Now, as the market sees it."""
        return self.clock.wall_ns() if self.market is None else self.market.now_ns()

    def available_to_ns(self) -> int:
        """Exclusive end of what can be asked for: minutes that are over and have settled."""
        if self.market is None:
            return floor_minute(self.clock.wall_ns() - round(self.minute_settle_s * NS_PER_S))
        # The settle time of a minute is the vendor's network, so it passes in real seconds.
        return floor_minute(self.market.bounds_ns(self.clock.monotonic_s() - self.minute_settle_s)[0])

    def settled_to_ns(self) -> int:
        """Hours that end by then have settled."""
        now_ns = self.clock.wall_ns() if self.market is None else self.market.bounds_ns()[0]
        return settled_to(now_ns, round(self.rules.settle_s * NS_PER_S))

    @property
    def live(self) -> IntervalSet:
        """Minutes that live sessions hold."""
        return NOTHING if self.seam is None else self.seam.live

    @property
    def past(self) -> IntervalSet:
        """Minutes of live sessions that ended: they become covered with the next slice."""
        return NOTHING if self.seam is None else self.seam.past

    @property
    def knows_the_time(self) -> bool:
        """False: nothing may be asked yet, because "now" could be years off."""
        if self.market is None or self.market.known:
            return True
        if math.isnan(self._began_s):
            self._began_s = self.clock.monotonic_s()
        return self.clock.monotonic_s() - self._began_s >= self.rules.clock_wait_s

    def next_work(self, position: Position, due: Sequence[Wanted]) -> Work | None:
        """What to do now."""
        available_ns = self.available_to_ns()
        if self.market is None or self.seam is None:
            return plan(position, due, available_ns)
        if not self.knows_the_time:
            return None
        self.seam.asked(position.covered)
        jobs = [wanted for wanted in due if wanted.job]
        standing = next((wanted for wanted in due if not wanted.job), None)
        if standing is None:
            return plan(position, jobs, available_ns, self.live)
        return plan_live(position, jobs, available_ns, self._view(self.seam, standing))

    def _view(self, seam: FeedSeam, standing: Wanted) -> LiveView:
        now_s = self.clock.monotonic_s()
        if seam.shift_ns is None:
            seam.shift_ns = self.now_ns() - self.clock.wall_ns() if self.relative else 0
        self._not_before_s = {part: at_s for part, at_s in self._not_before_s.items() if at_s > now_s}
        from_ns = floor_minute(standing.from_ns + seam.shift_ns)
        seam.lower_ns = from_ns if seam.first_ns is None else min(from_ns, seam.first_ns)
        seam.forget_unwanted()
        if self.market is not None:
            seam.review(self.market, now_s)
        return LiveView(
            from_ns=from_ns,
            until_ns=standing.to_ns,
            first_ns=seam.first_ns,
            seam_ns=seam.seam_ns,
            live=seam.live,
            owed=seam.orders.due(now_s, quiet_s=self.rules.order_delay_s, wait_s=self.rules.order_wait_s),
            settled_to_ns=self.settled_to_ns() if self.rules.confirm else None,
            not_yet=IntervalSet(list(self._not_before_s)),
        )

    def wait_s(self, position: Position, due: Sequence[Wanted]) -> float:
        """How long nothing new can be there to be done, unless somebody wakes the lane."""
        if self.market is not None:
            next_ns = self.available_to_ns() + NS_PER_MINUTE
            waits_s = [self.market.elapse_s(next_ns) + self.minute_settle_s]
            settle_ns = round(self.rules.settle_s * NS_PER_S)
            waits_s.append(self.market.elapse_s(self.settled_to_ns() + NS_PER_HOUR + settle_ns))
            return max(min(*waits_s, LOOK_S_MAX), LOOK_S_MIN)
        next_ns = self.available_to_ns() + NS_PER_MINUTE
        if any(missing(position, wanted, next_ns) for wanted in due):
            settled_ns = next_ns + round(self.minute_settle_s * NS_PER_S)
            return (settled_ns - self.clock.wall_ns()) / NS_PER_S
        return NS_PER_MINUTE / NS_PER_S if due else math.inf  # what is wanted lies further in the future

    def resumed(self, position: Position) -> None:
        """From the log: the end of what is covered may have been asked for by a wrong clock."""
        if self.seam is not None and position.told_ns:
            ago_s = (self.clock.wall_ns() - position.told_ns) / NS_PER_S
            self.seam.claims.over(position.end_ns, self.clock.monotonic_s() - ago_s - self.minute_settle_s)

    def begin(self, work: Work) -> int | None:
        """It is about to be asked for: slices that end by the result are final; None: all are."""
        if self.seam is None:
            return None
        self._asked = IntervalSet(list(work.intervals))
        self.asked_wall_ns = self.clock.wall_ns()
        self.seam.asked(work.intervals)
        if self.market is not None:
            asked_s = self.clock.monotonic_s() - self.minute_settle_s
            self.seam.claims.over(max(to_ns for _, to_ns in work.intervals), asked_s)
        self.seam.orders.begin(work.intervals, self.clock.monotonic_s())
        return self.settled_to_ns() if self.rules.confirm else None

    def end(self) -> None:
        """The work is over, done or not."""
        if self.seam is not None:
            self.seam.orders.give_back(self.clock.monotonic_s())

    def durable(self, covers: Covers, position: Position) -> None:
        """A slice is in the log."""
        if self.seam is None:
            return
        self._asked = without(self._asked, [(covers.from_ns, covers.to_ns)])
        self._refusals = 0
        self.seam.orders.done(covers.from_ns, covers.to_ns)
        self.seam.taken_over(position.covered)
        if covers.confirms:
            self.seam.counts.forget(covers.from_ns, covers.to_ns)

    def refused(self, retry_s: float) -> tuple[int, int] | None:
        """The vendor refused the work under way for good: the hour at fault, which is left out for `retry_s`.

        None: it is not the hour's fault (no live stream; or nothing else was answered either): leave out everything.
        """
        self._refusals += 1
        part = next(iter(self._asked), None)
        if self.seam is None or part is None or self._refusals > REFUSALS_MAX:
            return None
        from_ns, to_ns = part[0], min(part[1], (part[0] // NS_PER_HOUR + 1) * NS_PER_HOUR)
        self._later(from_ns, to_ns, retry_s)
        return from_ns, to_ns

    @property
    def leaves_out(self) -> bool:
        """Something was refused or quarantined, and is not asked for yet."""
        return bool(self._not_before_s)

    def _later(self, from_ns: int, to_ns: int, wait_s: float) -> None:
        self._not_before_s[from_ns, to_ns] = self.clock.monotonic_s() + wait_s

    def doubts(self, position: Position, framed: Framed) -> str:
        """Why this final slice must not replace what live had, or "". The second answer that is equal decides."""
        if self.seam is None or not self.rules.confirm or not framed.coverage.is_final:
            return ""
        coverage = framed.coverage
        had = self._live_rows(framed)
        if coverage.rows >= had or quarantined_of(framed) in position.quarantined:
            return ""
        self._later(coverage.from_ns, coverage.to_ns, self.rules.quarantine_retry_s)
        return f"{coverage.rows} rows, the live stream had {had}: to be fetched again"

    def short_by(self, framed: Framed) -> int:
        """Rows that live had and this final slice, believed because it came twice, does not."""
        return max(0, self._live_rows(framed) - framed.coverage.rows) if framed.coverage.is_final else 0

    def _live_rows(self, framed: Framed) -> int:
        coverage = framed.coverage
        return 0 if self.seam is None else self.seam.counts.rows(coverage.from_ns, coverage.to_ns)


def quarantined_of(framed: Framed) -> Quarantined:
    """What a position remembers of it."""
    coverage = framed.coverage
    return Quarantined(coverage.from_ns, coverage.to_ns, coverage.rows, coverage.checksum)
