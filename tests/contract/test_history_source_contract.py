"""The contract of `HistorySource` (actors/downloader/port.py), over every adapter: the fake, and Polygon's adapter
against the market simulator in this process. What passes here may stand in for the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import aclosing

import attrs
import httpx
import numpy as np
import pyarrow as pa
import pytest
import trio

from actors.downloader.memory import Fault, MemoryHistory, MemoryTicks, faults_in_order
from actors.downloader.polygon import PolygonHistory, PolygonLimits
from actors.embedded.simulator.access import RequestBudget
from actors.embedded.simulator.app import make_app
from actors.embedded.simulator.feed import Part, Quotes
from actors.embedded.simulator.pages import PartCache
from actors.embedded.simulator.world import Manners, World
from actors.market.schema import QUOTES
from runtime.actor import offload_inline
from runtime.clock import NS_PER_HOUR, NS_PER_MINUTE, VirtualClock, parse_instant_ns
from runtime.entropy import SeededEntropy
from runtime.errors import PermanentSourceError, RetryableSourceError
from runtime.ratelimit import RateLimit

SYMBOL = "C:EURUSD"
T0 = parse_instant_ns("2014-05-01T10:00Z")
END = T0 + 2 * NS_PER_HOUR
NOW = parse_instant_ns("2026-01-01")


def make_ticks() -> MemoryTicks:
    """1,000 ticks in two hours, a third of them sharing their instant with another, some equal altogether."""
    rng = np.random.default_rng(7)
    ts = np.sort(rng.integers(T0, END, 1_000))
    for i in range(1, 1_000, 3):
        ts[i] = ts[i - 1]
    bid = np.round(1.38 + rng.integers(0, 3, 1_000) / 1e5, 5)
    return MemoryTicks(ts_ns=ts, bid=bid, ask=np.round(bid + 1e-5, 5))


TICKS = make_ticks()
TRUTH = list(zip(TICKS.ts_ns.tolist(), TICKS.bid.tolist(), TICKS.ask.tolist(), strict=True))


@attrs.frozen
class TicksFeed:
    """The same ticks, as the simulator wants them."""

    symbols: tuple[str, ...] = (SYMBOL,)
    description: str = "the contract's ticks"

    def is_open(self, instant_ns: int) -> bool:
        return True

    def parts(self, symbol: str, from_ns: int, to_ns: int, *, descending: bool = False) -> Iterator[Part]:
        part = Part(from_ns=T0, to_ns=END)
        return iter([part] if from_ns < END and to_ns > T0 else [])

    def quotes(self, symbol: str, part: Part) -> Quotes:
        text = [pa.array([repr(p) for p in prices.tolist()], pa.string()) for prices in (TICKS.bid, TICKS.ask)]
        return Quotes(ts_ns=TICKS.ts_ns, bid=text[0], ask=text[1])


def polygon(page_rows: int, *, key: str = "k", empty_form_seed: int = 0, per_minute: int = 0) -> PolygonHistory:
    clock = VirtualClock(NOW)
    feed = TicksFeed()
    world = World(
        feed=feed,
        cache=PartCache(feed, offload_inline),
        clock=clock,
        entropy=SeededEntropy(1),
        offload=offload_inline,
        manners=Manners(seed=empty_form_seed),
        budget=RequestBudget(requests_per_minute=per_minute),
    )
    return PolygonHistory(
        rest_url="http://simulator.test",
        api_key=key,
        budget=RateLimit(),
        clock=clock,
        offload=offload_inline,
        limits=PolygonLimits(page_rows=page_rows),
        transport=httpx.ASGITransport(make_app(world)),
    )


def memory(page_rows: int) -> MemoryHistory:
    return MemoryHistory(ticks={SYMBOL: TICKS}, page_rows=page_rows, latency_s=0.01)


ADAPTERS = [pytest.param(memory, id="memory"), pytest.param(polygon, id="polygon-simulator")]


async def collect(source, from_ns=T0, to_ns=END, symbol=SYMBOL, kind="quotes"):
    async with aclosing(source.pages(symbol, kind, from_ns, to_ns)) as chain:
        return [page async for page in chain]


def rows_of(pages):
    return [
        row
        for page in pages
        for row in zip(*(page.rows.column(name).to_pylist() for name in ("ts_ns", "bid", "ask")), strict=True)
    ]


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("page_rows", [1, 2, 37, 333, 1_000, 50_000])
async def test_a_chain_delivers_every_tick_once_in_order_with_honest_marks(adapter, page_rows, autojump_clock):
    source = adapter(page_rows)
    end = END if page_rows > 2 else T0 + 10 * NS_PER_MINUTE
    pages = await collect(source, to_ns=end)
    assert rows_of(pages) == [row for row in TRUTH if row[0] < end]
    marks = [page.proven_to_ns for page in pages]
    assert marks == sorted(marks)
    assert marks[-1] == end
    for page, below in zip(pages, marks, strict=True):
        assert page.rows.schema == QUOTES
        assert all(t < below for t in page.rows.column("ts_ns").to_pylist())
        assert page.request_id
        assert set(page.rows.column("source").to_pylist()) <= {source.name}
    await source.close()


@pytest.mark.parametrize("adapter", ADAPTERS)
async def test_every_mark_is_a_place_to_start_again(adapter, autojump_clock):
    """Give up after any page, go on from its mark: nothing lost, nothing twice."""
    source = adapter(70)
    marks = [page.proven_to_ns for page in await collect(source)]
    for mark in marks[:-1:3]:
        got = []
        async with aclosing(source.pages(SYMBOL, "quotes", T0, END)) as chain:
            async for page in chain:
                got.append(page)
                if page.proven_to_ns == mark:
                    break
        assert rows_of(got) + rows_of(await collect(source, from_ns=mark)) == TRUTH


@pytest.mark.parametrize("adapter", ADAPTERS)
async def test_the_range_is_half_open(adapter, autojump_clock):
    first, last = TRUTH[0][0], TRUTH[-1][0]
    got = rows_of(await collect(adapter(100), from_ns=first, to_ns=last))
    assert got == [row for row in TRUTH if row[0] < last]
    got = rows_of(await collect(adapter(100), from_ns=first + 1, to_ns=last + 1))
    assert got == [row for row in TRUTH if row[0] > first]


@pytest.mark.parametrize("adapter", ADAPTERS)
async def test_a_range_without_ticks_is_proven_empty(adapter, autojump_clock):
    (page,) = await collect(adapter(100), from_ns=END, to_ns=END + NS_PER_HOUR)
    assert (page.rows.num_rows, page.proven_to_ns) == (0, END + NS_PER_HOUR)


@pytest.mark.parametrize("seed", range(6))
async def test_each_of_the_simulators_empty_forms_is_proven_empty(seed, autojump_clock):
    pages = await collect(polygon(100, empty_form_seed=seed), from_ns=END + seed, to_ns=END + NS_PER_HOUR)
    assert rows_of(pages) == []  # one form is an empty page that still has a next_url
    assert pages[-1].proven_to_ns == END + NS_PER_HOUR


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize(("symbol", "kind"), [("C:XXXYYY", "quotes"), (SYMBOL, "candles")])
async def test_what_the_vendor_does_not_have_is_refused_for_good(adapter, symbol, kind, autojump_clock):
    with pytest.raises(PermanentSourceError):
        await collect(adapter(100), symbol=symbol, kind=kind)


@pytest.mark.parametrize("adapter", ADAPTERS)
async def test_several_chains_at_a_time_do_not_disturb_each_other(adapter, autojump_clock):
    source = adapter(50)
    got = {}

    async def one(number):
        got[number] = rows_of(await collect(source, T0 + number * NS_PER_HOUR, T0 + (number + 1) * NS_PER_HOUR))

    async with trio.open_nursery() as nursery:
        for number in (0, 1):
            nursery.start_soon(one, number)
    assert got[0] + got[1] == TRUTH


@pytest.mark.parametrize("adapter", ADAPTERS)
async def test_a_chain_left_in_the_middle_leaves_nothing_behind(adapter, autojump_clock):
    source = adapter(100)
    async with aclosing(source.pages(SYMBOL, "quotes", T0, END)) as chain:
        await anext(chain)
    with trio.CancelScope() as scope:
        async with aclosing(source.pages(SYMBOL, "quotes", T0, END)) as chain:
            async for _ in chain:
                scope.cancel()
    assert rows_of(await collect(source)) == TRUTH
    await source.close()


async def test_a_wrong_key_is_refused_for_good(autojump_clock):
    with pytest.raises(PermanentSourceError, match="POLYGON_API_KEY"):
        await collect(polygon(100, key="wrong"))


def limited(kind):
    if kind == "polygon":
        return polygon(100, per_minute=1)
    source = memory(100)
    source.next_fault = faults_in_order([None, Fault.RATE_LIMIT])
    return source


@pytest.mark.parametrize("kind", ["memory", "polygon"])
async def test_a_rate_limit_names_the_wait_and_waiting_helps(kind, autojump_clock):
    source = limited(kind)
    with pytest.raises(RetryableSourceError) as caught:
        await collect(source)
    assert caught.value.retry_after_s
    began_s = trio.current_time()
    for _ in range(40):
        try:
            assert rows_of(await collect(source, to_ns=TRUTH[20][0])) == [r for r in TRUTH if r[0] < TRUTH[20][0]]
            break
        except RetryableSourceError as exc:
            await trio.sleep(exc.retry_after_s)
    assert trio.current_time() - began_s < 300
