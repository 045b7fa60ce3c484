"""Patience and prefetch: page chains of one (symbol, kind), several at a time, delivered strictly in time order.

A chain that fails is started again from its last proven instant, for ever, with jittered backoff: an outage is an
expected state. Only a permanent error ends it, and it arrives in its place, behind all that was proven before it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager

import attrs
import outcome
import trio

from actors.downloader.port import HistorySource, Page
from runtime.actor import ActorContext
from runtime.backoff import Backoff, BackoffCounter
from runtime.board import DependencyState
from runtime.clock import format_ns
from runtime.errors import InvariantViolation, NotConnected, PermanentSourceError, RetryableSourceError

LOOK_S = 0.25
"""While an outage is waited out: how often we show that we live, and look whether our own vendor is back."""
OWN_VENDOR = "market"
"""Name of the embedded simulator among the addresses on the board."""


@attrs.frozen(kw_only=True)
class FetchLimits:
    """Memory per (symbol, kind) under way: at most chains_max * (pages_ahead + 1) + 1 pages of about 4 MB."""

    chains_max: int = 3
    """Chains under way at a time for one (symbol, kind): a single one waits for a round trip per page."""
    pages_ahead: int = 1
    """Pages of one chain that wait for their turn."""
    backoff: Backoff = attrs.field(factory=Backoff)


Pages = trio.MemoryReceiveChannel[outcome.Outcome[Page]]
PagesIn = trio.MemorySendChannel[outcome.Outcome[Page]]


@attrs.frozen(kw_only=True)
class Chains:
    """How the history of one (symbol, kind) is fetched."""

    source: HistorySource
    symbol: str
    kind: str
    limits: FetchLimits
    ctx: ActorContext

    @asynccontextmanager
    async def open(
        self, spans: Sequence[tuple[int, int]]
    ) -> AsyncIterator[AsyncGenerator[tuple[int, int, Pages], None]]:
        """(from, to, its proven pages) for each span, in time order, the next ones being fetched meanwhile.

        Leaving the block ends what is under way. The pages' outcomes raise PermanentSourceError.
        """
        started_in, started = trio.open_memory_channel[tuple[int, int, Pages]](self.limits.chains_max)
        slots = trio.Semaphore(self.limits.chains_max)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._start_chains, nursery, spans, slots, started_in)
            async with aclosing(_each(started, slots)) as chains:
                yield chains
            nursery.cancel_scope.cancel()

    async def _start_chains(
        self,
        nursery: trio.Nursery,
        spans: Sequence[tuple[int, int]],
        slots: trio.Semaphore,
        started: trio.MemorySendChannel[tuple[int, int, Pages]],
    ) -> None:
        """Start a chain whenever a slot is free, in time order: the one that is waited for always has a slot."""
        with started:
            for from_ns, to_ns in spans:
                await slots.acquire()
                pages_in, pages = trio.open_memory_channel[outcome.Outcome[Page]](self.limits.pages_ahead)
                nursery.start_soon(self._run_chain, from_ns, to_ns, pages_in)
                await started.send((from_ns, to_ns, pages))

    async def _run_chain(self, from_ns: int, to_ns: int, pages: PagesIn) -> None:
        with pages:
            try:
                await self._deliver(from_ns, to_ns, pages)
            except PermanentSourceError as exc:
                await pages.send(outcome.Error(exc))

    async def _deliver(self, from_ns: int, to_ns: int, pages: PagesIn) -> None:
        at_ns = from_ns
        tries = BackoffCounter(self.limits.backoff)
        while at_ns < to_ns:
            try:
                async with aclosing(_generator(self.source, self.symbol, self.kind, at_ns, to_ns)) as chain:
                    async for page in chain:
                        self._vendor_is_up()
                        await pages.send(outcome.Value(page))
                        if page.proven_to_ns > at_ns:
                            at_ns = page.proven_to_ns
                            tries.reset()
            except RetryableSourceError as exc:
                await self._wait_out(exc, at_ns, tries)
            else:
                if at_ns < to_ns:
                    raise InvariantViolation(f"{self.source.name}: a chain ended before its range was proven")

    def _vendor_is_up(self) -> None:
        ctx = self.ctx
        ctx.board.dependency(self.source.name, DependencyState.UP, now_ns=ctx.clock.wall_ns())
        ctx.progress()

    async def _wait_out(self, exc: RetryableSourceError, at_ns: int, tries: BackoffCounter) -> None:
        """An outage: named on the board, waited for."""
        ctx = self.ctx
        wait_s = max(tries.next_s(ctx.entropy.uniform()), exc.retry_after_s or 0.0)
        # A vendor that says when to come back is up: slow is not down (P7).
        state = DependencyState.DOWN if exc.retry_after_s is None else DependencyState.UP
        ctx.board.dependency(self.source.name, state, reason=str(exc), now_ns=ctx.clock.wall_ns())
        # A simulator of ours that has not started yet: nobody need worry.
        log = ctx.log.info if isinstance(exc.__cause__, NotConnected) else ctx.log.warning
        log(
            "history_retry",
            symbol=self.symbol,
            kind=self.kind,
            proven_to=format_ns(at_ns),
            reason=str(exc),
            attempt=tries.attempt,
            wait_s=round(wait_s, 3),
        )
        until_s, address = trio.current_time() + wait_s, self._own_address()
        while (left_s := until_s - trio.current_time()) > 0:
            ctx.progress()
            await trio.sleep(min(left_s, LOOK_S))
            if exc.retry_after_s is None and self._own_address() not in ("", address):
                tries.reset()  # it was restarted: our patience was with the one before
                return
            address = self._own_address()

    def _own_address(self) -> str:
        """Of the vendor that we bring along; empty while it is not up, or when the vendor is another's."""
        return self.ctx.board.endpoints.get(OWN_VENDOR, "")


async def _generator(
    source: HistorySource, symbol: str, kind: str, from_ns: int, to_ns: int
) -> AsyncGenerator[Page, None]:
    """The port promises an iterator; what is left half way must be closed all the same."""
    pages = source.pages(symbol, kind, from_ns, to_ns)
    try:
        async for page in pages:
            yield page
    finally:
        if isinstance(pages, AsyncGenerator):
            await pages.aclose()


async def _each(
    started: trio.MemoryReceiveChannel[tuple[int, int, Pages]], slots: trio.Semaphore
) -> AsyncGenerator[tuple[int, int, Pages], None]:
    with started:
        async for chain in started:
            yield chain
            slots.release()  # whoever comes back for the next one has taken all of this
