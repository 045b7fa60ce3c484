"""What history does behind a live stream, for one feed: gaps, what is owed, confirmations, the rest. Pure.

Live minutes count as covered; an hour is final only when it was fetched after it had settled (docs/live.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from actors.downloader.jobs import NOTHING, Position, Wanted, Work, first_of, plan
from actors.downloader.live_position import without
from actors.market.coverage import IntervalSet
from runtime.clock import NS_PER_DAY, NS_PER_HOUR

WORK_NS_MAX = 2 * NS_PER_DAY
"""Of one piece of standing history: a gap waits no longer than this takes."""


@attrs.frozen(kw_only=True)
class LiveView:
    """What the live side says, at one moment; whole minutes, ns UTC."""

    from_ns: int
    """Where the configured history begins."""
    until_ns: int | None = None
    """Where it ends, if not at the seam: what lies between that and `first_ns` is not wanted."""
    first_ns: int | None
    """The first live instant ever."""
    seam_ns: int | None
    """Where the session that is up begins; None: no session."""
    live: IntervalSet = NOTHING
    """Minutes that live sessions hold."""
    owed: IntervalSet = NOTHING
    """Orders that are due."""
    settled_to_ns: int | None = None
    """Hours that end by then have settled; None: nothing is confirmed (`confirm = false`)."""
    not_yet: IntervalSet = NOTHING
    """Quarantined a short while ago, or refused by the vendor: later."""

    @property
    def lower_ns(self) -> int:
        """Everything from here on is wanted: also a gap that is older than the configured history."""
        return self.from_ns if self.first_ns is None else min(self.from_ns, self.first_ns)


def plan_live(position: Position, jobs: Sequence[Wanted], available_to_ns: int, view: LiveView) -> Work | None:
    """The next work: a person's jobs, gaps, what is owed, hours to confirm behind live, the rest from old to new."""
    work = plan(position, jobs, available_to_ns, view.live)
    if work is not None:
        return work
    end_ns = available_to_ns if view.seam_ns is None else min(view.seam_ns, available_to_ns)
    first_ns = end_ns if view.first_ns is None else min(view.first_ns, end_ns)
    standing = Wanted(job="", from_ns=view.lower_ns, to_ns=None, refetch=False)
    covered = IntervalSet([*position.covered, *view.live])
    steps: list[tuple[Wanted, Sequence[tuple[int, int]]]] = [
        (attrs.evolve(standing, quiet=True), covered.missing(first_ns, end_ns)),
        (attrs.evolve(standing, quiet=True), _before(view.owed, available_to_ns)),
        (attrs.evolve(standing, quiet=True), _unconfirmed(position, view, first_ns)),
        (standing, covered.missing(view.lower_ns, _until(view, first_ns))),
        (attrs.evolve(standing, quiet=True), _unconfirmed(position, view, view.lower_ns)),
    ]
    for wanted, every in steps:
        if intervals := list(without(IntervalSet(every), view.not_yet)):
            return Work(wanted=wanted, intervals=tuple(first_of(intervals, WORK_NS_MAX)))
    return None


def _before(intervals: IntervalSet, to_ns: int) -> list[tuple[int, int]]:
    """What of them is over."""
    return [(start, min(end, to_ns)) for start, end in intervals if start < to_ns]


def _unconfirmed(position: Position, view: LiveView, from_ns: int) -> list[tuple[int, int]]:
    """Settled and not fetched since: whole hours but for the first and what is done of one."""
    if view.settled_to_ns is None:
        return []
    start_ns = max(from_ns - from_ns % NS_PER_HOUR, view.lower_ns)
    open_ = IntervalSet(position.confirmed.missing(start_ns, view.settled_to_ns))
    if view.until_ns is not None and view.first_ns is not None:
        open_ = without(open_, [(view.until_ns, view.first_ns)])
    return list(open_)


def _until(view: LiveView, first_ns: int) -> int:
    return first_ns if view.until_ns is None else min(view.until_ns, first_ns)


def settled_to(now_ns: int, settle_ns: int) -> int:
    """The hours that end by the result settled by `now_ns`."""
    return (now_ns - settle_ns) // NS_PER_HOUR * NS_PER_HOUR
