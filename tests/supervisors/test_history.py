"""Why is it restarting? (4.6)"""

from __future__ import annotations

import re

import trio

from runtime.backoff import Backoff
from supervisors.engine.child import Restart
from supervisors.engine.history import ENTRIES_PER_CHILD_MAX, History, dump


async def test_the_history_of_a_child_says_what_when_and_how_often(autojump_clock, world) -> None:
    history = History(world.seams.clock.wall_ns)
    backoff = Backoff(initial_s=1.0, max_s=2.0, jitter=0.0)
    async with world.running(world.sup("root", "one_for_one", world.child("a", backoff=backoff), intensity=(5, 60))):
        for _ in range(3):
            await world.crash("a", OSError("disk"))
            await trio.sleep(5)
    for event in world.events:
        history.record(event)
    lines = history.recent(2)
    assert re.search(
        r"Z root/a actor_crashed crashed: OSError: disk <[0-9a-f]{8}> -> restart \[2 restarts left\]$", lines[0]
    )
    assert lines[1].endswith(" root/a actor_restarting in 1.0 s (attempt 1) [2 restarts left]")
    (said,) = history.repeated()
    assert re.fullmatch(r"root/a: its last error <[0-9a-f]{8}> was seen 3 times", said)


async def test_it_survives_the_process_and_stays_bounded(autojump_clock, world) -> None:
    history = History(world.seams.clock.wall_ns)
    async with world.running(world.sup("root", "one_for_one", "a", intensity=(1000, 1.0))):
        for _ in range(100):
            await world.crash("a")
    for event in world.events:
        history.record(event)
    again = History(world.seams.clock.wall_ns)
    assert again.load(dump(history.entries()) + b"half a li") == 1
    assert again.entries() == history.entries()
    assert len(again.entries()) == ENTRIES_PER_CHILD_MAX


async def test_the_newest_of_the_whole_tree_come_last_with_the_decision_of_each(autojump_clock, world) -> None:
    history = History(world.seams.clock.wall_ns)
    history.note("pipeline", "process_started", "pid 7")
    async with world.running(world.sup("root", "one_for_one", world.child("a", restart=Restart.TEMPORARY), "b")):
        await trio.sleep(1)
        await world.crash("b")
        await trio.sleep(1)
        await world.crash("a")
    times = iter(world.events)
    for event in times:
        history.record(event)
    words = [line.split(" ", 1)[1] for line in history.recent()]
    assert words[0] == "pipeline process_started pid 7"
    assert [w.partition(" <")[0] for w in words[1:3]] == [
        "root/b actor_crashed crashed: Boom: b",
        "root/a actor_crashed crashed: Boom: a",
    ]
    assert words[1].endswith("-> restart [2 restarts left]")
    assert words[2].endswith("-> remove [2 restarts left]")
    assert len(history.recent(1)) == 1
    assert history.repeated() == [], "what was seen once is said already"
