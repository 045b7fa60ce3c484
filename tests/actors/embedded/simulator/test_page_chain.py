"""Whatever the rows, the limit and the order: a chain of pages is exactly the range, nothing lost or doubled."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.embedded.simulator.pages import PartCache, cut_page
from actors.embedded.simulator.query import Query, from_cursor, to_cursor
from runtime.actor import offload_inline

# Times collide on purpose: few instants, many rows, parts of 10.
instants = st.lists(st.integers(0, 40), max_size=60)
bounds = st.tuples(st.integers(0, 45), st.integers(0, 45))


@pytest.fixture(scope="module")
def feed_of(kit):
    def make(times):
        return kit.Feed(rows=[(ts, f"1.{n}", f"2.{n}") for n, ts in enumerate(sorted(times))], part_ns=10)

    return make


async def _walk(feed, query, cache_bytes):
    cache, pages, seen = PartCache(feed, offload_inline, cache_bytes), [], set()
    rest = query
    while rest is not None:
        cursor = to_cursor(rest)
        assert cursor not in seen, "a cursor came twice"
        seen.add(cursor)
        page = await cut_page(cache, "C:EURUSD", from_cursor(cursor), 2**62)
        pages.append(page)
        rest = page.rest
    return pages


@settings(max_examples=200, deadline=None)
@given(
    times=instants, bound=bounds, limit=st.integers(1, 9), descending=st.booleans(), cache=st.sampled_from([0, 2**20])
)
def test_a_chain_is_exactly_the_range(feed_of, times, bound, limit, descending, cache):
    feed = feed_of(times)
    query = Query(from_ns=bound[0], to_ns=bound[1], limit=limit, descending=descending)
    pages = trio.run(_walk, feed, query, cache)
    wanted = [row[1] for row in feed.rows if bound[0] <= row[0] < bound[1]]
    if descending:
        wanted.reverse()
    assert [bid for page in pages for bid in _bids(page)] == wanted
    assert [page.rows for page in pages[:-1]] == [limit] * (len(pages) - 1)
    assert pages[-1].rows or not wanted, "the last page is empty only where everything is"


def _bids(page):
    text = b",".join(page.texts).decode()
    return [piece.split(",", 1)[0] for piece in text.split('"bid_price":')[1:]]


@given(
    query=st.builds(
        Query,
        from_ns=st.integers(0, 2**63 - 1),
        to_ns=st.integers(0, 2**63 - 1),
        limit=st.integers(1, 50_000),
        descending=st.booleans(),
        skip=st.integers(0, 10**6),
        last=st.booleans(),
    )
)
def test_a_cursor_holds_its_query(query):
    assert from_cursor(to_cursor(query)) == query
