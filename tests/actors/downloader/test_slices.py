"""However the pages come, the slices are the same rows in whole minutes of one hour, gap-free and bounded."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.downloader import slices as slices_module
from actors.downloader.port import Page
from actors.downloader.slices import Feed, SliceCutter, frame_slice
from actors.market import schema
from actors.market.coverage import coverage_records
from actors.market.rules import REJECTED
from runtime.clock import NS_PER_HOUR, NS_PER_MINUTE
from runtime.errors import PermanentSourceError

T0 = 1_398_938_400 * 10**9
M = NS_PER_MINUTE


def rows(times):
    ts = np.array(times, np.int64)
    n = len(ts)
    columns = [schema.repeat_name("C:EURUSD", n), pa.array(ts), pa.array(np.full(n, 1.5)), pa.array(np.full(n, 1.6))]
    columns += [pa.nulls(n, pa.float64())] * 2 + [schema.repeat_name("x", n), pa.array(np.zeros(n, np.int32))]
    return pa.RecordBatch.from_arrays(columns, schema=schema.QUOTES)


def page(times, proven_to_ns, *, rejected=(), request_id="r"):
    refused = [["raw"] * len(rejected), ["why"] * len(rejected), list(rejected)]
    batch = pa.RecordBatch.from_arrays(
        [pa.array(c, f.type) for c, f in zip(refused, REJECTED, strict=True)], schema=REJECTED
    )
    return Page(rows=rows(times), proven_to_ns=proven_to_ns, request_id=request_id, rejected=batch)


def times_of(piece):
    return piece.rows.column("ts_ns").to_pylist()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 90),
    st.integers(1, 200),
    st.lists(st.integers(0, 200 * 60), max_size=200),
    st.lists(st.integers(0, 200 * 60), max_size=12),
    st.sampled_from([1, 3, 50, 1_000]),
)
def test_slices_are_the_rows_in_bounded_whole_minutes(offset, minutes, seconds, marks, rows_max):
    start, end = T0 + offset * M, T0 + (offset + minutes) * M
    all_times = sorted(t for t in (start + s * 10**9 for s in seconds) if t < end)
    cutter = SliceCutter("quotes", start, end, rows_max=rows_max)
    out, low = [], start
    for mark in [*sorted(m for m in (start + s * 10**9 for s in marks) if m < end), end]:
        out += cutter.push(page([t for t in all_times if low <= t < mark], mark))
        low = mark
        assert cutter.rows_pending <= 200
    assert [t for piece in out for t in times_of(piece)] == all_times
    assert [piece.from_ns for piece in out] == [start, *[piece.to_ns for piece in out[:-1]]]
    assert out[-1].to_ns == end
    for piece in out:
        assert piece.from_ns % M == piece.to_ns % M == 0
        assert piece.from_ns // NS_PER_HOUR == (piece.to_ns - 1) // NS_PER_HOUR
        assert piece.rows.num_rows <= rows_max or piece.to_ns - piece.from_ns == M
        assert all(piece.from_ns <= t < piece.to_ns for t in times_of(piece))


def test_an_hour_proven_in_part_waits_for_its_rest():
    cutter = SliceCutter("quotes", T0, T0 + 2 * NS_PER_HOUR)
    assert cutter.push(page([T0], T0 + 59 * M)) == []
    (first,) = cutter.push(page([], T0 + 61 * M))
    assert (first.from_ns, first.to_ns, first.rows.num_rows) == (T0, T0 + NS_PER_HOUR, 1)
    (last,) = cutter.push(page([], T0 + 2 * NS_PER_HOUR))
    assert (last.rows.num_rows, last.to_ns) == (0, T0 + 2 * NS_PER_HOUR)


def test_refused_rows_are_counted_where_they_belong_and_unknown_times_at_once():
    cutter = SliceCutter("quotes", T0, T0 + 2 * NS_PER_HOUR)
    cutter.push(page([], T0 + M, rejected=[0, T0 + 1]))
    out = cutter.push(page([], T0 + 2 * NS_PER_HOUR, rejected=[T0 + NS_PER_HOUR + 1]))
    assert [piece.rejected for piece in out] == [2, 1]


def test_requests_are_named_where_they_had_a_part():
    cutter = SliceCutter("quotes", T0, T0 + 3 * NS_PER_HOUR)
    out = cutter.push(page([], T0 + 90 * M, request_id="a"))
    out += cutter.push(page([], T0 + 3 * NS_PER_HOUR, request_id="a,b"))
    assert [piece.request_id for piece in out] == ["a", "a,b", "a,b"]
    cutter = SliceCutter("quotes", T0, T0 + NS_PER_HOUR)
    for i in range(30):
        out = cutter.push(page([], T0 + (i + 1) * 2 * M, request_id=f"r{i}"))
    assert out[0].request_id == ",".join([*(f"r{i}" for i in range(16)), "+14"])


def test_ends_that_are_not_whole_minutes_are_refused():
    with pytest.raises(ValueError, match="whole minutes"):
        SliceCutter("quotes", T0 + 1, T0 + M)


def test_a_slice_is_its_data_and_its_coverage_in_one_partition():
    feed = Feed(symbol="C:EURUSD", kind="quotes", source="polygon", partition=6, live_partition=2)
    cutter = SliceCutter("quotes", T0, T0 + NS_PER_HOUR)
    (piece,) = cutter.push(page(range(T0, T0 + 100), T0 + NS_PER_HOUR, rejected=[T0]))
    data, note = frame_slice(feed, piece).frames
    assert (data.kind, data.partition, data.rows, data.event_time_ns_min, data.event_time_ns_max) == (
        "quotes",
        6,
        100,
        T0,
        T0 + 99,
    )
    assert (note.kind, note.partition, note.rows) == ("coverage", 6, 1)
    (record,) = coverage_records(schema.decode(schema.schema_message("coverage"), note.body))
    assert (record.symbol, record.kind, record.source) == ("C:EURUSD", "quotes", "polygon")
    assert (record.from_ns, record.to_ns, record.status) == (T0, T0 + NS_PER_HOUR, "final")
    assert (record.rows, record.rejected, record.request_id) == (100, 1, "r")
    assert record.checksum == schema.content_checksum("quotes", rows(range(T0, T0 + 100))) != 0


def test_a_full_slice_is_several_frames_within_the_bounds_of_the_log():
    feed = Feed(symbol="C:EURUSD", kind="quotes", source="polygon", partition=6, live_partition=2)
    rng = np.random.default_rng(1)
    cutter = SliceCutter("quotes", T0, T0 + NS_PER_HOUR)
    (piece,) = cutter.push(page(np.sort(rng.integers(T0, T0 + NS_PER_HOUR, 200_000)), T0 + NS_PER_HOUR))
    frames = frame_slice(feed, piece).frames
    assert sum(frame.rows for frame in frames[:-1]) == 200_000
    assert all(len(frame.body) <= 900_000 for frame in frames)


def test_a_minute_that_no_group_can_hold_is_refused_by_name(monkeypatch):
    monkeypatch.setattr(slices_module, "GROUP_BYTES_MAX", 10_000)
    cutter = SliceCutter("quotes", T0, T0 + M)
    (piece,) = cutter.push(page(range(T0, T0 + 9_000), T0 + M))
    with pytest.raises(PermanentSourceError, match="2014-05-01T10:00:00Z"):
        frame_slice(Feed(symbol="C:EURUSD", kind="quotes", source="x", partition=6, live_partition=2), piece)
    monkeypatch.setattr(slices_module, "MINUTE_ROWS_MAX", 100)
    cutter = SliceCutter("quotes", T0, T0 + M)
    with pytest.raises(PermanentSourceError, match="more than 100 rows"):
        cutter.push(page(range(T0, T0 + 200), T0 + 200))
