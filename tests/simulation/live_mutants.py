"""Broken promises of the live stream, the seam, and what is computed from live rows."""

from __future__ import annotations

from typing import Any

import attrs
import msgspec

from tests.simulation.mutants import mutant

MINUTE = 60 * 10**9


@mutant("seam", "a slice does not say after which live offset it comes")
def slice_unstamped() -> None:
    from actors.buffer.seam import SeamKeeper
    from runtime.log.types import SliceDraft

    real = SeamKeeper._one

    def unstamped(self: Any, draft: Any, ahead: Any, *, duplicate: bool) -> Any:
        if isinstance(draft, SliceDraft):
            stamped = draft.stamped
            draft = msgspec.structs.replace(draft, stamped=lambda last: stamped(-1))
        return real(self, draft, ahead, duplicate=duplicate)

    SeamKeeper._one = unstamped  # type: ignore[method-assign]


@mutant("seam", "live rows of a minute that a slice replaced are not refused")
def late_rows_taken() -> None:
    import actors.downloader.live_rows as live_rows

    real = live_rows.inside
    live_rows.inside = lambda ts_ns, intervals: real(ts_ns, list(intervals)[:1])


@mutant("seam", "rows before the session's seam are not refused: replayed events are appended twice")
def replay_taken() -> None:
    import actors.downloader.live_rows as live_rows

    real = live_rows.inside
    live_rows.inside = lambda ts_ns, intervals: real(ts_ns, list(intervals)[1:])


@mutant("seam", "a session begins with the minute that is under way")
def seam_too_early() -> None:
    import actors.downloader.live_group as live_group
    from actors.downloader.jobs import floor_minute

    live_group.ceil_minute = floor_minute  # type: ignore[attr-defined]


@mutant("seam", "the history lane does not wait for the live rows that its slices replace")
def after_ignored() -> None:
    from actors.bridge.lanes import Lanes

    Lanes._is_ripe = lambda self, group: True  # type: ignore[method-assign]


@mutant("live", "silence counts as contiguous")
def silence_is_proof() -> None:
    from actors.downloader.live_watch import Contiguity

    real = Contiguity.to_ns

    def trusting(self: Any, now_s: float) -> int:
        self._proven_s = now_s
        return real(self, now_s)

    Contiguity.to_ns = trusting  # type: ignore[method-assign]


@mutant("live", "the gap before a reconnect is not asked for")
def gap_not_asked() -> None:
    from actors.downloader.seam import FeedSeam

    real = FeedSeam.begin

    def seamless(self: Any, seam_ns: int) -> None:
        if past := list(self.past):
            self.past = self.past.add(past[-1][1], seam_ns)
        real(self, seam_ns)

    FeedSeam.begin = seamless  # type: ignore[method-assign]


@mutant("live", "rows that came too late do not order their minute anew")
def nothing_owed() -> None:
    import actors.downloader.live_feed as live_feed

    live_feed.owed_minutes = lambda refused, seam_ns, asked_to_ns: []


@mutant("live", "an hour that live held is not fetched again")
def not_confirmed() -> None:
    import actors.downloader.live_plan as live_plan

    live_plan._unconfirmed = lambda position, view, from_ns: []


@mutant("live", "an hour counts as settled as soon as it is over")
def settles_at_once() -> None:
    from actors.downloader.behind import Behind

    real = Behind.settled_to_ns

    def eager(self: Any) -> int:
        rules, self.rules = self.rules, attrs.evolve(self.rules, settle_s=0.0)
        try:
            return real(self)
        finally:
            self.rules = rules

    Behind.settled_to_ns = eager  # type: ignore[method-assign]


@mutant("live", "our wall clock holds instead of the vendor's")
def wall_clock_believed() -> None:
    from runtime.market_clock import MarketClock

    def wall(self: Any, monotonic_s: float | None = None) -> tuple[int, int]:
        now_ns = self._wall_ns(monotonic_s)
        return now_ns, now_ns

    MarketClock.bounds_ns = wall  # type: ignore[method-assign]


@mutant("live aggregation", "a late row does not revise the candle that is out")
def late_row_forgotten() -> None:
    import actors.aggregator.core as core

    real = core._range
    core._range = lambda day, before, after, row_pieces, marks: real(day, before, after, [], marks)


@mutant("live aggregation", "ticks move the watermark")
def ticks_move_the_watermark() -> None:
    from actors.aggregator.core import Core
    from actors.market.coverage import Coverage

    real = Core._add

    def moved(self: Any, one: Any, at: Any) -> Any:
        if one.rows.num_rows:
            newest = int(one.rows.column("ts_ns").to_numpy().max())
            tick = Coverage(
                symbol=one.symbol, kind=one.kind, source="", from_ns=newest, to_ns=newest + 1, status="live", session=""
            )
            one = attrs.evolve(one, beats=(*one.beats, tick))
        return real(self, one, at)

    Core._add = moved  # type: ignore[method-assign]


@mutant("live aggregation", "after a restart live rows are added again")
def rows_added_twice() -> None:
    from actors.aggregator.store import DayStore

    real = DayStore.touched

    def forgetful(self: Any, day: Any, input_end: int) -> None:
        real(self, day, input_end)
        day.applied = 0

    DayStore.touched = forgetful  # type: ignore[method-assign]


@mutant("live aggregation", "a heartbeat closes nothing")
def watermark_stands() -> None:
    from actors.aggregator.stream import Stream

    real = Stream.advanced
    Stream.advanced = lambda self, reached_ns, touched_days, *, lateness_ns: real(  # type: ignore[method-assign]
        self, (), touched_days, lateness_ns=lateness_ns
    )
