"""The readers' judge notices what it is there for; each test plants one broken promise."""

from __future__ import annotations

import polars as pl
import pytest

from tests.crashes.watch import CandleWatch, QuoteWatch

MIN = 60 * 10**9
TRUTH = pl.DataFrame(
    {"ts_ns": [1, 2, 2, MIN + 1, 2 * MIN + 5], "bid": [1.1, 1.2, 1.2, 1.3, 1.4], "ask": [1.2, 1.3, 1.3, 1.4, 1.5]}
)
SLICES = pl.DataFrame({"from_ns": [0], "to_ns": [3 * MIN], "revision": [50]})


def rows(stamps: dict[int, int]) -> pl.DataFrame:
    """Row numbers of TRUTH and when each was accepted."""
    return TRUTH[list(stamps)].with_columns(
        pl.Series("accepted_at", list(stamps.values())), pl.Series("seq", range(len(stamps)))
    )


def watched(*snapshots: pl.DataFrame) -> QuoteWatch:
    watch = QuoteWatch(truth=TRUTH, from_ns=0, to_ns=3 * MIN)
    for snapshot in snapshots:
        watch.see(0, 3 * MIN, snapshot)
    return watch


def test_live_rows_and_then_their_whole_slice_are_fine() -> None:
    watch = watched(rows({0: 10, 1: 11}), rows({0: 10, 1: 11, 2: 11, 3: 12}), rows(dict.fromkeys(range(5), 50)))
    assert watch.finish(SLICES) == 1
    assert watch.problems.total == 0


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (pl.concat([rows({0: 10}), rows({0: 10})]), "twice"),
        (rows({0: 10, 3: 11}).vstack(rows({3: 50})), "more often than recorded"),
        (rows({1: 11}).with_columns(pl.lit(9.9).alias("bid")), "more often than recorded"),
        (rows({3: 12}), "fewer rows than before"),
    ],
)
def test_a_double_an_invention_and_a_loss_are_told(second: pl.DataFrame, said: str) -> None:
    watch = watched(rows({0: 10}), second)
    assert any(said in text for text in watch.problems.told), watch.problems.told


@pytest.mark.parametrize("half", [{0: 50, 1: 50, 2: 50}, {0: 50, 1: 50, 2: 50, 3: 12, 4: 50}])
def test_half_a_slice_is_told_once_all_slices_are_known(half: dict[int, int]) -> None:
    watch = watched(rows(half))
    assert watch.problems.total == 0
    watch.finish(SLICES)
    assert "half a slice" in watch.problems.told[0]


def bar(ts_ns: int, ticks: int, revision: int, *, final: bool = False) -> dict[str, object]:
    return {
        "timeframe": "1m", "basis": "bid", "ts_ns": ts_ns, "open": 1.0, "high": 1.0, "low": 1.0, "close": 1.0,
        "ticks": ticks, "revision": revision, "final": final,
    }  # fmt: skip


BARS = pl.DataFrame([bar(0, 3, 0), bar(MIN, 1, 0)])


def candles(*snapshots: list[dict[str, object]]) -> CandleWatch:
    watch = CandleWatch(truth=BARS)
    for snapshot in snapshots:
        watch.see(0, 3 * MIN, pl.DataFrame(snapshot))
    return watch


def test_bars_that_grow_and_become_final_are_fine() -> None:
    watch = candles([bar(0, 2, 10)], [bar(0, 3, 20, final=True), bar(MIN, 1, 20, final=True)])
    written = pl.DataFrame([bar(0, 2, 10), bar(0, 3, 20), bar(MIN, 1, 20)]).select(
        "timeframe", "basis", "ts_ns", "revision"
    )
    assert watch.finish(written) == 2
    assert watch.problems.total == 0


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ([bar(0, 2, 10), bar(0, 3, 20)], "twice"),
        ([bar(0, 1, 20)], "went back"),
        ([bar(MIN, 1, 20)], "went back"),
        ([bar(0, 2, 20, final=True)], "not as recorded"),
    ],
)
def test_a_double_key_a_step_back_and_a_wrong_final_bar_are_told(second: list[dict[str, object]], said: str) -> None:
    watch = candles([bar(0, 2, 10)], second)
    assert said in watch.problems.told[0]


def test_half_a_group_is_told_once_all_rows_are_known() -> None:
    watch = candles([bar(0, 3, 20)])
    watch.finish(pl.DataFrame([bar(0, 3, 20), bar(MIN, 1, 20)]).select("timeframe", "basis", "ts_ns", "revision"))
    assert "half a group" in watch.problems.told[0]
