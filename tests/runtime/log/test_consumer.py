"""Consumers at the head, behind it, filtered, after a seek; and their cursors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from runtime.actor import offload_to_thread
from runtime.disk import MemoryDisk, SimulatedCrash
from runtime.entropy import SeededEntropy
from runtime.errors import InvariantViolation, LogFull, LogSyncFailed
from runtime.log.cursor import Cursor
from runtime.log.log import Log
from runtime.log.tail import LogConsumer
from runtime.log.types import Group, GroupDraft

Draft = Callable[..., GroupDraft]
Everything = Callable[..., list[Group]]


class CountingOffload:
    """How often files were read."""

    def __init__(self) -> None:
        self.calls = 0

    async def __call__(self, fn: Callable[[], Any], *, limiter: trio.CapacityLimiter | None = None) -> Any:
        del limiter
        self.calls += 1
        await trio.lowlevel.checkpoint()
        return fn()


async def take(consumer: LogConsumer, count: int, *, bytes_max: int = 4 << 20) -> list[Group]:
    groups: list[Group] = []
    with trio.fail_after(10):
        while len(groups) < count:
            groups += await consumer.read(bytes_max=bytes_max)
    return groups


def commit(log: Log, *drafts: GroupDraft, offer: bool = True) -> list[Group]:
    _, groups = log.commit(drafts)
    if offer:
        log.offer(groups)
    return groups


async def test_at_the_head_groups_come_from_memory(rig: Any, draft: Draft) -> None:
    log, offload = rig.open(), CountingOffload()
    consumer = log.consumer("c", offload=offload)
    assert not consumer.read_nowait_available()
    made = []
    for number in range(1, 6):
        made += commit(log, draft("p", number))
        assert consumer.read_nowait_available()
        assert await take(consumer, 1) == made[-1:]
        assert consumer.position == consumer.end() == log.end_position
    assert offload.calls == 0


async def test_a_reader_waits_at_the_head_and_is_woken(rig: Any, draft: Draft, autojump_clock: MockClock) -> None:
    log = rig.open()
    consumer = log.consumer("c")
    got: list[Group] = []

    async def reader() -> None:
        got.extend(await consumer.read())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader)
        await wait_all_tasks_blocked()
        assert got == []
        made = commit(log, draft("p", 1))
        with trio.fail_after(1):
            await wait_all_tasks_blocked()
        assert got == made


async def test_an_empty_offer_wakes_a_reader_of_groups_that_were_not_offered(rig: Any, draft: Draft) -> None:
    log = rig.open()
    consumer = log.consumer("c")
    got: list[Group] = []

    async def reader() -> None:
        got.extend(await consumer.read())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader)
        await wait_all_tasks_blocked()
        made = commit(log, draft("p", 1), offer=False)
        log.offer([])
        await wait_all_tasks_blocked()
        assert got == made


async def test_cancelled_while_waiting_consumes_nothing(rig: Any, draft: Draft, autojump_clock: MockClock) -> None:
    log = rig.open()
    consumer = log.consumer("c")
    with trio.move_on_after(5):
        await consumer.read()
    made = commit(log, draft("p", 1))
    assert await take(consumer, 1) == made


async def test_behind_it_reads_files_in_physical_order_and_then_joins_the_head(
    rig: Any, draft: Draft, everything: Everything
) -> None:
    log, offload = rig.open(), CountingOffload()
    made = [g for n in range(1, 80) for g in commit(log, draft("p", n, sizes=(1500, 100)))]
    consumer = log.consumer("late", offload=offload)
    assert await take(consumer, len(made), bytes_max=20_000) == made
    calls = offload.calls
    assert calls > 3
    made = commit(log, draft("p", 80))
    assert await take(consumer, 1) == made
    assert offload.calls == calls


async def test_groups_that_come_while_it_reads_files_are_taken_from_memory(rig: Any, draft: Draft) -> None:
    log = rig.open()
    made = commit(log, draft("p", 1), draft("p", 2))

    class Busy(CountingOffload):
        async def __call__(self, fn: Callable[[], Any], *, limiter: trio.CapacityLimiter | None = None) -> Any:
            result = await super().__call__(fn)
            made.extend(commit(log, draft("p", self.calls + 2)))
            return result

    offload = Busy()
    consumer = log.consumer("c", offload=offload)
    assert await take(consumer, 3) == made
    assert offload.calls == 1


async def test_a_consumer_that_lags_is_served_from_files_and_misses_nothing(rig: Any, draft: Draft) -> None:
    rig.tail_bytes = 5_000
    log, offload = rig.open(), CountingOffload()
    slow = log.consumer("slow", offload=offload)
    made = [g for n in range(1, 40) for g in commit(log, draft("p", n, sizes=(900,)))]
    assert slow._tail_bytes <= 5_000 + 900
    assert await take(slow, 39, bytes_max=3_000) == made
    assert offload.calls > 1


async def test_the_tail_is_bounded_in_memory(memory_rig: Any, draft: Draft) -> None:
    memory_rig.tail_bytes = 10_000
    log = memory_rig.open()
    consumer = log.consumer("never reads")
    for number in range(1, 200):
        commit(log, draft("p", number, sizes=(700,)))
        assert consumer._tail_bytes <= 10_700


async def test_a_filtered_consumer_sees_its_part_of_each_group_and_skips_the_rest(
    rig: Any, draft: Draft, everything: Everything
) -> None:
    rig.tail_bytes = 3_000
    log = rig.open()
    wanted = frozenset({1})
    consumers = [log.consumer("head", partitions=wanted), log.consumer("behind", partitions=wanted)]
    made = []
    got: list[Group] = []
    for number in range(1, 50):
        made += commit(log, draft("p", number, sizes=(300, 10) if number % 3 else (300,), partition=number % 3))
        if consumers[0].read_nowait_available():
            with trio.move_on_after(0):
                got += await consumers[0].read()
    expected = [(g.position, tuple(f for f in g.frames if f.partition == 1)) for g in made]
    expected = [(position, frames) for position, frames in expected if frames]
    behind = await take(consumers[1], len(expected), bytes_max=2_000)
    assert [(g.position, g.frames) for g in behind] == expected
    got += await take(consumers[0], len(expected) - len(got))
    assert got == behind == everything(log, 0, wanted)
    assert {g.end_position for g in behind} <= {g.end_position for g in made}


async def test_one_look_may_find_nothing_and_still_gets_further(rig: Any, draft: Draft) -> None:
    log = rig.open()
    behind = log.consumer("behind", partitions=frozenset({1}))
    assert await behind.read(wait=False) == []
    for number in range(1, 30):
        commit(log, draft("p", number, sizes=(3_000,), partition=0), offer=False)
    (wanted,) = commit(log, draft("p", 30, sizes=(10,), partition=1), offer=False)
    found, looks = [], 0
    while not found:
        before = behind.position
        found = await behind.read(bytes_max=2_000, wait=False)
        assert behind.position > before
        looks += 1
    assert (found, looks > 5) == ([wanted], True)
    assert await behind.read(wait=False) == []
    assert [behind.log_end_offset(p) for p in (0, 1, 2)] == [29, 1, 0]


async def test_seek_reads_again_and_position_of_finds_the_border(rig: Any, draft: Draft) -> None:
    log = rig.open()
    made = [g for n in range(1, 30) for g in commit(log, draft("p", n, sizes=(800, 20)))]
    consumer = log.consumer("c")
    await take(consumer, 29)
    consumer.seek(0)
    assert (await take(consumer, 29)) == made
    consumer.seek(consumer.position_of(1, 17))
    assert (await take(consumer, 12)) == made[17:]
    assert consumer.position_of(1, 29) == consumer.end()
    consumer.seek(consumer.end())
    assert not consumer.read_nowait_available()
    made = commit(log, draft("p", 30))
    assert await take(consumer, 1) == made


async def test_a_seek_into_the_middle_of_a_group_is_our_bug(rig: Any, draft: Draft) -> None:
    log = rig.open()
    commit(log, draft("p", 1, sizes=(100, 100)), draft("p", 2))
    consumer = log.consumer("c")
    consumer.seek(8)
    with pytest.raises(InvariantViolation, match="inside the group"):
        await consumer.read()
    assert log.damage == []


async def test_a_restarted_actor_gets_a_new_consumer_and_the_old_one_is_let_go(rig: Any, draft: Draft) -> None:
    log = rig.open()
    old = log.consumer("sink")
    new = log.consumer("sink")
    made = commit(log, draft("p", 1))
    assert not old._tail
    assert await take(new, 1) == made
    assert (new.log_id, new.partitions_live, new.name) == (log.log_id, 2, "sink")


async def test_rot_is_stepped_over_and_named(rig: Any, draft: Draft) -> None:
    made = rig.filled(5)
    rig.flip(rig.path / f"{0:020d}.seg", 8 * (4096 + made[2].position + 200))
    log = rig.open()
    consumer = log.consumer("c")
    found = await take(consumer, 5)
    assert [*found[:2], *found[3:]] == [*made[:2], *made[3:]]
    lost = found[2]  # in its place: the same offsets and positions without rows, so that nobody waits for them
    assert (lost.position, lost.end_position) == (made[2].position, made[2].end_position)
    assert [(f.partition, f.offset) for f in lost.frames] == [(f.partition, f.offset) for f in made[2].frames]
    assert {(f.kind, f.rows, f.body) for f in lost.frames} == {("lost", 0, b"")}
    assert [(d.position, d.end_position) for d in log.damage] == [(made[2].position, made[2].end_position)]


async def test_a_lost_header_is_named_by_the_offsets_around_it(rig: Any, draft: Draft) -> None:
    made = rig.filled(5)
    rig.flip(rig.path / f"{0:020d}.seg", 8 * (4096 + made[2].position + 40))
    rig.flip(rig.path / f"{0:020d}.seg", 8 * (4096 + made[2].position + 200 + 40))
    log = rig.open()
    found = await take(log.consumer("c"), 5)
    assert [(f.partition, f.offset) for f in found[2].frames] == [(f.partition, f.offset) for f in made[2].frames]
    [damage] = log.damage
    assert [(x.partition, x.offset, x.kind) for x in log.lost_of(damage).frames] == [
        (f.partition, f.offset, "") for f in made[2].frames
    ]
    assert f"{damage.position:020d}.frame" in rig.disk.names(rig.path / "quarantine")


async def test_a_lost_body_is_named_by_its_header(rig: Any, draft: Draft) -> None:
    made = rig.filled(5)
    rig.flip(rig.path / f"{0:020d}.seg", 8 * (4096 + made[2].position + 155))
    log = rig.open()
    await take(log.consumer("c"), 5)
    [damage] = log.damage
    assert [(x.partition, x.offset, x.kind, x.rows, x.event_time_ns_min) for x in log.lost_of(damage).frames] == [
        (f.partition, f.offset, f.kind, f.rows, f.event_time_ns_min) for f in made[2].frames
    ]


async def test_writers_and_readers_in_real_threads_agree(rig: Any, draft: Draft) -> None:
    log = rig.open(offload=offload_to_thread)
    seen: dict[str, list[Group]] = {"a": [], "b": [], "late": []}

    async def read(name: str, partitions: frozenset[int] | None) -> None:
        consumer = log.consumer(name, partitions=partitions)
        while len(seen[name]) < 150:
            seen[name] += await consumer.read(bytes_max=5_000)

    made: list[Group] = []
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, "a", None)
            nursery.start_soon(read, "b", frozenset({0}))
            for number in range(1, 151):
                drafts = [draft("p", number, sizes=(400, 50))]
                _, groups = await offload_to_thread(lambda drafts=drafts: log.commit(drafts))
                made += groups
                log.offer(groups)
                if number == 70:
                    nursery.start_soon(read, "late", None)
    assert seen["a"] == seen["late"] == made
    assert [g.position for g in seen["b"]] == [g.position for g in made]
    assert all(len(g.frames) == 1 for g in seen["b"])


# --- cursors


def test_a_cursor_is_stored_and_loaded(rig: Any) -> None:
    log = rig.open()
    cursor = log.cursor("bridge.timescale")
    assert cursor.load() == Cursor()
    stored = Cursor(position=77, committed={0: 5, 1: 0, 2: 3, 3: 9}, verified={0: 4, 1: 0, 2: 3, 3: 0})
    cursor.store(Cursor(position=70, committed={0: 1}))
    cursor.store(stored)
    cursor.close()
    assert log.cursor("bridge.timescale").load() == stored


def test_a_rotten_slot_costs_one_generation_and_two_mean_from_the_beginning(memory_rig: Any) -> None:
    log = memory_rig.open()
    cursor = log.cursor("c")
    for position in (1, 2, 3):
        cursor.store(Cursor(position=position))
    path = memory_rig.path / "cursors" / "c"
    whole = memory_rig.disk.read_bytes(path)
    size = len(whole)
    for bit in range(0, 8 * size, 251):
        memory_rig.flip(path, bit)
        assert log.cursor("c").load().position in (2, 3), f"bit {bit}"
        memory_rig.disk._inode(path).data[:] = whole  # a load writes what it found once more
    for slot in (0, 1):
        memory_rig.flip(path, 8 * (slot * size // 2 + 30))
    assert log.cursor("c").load() == Cursor(), "both lost: from the oldest frame, never from the newest"


def test_a_cursor_of_another_log_is_not_believed(memory_rig: Any) -> None:
    log = memory_rig.open()
    log.cursor("c").store(Cursor(position=5))
    data = memory_rig.disk.read_bytes(memory_rig.path / "cursors" / "c")
    memory_rig.path = memory_rig.path.with_name("other")
    other = memory_rig.open(entropy=SeededEntropy(9))
    cursor = other.cursor("c")
    memory_rig.disk.write_atomic(memory_rig.path / "cursors" / "c", data)
    assert cursor.load() == Cursor()


def test_verified_above_committed_and_bad_names_are_our_bugs(memory_rig: Any) -> None:
    log = memory_rig.open()
    with pytest.raises(InvariantViolation, match="above committed"):
        log.cursor("c").store(Cursor(committed={0: 1}, verified={0: 2}))
    with pytest.raises(InvariantViolation, match="must match"):
        log.cursor("../META")


def test_a_cursor_on_a_full_or_failing_disk_says_which(memory_rig: Any) -> None:
    log = memory_rig.open()
    cursor = log.cursor("c")
    memory_rig.disk.capacity_bytes = 0
    with pytest.raises(LogFull):
        cursor.store(Cursor(position=1))
    memory_rig.disk.capacity_bytes = None
    cursor.store(Cursor(position=1))
    memory_rig.disk.fail("sync", suffix="cursors/c")
    with pytest.raises(LogSyncFailed):
        cursor.store(Cursor(position=2))


def test_a_cursor_torn_at_any_moment_is_the_old_or_the_new_one(memory_rig: Any) -> None:
    seen = set()
    for seed in range(60):
        memory_rig.disk = MemoryDisk(seed=seed)
        log = memory_rig.open()
        cursor = log.cursor("c")
        for position in range(1, 4 + seed % 2):
            cursor.store(Cursor(position=position))
        memory_rig.disk.crash_after(seed % 3)
        stored = position
        try:
            cursor.store(Cursor(position=position + 1))
            stored += 1
        except SimulatedCrash:
            pass
        memory_rig.disk.crash()
        found = memory_rig.open().cursor("c").load().position
        assert stored <= found <= position + 1, f"seed {seed}"
        seen.add(found - position)
    assert seen == {0, 1}
