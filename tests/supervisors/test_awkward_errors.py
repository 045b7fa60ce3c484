"""Errors that resist being looked at: each is an ordinary crash of one child, told in the log and in the history."""

from __future__ import annotations

import gc
import io
from unittest import mock

import pytest
import structlog
import trio
import trio.testing

from runtime.clock import VirtualClock
from runtime.errors import ConfigError, LogSyncFailed
from runtime.telemetry import LogSetup, close_logging, configure_logging
from supervisors.cli.exits import Exit, decisive
from supervisors.engine import exits
from supervisors.engine.events import EventKind, report_to
from supervisors.engine.exits import LINE_CHARS_MAX, describe, leaves, one_line
from supervisors.engine.history import History, both, dump
from tests.supervisors.conftest import World

DEPTH = 1_500


class Speechless(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


class Exiting(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


def deep(*innermost: BaseException) -> BaseException:
    error: BaseException = BaseExceptionGroup("g", innermost)
    for _ in range(DEPTH):
        error = BaseExceptionGroup("g", [error])
    return error


AWKWARD = {
    "no text": Speechless(),
    "a text that exits": Exiting(),
    "lone surrogates": OSError("bad name: \udcff\ud800"),
    "nested deep": deep(OSError("x"), trio.TooSlowError()),
    "many": ExceptionGroup("g", [OSError(str(n)) for n in range(50_000)]),
    "long": OSError("x" * 10**7),
    "own repr": OSError(type("R", (), {"__repr__": lambda self: 1 / 0})()),
}


def raising(world, error: BaseException):
    """A child whose first life ends with just this error: a nursery of its own would make another one of it."""

    async def run(ctx) -> None:
        world.trace.append("+x")
        ctx.ready()
        if ctx.incarnation == 1:
            await trio.sleep(1)
            raise error
        await ctx.drain_requested.wait()

    return world.child("x", world.actor(run))


@pytest.fixture
def lines(world):
    """What the log says."""
    out = io.StringIO()
    configure_logging(LogSetup(clock=VirtualClock(10**18), stream=out, log_format="json", log_level="info"))
    yield lambda: out.getvalue().splitlines()
    close_logging()
    structlog.reset_defaults()


@pytest.mark.parametrize("name", AWKWARD)
async def test_an_error_that_cannot_be_told_is_an_ordinary_restart(autojump_clock, world, lines, name: str) -> None:
    history = History(world.seams.clock.wall_ns)
    world.report = both(report_to(world.seams.board, world.seams.clock.wall_ns), history.record)
    async with world.running(
        world.sup("root", "one_for_one", "a", world.sup("s", "one_for_one", raising(world, AWKWARD[name])), "c")
    ):
        await trio.sleep(2)
        assert world.take() == "+a +x +c +x"
        assert world.child_state("x").restarts == 1
        assert world.child_state("s").restarts == 0
        last = world.child_state("x").last_exit
    assert last.startswith("crashed: ")
    assert len(last) <= LINE_CHARS_MAX + 20
    last.encode()
    crashed = [line for line in lines() if "actor_crashed" in line]
    assert len(crashed) == 1
    assert '"exception"' in crashed[0]
    again = History(world.seams.clock.wall_ns)
    assert again.load(dump(history.entries())) == 0
    assert any("root/s/x actor_crashed" in line for line in again.recent())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_control_with_leaves_that_recurse_a_deep_group_ends_everything() -> None:
    def recursive(error: BaseException) -> list[BaseException]:
        if isinstance(error, BaseExceptionGroup):
            return [leaf for inner in error.exceptions for leaf in recursive(inner)]
        return [error]

    async def main() -> None:
        world = World()
        async with world.running(world.sup("root", "one_for_one", "a", raising(world, deep(OSError("x"))))):
            await trio.sleep(2)

    with mock.patch.object(exits, "leaves", recursive), pytest.raises(trio.TrioInternalError):
        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    gc.collect()  # what Trio left behind complains when it goes


async def test_a_fatal_error_is_found_however_deep_it_is(autojump_clock, world) -> None:
    child = raising(world, deep(OSError("x"), LogSyncFailed("disk")))
    with pytest.RaisesGroup(LogSyncFailed):
        async with world.running(world.sup("root", "one_for_one", "a", child), fatal=(LogSyncFailed,)):
            await trio.sleep(2)
    assert [e.kind for e in world.events].count(EventKind.FATAL) == 1


def test_leaves_keep_their_order_and_lose_cancellations() -> None:
    one, two, three = OSError("1"), OSError("2"), OSError("3")
    assert leaves(ExceptionGroup("g", [ExceptionGroup("h", [one, two]), three])) == [one, two, three]
    assert leaves(deep(one, two)) == [one, two]


def test_a_text_for_people_is_one_line_that_can_be_written() -> None:
    assert describe(OSError("a\nb\udcff")) == "OSError: a b\\udcff"
    assert describe(Speechless()) == "Speechless: (its text cannot be made: ValueError)"
    assert len(one_line("x" * 10**6)) == LINE_CHARS_MAX


def test_the_exit_code_of_a_deep_group_is_that_of_what_is_inside() -> None:
    assert decisive(deep(OSError("x"), ConfigError("mend me")))[0] is Exit.CONFIG
    odd = LogSyncFailed("disk")
    odd.__cause__ = odd
    assert decisive(odd)[0] is Exit.IO
