"""One connection after the other for the symbols of one asset class: sessions, flushes, patience."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import trio

from actors.downloader.jobs import ceil_minute, floor_minute
from actors.downloader.live_facts import LiveFacts
from actors.downloader.live_feed import LiveFeed, LiveMoment
from actors.downloader.live_watch import Contiguity, Silence, SilenceLimits
from actors.downloader.port import Alive, LiveSource, LiveStream, Ticks, TimeSource
from actors.market.symbols import AssetClass
from runtime.actor import ActorContext
from runtime.backoff import Backoff, BackoffCounter
from runtime.board import DependencyState
from runtime.clock import format_ns
from runtime.errors import NotConnected, PermanentSourceError, RetryableSourceError, SourceError
from runtime.market_clock import MarketClock

PROGRESS_S = 5.0
LOOK_S = 0.5
"""How often silence is judged, and the board told of the last ticks."""


@attrs.frozen(kw_only=True)
class LiveLimits:
    """Bounds and patience of the live downloader."""

    rows_max: int = 1_000
    """Of one frame; as many pending rows are flushed at once."""
    linger_s: float = 0.1
    """The longest that a row waits for company."""
    under_way_max: int = 32
    """Appends of one feed that are not durable yet."""
    safety_s: float = 0.25
    minute_settle_s: float = 5.0
    """As the history downloader's."""
    silence: SilenceLimits = attrs.field(factory=SilenceLimits)
    backoff: Backoff = attrs.field(factory=lambda: Backoff(initial_s=1.0, max_s=60.0))
    useful_s: float = 10.0
    """Data over so long a time make the next wait short again: `auth_success` alone proves nothing."""
    up_s: float = 60.0
    """And so does a connection that held so long while nothing traded."""
    permanent_s: float = 300.0
    """A key that is not known is tried again after this."""
    clock_s: float = 5.0
    """For one question about the vendor's time."""
    clock_wait_s: float = 60.0
    """Our clock is believed when the vendor did not tell its own for so long."""
    drain_s: float = 10.0


