"""Reading the log for a delivery: one consumer per lane, neither ever waiting for the other."""

from __future__ import annotations

from collections.abc import Iterator

import attrs
import trio

from actors.bridge.lanes import Lanes
from actors.bridge.plan import Coalescing, Lane
from runtime.log.consumer import Consumer


@attrs.frozen(kw_only=True)
class Intake:
    """The consumers of one connection's lanes; they stand where the lanes begin."""

    lanes: Lanes
    live: Consumer
    history: Consumer
    limits: Coalescing
    read_bytes: int

    async def fill(self, drained: trio.Event, idle_s: float) -> None:
        """Read until a batch is due, or for `idle_s`, or until drained. Raises: LogHole."""
        idle_at_s = trio.current_time() + idle_s
        while not drained.is_set():
            await self.read_available()
            due_at_s = self.lanes.due_at_s(self.limits)
            if min(due_at_s, idle_at_s) <= trio.current_time():
                return
            with trio.move_on_at(min(due_at_s, idle_at_s)):
                await self._wait_for_groups()

    async def read_available(self) -> None:
        """Read what is there, as long as a batch has room for it. Raises: LogHole."""
        for lane, consumer in self._pairs():
            while not lane.is_full(self.limits) and consumer.read_nowait_available():
                groups = await consumer.read(bytes_max=self.read_bytes, wait=False)
                lane.offer(groups)
                if not groups:
                    break  # all of the other lane: the rest is looked at next time, so that one look stays short
            lane.look(consumer.position)

    def look(self) -> None:
        """Tell the lanes how far they are: also where everything was of the other one."""
        for lane, consumer in self._pairs():
            lane.look(consumer.position)

    @property
    def at_head(self) -> bool:
        """Nothing is left to be looked at."""
        return not any(consumer.read_nowait_available() for _, consumer in self._pairs())

    @property
    def lag_rows(self) -> int:
        """Rows that are not in the sink: counted where they were read, estimated by bytes where not."""
        ahead = (lane.rows_in(consumer.end() - consumer.position) for lane, consumer in self._pairs())
        return self.lanes.lag_rows + sum(ahead)

    def _pairs(self) -> Iterator[tuple[Lane, Consumer]]:
        yield self.lanes.live, self.live
        yield self.lanes.history, self.history

    async def _wait_for_groups(self) -> None:
        """Until a lane that is not full has something to look at. Cancelled: nothing is lost."""
        consumers = [consumer for lane, consumer in self._pairs() if not lane.is_full(self.limits)]
        if not consumers:
            await trio.sleep_forever()
        if any(consumer.read_nowait_available() for consumer in consumers):
            await trio.lowlevel.checkpoint()
            return
        await consumers[0].wait()  # they stand at the end of one log: news for one is news for all
