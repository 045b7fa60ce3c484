"""The buffer decides the order of live rows and slices, and remembers it by the producers' positions alone."""

from __future__ import annotations

import json
from collections.abc import Callable

import attrs

from actors.buffer.seam import SeamKeeper
from runtime.log.types import FrameDraft, GroupDraft, Interval, LiveCut, LiveDraft, ProducerState, SliceDraft

M = 60 * 10**9
FEED = "C:EURUSD/quotes"
BEFORE_ALL = -(2**63)


def frame(partition: int, kind: str = "quotes") -> FrameDraft:
    return FrameDraft(partition=partition, kind=kind, body=b"x", rows=1, event_time_ns_min=0, event_time_ns_max=0)


@attrs.define
class Log:
    """What the keeper asks of the log."""

    ends: dict[int, int] = attrs.field(factory=dict)
    last: dict[str, int] = attrs.field(factory=dict)

    def keeper(self, producers: dict[str, ProducerState] | None = None) -> SeamKeeper:
        return SeamKeeper.rebuilt(producers or {}, lambda p: self.ends.get(p, 0), lambda n: self.last.get(n, 0))


def piece(from_m: int, to_m: int, *, sequence: int = 1, feed: str = FEED) -> SliceDraft:
    return SliceDraft(
        producer=f"history/{feed}",
        sequence=sequence,
        producer_position=b"{}",
        frames=(frame(6), frame(6, "coverage")),
        feed=feed,
        live_partition=2,
        from_ns=from_m * M,
        to_ns=to_m * M,
        stamped=lambda after: (frame(6), frame(6, f"after {after}")),
    )


def live(
    sequence: int = 1, *, first_m: int = 10, seam_m: int = 10, frames: int = 1, told: Callable = lambda cut: None
) -> LiveDraft:
    def cut(keep_out: tuple[Interval, ...]) -> LiveCut:
        told([(a if a == BEFORE_ALL else a // M, b // M) for a, b in keep_out])
        return LiveCut(frames=(frame(2),) * frames, refused=((M, 2 * M),))

    return LiveDraft(
        producer=f"live/{FEED}",
        sequence=sequence,
        producer_position=b"{}",
        feed=FEED,
        first_ns=first_m * M,
        seam_ns=seam_m * M,
        bytes=1,
        cut=cut,
    )


def mark(draft: GroupDraft) -> str:
    return draft.frames[-1].kind


def test_a_slice_over_live_rows_comes_after_the_last_of_them():
    log = Log(ends={2: 40})
    keeper = log.keeper()
    marked = [mark(one.draft) for one in keeper.order([live(1), live(2, frames=2), piece(0, 11)])]
    assert marked == ["quotes", "quotes", "after 42"]


def test_a_slice_below_the_first_live_instant_waits_for_nothing():
    log = Log(ends={2: 40})
    keeper = log.keeper()
    assert [mark(one.draft) for one in keeper.order([live(), piece(0, 10)])][1] == "coverage"
    assert mark(log.keeper().order([piece(0, 100)])[0].draft) == "coverage", "it never was live"


def test_rows_of_a_replaced_minute_and_of_before_the_seam_are_kept_out():
    seen: list[object] = []
    keeper = Log().keeper()
    _, late = keeper.order([piece(11, 12), live(1, told=seen.append)])
    assert seen == [[(BEFORE_ALL, 10), (11, 12)]]
    assert late.refused == ((M, 2 * M),)


def test_what_comes_before_its_slice_in_the_same_batch_goes_in():
    seen: list[object] = []
    keeper = Log().keeper()
    keeper.order([live(1, told=seen.append), piece(11, 12), live(2, told=seen.append)])
    assert seen == [[(BEFORE_ALL, 10)], [(BEFORE_ALL, 10), (11, 12)]]


def test_slices_of_another_feed_touch_nobody_else():
    seen: list[object] = []
    keeper = Log().keeper()
    keeper.order([piece(11, 12, feed="C:EURUSD/trades"), live(told=seen.append)])
    assert seen == [[(BEFORE_ALL, 10)]]


def test_a_duplicate_moves_no_offset_and_replaces_nothing():
    log = Log(ends={2: 40}, last={f"live/{FEED}": 1, f"history/{FEED}": 1})
    seen: list[object] = []
    keeper = log.keeper()
    ordered = keeper.order([live(1), piece(11, 12, sequence=1), live(2, told=seen.append), piece(11, 13, sequence=2)])
    assert seen == [[(BEFORE_ALL, 10)]]
    assert mark(ordered[3].draft) == "after 40"


def test_after_a_restart_the_positions_say_the_same():
    positions = {
        f"live/{FEED}": {"first": 10 * M, "session": "s", "seam": 20 * M, "to": 21 * M},
        f"history/{FEED}": {"covered": [[0, 9 * M], [11 * M, 12 * M]], "confirmed": [[30 * M, 31 * M]]},
        "history/X:BTCUSD/trades": {"covered": [[0, 9 * M]], "confirmed": True},
        "aggregator": {"input": 5},
    }
    states = {name: ProducerState(sequence=1, position=json.dumps(p).encode()) for name, p in positions.items()}
    seen: list[object] = []
    keeper = Log(ends={2: 40}).keeper(states)
    _, marked = keeper.order([live(1, seam_m=20, told=seen.append), piece(0, 11)])
    assert seen == [[(BEFORE_ALL, 20), (0, 9), (11, 12), (30, 31)]]
    assert mark(marked.draft) == "after 40"
