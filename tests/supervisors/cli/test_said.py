"""What a standing run says on its terminal."""

from __future__ import annotations

import io

import attrs
import trio

from actors.health.probes import Probes
from runtime.board import Board, ConsumerState, DependencyState, JobState, LiveState, LogState
from supervisors.cli.said import say_when_stored, tell


def stored_board() -> Board:
    board = Board(log=LogState(log_id="l", end_position=100, bytes=1, segments=1, records_accepted=7), jobs_idle=True)
    board.consumers["bridge.timescale"] = ConsumerState(
        committed_position=100, verified_position=100, records_stored=7, caught_up=True
    )
    board.dependency("timescale", DependencyState.UP)
    return board


async def said(board: Board, change=lambda: None) -> list[str]:
    out, probes = io.StringIO(), Probes(service="holdfast", stalled_after_s=30.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(say_when_stored, board, lambda: probes.judge(board, trio.current_time()), out)
        await trio.sleep(40.0)
        change()
        await trio.sleep(5.0)
        nursery.cancel_scope.cancel()
    return out.getvalue().splitlines()


async def test_healthy_is_said_once_when_everything_is_stored(autojump_clock) -> None:
    stored = "everything accepted so far is stored and verified (bridge.timescale 7 rows)"
    assert await said(stored_board()) == [f"holdfast: healthy; {stored}"]


async def test_a_refused_symbol_is_degraded_on_the_terminal_as_on_healthz(autojump_clock) -> None:
    board = stored_board()
    board.jobs["history/C:EURUSX/quotes"] = JobState(
        symbol="C:EURUSX", kind="quotes", from_ns=0, to_ns=1, done_to_ns=0, error="unknown symbol"
    )
    first, second = await said(board, board.jobs.clear)
    assert first.startswith(
        "holdfast: degraded (C:EURUSX quotes: unknown symbol); everything accepted so far is stored"
    )
    assert second.startswith("holdfast: healthy; ")


async def test_nothing_is_said_before_everything_is_stored(autojump_clock) -> None:
    board = stored_board()
    board.jobs_idle = False
    assert await said(board) == []


async def test_behind_a_live_stream_the_line_comes_although_the_log_never_stands_still(autojump_clock) -> None:
    board, out, probes = stored_board(), io.StringIO(), Probes(service="holdfast", stalled_after_s=30.0)
    with trio.move_on_after(10.0):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(say_when_stored, board, lambda: probes.judge(board, trio.current_time()), out)
            for end in range(200, 2000, 10):  # readers are always a little behind
                board.log = attrs.evolve(board.log, end_position=end)
                board.consumers["bridge.timescale"] = ConsumerState(
                    committed_position=end - 5, verified_position=end - 20, records_stored=end
                )
                await trio.sleep(0.1)
    assert out.getvalue().startswith("holdfast: healthy; ")


async def test_what_is_only_coming_up_is_not_called_degraded(autojump_clock) -> None:
    board = stored_board()
    board.dependency("polygon.fx", DependencyState.DOWN, reason="the embedded market simulator is not up yet")
    out, probes = io.StringIO(), Probes(service="holdfast", stalled_after_s=30.0)
    with trio.move_on_after(60.0):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(say_when_stored, board, lambda: probes.judge(board, trio.current_time()), out)
            await trio.sleep(8.0)
            board.dependency("polygon.fx", DependencyState.UP)
    assert [line.partition(";")[0] for line in out.getvalue().splitlines()] == ["holdfast: healthy"]


def test_a_run_in_test_mode_says_that_its_data_is_in_memory(pipeline, tmp_path) -> None:
    said = pipeline("run", "--until-idle", "--test-mode", "--set", "health.listen=127.0.0.1:0")
    assert said.code == 0, said
    assert "data in memory, gone with this process" in said.err
    assert not (tmp_path / "data").exists()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


async def told_in(seconds: float, out: io.StringIO) -> list[str]:
    board, probes = stored_board(), Probes(service="holdfast", stalled_after_s=30.0)
    for n in range(5):
        board.live[f"C:EURUS{n}/quotes"] = LiveState(
            symbol=f"C:EURUS{n}", kind="quotes", prices=(1.25, 1.26), ts_ns=0, heard_s=0.0, ticks_per_s=7.04
        )
    with trio.move_on_after(seconds):
        await tell(board, lambda: probes.judge(board, trio.current_time()), out)
    return out.getvalue().splitlines()


async def test_a_person_at_a_terminal_sees_once_a_minute_that_data_moves(autojump_clock) -> None:
    first, *beats = await told_in(185.0, Terminal())
    assert first.startswith("holdfast: healthy; everything accepted so far is stored")
    assert len(beats) == 3
    assert beats[0].startswith("holdfast: healthy; C:EURUS0 1.25 / 1.26, 7.0 ticks/s; C:EURUS1 ")
    assert beats[0].endswith("; 1 more")


async def test_a_file_is_not_filled_with_heartbeats(autojump_clock) -> None:
    assert len(await told_in(3600.0, io.StringIO())) == 1
