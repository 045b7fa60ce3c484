"""`pipeline tree` and what the board and the log are told."""

from __future__ import annotations

import structlog

from runtime.backoff import Backoff
from supervisors.engine.child import Restart
from supervisors.engine.events import report_to
from supervisors.engine.report import render


def test_the_tree_is_drawn_as_in_the_design(world) -> None:
    storage = world.sup("storage", "one_for_all", "buffer", "dead_letters")
    health = world.child("health", backoff=Backoff())
    spec = world.sup(
        "pipeline",
        "one_for_one",
        world.sup("outside", "one_for_one", health, intensity=None, backoff=Backoff(max_s=3.0)),
        world.sup("core", "rest_for_one", storage, world.child("once", restart=Restart.TEMPORARY), intensity=(2, 60)),
    )
    assert (
        render(spec)
        == """\
pipeline               (one_for_one) 3 in 30 s
├─ outside             (one_for_one) for ever, under backoff
│  └─ health
└─ core                (rest_for_one) 2 in 60 s
   ├─ storage          (one_for_all) 3 in 30 s
   │  ├─ buffer
   │  └─ dead_letters
   └─ once             temporary"""
    )


async def test_crashes_are_logged_with_traceback_and_restarts_with_their_delay(autojump_clock, world) -> None:
    child = world.child("a", backoff=Backoff(initial_s=2.0, max_s=2.0, jitter=0.0))
    async with world.running(world.sup("root", "one_for_one", child)):
        await world.crash("a", OSError("disk"))
    with structlog.testing.capture_logs() as logs:
        for event in world.events:
            report_to(world.seams.board, world.seams.clock.wall_ns)(event)
    crash = next(r for r in logs if r["event"] == "actor_crashed")
    assert crash["log_level"] == "error"
    assert crash["path"] == "root/a"
    assert any(type(e) is OSError for e in crash["exc_info"].exceptions)
    restart = next(r for r in logs if r["event"] == "actor_restarting")
    assert (restart["log_level"], restart["delay_s"], restart["attempt"]) == ("warning", 2.0, 1)
    assert [r["event"] for r in logs][-1] == "tree_stopping"
    assert "actor_crashed root/a #1" in "\n".join(text for _, text in world.seams.board.events)
