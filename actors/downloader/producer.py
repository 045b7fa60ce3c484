"""The log side of one (symbol, kind): sequence, position, and a bounded window of appends under way."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import attrs
import trio

from actors.downloader.jobs import NOTHING, Position, Quarantined, Wanted
from actors.downloader.slices import Feed, Framed
from actors.market.coverage import IntervalSet
from runtime.errors import LogError
from runtime.log.appender import Appender, AppendRequest
from runtime.log.types import Appended, FrameDraft, GroupDraft, SliceDraft

ANSWER_LOOK_S = 5.0


@attrs.frozen(kw_only=True)
class Covers:
    """What an append says about progress: this interval of this job is in it, whole."""

    wanted: Wanted
    from_ns: int
    to_ns: int
    rows: int
    confirms: bool = False
    """Its hour was settled when it was asked for."""
    live: IntervalSet = NOTHING
    """Minutes that past live sessions hold: they become covered with it."""
    told_ns: int = 0
    """Our wall clock when it was asked for, behind a live stream; else 0."""


@attrs.frozen(kw_only=True)
class Noted:
    """What an append says to be missing, and why."""

    intervals: tuple[tuple[int, int], ...]
    reason: str


@attrs.frozen
class _UnderWay:
    request: AppendRequest
    position: Position
    covers: Covers | None


class HistoryProducer:
    """Appends in order, several at a time; knows what is durable. One task uses it at a time."""

    def __init__(
        self,
        appender: Appender,
        name: str,
        *,
        under_way_max: int,
        on_durable: Callable[[Covers], None] = lambda covers: None,
        on_wait: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self.position = Position()
        """What the log holds: moves only when an append was answered."""
        self._appender = appender
        self._planned = Position()
        self._sequence = 0
        self._under_way: deque[_UnderWay] = deque()
        self._under_way_max = under_way_max
        self._on_durable = on_durable
        self._on_wait = on_wait  # every few seconds while the log is slow or full: an outage that is waited for

    async def resume(self) -> None:
        """Take over where the log says this producer stood; forgets appends whose outcome is not known."""
        self._under_way.clear()
        state = await self._appender.resume(self.name)
        self._sequence = state.sequence
        self.position = self._planned = Position.from_bytes(state.position)

    async def append_slice(self, feed: Feed, framed: Framed, covers: Covers) -> None:
        """Queue one slice: the frames, and the position that says what they cover, so neither is there without the
        other.

        Blocks while the window is full. Raises what the writer raised for an older append (NotConnected: the buffer
        went away, `resume`) and LogError when the sequence was not ours to use (a bug: crash, resume).
        """
        await self._make_room()
        position = self._planned.with_covered(covers.live).after_slice(
            covers.from_ns, covers.to_ns, covers.wanted, confirms=covers.confirms
        )
        if position.end_ns > self._planned.end_ns:
            position = attrs.evolve(position, told_ns=covers.told_ns)
        draft = SliceDraft(
            producer=self.name,
            sequence=self._sequence + 1,
            producer_position=position.to_bytes(),
            frames=framed.frames,
            feed=feed.name,
            live_partition=feed.live_partition,
            from_ns=covers.from_ns,
            to_ns=covers.to_ns,
            stamped=framed.stamped,
        )
        await self._submit(draft, position, covers)

    async def append_note(
        self, frames: tuple[FrameDraft, ...], *, quarantined: Quarantined | None = None, noted: Noted | None = None
    ) -> None:
        """Queue records that cover nothing; what they say is remembered, so that it is not said twice."""
        await self._make_room()
        position = self._planned
        if quarantined is not None:
            position = position.with_quarantined(quarantined)
        if noted is not None:
            position = position.after_note(noted.intervals, noted.reason)
        draft = GroupDraft(
            producer=self.name,
            sequence=self._sequence + 1,
            producer_position=position.to_bytes(),
            frames=frames,
        )
        await self._submit(draft, position, None)

    async def _make_room(self) -> None:
        while len(self._under_way) >= self._under_way_max:
            await self._oldest()

    async def _submit(self, draft: GroupDraft, position: Position, covers: Covers | None) -> None:
        request = await self._appender.submit(draft)
        # No await between here and the end: cancelled before, nothing was queued; after, it is counted.
        self._sequence += 1
        self._planned = position
        self._under_way.append(_UnderWay(request, position, covers))

    async def flush(self) -> None:
        """Wait until everything queued is durable."""
        while self._under_way:
            await self._oldest()

    async def _oldest(self) -> None:
        answer = await self._answer(self._under_way[0].request)
        first = self._under_way.popleft()
        if answer.duplicate:
            raise LogError(f"{self.name}: the log already holds this sequence from somebody else")
        self.position = first.position
        if first.covers is not None:
            self._on_durable(first.covers)

    async def _answer(self, request: AppendRequest) -> Appended:
        while True:
            with trio.move_on_after(ANSWER_LOOK_S):
                return await request.wait()
            self._on_wait()
