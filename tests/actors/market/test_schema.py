import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.market import schema
from actors.market.coverage import Coverage, IntervalSet, coverage_batch, coverage_records
from actors.market.rules import validate_quotes

T0 = 1_398_902_400 * 10**9


def quotes(rows):
    noise = np.random.default_rng(3)
    bid = np.round(1.3 + noise.normal(0, 0.01, rows), 5)
    ts = T0 + np.cumsum(noise.integers(0, 10**9, rows))
    got = validate_quotes("C:EURUSD", "polygon", ts, bid, bid, now_ns=T0 + 10**18, raw=lambda r: [""] * len(r))
    return got.rows


@pytest.mark.parametrize("rows", [0, 1, 1000])
def test_a_body_without_its_schema_comes_back_with_it(rows):
    batch = quotes(rows)
    (encoded,) = schema.encode("quotes", batch)
    back = schema.decode(schema.schema_message("quotes"), encoded.body)
    assert back.schema == schema.QUOTES
    assert back.to_pylist() == batch.to_pylist()
    assert encoded.rows == rows
    if rows:
        times = batch.column("ts_ns").to_pylist()
        assert (encoded.event_time_ns_min, encoded.event_time_ns_max) == (min(times), max(times))


def test_a_large_batch_is_cut_into_bodies_that_fit_and_add_up():
    batch = quotes(150_000)
    parts = list(schema.encode("quotes", batch))
    assert all(len(part.body) <= schema.BODY_BYTES_MAX and part.rows <= schema.FRAME_ROWS_MAX for part in parts)
    decoded = [schema.decode(schema.schema_message("quotes"), part.body) for part in parts]
    assert pa.Table.from_batches(decoded).column("bid").to_pylist() == batch.column("bid").to_pylist()
    whole = schema.content_checksum("quotes", batch)
    assert schema.add_checksums(*(schema.content_checksum("quotes", part) for part in decoded)) == whole


def test_a_batch_of_another_schema_is_refused():
    with pytest.raises(TypeError, match="trades"):
        list(schema.encode("trades", quotes(1)))


def test_a_damaged_body_is_an_arrow_error():
    (encoded,) = schema.encode("quotes", quotes(100))
    with pytest.raises((pa.ArrowInvalid, OSError)):
        schema.decode(schema.schema_message("quotes"), encoded.body[: len(encoded.body) // 2])


def test_the_checksum_ignores_order_and_sees_any_change_of_time_or_price():
    batch = quotes(50)
    want = schema.content_checksum("quotes", batch)
    assert schema.content_checksum("quotes", batch.take(pa.array(range(49, -1, -1)))) == want
    assert schema.content_checksum("quotes", batch.slice(1)) != want
    for name in ("ts_ns", "bid", "ask"):
        values = batch.column(name).to_pylist()
        values[7] = None if name == "ask" else values[7] + 1
        column = pa.array(values, schema.QUOTES.field(name).type)
        changed = batch.set_column(schema.QUOTES.get_field_index(name), schema.QUOTES.field(name), column)
        assert schema.content_checksum("quotes", changed) != want


def test_coverage_records_survive_the_batch():
    records = [
        Coverage(symbol="C:EURUSD", kind="quotes", source="polygon", from_ns=0, to_ns=60, status="final", rows=3),
        Coverage(
            symbol="C:EURUSD",
            kind="quotes",
            source="polygon",
            from_ns=60,
            to_ns=90,
            status="live",
            session="s",
            after_offset=7,
        ),
    ]
    assert coverage_records(coverage_batch(records)) == records
    assert [record.is_slice for record in records] == [True, False]


intervals = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=8)


@given(intervals, st.integers(0, 30), st.integers(0, 30))
def test_interval_sets_equal_sets_of_instants(pairs, low, high):
    points = {t for a, b in pairs for t in range(a, b)}
    known = IntervalSet(pairs)
    assert {t for a, b in known for t in range(a, b)} == points
    assert all(a < b for a, b in known)
    assert all(end < start for (_, end), (start, _) in zip(list(known), list(known)[1:], strict=False))
    assert known.covers(low, high) == (set(range(low, high)) <= points)
    assert {t for a, b in known.missing(low, high) for t in range(a, b)} == set(range(low, high)) - points
    assert {t for a, b in known.add(low, high) for t in range(a, b)} == points | set(range(low, high))
    assert known.total_ns == len(points)
    assert IntervalSet.from_json(known.to_json(bytes_max=1000)) == known


def test_a_set_that_does_not_fit_forgets_its_shortest_intervals():
    known = IntervalSet([(0, 10), (20, 21), (30, 50)])
    assert IntervalSet.from_json(known.to_json(bytes_max=18)) == IntervalSet([(0, 10), (30, 50)])
