"""While the disk is full the stream is not read: what is lost by that is written into space kept back for it.

The log says it anyway, by heartbeats that end and a session that begins later, and history fetches it. The record says
why, and says so also when this process is never seen again.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import trio

from actors.downloader.live_feed import LiveFeed
from actors.downloader.slices import coverage_frames
from actors.market.coverage import Coverage
from runtime.actor import ActorContext
from runtime.errors import LogFull, NotConnected
from runtime.log.appender import Appender
from runtime.log.types import GroupDraft
from runtime.market_clock import MarketClock

LOOK_S = 5.0
FIRST_S = 10.0
"""A disk that is full for less loses nothing: the stream's queue holds that much. Then after twice the time, and so on:
a day's hole takes a dozen records of 2 KB."""
ANSWER_S = 5.0
REASON = "the disk is full"
ROOM = "losses"


@attrs.define(kw_only=True, eq=False)
class FullDisk:
    """Of one incarnation of the live downloader."""

    feeds: Sequence[LiveFeed]
    appender: Appender
    market: MarketClock
    ctx: ActorContext
    _lost: list[LiveFeed] = attrs.field(factory=list)
    """Those that were live when it began."""
    _since_s: float | None = None
    _due_s: float = 0.0

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            if self.ctx.board.log is not None and self.ctx.board.log.error:
                self.ctx.progress()  # appends wait for space, however long it takes: an outage, no stall of ours
                await self._full(trio.current_time())
            else:
                self._since_s = None
            await trio.sleep(LOOK_S)

    async def _full(self, now_s: float) -> None:
        if self._since_s is None:
            self._since_s, self._due_s = now_s, now_s + FIRST_S
            self._lost = [feed for feed in self.feeds if feed.is_up]
        if now_s < self._due_s:
            return
        self._due_s = now_s + max(FIRST_S, now_s - self._since_s)
        for feed in self._lost:
            await self._record(feed, self.market.now_ns())

    async def _record(self, feed: LiveFeed, to_ns: int) -> None:
        target, from_ns = feed.target, feed.durable_to_ns
        if not from_ns < to_ns:
            return
        hole = Coverage(
            symbol=target.symbol,
            kind=target.kind,
            source=target.source,
            from_ns=from_ns,
            to_ns=to_ns,
            status="missing",
            reason=REASON,
        )
        name = f"{ROOM}/{target.symbol}/{target.kind}"
        draft = GroupDraft(
            producer=name,
            sequence=self.appender.lookup(name).sequence + 1,
            producer_position=b"",
            frames=coverage_frames(target.partition, hole),
        )
        with trio.move_on_after(ANSWER_S):
            try:
                await self.appender.append_loss(draft)
            except (LogFull, NotConnected) as exc:
                self.ctx.log.warning("hole_not_recorded", symbol=target.symbol, kind=target.kind, reason=str(exc))
