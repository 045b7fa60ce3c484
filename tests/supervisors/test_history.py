"""Why is it restarting? (4.6)"""

from __future__ import annotations

import trio

from runtime.backoff import Backoff
from supervisors.engine.history import ENTRIES_PER_CHILD_MAX, History


async def test_the_history_of_a_child_says_what_when_and_how_often(autojump_clock, world) -> None:
    history = History(world.seams.clock.wall_ns)
    backoff = Backoff(initial_s=1.0, max_s=2.0, jitter=0.0)
    async with world.running(world.sup("root", "one_for_one", world.child("a", backoff=backoff), intensity=(5, 60))):
        for _ in range(3):
            await world.crash("a", OSError("disk"))
            await trio.sleep(5)
    for event in world.events:
        history.record(event)
    lines = history.explain("root/a", last=2)
    assert lines[0].endswith("actor_crashed [2 restarts left] crashed: OSError: disk <" + lines[0][-9:-1] + ">")
    assert "actor_restarting in 1.0 s (attempt 1) [2 restarts left]" in lines[1]
    assert lines[2].endswith("was seen 3 times")


async def test_it_survives_the_process_and_stays_bounded(autojump_clock, world) -> None:
    history = History(world.seams.clock.wall_ns)
    async with world.running(world.sup("root", "one_for_one", "a", intensity=(1000, 1.0))):
        for _ in range(100):
            await world.crash("a")
    for event in world.events:
        history.record(event)
    again = History(world.seams.clock.wall_ns)
    assert again.load(history.dump() + b"half a li") == 1
    assert again.explain("root/a") == history.explain("root/a")
    assert len(again.dump().splitlines()) == ENTRIES_PER_CHILD_MAX
