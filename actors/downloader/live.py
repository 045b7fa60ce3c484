"""The live downloader: one connection for each asset class, and the vendor's clock beside them.

Rows go to the log as they come, with a heartbeat each second that says how far the session is contiguous; everything
else (gaps, what came too late, confirmation) is history's work, ordered through the seam (docs/live.md).
"""

from __future__ import annotations

import attrs
import trio

from actors.downloader.full_disk import FullDisk
from actors.downloader.live_feed import LiveFeed
from actors.downloader.live_group import LiveGroup, LiveLimits
from actors.downloader.live_rows import LiveTarget
from actors.downloader.port import LiveSource, TimeSource
from actors.downloader.seam import Seam
from actors.market.symbols import AssetClass, parse_symbol, partition_of
from runtime.actor import ActorContext
from runtime.errors import PermanentSourceError, RetryableSourceError
from runtime.log.appender import Appender
from runtime.market_clock import MarketClock

CLOSE_S_MAX = 5.0
FAST_SAMPLES = 10
"""The first answers come quickly: until then the clock's error is large."""
FAST_S = 0.25


@attrs.frozen(kw_only=True)
class ClockPace:
    """How often the vendor is asked for its time."""

    poll_s: float = 1.0
    calm_s: float = 10.0
    """When its clock runs as ours does."""
    permanent_s: float = 3_600.0
    """When it does not tell us."""


@attrs.frozen(kw_only=True)
class LiveDownloader:
    """Stream what is wanted, for ever."""

    source: LiveSource
    time: TimeSource
    """Made for this incarnation, closed at its end."""
    appender: Appender
    partitions: int
    """n of the log."""
    feeds: tuple[tuple[str, str], ...]
    """(symbol, kind); kinds that an asset class lacks are left out."""
    seam: Seam
    market: MarketClock
    confirm: bool = True
    limits: LiveLimits = attrs.field(factory=LiveLimits)
    pace: ClockPace = attrs.field(factory=ClockPace)

    async def run(self, ctx: ActorContext) -> None:
        """Work until drained. Raises: LogError when another writer used the sequence of one of our producers."""
        ctx.ready()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._keep_time, ctx)
                groups = self._groups(ctx)
                feeds = [feed for group in groups for feed in group.feeds.values()]
                full = FullDisk(feeds=feeds, appender=self.appender, market=self.market, ctx=ctx)
                nursery.start_soon(full.run)
                for group in groups:
                    nursery.start_soon(group.run)
                await ctx.drain_requested.wait()
                nursery.cancel_scope.cancel()
        finally:
            with ctx.shielded(CLOSE_S_MAX):
                await self.time.close()

    def _groups(self, ctx: ActorContext) -> list[LiveGroup]:
        by_class: dict[AssetClass, dict[tuple[str, str], LiveFeed]] = {}
        for symbol, kind in self.feeds:
            parsed = parse_symbol(symbol)
            if kind in parsed.kinds:
                by_class.setdefault(parsed.asset_class, {})[symbol, kind] = self._feed(symbol, kind)
        return [
            LiveGroup(
                asset_class=asset_class,
                feeds=feeds,
                source=self.source,
                time=self.time,
                market=self.market,
                limits=self.limits,
                ctx=ctx,
            )
            for asset_class, feeds in by_class.items()
        ]

    def _feed(self, symbol: str, kind: str) -> LiveFeed:
        target = LiveTarget(
            symbol=symbol,
            kind=kind,
            source=self.source.name,
            partition=partition_of(symbol, self.partitions, history=False),
            rows_max=self.limits.rows_max,
        )
        return LiveFeed(
            target=target,
            appender=self.appender,
            seam=self.seam.feed(symbol, kind),
            confirm=self.confirm,
            under_way_max=self.limits.under_way_max,
        )

    async def _keep_time(self, ctx: ActorContext) -> None:
        """Ask the vendor for its time, for ever; an outage of it is seen by those who need more than the time."""
        samples = 0
        ctx.board.stream_dropped = self.source.counters
        while True:
            wait_s = self.pace.poll_s
            try:
                with trio.fail_after(self.limits.clock_s):
                    self.market.observe(await self.time.server_time())
                samples += 1
                ctx.board.market_clock = self.market.state()
                if self.market.rate == 1.0 and samples > FAST_SAMPLES and not self.market.doubtful:
                    wait_s = max(wait_s, self.pace.calm_s)
                elif samples <= FAST_SAMPLES:
                    wait_s = min(wait_s, FAST_S)
            except (RetryableSourceError, trio.TooSlowError):
                pass
            except PermanentSourceError as exc:
                ctx.log.warning("vendor_clock_refused", reason=str(exc))
                wait_s = self.pace.permanent_s
            await trio.sleep(wait_s)
