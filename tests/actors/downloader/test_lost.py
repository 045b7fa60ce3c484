"""Which rows are asked for again when the headers of a producer's groups are rotten."""

from __future__ import annotations

import attrs
import pytest

from actors.downloader.jobs import Position, Wanted
from actors.downloader.live_position import LivePosition
from actors.downloader.lost import LostRows, lost_rows
from actors.market.coverage import IntervalSet
from runtime.clock import NS_PER_HOUR as HOUR
from runtime.clock import NS_PER_MINUTE as MINUTE
from runtime.log.losses import LostProducer

T0 = 400_000 * HOUR
STANDING = Wanted(job="", from_ns=0, to_ns=None, refetch=False)
REFETCH = Wanted(job="again", from_ns=0, to_ns=None, refetch=True)


def producer(name: str, before: bytes, after: bytes, groups: int = 1) -> LostProducer:
    return LostProducer(name=name, groups=groups, before=before, after=after)


def rows(from_ns: int, to_ns: int, symbol: str = "C:EURUSD", kind: str = "quotes") -> LostRows:
    return LostRows(symbol=symbol, kind=kind, from_ns=from_ns, to_ns=to_ns)


def test_a_lost_slice_lies_between_what_was_covered_before_and_after() -> None:
    before = Position().after_slice(T0, T0 + HOUR, STANDING)
    lost = before.after_slice(T0 + HOUR, T0 + 2 * HOUR, STANDING)
    after = lost.after_slice(T0 + 2 * HOUR, T0 + 3 * HOUR, STANDING)
    found = lost_rows(producer("history/C:EURUSD/quotes", before.to_bytes(), after.to_bytes()))
    assert found == (rows(T0 + HOUR, T0 + 3 * HOUR),)  # the neighbour's as well: more than was lost, never less


def test_a_lost_slice_in_a_gap_far_below_is_asked_for_by_itself() -> None:
    before = Position().after_slice(T0, T0 + HOUR, STANDING)
    after = before.after_slice(T0 - 50 * HOUR, T0 - 49 * HOUR, STANDING).after_slice(T0 + HOUR, T0 + 2 * HOUR, STANDING)
    found = lost_rows(producer("history/C:EURUSD/quotes", before.to_bytes(), after.to_bytes()))
    assert found == (rows(T0 - 50 * HOUR, T0 - 49 * HOUR), rows(T0 + HOUR, T0 + 2 * HOUR))


def test_a_lost_confirming_slice_changes_what_is_confirmed() -> None:
    before = Position(covered=IntervalSet([(T0, T0 + 5 * HOUR)]), confirmed=IntervalSet([(T0, T0 + HOUR)]))
    after = before.after_slice(T0 + HOUR, T0 + 2 * HOUR, STANDING, confirms=True)
    found = lost_rows(producer("history/C:EURUSD/quotes", before.to_bytes(), after.to_bytes()))
    assert found == (rows(T0 + HOUR, T0 + 2 * HOUR),)


@pytest.mark.parametrize("same_job", [True, False])
def test_a_lost_slice_of_a_refetch_lies_before_how_far_the_job_came(same_job: bool) -> None:
    covered = Position(covered=IntervalSet([(T0, T0 + 9 * HOUR)]))
    before = covered.after_slice(T0 + HOUR, T0 + 2 * HOUR, REFETCH) if same_job else covered
    after = attrs.evolve(before, job="again", job_done_to=T0 + 4 * HOUR)  # hours 2 (lost) and 3
    [found] = lost_rows(producer("history/C:EURUSD/quotes", before.to_bytes(), after.to_bytes()))
    assert (found.from_ns, found.to_ns) == (T0 + 2 * HOUR, T0 + 4 * HOUR)


def test_lost_live_rows_lie_between_how_far_the_stream_had_come() -> None:
    before = LivePosition(session="s", seam_ns=T0, to_ns=T0 + 90 * 10**9, first_ns=T0)
    after = attrs.evolve(before, to_ns=T0 + 200 * 10**9)
    found = lost_rows(producer("live/X:BTCUSD/trades", before.to_bytes(), after.to_bytes()))
    assert found == (rows(T0, T0 + 4 * MINUTE, "X:BTCUSD", "trades"),)


def test_the_first_live_group_ever_is_asked_for_from_its_seam() -> None:
    after = LivePosition(session="s", seam_ns=T0, to_ns=T0 + 10**9, first_ns=T0)
    found = lost_rows(producer("live/X:BTCUSD/trades", b"", after.to_bytes()))
    assert found == (rows(T0 - MINUTE, T0 + MINUTE, "X:BTCUSD", "trades"),)


def test_others_lose_no_rows_of_a_vendor() -> None:
    assert lost_rows(producer("aggregator", b"{}", b"{}")) == ()
    assert lost_rows(producer("history", b"", b"")) == ()


def test_equal_positions_ask_for_nothing() -> None:
    same = Position().after_slice(T0, T0 + HOUR, STANDING).to_bytes()
    assert lost_rows(producer("history/C:EURUSD/quotes", same, same)) == ()
