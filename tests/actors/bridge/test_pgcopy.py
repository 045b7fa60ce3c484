"""Binary COPY built from columns, against a row-by-row encoder."""

from __future__ import annotations

import random
import struct

import numpy as np
import pyarrow as pa
import pytest

from actors.bridge.pgcopy import HEADER, Fixed, copy_payload, nullable, read_array, text, timestamptz


def parse(payload: bytes, columns: int) -> list[tuple[bytes | None, ...]]:
    """The manual's format, field by field."""
    assert payload[:19] == HEADER
    at, rows = 19, []
    while True:
        (count,) = struct.unpack_from(">h", payload, at)
        at += 2
        if count == -1:
            assert at == len(payload)
            return rows
        assert count == columns
        row = []
        for _ in range(count):
            (length,) = struct.unpack_from(">i", payload, at)
            at += 4
            row.append(None if length == -1 else payload[at : at + length])
            at += max(length, 0)
        rows.append(tuple(row))


def encoded(values: list, kind: str) -> list[bytes | None]:
    return [None if v is None else v.encode() if kind == "text" else struct.pack(kind, v) for v in values]


@pytest.mark.parametrize("seed", range(20))
def test_any_mix_of_nulls_and_lengths_reads_back_field_by_field(seed):
    rng = random.Random(seed)
    n = rng.choice([0, 1, 2, 50])
    ints = [rng.randrange(-(2**40), 2**40) for _ in range(n)]
    floats = [rng.choice([None, rng.random(), -0.0]) for _ in range(n)]
    words = [rng.choice([None, "", "a", "bü", "@+%", "x" * 300]) for _ in range(n)]
    small = [rng.randrange(100) for _ in range(n)]
    columns = [
        Fixed(values=np.array(ints, np.int64)),
        nullable(pa.array(floats, pa.float64())),
        text(pa.array(words, pa.string())),
        Fixed(values=np.array(small, np.int16)),
    ]
    payload = b"".join(copy_payload(columns, n))
    want = zip(*(encoded(v, k) for v, k in ((ints, ">q"), (floats, ">d"), (words, "text"), (small, ">h"))), strict=True)
    assert sorted(parse(payload, 4), key=repr) == sorted(want, key=repr)


def test_rows_of_one_pattern_keep_their_order():
    payload = b"".join(copy_payload([Fixed(values=np.arange(1000, dtype=np.int32))], 1000))
    assert [struct.unpack(">i", row[0])[0] for row in parse(payload, 1)] == list(range(1000))


def test_a_sliced_and_a_dictionary_column_give_their_own_strings():
    words = pa.array(["skip", "one", None, "three", "skip"])
    for column in (words, words.dictionary_encode()):
        payload = b"".join(copy_payload([text(column.slice(1, 3))], 3))
        assert set(parse(payload, 1)) == {(b"one",), (b"three",), (None,)}


def test_timestamps_are_microseconds_since_2000_rounded_down():
    values = timestamptz(np.array([946_684_800_000_000_000, 946_684_800_000_001_999, -1], np.int64)).values
    assert values.tolist() == [0, 1, -946_684_800_000_001]


def test_binary_arrays_are_read():
    head = struct.pack(">iiiii", 1, 0, 20, 3, 1)
    body = b"".join(struct.pack(">iq", 8, v) for v in (5, -1, 2**40))
    assert read_array(head + body, "i8").tolist() == [5, -1, 2**40]
    assert read_array(None, "i8").tolist() == []
    assert read_array(struct.pack(">iii", 0, 0, 20), "f8").tolist() == []