@attrs.define(kw_only=True, eq=False)
class LiveGroup:
    """Runs until cancelled."""

    asset_class: AssetClass
    feeds: dict[tuple[str, str], LiveFeed]
    source: LiveSource
    time: TimeSource
    market: MarketClock
    limits: LiveLimits
    ctx: ActorContext
    _silence: Silence = attrs.field(init=False)
    _tries: BackoffCounter = attrs.field(init=False)
    _began_s: float = attrs.field(init=False)
    _facts: dict[tuple[str, str], LiveFacts] = attrs.field(factory=dict)
    _first_data_s: float | None = None
    _last_data_s: float = 0.0

    def __attrs_post_init__(self) -> None:
        self._silence = Silence(symbols=self.symbols, limits=self.limits.silence)
        self._tries = BackoffCounter(self.limits.backoff)
        self._began_s = trio.current_time()
        self._facts = {key: LiveFacts(began_s=self._began_s) for key in self.feeds}

    @property
    def name(self) -> str:
        """On the board."""
        return f"{self.source.name}.{self.asset_class}"

    @property
    def symbols(self) -> list[str]:
        """Each once."""
        return list(dict.fromkeys(symbol for symbol, _ in self.feeds))

    async def run(self) -> None:
        """Sessions for ever. Raises: LogError when another writer used a sequence of ours."""
        while True:
            began_s = trio.current_time()
            self._first_data_s = None
            lost = await self._one_session()
            useful_s = 0.0 if self._first_data_s is None else self._last_data_s - self._first_data_s
            if useful_s >= self.limits.useful_s or trio.current_time() - began_s >= self.limits.up_s:
                self._tries.reset()
            await self._wait_out(lost)

    async def _one_session(self) -> SourceError | NotConnected:
        """Connect, and stay until it ends; why it did."""
        lost: SourceError | NotConnected | None = None
        async with trio.open_nursery() as nursery:
            try:
                for feed in self.feeds.values():
                    await feed.resume(self.ctx.clock)
                await self._wait_out_doubt()
                stream = await self.source.connect(nursery, self.asset_class, self.symbols)
                try:
                    await self._session(stream)
                finally:
                    await stream.close()
            except (SourceError, NotConnected) as exc:
                lost = exc
            nursery.cancel_scope.cancel()
        assert lost is not None
        return lost

    async def _session(self, stream: LiveStream) -> None:
        subscribed_s = trio.current_time()
        seam_ns = await self._seam()
        session = self.ctx.entropy.new_id()
        begun: list[int] = []
        for (symbol, _), feed in self.feeds.items():
            if symbol not in stream.refused:
                begun.append(feed.begin(session, seam_ns, self.market, subscribed_s))
        self._tell_up(session, max(begun, default=seam_ns), stream)
        watch = Contiguity(market=self.market, safety_s=self.limits.safety_s)
        self._silence.began(self.market.now_ns(), trio.current_time())
        try:
            await self._pump(stream, watch)
        finally:
            with self.ctx.shielded(self.limits.drain_s):
                await self._finish(watch)
            for feed in self.feeds.values():
                feed.end()

    async def _seam(self) -> int:
        """The first full minute from now on, by a fresh answer of the vendor's clock: it may just have begun to run."""
        told_ns = 0  # read after the subscription, also when the clock ignores it because a later answer overtook it
        try:
            with trio.fail_after(self.limits.clock_s):
                sample = await self.time.server_time()
            self.market.observe(sample)
            told_ns = sample.vendor_ns + sample.resolution_ns
        except (RetryableSourceError, trio.TooSlowError) as exc:
            # Nor is an older answer enough: until there are several, the clock's rate is a guess.
            if trio.current_time() - self._began_s < self.limits.clock_wait_s:
                raise RetryableSourceError(f"the vendor's clock is not known yet: {exc}") from exc
        except PermanentSourceError:
            pass  # not part of the plan: our clock must do
        if told_ns and self.market.doubtful:
            raise RetryableSourceError("the vendor's clock contradicts itself")
        return ceil_minute(max(told_ns, self.market.bounds_ns()[1]))

    async def _wait_out_doubt(self) -> None:
        """While the vendor's clock is in doubt a session would begin anywhere; doubt ends (market_clock)."""
        while self.market.doubtful:
            self.ctx.progress()
            await trio.sleep(LOOK_S)

    async def _pump(self, stream: LiveStream, watch: Contiguity) -> None:
        """Events to feeds, feeds to the log. Raises what ends the session."""
        flush_s = look_s = trio.current_time()
        while True:
            now_s = trio.current_time()
            if now_s >= flush_s:
                await self._flush(watch)
                flush_s = trio.current_time() + self.limits.linger_s
            if now_s >= look_s:
                self._judge_silence(now_s)
                self._review(now_s)
                self._tell_last(now_s)
                look_s = now_s + LOOK_S
            events: Sequence[Ticks | Alive] = ()
            with trio.move_on_at(flush_s):  # the wait alone: an append that takes longer must not cost its rows
                events = await stream.receive()
            for event in events:
                await self._take(event, watch)

    async def _take(self, event: Ticks | Alive, watch: Contiguity) -> None:
        now_s = trio.current_time()
        if isinstance(event, Alive):
            watch.alive(event.sent_s)
            return
        feed = self.feeds.get((event.symbol, event.kind))
        if feed is None or not len(event.ts_ns):
            return
        now_ns = self.market.now_ns()
        watch.saw(min(int(event.ts_ns.max()), now_ns), now_s)
        self._silence.heard(now_ns, now_s)
        self._first_data_s = now_s if self._first_data_s is None else self._first_data_s
        self._last_data_s = now_s
        feed.push(event, now_s)
        self._facts[event.symbol, event.kind].saw(event, now_s)
        if feed.pending_rows >= self.limits.rows_max:
            moment = self._moment(watch)
            await feed.flush(moment, rows_only=True)
            await feed.collect(moment)

    async def _flush(self, watch: Contiguity) -> None:
        moment = self._moment(watch)
        for feed in self.feeds.values():
            await feed.flush(moment)
            await feed.collect(moment)
        self.ctx.progress()

    def _moment(self, watch: Contiguity) -> LiveMoment:
        now_s = trio.current_time()
        return LiveMoment(
            to_ns=watch.to_ns(now_s),
            now_ns=self.market.bounds_ns()[1],
            available_ns=floor_minute(self.market.bounds_ns(now_s - self.limits.minute_settle_s)[0]),
            now_s=now_s,
            wall_ns=self.ctx.clock.wall_ns(),
        )

    def _judge_silence(self, now_s: float) -> None:
        if reason := self._silence.overdue(self.market.now_ns(), now_s):
            raise RetryableSourceError(reason)

    def _review(self, now_s: float) -> None:
        """Claims made while the vendor's clock was wrong are taken back."""
        for (symbol, kind), feed in self.feeds.items():
            if wrong := feed.review(self.market, now_s):
                spans = [f"{format_ns(from_ns)} to {format_ns(to_ns)}" for from_ns, to_ns in wrong[:3]]
                self.ctx.log.warning("vendor_clock_was_wrong", symbol=symbol, kind=kind, fetched_again=spans)

    async def _finish(self, watch: Contiguity) -> None:
        """What was received is appended; the session claims nothing more."""
        moment = self._moment(watch)
        try:
            for feed in self.feeds.values():
                await feed.flush(moment, rows_only=True)
            for feed in self.feeds.values():
                await feed.settle(moment)
        except NotConnected:
            return  # what became of it is found in the log at the next start

    # --- the board, and patience

    def _tell_last(self, now_s: float) -> None:
        for (symbol, kind), facts in self._facts.items():
            if (state := facts.look(now_s)) is not None:
                self.ctx.board.live[f"{symbol}/{kind}"] = state

    def _tell_up(self, session: str, seam_ns: int, stream: LiveStream) -> None:
        refused = "; ".join(f"{symbol}: {why}" for symbol, why in sorted(stream.refused.items()))
        state = DependencyState.DOWN if refused else DependencyState.UP
        note = refused or f"live from {format_ns(seam_ns)} on"  # until then nothing moves, and people wonder
        self.ctx.board.dependency(self.name, state, reason=note, now_ns=self.ctx.clock.wall_ns())
        self.ctx.log.info("live_session", stream=self.name, session=session, seam=format_ns(seam_ns), refused=refused)

    async def _wait_out(self, lost: SourceError | NotConnected) -> None:
        """The session ended: named on the board, waited for."""
        wait_s = self._tries.next_s(self.ctx.entropy.uniform())
        if isinstance(lost, PermanentSourceError):
            wait_s = max(wait_s, self.limits.permanent_s)
        elif isinstance(lost, RetryableSourceError):
            wait_s = max(wait_s, lost.retry_after_s or 0.0)
        reason = str(lost)
        if not isinstance(lost, NotConnected):  # that is our own buffer
            now_ns = self.ctx.clock.wall_ns()
            self.ctx.board.dependency(self.name, DependencyState.DOWN, reason=reason, now_ns=now_ns)
        not_yet = isinstance(lost.__cause__, NotConnected)  # a server of ours that is only starting
        tell = self.ctx.log.info if not_yet else self.ctx.log.warning
        tell("live_lost", stream=self.name, reason=reason, wait_s=round(wait_s, 3))
        until_s = trio.current_time() + wait_s
        while (left_s := until_s - trio.current_time()) > 0:
            self.ctx.progress()
            await trio.sleep(min(left_s, PROGRESS_S))
