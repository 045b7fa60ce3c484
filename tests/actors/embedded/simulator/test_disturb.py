"""Whatever faults act and however the steps fall: each row has one fate, and the ledger tells it."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.embedded.simulator import disturb
from actors.embedded.simulator.disturb import Disturber, Span
from actors.embedded.simulator.events import render_quote_events
from actors.embedded.simulator.fault_book import FaultBook, Moment
from actors.embedded.simulator.faults import Fault
from actors.embedded.simulator.feed import Quotes

SECOND = 1_000_000_000
ROWS = 150

faults = st.lists(
    st.one_of(
        st.builds(Fault, fault=st.just("gap"), rows=st.integers(1, 60)),
        st.builds(Fault, fault=st.just("late"), p=st.floats(0, 1), delay_s=st.floats(0.5, 40)),
        st.builds(Fault, fault=st.sampled_from(["silence", "burst"]), for_market_s=st.floats(1, 30)),
    ),
    max_size=4,
)


@lru_cache
def part():
    ts = pa.array([i * SECOND // 10 for i in range(ROWS)]).to_numpy()
    text = pa.array([f"1.{10000 + i}" for i in range(ROWS)], pa.string())
    return render_quote_events("C:EURUSD", Quotes(ts_ns=ts, bid=text, ask=text), 0)


def play(armed, steps, *, seed=0):
    """Times of the rows sent, in order of sending, and the disturber."""
    rows, book, disturber = part(), FaultBook(), Disturber(asset="forex", seed=seed)
    for _, fault in armed:
        book.arm(fault)
    fired = book.due(Moment(real_s=0.0, market_ns=0, events={}))
    out: list[int] = []
    at = 0
    borders = sorted({border for border in (*steps, ROWS) if 0 < border <= ROWS})
    for border in [*borders, *(ROWS for _ in range(12))]:
        now_ns = int(rows.ts_ns[border - 1]) if at < ROWS else 1_000_000 * SECOND
        now = Moment(real_s=0.0, market_ns=now_ns, events={})
        for one in [one for one in fired if armed[one.armed_number - 1][0] <= border]:
            one.until_market_ns = (
                None if one.fault.for_market_s is None else now_ns + int(one.fault.for_market_s * SECOND)
            )
            disturber.add(one)
            fired.remove(one)
        disturber.expire(now)
        spans = disturber.send(Span(symbol="C:EURUSD", rows=rows, start=at, stop=border)) if at < border else []
        for span in [*spans, *disturber.release(now, {"C:EURUSD"})]:
            out += rows.ts_ns[span.start : span.stop].tolist()
        at = border
    return out, disturber


@settings(max_examples=60, deadline=None)
@given(
    armed=faults.flatmap(lambda found: st.tuples(*(st.tuples(st.integers(0, ROWS), st.just(one)) for one in found))),
    steps=st.lists(st.integers(1, ROWS), max_size=12),
)
def test_each_row_has_exactly_one_fate(armed, steps):
    out, disturber = play(armed, steps)
    book = disturber.book("C:EURUSD")
    fates: Counter[int] = Counter()
    for run in book.runs:
        if not run.outcome.startswith("late-sent"):
            inside = range(run.first_ns, run.last_ns + 1, SECOND // 10)
            assert len(inside) == run.rows
            fates.update(inside)
    assert set(fates.values()) == {1}, "one fate"
    assert len(fates) == ROWS, "for every row"
    assert max(Counter(out).values(), default=1) == 1, "none twice"
    totals = book.totals
    assert len(out) == totals["sent"] + totals["late-sent"]
    assert totals["late"] == totals["late-sent"], "late is not never"
    assert len(out) == ROWS - totals["gap"] - totals["silence"]


@settings(max_examples=30, deadline=None)
@given(steps=st.lists(st.integers(1, ROWS), max_size=20))
def test_which_rows_are_late_does_not_depend_on_the_steps(steps):
    def late(cuts):
        _, disturber = play([(0, Fault(fault="late", p=0.3, delay_s=5))], cuts)
        runs = [run for run in disturber.book("C:EURUSD").runs if run.outcome.startswith("late:")]
        return [ts for run in runs for ts in range(run.first_ns, run.last_ns + 1, SECOND // 10)]

    assert sorted(late(steps)) == sorted(late([]))
    assert 20 < len(late([])) < 80


def test_control_a_disturber_that_forgets_late_rows_is_found(monkeypatch):
    monkeypatch.setattr(disturb.heapq, "heappush", lambda heap, item: None)
    with pytest.raises(AssertionError, match="late is not never"):
        test_each_row_has_exactly_one_fate.hypothesis.inner_test(
            armed=((0, Fault(fault="late", p=0.5, delay_s=5)),), steps=[]
        )
