"""Fakes of the downloader's ports: a vendor that holds arrays and misbehaves on order, jobs in a list.

The vendor pages like the real one and runs the same proof (`proof.py`), so what its faults do to a chain is what they
would do over HTTP; it passes the contract tests of the port.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Mapping
from enum import StrEnum

import attrs
import numpy as np
import numpy.typing as npt
import trio

from actors.downloader.jobs import BackfillJob
from actors.downloader.port import Page
from actors.downloader.proof import BORDER_ROWS, ChainProof, DecodedPage, Identity
from actors.market.rules import Validated, validate_quotes, validate_trades
from runtime.errors import PermanentSourceError, RetryableSourceError


class Fault(StrEnum):
    """What one answer does instead of being right."""

    CUT = "cut"
    HTML = "html"
    RATE_LIMIT = "rate-limit"
    TIMEOUT = "timeout"
    REPEAT_AT_BORDER = "repeat-at-border"
    LOSE_AT_BORDER = "lose-at-border"
    LOOP = "loop"
    UNSORTED = "unsorted"
    OUTSIDE = "outside"
    UNKNOWN_SYMBOL = "unknown-symbol"


@attrs.define(kw_only=True, eq=False)
class MemoryTicks:
    """One symbol's quotes; ts_ns sorted."""

    ts_ns: npt.NDArray[np.int64]
    bid: npt.NDArray[np.float64]
    ask: npt.NDArray[np.float64]

    kind = "quotes"

    def columns(self, start: int, stop: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """bid, ask of some rows."""
        return self.bid[start:stop], self.ask[start:stop]

    def texts(self, start: int, stop: int) -> tuple[list[str | None], ...]:
        """None of quotes."""
        del start, stop
        return ()

    def validated(self, symbol: str, source: str, start: int, stop: int, now_ns: int) -> Validated:
        """Some rows."""
        ts_ns = self.ts_ns[start:stop]
        return validate_quotes(symbol, source, ts_ns, *self.columns(start, stop), now_ns=now_ns, raw=_row_names(start))


@attrs.define(kw_only=True, eq=False)
class MemoryTrades:
    """One symbol's trades; ts_ns sorted. A trade's id is its row."""

    ts_ns: npt.NDArray[np.int64]
    price: npt.NDArray[np.float64]
    size: npt.NDArray[np.float64]

    kind = "trades"

    def columns(self, start: int, stop: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """price, size of some rows."""
        return self.price[start:stop], self.size[start:stop]

    def texts(self, start: int, stop: int) -> tuple[list[str | None], ...]:
        """trade_id, conditions of some rows."""
        return [str(row) for row in range(start, stop)], [str(1 + row % 2) for row in range(start, stop)]

    def validated(self, symbol: str, source: str, start: int, stop: int, now_ns: int) -> Validated:
        """Some rows."""
        ts_ns, (price, size) = self.ts_ns[start:stop], self.columns(start, stop)
        trade_id, conditions = self.texts(start, stop)
        return validate_trades(
            symbol, source, ts_ns, price, size, trade_id, conditions, now_ns=now_ns, raw=_row_names(start)
        )


def _row_names(first: int) -> Callable[[npt.NDArray[np.intp]], list[str]]:
    return lambda rows: [f"row {first + i}" for i in rows]


@attrs.define(kw_only=True, eq=False)
class MemoryHistory:
    """`HistorySource` over arrays. `next_fault` is asked once per answer (page or border question)."""

    ticks: Mapping[str, MemoryTicks | MemoryTrades]
    name: str = "memory"
    page_rows: int = 1_000
    latency_s: float = 0.0
    next_fault: Callable[[], Fault | None] = lambda: None
    now_ns: int = 4_102_444_800 * 10**9
    visible_to_ns: Callable[[], int] | None = None
    """The vendor's clock: rows from then on do not exist yet; None = all do."""
    requests: int = 0
    under_way: int = 0
    under_way_most: int = 0
    fired: Counter[Fault] = attrs.field(factory=Counter)
    """Which faults really happened."""
    closed: bool = False

    async def close(self) -> None:
        """Remember it."""
        await trio.lowlevel.checkpoint()
        self.closed = True

    async def pages(self, symbol: str, kind: str, from_ns: int, to_ns: int) -> AsyncIterator[Page]:
        """See the port."""
        if symbol not in self.ticks or self.ticks[symbol].kind != kind:
            raise PermanentSourceError(f"{kind} of {symbol}: unknown symbol")
        proof = ChainProof(from_ns, to_ns, pages_max=100_000)
        seen_ns = to_ns if self.visible_to_ns is None else max(min(to_ns, self.visible_to_ns()), from_ns)
        start, stop = np.searchsorted(self.ticks[symbol].ts_ns, [from_ns, seen_ns], side="left").tolist()
        at = start
        while True:
            page, at = await self._answer(symbol, at, stop, border=proof.border is not None)
            if proof.border is not None and (len(page.ts_ns) or not page.next_url):
                limit = len(proof.border.tail) + BORDER_ROWS
                probe = await self._fresh(symbol, proof.border.at_ns, stop, limit)
                if proof.cut_by(probe):
                    probe = await self._fresh(symbol, proof.border.at_ns, stop, 1_000_000)
                proof.check_border(probe, page)
            yield proof.accept(page)
            if proof.ended:
                return

    async def _answer(self, symbol: str, at: int, stop: int, *, border: bool) -> tuple[DecodedPage, int]:
        """The page from row `at`, and the row its cursor names; with what the fault makes of it."""
        fault = await self._travel()
        end = min(at + self.page_rows, stop)
        first = at
        if fault is Fault.REPEAT_AT_BORDER and border:
            first = max(at - 1, 0)
        elif fault is Fault.LOSE_AT_BORDER and border and at < end:
            first = at + 1
        page = self._decoded(symbol, first, end, f"row={end}" if end < stop else "")
        if fault is Fault.UNSORTED and len(page.ts_ns) > 1 and page.ts_ns[0] != page.ts_ns[-1]:
            page = attrs.evolve(page, ts_ns=page.ts_ns[::-1])
        elif fault is Fault.OUTSIDE and len(page.ts_ns):
            page = attrs.evolve(page, ts_ns=np.append(page.ts_ns[:-1], 2**62))
        elif fault is Fault.LOOP and end < stop:
            return attrs.evolve(page, next_url="row=0"), 0
        else:
            self._unused(fault, {Fault.UNSORTED, Fault.OUTSIDE, Fault.LOOP})
        if first == at:
            self._unused(fault, {Fault.REPEAT_AT_BORDER, Fault.LOSE_AT_BORDER})
        return page, end

    async def _fresh(self, symbol: str, at_ns: int, stop: int, limit: int) -> DecodedPage:
        fault = await self._travel()
        self._unused(fault, set(Fault))
        first = int(np.searchsorted(self.ticks[symbol].ts_ns, at_ns, side="left"))
        return self._decoded(symbol, first, min(first + limit, stop), "more" if first + limit < stop else "")

    def _unused(self, fault: Fault | None, kinds: set[Fault]) -> None:
        """This fault had nothing to act on."""
        if fault in kinds and fault is not None:
            self.fired[fault] -= 1

    async def _travel(self) -> Fault | None:
        """There and back; the faults that leave no answer end here."""
        self.requests += 1
        self.under_way += 1
        self.under_way_most = max(self.under_way_most, self.under_way)
        try:
            await trio.sleep(self.latency_s)
        finally:
            self.under_way -= 1
        fault = self.next_fault()
        if fault is None:
            return None
        self.fired[fault] += 1
        match fault:
            case Fault.CUT | Fault.HTML | Fault.TIMEOUT:
                raise RetryableSourceError(f"fault: {fault}")
            case Fault.RATE_LIMIT:
                raise RetryableSourceError("fault: rate limit", retry_after_s=12.0)
            case Fault.UNKNOWN_SYMBOL:
                raise PermanentSourceError("fault: unknown symbol")
            case _:
                return fault

    def _decoded(self, symbol: str, first: int, end: int, next_url: str) -> DecodedPage:
        ticks = self.ticks[symbol]
        ts_ns, columns = ticks.ts_ns[first:end], ticks.columns(first, end)

        def identities(start: int, stop: int) -> list[Identity]:
            one, two = (column[start:stop].tolist() for column in columns)
            return list(zip(ts_ns[start:stop].tolist(), one, two, strict=True))

        validated = ticks.validated(symbol, self.name, first, end, self.now_ns)
        return DecodedPage(
            ts_ns=ts_ns,
            identities=identities,
            rows=validated.rows,
            rejected=validated.rejected,
            next_url=next_url,
            request_id=f"request-{self.requests}",
        )


def faults_in_order(faults: list[Fault | None]) -> Callable[[], Fault | None]:
    """One after the other, then none."""
    rest = deque(faults)
    return lambda: rest.popleft() if rest else None


@attrs.define(kw_only=True)
class MemoryJobs:
    """`JobStore` in memory."""

    jobs: list[BackfillJob] = attrs.field(factory=list)
    failures: dict[str, str] = attrs.field(factory=dict)

    async def load(self) -> list[BackfillJob]:
        """All of them."""
        await trio.lowlevel.checkpoint()
        return list(self.jobs)

    async def done(self, job_id: str) -> None:
        """Forget it."""
        await trio.lowlevel.checkpoint()
        self.jobs = [job for job in self.jobs if job.id != job_id]

    async def failed(self, job_id: str, reason: str) -> None:
        """Set it aside."""
        await self.done(job_id)
        self.failures[job_id] = reason


def no_ticks() -> MemoryTicks:
    """A symbol that exists and never traded."""
    return MemoryTicks(ts_ns=np.empty(0, np.int64), bid=np.empty(0), ask=np.empty(0))


__all__ = ["Fault", "MemoryHistory", "MemoryJobs", "MemoryTicks", "faults_in_order", "no_ticks"]


def random_walk(seed: int, from_ns: int, to_ns: int, *, step_ns: int = 500_000_000) -> MemoryTicks:
    """A made-up market for --test-mode: a quote every `step_ns`, prices with five decimals, a function of the seed."""
    ts_ns = np.arange(from_ns, to_ns, step_ns, dtype=np.int64)
    # A linear congruential generator, vectorised over its index: no global randomness, the same on every machine.
    noise = (np.arange(len(ts_ns), dtype=np.uint64) + np.uint64(seed)) * np.uint64(6364136223846793005)
    moves = (noise >> np.uint64(33)).astype(np.int64) % 7 - 3
    bid = 110_000 + np.clip(np.cumsum(moves), -5_000, 5_000)
    spread = 5 + (noise >> np.uint64(40)).astype(np.int64) % 10
    return MemoryTicks(ts_ns=ts_ns, bid=bid / 1e5, ask=(bid + spread) / 1e5)


def random_trades(walk: MemoryTicks) -> MemoryTrades:
    """Trades at the prices of a made-up market of coins."""
    size = (1 + np.arange(len(walk.ts_ns)) * 7919 % 500) / 1e3
    return MemoryTrades(ts_ns=walk.ts_ns, price=np.round(walk.bid * 5e4, 2), size=size)
