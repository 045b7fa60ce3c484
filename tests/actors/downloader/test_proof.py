"""When a chain of pages is believed: each check of UPSTREAM 1.6, and borders with real ties."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from actors.downloader.proof import Border, ChainProof, DecodedPage
from actors.market.rules import REJECTED
from actors.market.schema import QUOTES, repeat_name
from runtime.errors import RetryableSourceError

FROM, TO = 1_000, 2_000


def page(times, next_url="", *, values=None, rejected=(), request_id="r"):
    values = values or [0] * len(times)
    ts = np.array(times, np.int64)
    columns = [repeat_name("C:EURUSD", len(ts)), pa.array(ts), pa.array(map(float, values), pa.float64())]
    columns += [pa.nulls(len(ts), pa.float64())] * 3 + [
        repeat_name("x", len(ts)),
        pa.array(np.zeros(len(ts), np.int32)),
    ]
    refused = [["raw"] * len(rejected), ["reason"] * len(rejected), list(rejected)]
    return DecodedPage(
        ts_ns=ts,
        identities=lambda a, b: list(zip(times[a:b], values[a:b], strict=True)),
        rows=pa.RecordBatch.from_arrays(columns, schema=QUOTES),
        rejected=pa.RecordBatch.from_arrays([pa.array(c, f.type) for c, f in zip(refused, REJECTED, strict=True)], schema=REJECTED),
        next_url=next_url,
        request_id=request_id,
    )  # fmt: skip


def chain(pages_max=10):
    return ChainProof(FROM, TO, pages_max=pages_max)


def times(batch):
    return batch.column("ts_ns").to_pylist()


def test_a_single_page_proves_the_whole_range():
    proof = chain()
    got = proof.accept(page([1_000, 1_500, 1_999]))
    assert (times(got.rows), got.proven_to_ns, proof.ended) == ([1_000, 1_500, 1_999], TO, True)


def test_an_empty_last_page_proves_the_whole_range():
    got = chain().accept(page([]))
    assert (times(got.rows), got.proven_to_ns) == ([], TO)


def test_rows_of_the_last_instant_wait_for_the_rest_of_their_group():
    proof = chain()
    first = proof.accept(page([1_000, 1_100, 1_100], "a", values=[0, 1, 2], request_id="one"))
    assert (times(first.rows), first.proven_to_ns, first.request_id) == ([1_000], 1_100, "one")
    assert proof.border == Border(at_ns=1_100, tail=((1_100, 1), (1_100, 2)))
    last = page([1_100, 1_200], values=[3, 0], request_id="two")
    proof.check_border(page([1_100, 1_100, 1_100, 1_200], values=[2, 1, 3, 0]), last)  # ties in another order: the same
    second = proof.accept(last)
    assert (times(second.rows), second.proven_to_ns) == ([1_100, 1_100, 1_100, 1_200], TO)
    assert second.request_id == "one,two"


def test_a_group_longer_than_a_page_comes_whole():
    proof = chain()
    out = []
    for values, cursor in (([1, 2], "a"), ([3, 4], "b"), ([5], "")):
        new = page([1_500] * len(values), cursor, values=values)
        if proof.border is not None:
            proof.check_border(page([1_500] * 5, values=[1, 2, 3, 4, 5]), new)
        out.append(times(proof.accept(new).rows))
    assert out == [[], [], [1_500] * 5]


def test_an_empty_page_with_a_cursor_is_gone_on_from():
    proof = chain()
    assert proof.accept(page([], "a")).proven_to_ns == FROM
    proof.accept(page([1_200], "b"))
    assert proof.accept(page([], "c")).proven_to_ns == 1_200
    last = page([1_300])
    proof.check_border(page([1_200, 1_300]), last)
    assert times(proof.accept(last).rows) == [1_200, 1_300]


def test_refused_rows_are_delivered_once_with_their_instant():
    proof = chain()
    first = proof.accept(page([1_000, 1_100], "a", rejected=[0, 1_050, 1_100]))
    assert times(first.rejected) == [0, 1_050]
    last = page([1_200])
    proof.check_border(page([1_100, 1_200]), last)
    assert times(proof.accept(last).rejected) == [1_100]


@pytest.mark.parametrize(
    ("pages", "words"),
    [
        ([page([1_100, 1_050])], "not sorted"),
        ([page([999, 1_050])], "outside the range"),
        ([page([1_050, 2_000])], "outside the range"),
        ([page([1_100], "a"), page([1_050])], "overlap or disorder"),
        ([page([1_100], "a"), page([1_200], "a")], "cursor seen before"),
        ([page([1_100], f"c{i}") for i in range(11)], "more than 10 pages"),
        ([page([1_100]), page([1_200])], "after the last"),
    ],
)
def test_what_does_not_fit_is_not_proven(pages, words):
    proof = chain()
    for good in pages[:-1]:
        proof.accept(good)
    with pytest.raises(RetryableSourceError, match=words):
        proof.accept(pages[-1])


def open_border(tail_times, values):
    proof = chain()
    proof.accept(page(tail_times, "a", values=values))
    return proof


@pytest.mark.parametrize(
    ("following", "fresh"),
    [
        (page([1_100, 1_200], values=[2, 0]), page([1_100, 1_200], values=[2, 0])),  # the last row repeated
        (page([1_200, 1_300]), page([1_100, 1_100, 1_200, 1_300], values=[2, 3, 0, 0])),  # one of the group lost
        (page([1_300]), page([1_100, 1_200, 1_300], values=[2, 0, 0])),  # the first of the next group lost
        (page([]), page([1_100, 1_200], values=[2, 0])),  # the end lost
        (page([1_200]), page([1_100], values=[2])),  # a row too many
        (page([1_200], "b"), page([1_100], values=[2])),
        (page([1_200]), page([1_100, 1_200, 1_300], "more", values=[2, 0, 0])),
        (page([1_200]), page([1_100, 1_200], values=[7, 0])),  # changed between the two questions
    ],
)
def test_a_border_that_differs_from_a_fresh_answer_is_not_proven(following, fresh):
    proof = open_border([1_000, 1_100], [0, 2])
    with pytest.raises(RetryableSourceError, match="border"):
        proof.check_border(fresh, following)


def test_a_fresh_answer_cut_inside_the_group_is_asked_for_again():
    proof = open_border([1_000, 1_100], [0, 2])
    assert proof.cut_by(page([1_100, 1_100], "more"))
    assert not proof.cut_by(page([1_100, 1_100]))
    assert not proof.cut_by(page([1_100, 1_200], "more"))


rows = st.lists(st.tuples(st.integers(1_000, 1_030), st.integers(0, 2)), max_size=40).map(sorted)


@settings(deadline=None, max_examples=150)
@given(rows, st.integers(1, 9), st.integers(1, 70), st.sampled_from(["right", "repeat", "lose"]), st.integers(0, 9))
@example([(1000, 0), (1001, 0), (1001, 0)], 1, 1, "lose", 0)  # one of two equal ticks, behind an empty page
def test_no_cut_loses_or_doubles_a_row_and_every_wrong_border_is_found(all_rows, size, probe_rows, fault, at):
    """A server that pages by row number, rightly or with one wrong border; the truth is the list itself."""
    proof = ChainProof(1_000, 1_031, pages_max=100)
    got: list[int] = []
    starts = list(range(0, len(all_rows), size)) or [0]
    hit = False
    try:
        for number, start in enumerate(starts):
            end = start + size
            first = start
            if number and number - 1 == at and fault != "right":
                first = start - 1 if fault == "repeat" else start + 1
                hit = True
            part = all_rows[first:end]
            more = end < len(all_rows)
            new = page([t for t, _ in part], f"c{number}" if more else "", values=[v for _, v in part])
            if proof.border is not None and (part or not more):
                from_there = [row for row in all_rows if row[0] >= proof.border.at_ns]
                limit = max(len(proof.border.tail) + probe_rows, size)
                cut = from_there[:limit]
                fresh = page([t for t, _ in cut], "m" if len(cut) < len(from_there) else "", values=[v for _, v in cut])
                if proof.cut_by(fresh):
                    fresh = page([t for t, _ in from_there], values=[v for _, v in from_there])
                proof.check_border(fresh, new)
            got += times(proof.accept(new).rows)
    except RetryableSourceError:
        assert hit, "a right chain was not believed"
        got_so_far = Counter(got)
        assert all(count == Counter(t for t, _ in all_rows)[t] for t, count in got_so_far.items())
    else:
        assert not hit, "a wrong border was believed"
        assert got == [t for t, _ in all_rows]
