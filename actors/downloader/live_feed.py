"""The log side of one live feed: what is pending, the next append, and what the buffer answered."""

from __future__ import annotations

import itertools
from collections import deque

import attrs

from actors.downloader.jobs import ceil_minute, floor_minute
from actors.downloader.live_position import LivePosition
from actors.downloader.live_rows import LiveAppend, LiveTarget, Tally
from actors.downloader.port import Ticks
from actors.downloader.seam import FeedSeam, live_producer
from actors.market.coverage import UNCONFIRMED_FINAL, Coverage, IntervalSet
from runtime.clock import NS_PER_MINUTE, NS_PER_S, Clock
from runtime.errors import LogError, RetryableSourceError
from runtime.log.appender import Appender, AppendRequest
from runtime.log.types import Interval, LiveDraft
from runtime.market_clock import STEP_NS, MarketClock

HEARTBEAT_NS = NS_PER_S
ROW_BYTES = 32
"""About what a row takes in the log, to bound a commit."""
GROUP_BYTES = 1_500
"""And what a group takes beside its rows."""


@attrs.frozen(kw_only=True)
class LiveMoment:
    """What a flush needs to know of the time."""

    to_ns: int
    """The session is contiguous up to here; whole seconds."""
    now_ns: int
    """The market's clock."""
    available_ns: int
    """History may ask for minutes that end by then."""
    now_s: float
    """Monotonic."""
    wall_ns: int
    """By our own clock."""


