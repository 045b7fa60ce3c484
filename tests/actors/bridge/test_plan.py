"""The pure core of a delivery: what is new, what goes together, which slice replaces what."""

from __future__ import annotations

import random

import msgspec
import pytest

from actors.bridge.plan import Coalescing, Lane, LogHole
from actors.bridge.rows import rows_of, steps
from actors.market.schema import decode
from runtime.errors import InvariantViolation
from runtime.log.losses import LostFrame, lost_group
from runtime.log.scan import Gap
from tests.support.bridge import EUR, HOUR, MINUTE, T0, LogBuilder, candles, quotes

STORES = frozenset({"quotes", "coverage"})
TICKS = frozenset({"quotes"})


def lane(marks=None, verified=None, start=0) -> Lane:
    return Lane(stores=STORES, marks=marks or {}, verified=verified or {}, start_position=start)


def log_of_slices(count: int, rows: int = 100) -> LogBuilder:
    log = LogBuilder()
    for i in range(count):
        log.slice(T0 + i * HOUR, T0 + (i + 1) * HOUR, rows)
    return log


def test_batches_hold_whole_groups_up_to_the_row_limit():
    log = log_of_slices(10)
    it = lane()
    it.offer(log.groups)
    limits = Coalescing(rows_max=350)
    taken = []
    while (batch := it.take(limits)) is not None:
        taken.append(batch)
    assert [len(b.groups) for b in taken] == [3, 3, 3, 1]  # 101 rows each, coverage included
    assert [b.marks for b in taken] == [{2: (0, 6)}, {2: (6, 12)}, {2: (12, 18)}, {2: (18, 20)}]


def test_a_group_above_the_limit_goes_alone():
    log = log_of_slices(2, rows=1000)
    it = lane()
    it.offer(log.groups)
    assert [len(it.take(Coalescing(rows_max=10)).groups) for _ in range(2)] == [1, 1]


def test_frames_below_the_mark_are_dropped_and_counted():
    log = log_of_slices(4)
    it = lane(marks={2: 4})
    it.offer(log.groups)
    batch = it.take(Coalescing())
    assert [f.offset for g in batch.groups for f in g.frames] == [4, 5, 6, 7]
    assert it.duplicate_rows == 2 * 101


def test_duplicates_above_verified_are_read_back_though_not_written():
    log = log_of_slices(4)
    it = lane(marks={2: 4}, verified={2: 2})
    it.offer(log.groups)
    assert [f.offset for g in it.unverified(10**9) for f in g.frames] == [2, 3]
    assert it.verified_position == log.groups[1].position


def test_of_a_group_over_two_partitions_only_the_new_partitions_part_is_written():
    log = LogBuilder()
    log.append([(0, "quotes", quotes(EUR, [T0])), (1, "quotes", quotes(EUR, [T0, T0 + 1]))])
    it = lane(marks={0: 1})
    it.offer(log.groups)
    batch = it.take(Coalescing())
    assert [(f.partition, f.rows) for f in batch.groups[0].frames] == [(1, 2)]
    assert batch.marks == {1: (0, 1)}


def test_a_mark_inside_a_groups_part_is_a_broken_invariant():
    log = log_of_slices(1)
    with pytest.raises(InvariantViolation, match="in two"):
        lane(marks={2: 1}).offer(log.groups)


def test_a_hole_in_the_offsets_is_never_skipped():
    log = log_of_slices(3)
    it = lane()
    with pytest.raises(LogHole, match="offset 4"):
        it.offer([log.groups[0], log.groups[2]])


def test_a_hole_that_the_log_names_is_passed_and_moves_the_mark_over_it():
    log = log_of_slices(4)  # two frames each, all of partition 2
    lost = [LostFrame(partition=2, offset=2, count=2)]
    named = lost_group(log.log_id, Gap(log.groups[1].position, log.groups[1].end_position, "rotten", 0), lost)
    it = lane()
    it.offer([log.groups[0], named, *log.groups[2:]])
    batch = it.take(Coalescing())
    assert batch.marks == {2: (0, 8)}
    with pytest.raises(LogHole, match="at offset 2 "):  # but not a longer one than it names
        lane().offer([named])


def test_a_hole_that_cannot_be_passed_says_what_to_do():
    log = log_of_slices(3)
    with pytest.raises(LogHole, match=r"Restore a newer one.*--adopt"):
        lane().offer(log.groups[1:])


def test_positions_follow_the_oldest_group_that_is_not_done():
    log = log_of_slices(3)
    it = lane()
    it.offer(log.groups)
    assert (it.committed_position, it.verified_position) == (0, 0)
    first = it.take(Coalescing(rows_max=1))
    second = it.take(Coalescing(rows_max=1))
    it.wrote(first)
    assert (it.committed_position, it.verified_position) == (log.groups[1].position, 0)
    it.wrote(second)
    it.read_back(it.unverified(1))
    assert (it.committed_position, it.verified_position) == (log.groups[2].position, log.groups[1].position)
    it.wrote(it.take(Coalescing()))
    it.read_back(it.unverified(10**9))
    assert (it.committed_position, it.verified_position) == (log.end, log.end)
    assert it.verified == {2: 6}


