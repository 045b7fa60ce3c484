"""From input groups to output frames: the deterministic heart of the aggregator, without any waiting."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import attrs
import numpy as np

from actors.aggregator.day import Day, DayKey, Mark
from actors.aggregator.inputs import Interval, LiveInput, SliceInput, read_group
from actors.aggregator.open_bars import open_bars
from actors.aggregator.output import candle_batch, frames
from actors.aggregator.store import DayStore
from actors.aggregator.stream import Stream
from actors.aggregator.views import View, changes, look, look_again
from actors.market.candles import MINUTES_PER_DAY, NS_PER_MINUTE, TIMEFRAMES, Bars, fold
from actors.market.coverage import REBUILD
from runtime.board import OpenBars
from runtime.log.types import FrameDraft, Group

_NewMark = tuple[int, int, Mark]
"""Minutes [low, high) that get a bit."""
PRODUCER = "aggregator"
CODE_VERSION = 2
"""Raise it when the same input would give other candles or another state."""


@attrs.frozen(kw_only=True)
class Output:
    """What one input group changed."""

    input_end: int
    """End position of the input group."""
    frames: tuple[FrameDraft, ...]
    rows: int


@attrs.frozen(kw_only=True)
class Applied:
    """How far a list of groups was applied."""

    outputs: list[Output]
    consumed: int
    """Groups; fewer than given when the store became full or a state file is damaged."""
    damaged: bool = False
    """The next group needs a day whose file is damaged: discard the state and replay."""


@attrs.frozen(kw_only=True)
class _At:
    """Where in the log an input stands."""

    end: int
    quiet: bool
    """Its output is in the log already: only the state changes."""


@attrs.define(eq=False, kw_only=True)
class Core:
    """Applies groups to the days of `store`. Runs in a worker thread; one call at a time."""

    store: DayStore
    timeframes: tuple[str, ...]
    """What is put out; the state is always made of minutes."""
    bases: tuple[str, ...]
    lateness_ns: int = 0
    """The watermark stays so far behind the heartbeats."""
    lateness_replayed_ns: int | None = None
    """What it was when the outputs that are suppressed were made."""
    changed: set[str] = attrs.field(factory=set)
    """Symbols whose open candles may have changed since `open_bars`."""

    def apply(self, groups: Sequence[Group], *, suppressed_to: int) -> Applied:
        """Apply groups in order. Those that end at or below `suppressed_to` put out nothing: the log has it already."""
        outputs: list[Output] = []
        for consumed, group in enumerate(groups):
            if self.store.full:
                return Applied(outputs=outputs, consumed=consumed)
            if group.producer == PRODUCER:
                continue
            taken = self._take(group, _At(end=group.end_position, quiet=group.end_position <= suppressed_to))
            if taken is None:
                return Applied(outputs=outputs, consumed=consumed, damaged=True)
            outputs += taken
        return Applied(outputs=outputs, consumed=len(groups))

    def open_bars(self) -> list[OpenBars]:
        """The open candles of every live symbol that changed since the last call."""
        symbols = sorted(self.changed)
        self.changed.clear()
        return [open_bars(self.store, symbol, timeframes=self.timeframes, bases=self.bases) for symbol in symbols]

    def _take(self, group: Group, at: _At) -> list[Output] | None:
        """At most one output; None when a day is damaged (nothing was changed then)."""
        inputs = read_group(group)
        if any(self.store.get(key) is None for one in inputs for key in self._days_of(one)):
            return None
        drafts: list[FrameDraft] = []
        for one in inputs:
            found = self._replace(one, at) if isinstance(one, SliceInput) else self._add(one, at)
            if shown := [view for view in found if view.basis in self.bases]:
                symbol = one.cover.symbol if isinstance(one, SliceInput) else one.symbol
                drafts += frames(candle_batch(symbol, shown, revision=group.stamp_ns), one.partition)
        rows = sum(draft.rows for draft in drafts)
        return [Output(input_end=group.end_position, frames=tuple(drafts), rows=rows)] if drafts else []

    def _days_of(self, one: SliceInput | LiveInput) -> Iterator[DayKey]:
        """Every day that the input may look at."""
        if isinstance(one, SliceInput):
            yield from (key for key, _, _ in one.pieces())
            return
        yield from (key for key, _, _ in (*one.row_pieces(), *one.touched()))
        for day in self.store.stream(one.symbol, one.kind).open_days:
            yield DayKey(one.symbol, one.kind, day)

    def _replace(self, one: SliceInput, at: _At) -> list[View]:
        """A slice: its minutes hold exactly its rows."""
        cover, stream = one.cover, self.store.stream(one.cover.symbol, one.cover.kind)
        bars = fold(cover.kind, one.rows, step_ns=NS_PER_MINUTE)
        found: list[View] = []
        for key, low, high in one.pieces():
            day = self._day(key)
            if at.end <= day.applied:
                continue
            inside = [_between(bars[basis], key, low, high) for basis in day.bases]
            before = self._look(day, low, high, stream, at)
            day.replace(low, high, cover.source, inside, final=cover.is_final)
            self.store.touched(day, at.end)
            if cover.reason == REBUILD and not at.quiet:
                found += self._look_again(day, low, high, stream)
            else:
                found += _changes(before, self._look(day, low, high, stream, at))
        return found

    def _add(self, one: LiveInput, at: _At) -> list[View]:
        """Live: rows join their minutes, heartbeats mark theirs and move the watermark, which puts candles out."""
        before = self.store.stream(one.symbol, one.kind)
        row_pieces, touched, finals = one.row_pieces(), list(one.touched()), list(one.finals())
        lateness_ns = self.lateness_ns
        if at.quiet and self.lateness_replayed_ns is not None:
            lateness_ns = self.lateness_replayed_ns
        days = {key.day for key, _, _ in (*row_pieces, *touched)}
        after = before.advanced((beat.to_ns for beat in one.beats), days, lateness_ns=lateness_ns)
        self.store.streams[one.symbol, one.kind] = after
        self.changed.add(one.symbol)
        bars = fold(one.kind, one.rows, step_ns=NS_PER_MINUTE) if row_pieces else {}
        found: list[View] = []
        for number in sorted(days | before.open_days):
            day = self._day(DayKey(one.symbol, one.kind, number))
            if at.end <= day.applied:
                continue
            marks = _new_marks(day, touched, Mark.LIVE) + _new_marks(day, finals, Mark.FINAL_LIVE)
            low, high = _range(day, before, after, row_pieces, marks)
            old = self._look(day, low, high, before, at)
            if self._fold(day, one, bars, marks):
                self.store.touched(day, at.end)
            found += _changes(old, self._look(day, low, high, after, at))
        return found

    def _fold(self, day: Day, one: LiveInput, bars: dict[str, Bars], marks: list[_NewMark]) -> bool:
        """Change the day; True when it changed."""
        inside = [_between(bars[basis], day.key, 0, MINUTES_PER_DAY) for basis in day.bases] if bars else []
        rows = any(len(part) for part in inside)
        if rows:
            day.fold(one.source, inside)
        for low, high, bit in marks:
            day.mark(low, high, bit)
        return rows or bool(marks)

    def _look(self, day: Day, low: int, high: int, stream: Stream, at: _At) -> list[list[View]]:
        """Per timeframe what readers see of the minutes [low, high); nothing when they are not to be told."""
        if at.quiet or low >= high:
            return []
        closed_to = stream.closed_to(day.key.day)
        return [look(day, timeframe, low, high, closed_to=closed_to) for timeframe in self.timeframes]

    def _look_again(self, day: Day, low: int, high: int, stream: Stream) -> list[View]:
        """All that readers have to see of the minutes [low, high), whatever they were told before."""
        closed_to = stream.closed_to(day.key.day)
        return [
            view for timeframe in self.timeframes for view in look_again(day, timeframe, low, high, closed_to=closed_to)
        ]

    def _day(self, key: DayKey) -> Day:
        day = self.store.get(key)
        assert day is not None, "asked for before anything was changed"
        return day


def _changes(before: list[list[View]], after: list[list[View]]) -> list[View]:
    return [view for old, new in zip(before, after, strict=True) for view in changes(old, new)]


def _new_marks(day: Day, intervals: list[Interval], bit: Mark) -> list[_NewMark]:
    """Minutes of the day that are to get a bit which not all of them have."""
    return [(low, high, bit) for key, low, high in intervals if key == day.key and not day.marked(low, high, bit)]


def _range(
    day: Day, before: Stream, after: Stream, row_pieces: list[Interval], marks: list[_NewMark]
) -> tuple[int, int]:
    """The minutes whose candles may change: with new rows or marks, and those that the watermark passes."""
    ranges = [(low, high) for key, low, high in row_pieces if key == day.key]
    ranges += [(low, high) for low, high, _ in marks]
    passed = before.closed_to(day.key.day), after.closed_to(day.key.day)
    if passed[0] < passed[1]:
        ranges.append(passed)
    return (min(low for low, _ in ranges), max(high for _, high in ranges)) if ranges else (0, 0)


def _between(bars: Bars, key: DayKey, low: int, high: int) -> Bars:
    """The bars that start in the minutes [low, high) of a day."""
    edges = key.start_ns + np.array([low, high]) * NS_PER_MINUTE
    start, end = np.searchsorted(bars.ts_ns, edges)
    if (start, end) == (0, len(bars)):
        return bars
    return Bars(**{field.name: getattr(bars, field.name)[start:end] for field in attrs.fields(Bars)})


def known_timeframes(names: Sequence[str]) -> tuple[str, ...]:
    """`names` from short to long. Raises: ValueError for unknown ones."""
    unknown = [name for name in names if name not in TIMEFRAMES]
    if unknown:
        raise ValueError(f"unknown timeframes {unknown}; known: {', '.join(TIMEFRAMES)}")
    return tuple(name for name in TIMEFRAMES if name in names)