@attrs.define(kw_only=True, eq=False)
class LiveFeed:
    """One (symbol, kind) of one incarnation; used by one task at a time."""

    target: LiveTarget
    appender: Appender
    seam: FeedSeam
    confirm: bool
    """False: nothing will confirm what is live; its whole minutes are final."""
    under_way_max: int
    pending_rows: int = 0
    pending_since_s: float = 0.0
    tally: Tally = attrs.field(factory=Tally)
    _pending: list[Ticks] = attrs.field(factory=list)
    _position: LivePosition = attrs.field(factory=LivePosition)
    """Behind everything queued."""
    _sequence: int = 0
    _session: str = ""
    _owed: IntervalSet = attrs.field(factory=IntervalSet)
    """As the newest queued position says."""
    _under_way: deque[tuple[AppendRequest, LiveAppend, LivePosition]] = attrs.field(factory=deque)

    @property
    def producer(self) -> str:
        """Its name in the log."""
        return live_producer(self.target.symbol, self.target.kind)

    @property
    def is_up(self) -> bool:
        """A session feeds it."""
        return bool(self._session)

    @property
    def durable_to_ns(self) -> int:
        """Up to where the log holds this session, or the one that just ended: behind it nothing is there yet."""
        known = LivePosition.from_bytes(self.appender.lookup(self.producer).position)
        return known.to_ns if known.session == self._position.session else self._position.seam_ns

    async def resume(self, clock: Clock) -> None:
        """Take over where the log says this producer stood; a former session is over. Raises: NotConnected."""
        self._forget()
        state = await self.appender.resume(self.producer)
        self._sequence = state.sequence
        self._position = LivePosition.from_bytes(state.position)
        self.seam.restore(self._position)
        if self._position.told_ns:
            ago_s = (clock.wall_ns() - self._position.told_ns) / NS_PER_S
            self.seam.claims.over(self._position.to_ns, clock.monotonic_s() - ago_s)

    def begin(self, session: str, seam_ns: int, market: MarketClock, at_s: float) -> int:
        """A session was subscribed at `at_s`; never before what a former one holds, as far as that is over.

        Returns where it begins.
        """
        if not (market.steady and self._position.to_ns > market.bounds_ns()[1] + STEP_NS):
            seam_ns = max(seam_ns, ceil_minute(self._position.to_ns))
        self.seam.claims.begun(seam_ns, at_s)
        self._session = session
        self.seam.begin(seam_ns)
        first_ns = self._position.first_ns or seam_ns
        past = self.seam.past
        self._position = LivePosition(
            session=session,
            seam_ns=seam_ns,
            to_ns=seam_ns,
            first_ns=first_ns,
            past=past,
            rows=self.seam.counts.hours,
        )
        return seam_ns

    def review(self, market: MarketClock, now_s: float) -> list[Interval]:
        """Take back what was claimed while the vendor's clock was wrong: the minutes that are asked for instead.

        Raises: RetryableSourceError when the session itself begins in the future: a new one will not.
        """
        wrong = self.seam.review(market, now_s)
        low_ns, high_ns = market.bounds_ns(now_s)
        if self._session and market.steady and self._position.to_ns > high_ns + STEP_NS:
            if self._position.seam_ns > ceil_minute(high_ns) + NS_PER_MINUTE:
                raise RetryableSourceError("the session begins in the future: the vendor's clock was wrong")
            to_ns = max(self._position.seam_ns, low_ns - low_ns % NS_PER_S)
            self._position = attrs.evolve(self._position, to_ns=to_ns)
        return wrong

    def end(self) -> None:
        """The session is over."""
        if self._session:
            self._session = ""
            self.seam.end()
        self._forget()

    def push(self, ticks: Ticks, now_s: float) -> None:
        """Rows that wait for the next flush."""
        if not self._pending:
            self.pending_since_s = now_s
        self._pending.append(ticks)
        self.pending_rows += len(ticks.ts_ns)

    async def flush(self, moment: LiveMoment, *, rows_only: bool = False) -> None:
        """Append what is pending and, if one is due, a heartbeat. Blocks while too much is under way.

        Raises: NotConnected (the buffer went away), LogError (our sequence was used by somebody else).
        """
        if not self._session:
            self._pending, self.pending_rows = [], 0
            return
        records = () if rows_only else self._records(moment)
        owed = self.seam.orders.owed
        if not (self._pending or records or owed != self._owed):
            return
        while len(self._under_way) >= self.under_way_max:
            await self._oldest(moment)
        ticks, self._pending, self.pending_rows = self._pending, [], 0
        append = LiveAppend(target=self.target, ticks=ticks, records=records, now_ns=moment.now_ns, tally=self.tally)
        to_ns = records[-1].to_ns if records else self._position.to_ns
        position = attrs.evolve(self._position, to_ns=to_ns, past=self.seam.past, again=owed)
        if records:
            position = attrs.evolve(position, told_ns=moment.wall_ns, rows=self.seam.counts.hours)
            self.seam.claims.over(to_ns, moment.now_s)
        request = await self.appender.submit(self._draft(append, position))
        self._sequence += 1
        self._position, self._owed = position, owed
        self._under_way.append((request, append, position))

    def _draft(self, append: LiveAppend, position: LivePosition) -> LiveDraft:
        rows = sum(len(ticks.ts_ns) for ticks in append.ticks)
        return LiveDraft(
            producer=self.producer,
            sequence=self._sequence + 1,
            producer_position=position.to_bytes(),
            feed=f"{self.target.symbol}/{self.target.kind}",
            first_ns=position.first_ns,
            seam_ns=position.seam_ns,
            bytes=rows * ROW_BYTES + GROUP_BYTES,
            cut=append.cut,
        )

    def _records(self, moment: LiveMoment) -> tuple[Coverage, ...]:
        """Cumulative inside a minute; a minute's end is never left out."""
        last_ns = self._position.to_ns
        if moment.to_ns < last_ns + HEARTBEAT_NS:
            return ()
        start_ns = max(floor_minute(last_ns), self._position.seam_ns)
        whole_ns = floor_minute(moment.to_ns)
        cuts = sorted({start_ns, max(start_ns, whole_ns), moment.to_ns})
        return tuple(self._record(a, b, moment.now_ns) for a, b in itertools.pairwise(cuts))

    def _record(self, from_ns: int, to_ns: int, now_ns: int) -> Coverage:
        return Coverage(
            symbol=self.target.symbol,
            kind=self.target.kind,
            source=self.target.source,
            from_ns=from_ns,
            to_ns=to_ns,
            status="live",
            reason="" if self.confirm else UNCONFIRMED_FINAL,
            session=self._session,
            market_clock_ns=now_ns,
        )

    async def collect(self, moment: LiveMoment) -> None:
        """Take what was answered by now. Raises as `flush` does."""
        while self._under_way and self._under_way[0][0].answered:
            await self._oldest(moment)

    async def settle(self, moment: LiveMoment) -> None:
        """Wait until everything queued is answered. Raises as `flush` does."""
        while self._under_way:
            await self._oldest(moment)

    async def _oldest(self, moment: LiveMoment) -> None:
        request, append, position = self._under_way[0]
        answer = await request.wait()
        self._under_way.popleft()
        if answer.duplicate:
            raise LogError(f"{self.producer}: the log already holds this sequence from somebody else")
        if position.session == self._session:
            self.seam.live_to_ns = position.to_ns
        self.seam.counts.add(append.counts)
        asked_to_ns = max(moment.available_ns, self.seam.asked_to_ns)
        if owed := owed_minutes(answer.refused, position.seam_ns, asked_to_ns):
            self.seam.order(owed, moment.now_s)

    def _forget(self) -> None:
        self._pending, self.pending_rows = [], 0
        self._under_way.clear()


def owed_minutes(refused: tuple[Interval, ...], seam_ns: int, asked_to_ns: int) -> list[Interval]:
    """Minutes to be fetched anew: all that were refused, but for those before the seam that nobody asked for yet."""
    minutes = (start for from_ns, to_ns in refused for start in range(from_ns, to_ns, NS_PER_MINUTE))
    return [
        (start, start + NS_PER_MINUTE) for start in minutes if start >= seam_ns or start + NS_PER_MINUTE <= asked_to_ns
    ]
