"""A row that the sink refuses becomes a letter, exactly it and once, whenever the process dies; the rest is delivered."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from actors.bridge.bisection import PoisonLimits
from actors.bridge.conservation import verify_sink
from actors.bridge.isolation import Isolation
from actors.bridge.memory import MemorySink
from actors.bridge.plan import Coalescing
from runtime.board import DependencyState
from runtime.disk import MemoryDisk
from runtime.entropy import SeededEntropy
from runtime.log.dead_letters import DROPPED, REPLAY, DeadLetters, letters_of_sink
from tests.actors.bridge.test_conservation import counts
from tests.actors.bridge.test_delivery import bars, bars_expected, bars_seen, expected, fill, seen
from tests.support.bridge import EUR, HOUR, LOG_ID, MINUTE, T0
from tests.support.sinks import seams

FOLDER = Path("/dead-letters")


@pytest.fixture
def disk() -> MemoryDisk:
    return MemoryDisk()


@pytest.fixture
def box(disk: MemoryDisk) -> DeadLetters:
    return DeadLetters(disk=disk, directory=FOLDER, wall_ns=lambda: T0, entropy=SeededEntropy(1))


def keep_aside(rig, box: DeadLetters, bad: set[int]) -> None:
    rig.settings["letters"] = box
    rig.settings["coalescing"] = Coalescing(rows_min=10, rows_max=200)
    rig.db.faults.poison_times = frozenset(bad)


def letters(disk: MemoryDisk, sink: str = "memory"):
    return letters_of_sink(disk, FOLDER, sink)[0]


def bad_times(log, numbers: dict[int, list[int]]) -> set[int]:
    """ts_ns of these rows of these groups."""
    return {T0 + g * HOUR + HOUR * i // (50 + g % 7) for g, rows in numbers.items() for i in rows}


def good(log, bad: set[int]) -> list[tuple]:
    return [row for row in expected(log) if row[1] not in bad]


async def ledger(rig, disk):
    found = await verify_sink(
        rig.sink, seams(), log_id=LOG_ID, marks=rig.cursor.cursor.committed, row_counts=counts(rig.log),
        letters=lambda: letters(disk),
    )  # fmt: skip
    return found, {line.kind: line for line in found.lines}


async def test_exactly_the_refused_rows_become_letters_and_the_rest_is_stored_and_read_back(
    tick_rig, disk, box, autojump_clock
):
    fill(tick_rig.log, 10)
    bad = bad_times(tick_rig.log, {3: [7], 6: [0, 55]})
    keep_aside(tick_rig, box, bad)
    async with tick_rig.running():
        await tick_rig.wait_verified()
        assert tick_rig.board.dependencies["memory"].state == DependencyState.UP
    assert seen(tick_rig) == good(tick_rig.log, bad), "neighbours keep their numbers"
    assert sorted((e.letter.offset, e.letter.row, e.letter.reason) for e in letters(disk)) == [
        (6, 7, "refused"), (12, 0, "refused"), (12, 55, "refused"),
    ]  # fmt: skip
    assert any("refused" in text for _, text in tick_rig.board.events)
    found, lines = await ledger(tick_rig, disk)
    assert (found.problems, lines["quotes"].dead_lettered) == ((), 3)
    assert lines["quotes"].accepted == lines["quotes"].stored + 3


async def test_control_without_the_letters_the_ledger_and_the_audit_name_the_rows(tick_rig, disk, box, autojump_clock):
    fill(tick_rig.log, 10)
    keep_aside(tick_rig, box, bad_times(tick_rig.log, {3: [7]}))
    async with tick_rig.running():
        await tick_rig.wait_verified()
    found = await verify_sink(
        tick_rig.sink, seams(), log_id=LOG_ID, marks=tick_rig.cursor.cursor.committed, row_counts=counts(tick_rig.log)
    )
    assert any("1 rows unaccounted" in text for text in found.problems)
    assert any("differ" in text for text in found.problems)


@pytest.mark.parametrize("at", range(12))
async def test_a_crash_at_any_step_loses_and_doubles_nothing(tick_rig, disk, box, at, autojump_clock):
    """The connection breaks at the n-th call, or the process dies there with whatever was not synced."""
    fill(tick_rig.log, 6)
    bad = bad_times(tick_rig.log, {1: [3], 4: [9]})
    keep_aside(tick_rig, box, bad)
    calls = 0

    def dies() -> bool:
        nonlocal calls
        calls += 1
        return calls == at + 1

    class Died(Exception):
        pass

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in ((MemorySink, "write"), (MemorySink, "probe"), (Isolation, "_add"), (Isolation, "_tell")):
            real = getattr(owner, name)
            if name == "_tell":
                patch.setattr(owner, name, lambda self, found, real=real: die() if dies() else real(self, found))
                continue

            async def around(self, *args, real=real):
                if dies():
                    raise Died
                return await real(self, *args)

            patch.setattr(owner, name, around)

        def die():
            raise Died

        try:
            with trio.fail_after(200):
                async with tick_rig.running():
                    await tick_rig.wait_verified(within_s=100)
        except* (Died, trio.TooSlowError):
            pass
    disk.crash(keep=0.0)
    after = DeadLetters(disk=disk, directory=FOLDER, wall_ns=lambda: T0, entropy=SeededEntropy(2))
    keep_aside(tick_rig, after, bad)
    async with tick_rig.running():
        await tick_rig.wait_verified()
    assert seen(tick_rig) == good(tick_rig.log, bad)
    assert len(letters(disk)) == 2
    found, _ = await ledger(tick_rig, disk)
    assert found.ok, found.problems


async def test_a_sink_that_refuses_everything_is_down_and_nothing_is_put_aside(tick_rig, disk, box, autojump_clock):
    fill(tick_rig.log, 5)
    keep_aside(tick_rig, box, set())
    tick_rig.db.faults.poison_symbol = EUR
    async with tick_rig.running():
        await trio.sleep(60)
        down = tick_rig.board.dependencies["memory"]
        assert (down.state, "refuses rows, nothing is skipped" in down.reason) == (DependencyState.DOWN, True)
        assert "not a few bad rows" in down.reason
        assert (letters(disk), seen(tick_rig)) == ([], [])
        tick_rig.db.faults.poison_symbol = ""
        await tick_rig.wait_verified()
    assert seen(tick_rig) == expected(tick_rig.log)


async def test_over_the_hours_budget_the_sink_is_down_until_the_hour_is_over(tick_rig, disk, box, autojump_clock):
    fill(tick_rig.log, 10)
    bad = bad_times(tick_rig.log, {g: [5] for g in range(10)})
    keep_aside(tick_rig, box, bad)
    tick_rig.settings["poison"] = PoisonLimits(rows_free=4, share=0.0)
    tick_rig.settings["coalescing"] = Coalescing(rows_min=10, rows_max=60)
    async with tick_rig.running():
        await trio.sleep(120)
        assert tick_rig.board.dependencies["memory"].state == DependencyState.DOWN
        assert len(letters(disk)) == 4
        await tick_rig.wait_verified(within_s=4 * 3700)
    assert len(letters(disk)) == 10
    assert seen(tick_rig) == good(tick_rig.log, bad)


async def test_a_refetched_slice_replaces_the_one_with_the_letter(tick_rig, disk, box, autojump_clock):
    fill(tick_rig.log, 3)
    bad = bad_times(tick_rig.log, {1: [3]})
    keep_aside(tick_rig, box, bad)
    async with tick_rig.running():
        await tick_rig.wait_verified()
    tick_rig.db.faults.poison_times = frozenset()
    tick_rig.log.slice(T0 + HOUR, T0 + 2 * HOUR, 51)
    async with tick_rig.running():
        await tick_rig.wait_verified()
    found, lines = await ledger(tick_rig, disk)
    assert found.ok, found.problems
    assert (lines["quotes"].dead_lettered, lines["quotes"].replaced) == (1, 50)
    box.decide([letters(disk)[0].letter.key], DROPPED)
    found, lines = await ledger(tick_rig, disk)
    assert found.ok, found.problems
    assert (lines["quotes"].dead_lettered, lines["quotes"].dropped) == (0, 1)


async def test_a_candle_is_put_aside_and_sent_again_when_somebody_orders_it(bar_rig, disk, box, autojump_clock):
    bars(bar_rig.log, 6)
    bad = T0 + 23 * MINUTE
    keep_aside(bar_rig, box, {bad})
    async with bar_rig.running():
        await bar_rig.wait_verified()
    assert bars_seen(bar_rig) == [row for row in bars_expected(bar_rig.log) if row[0] != bad]
    (entry,) = letters(disk)
    box.decide([entry.letter.key], REPLAY)
    async with bar_rig.running():
        await trio.sleep(1)
    (entry,) = letters(disk)
    assert entry.state == "open", "refused again"
    bar_rig.db.faults.poison_times = frozenset()
    box.decide([entry.letter.key], REPLAY)
    async with bar_rig.running():
        await trio.sleep(1)
    assert bars_seen(bar_rig) == bars_expected(bar_rig.log)
    (entry,) = letters(disk)
    assert entry.state == "stored"
    found, lines = await ledger(bar_rig, disk)
    assert found.ok, found.problems
    assert lines["candles"].dead_lettered == 0