def test_writes_cannot_be_noted_out_of_turn():
    log = log_of_slices(2)
    it = lane()
    it.offer(log.groups)
    it.take(Coalescing(rows_max=1))
    second = it.take(Coalescing(rows_max=1))
    with pytest.raises(InvariantViolation):
        it.wrote(second)


def test_any_interleaving_of_reading_again_delivers_each_frame_once_in_order():
    rng = random.Random(5)
    for _ in range(50):
        log = LogBuilder()
        for i in range(12):
            partition = rng.randrange(4)
            log.append([(partition, "quotes", quotes(EUR, [T0 + i] * rng.randrange(1, 4)))] * rng.randrange(1, 3))
        written: list[tuple[int, int]] = []
        marks: dict[int, int] = {}
        for _ in range(6):
            it = lane(marks=marks, start=log.groups[0].position)
            it.offer(log.groups[: rng.randrange(1, 13)])
            while (batch := it.take(Coalescing(rows_max=rng.randrange(1, 9)))) is not None:
                if rng.random() < 0.3:
                    break  # an outage: whatever is in flight or waits is forgotten
                it.wrote(batch)
                written += [(f.partition, f.offset) for g in batch.groups for f in g.frames]
            marks = dict(it.marks)
        for partition in range(4):
            offsets = [o for p, o in written if p == partition]
            assert offsets == list(range(marks.get(partition, 0)))


# --- steps


def spans(log: LogBuilder) -> list[list[tuple[int, int]]]:
    return [
        [((s.record.from_ns - T0) // MINUTE, (s.record.to_ns - T0) // MINUTE) for s in step.slices]
        for step in steps(log.groups, TICKS)
    ]


def test_disjoint_slices_make_one_step():
    assert spans(log_of_slices(3)) == [[(0, 60), (60, 120), (120, 180)]]


def test_a_slice_over_an_earlier_one_begins_a_new_step():
    log = log_of_slices(2)
    log.slice(T0 + 59 * MINUTE, T0 + 61 * MINUTE, 3)
    log.slice(T0 + 61 * MINUTE, T0 + 62 * MINUTE, 3)
    assert spans(log) == [[(0, 60), (60, 120)], [(59, 61), (61, 62)]]


def test_another_symbols_slice_does_not_clash():
    log = LogBuilder()
    log.slice(T0, T0 + HOUR, 3)
    log.slice(T0, T0 + HOUR, 3, symbol="C:GBPUSD", partition=3)
    assert len(spans(log)) == 1


def test_a_slice_over_live_rows_of_the_same_batch_begins_a_new_step_and_live_rows_after_it_do_not():
    log = LogBuilder()
    log.append([(0, "quotes", quotes(EUR, [T0 + MINUTE]))])
    log.slice(T0, T0 + HOUR, 3)
    log.append([(0, "quotes", quotes(EUR, [T0 + 2 * MINUTE]))])
    cut = [[p.frame.partition for p in step.parts] for step in steps(log.groups, TICKS)]
    assert cut == [[0], [2, 0]]


def test_kinds_that_are_not_stored_are_left_out_but_their_coverage_stays():
    log = LogBuilder()
    log.slice(T0, T0 + HOUR, 3)
    log.append([(2, "candles", candles([{}]))])
    (step,) = steps(log.groups, frozenset({"trades"}))
    assert (step.parts, step.slices, len(step.coverage)) == ([], [], 1)


def test_rows_carry_stamp_and_place_in_their_group():
    log = LogBuilder()
    group = log.append([(0, "quotes", quotes(EUR, [T0, T0 + 1])), (0, "quotes", quotes("C:X", [T0 + 2]))])
    (step,) = steps(log.groups, TICKS)
    rows = rows_of(step.parts, "quotes")
    assert rows is not None
    assert rows.seq.tolist() == [0, 1, 1 << 20]
    assert rows.accepted_at.tolist() == [group.stamp_ns] * 3
    assert (rows.partition.tolist(), rows.offset.tolist()) == ([0, 0, 0], [0, 0, 1])
    assert rows.table["symbol"].to_pylist() == [EUR, EUR, "C:X"]
    assert decode(group.frames[0].schema, group.frames[0].body).num_rows == 2


def test_a_frame_that_holds_other_rows_than_its_header_says_is_a_broken_invariant():

    log = log_of_slices(1)
    frame = msgspec.structs.replace(log.groups[0].frames[0], rows=99)
    group = msgspec.structs.replace(log.groups[0], frames=(frame,))
    (step,) = steps([group], TICKS)
    with pytest.raises(InvariantViolation, match="says 99 rows and holds 100"):
        rows_of(step.parts, "quotes")
