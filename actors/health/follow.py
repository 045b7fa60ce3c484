"""Reading the head of the log for the page: candles as they are appended. Lags, skips and starts anew without harm."""

from __future__ import annotations

from functools import partial

import attrs
import trio

from actors.health.recent import RecentCandles
from runtime.actor import ActorContext
from runtime.errors import LogError
from runtime.log.consumer import Consumer

FRAMES_BACK = 400
"""Per partition: how far back it begins."""
SKIP_BYTES = 128 << 20
"""Further behind than this it goes to the head: what it shows is the present."""
RETRY_S = 5.0
READ_BYTES = 512 * 1024


@attrs.frozen(kw_only=True)
class Follower:
    """Feeds `candles` from its own consumer."""

    consumer: Consumer
    candles: RecentCandles

    async def run(self, ctx: ActorContext) -> None:
        """For ever. Damage in the log is told by others; here it is only stepped over."""
        while True:
            try:
                await self._follow(ctx)
            except LogError as exc:
                ctx.log.warning("page_candles_interrupted", reason=str(exc))
                await trio.sleep(RETRY_S)

    async def _follow(self, ctx: ActorContext) -> None:
        self._seek()
        while True:
            if self.consumer.end() - self.consumer.position > SKIP_BYTES:
                self._seek()
            groups = await self.consumer.read(bytes_max=READ_BYTES)
            of_interest = [group for group in groups if any(frame.kind == "candles" for frame in group.frames)]
            if of_interest:
                async with self.candles.lock:
                    await ctx.offload(partial(self.candles.take, of_interest))

    def _seek(self) -> None:
        """Forward to some hundred frames before the end of each partition."""
        consumer = self.consumer
        partitions = range(2 * consumer.partitions_live)
        backs = ((p, max(0, consumer.log_end_offset(p) - FRAMES_BACK)) for p in partitions)
        near_the_end = min(consumer.position_of(p, offset) for p, offset in backs)
        consumer.seek(max(consumer.position, near_the_end))
