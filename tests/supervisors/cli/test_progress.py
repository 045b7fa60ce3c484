"""Progress: speed and time left from looks at the board; bars on a terminal, lines elsewhere."""

from __future__ import annotations

import io

import pytest
import trio

from runtime.board import Board, ConsumerState, JobState, LogState
from runtime.clock import VirtualClock
from supervisors.cli import progress
from supervisors.cli.progress import Meter, duration, line, show_progress

S = 10**9


def job(done_s: int, rows: int, *, total: int = 0, finished: bool = False, symbol: str = "C:EURUSD") -> JobState:
    return JobState(
        symbol=symbol, kind="quotes", from_ns=0, to_ns=100 * S, done_to_ns=done_s * S, rows=rows,
        rows_total_estimate=total, finished=finished,
    )  # fmt: skip


def test_speed_and_time_left_follow_from_two_looks():
    board, meter = Board(), Meter()
    board.jobs["j"] = job(10, 1000, total=10_000)
    first = meter.look(board, 50.0)
    assert (first.rows_per_s, first.left_s, first.done) == (0.0, None, 0.1)
    board.jobs["j"] = job(30, 3000, total=10_000)
    second = meter.look(board, 54.0)
    assert (second.rows_per_s, second.done, second.rows, second.rows_total) == (500.0, 0.3, 3000, 10_000)
    assert second.left_s == pytest.approx(14.0)  # 20 % in 4 s, 70 % left
    assert line(second) == "history 30.0%, 3,000 of about 10,000 rows, 500 rows/s, 14 s left"


def test_the_window_forgets_what_is_long_ago():
    board, meter = Board(), Meter()
    for second in range(60):
        board.jobs["j"] = job(min(second, 20), 1000 * min(second, 20))
        reading = meter.look(board, float(second))
    assert reading.rows_per_s == 0.0
    assert reading.left_s is None


def test_a_job_that_joins_starts_the_measuring_again():
    board, meter = Board(), Meter()
    board.jobs["a"] = job(100, 9000, finished=True)
    meter.look(board, 0.0)
    board.jobs["b"] = job(0, 0, symbol="C:USDJPY")
    reading = meter.look(board, 1.0)
    assert (reading.rows_per_s, reading.left_s, reading.done) == (0.0, None, 0.5)


def test_nothing_to_do_is_done_and_an_unknown_total_is_not_guessed():
    assert Meter().look(Board(jobs_idle=True), 0.0).done == 1.0
    assert Meter().look(Board(), 0.0).done == 0.0
    board = Board()
    board.jobs["a"] = job(10, 500)
    assert Meter().look(board, 0.0).rows_total == 0


def test_readers_that_are_not_verified_are_waited_for():
    board = Board(log=LogState(log_id="l", end_position=100, bytes=1, segments=1, records_accepted=1))
    board.consumers["bridge.timescale"] = ConsumerState(committed_position=100, verified_position=40, lag_records=7)
    board.consumers["aggregator"] = ConsumerState(committed_position=100, verified_position=100)
    board.jobs["a"] = job(100, 5, finished=True)
    reading = Meter().look(board, 0.0)
    assert line(reading) == "history 100.0%, 5 rows, 0 rows/s, to be verified: bridge.timescale"
    bars = {bar.name: (bar.done, bar.detail) for bar in reading.bars}
    assert bars["bridge.timescale"] == (0.4, "7 rows behind")
    assert bars["aggregator"] == (1.0, "verified")


def test_many_jobs_are_one_bar():
    board = Board()
    for n in range(40):
        board.jobs[str(n)] = job(n % 2 * 100, 10, symbol=f"C:AAA{n:03d}")
    (bar,) = Meter().look(board, 0.0).bars
    assert (bar.name, bar.done, bar.detail) == ("40 jobs", 0.5, "400 rows")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (0.2, "1 s"), (59, "59 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")]
)
def test_durations_for_people(seconds, text):
    assert duration(seconds) == text


async def run_for(seconds: float, board: Board, out: io.StringIO, changes=()) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(show_progress, board, VirtualClock(0), out)
        for wait_s, state in changes:
            await trio.sleep(wait_s)
            board.jobs["j"] = state
        await trio.sleep(seconds)
        nursery.cancel_scope.cancel()


async def test_elsewhere_there_is_a_line_now_and_then_and_no_line_twice(autojump_clock):
    board, out = Board(), io.StringIO()
    board.jobs["j"] = job(0, 0)
    await run_for(3600.0, board, out, [(12.0, job(50, 600, total=1200))])
    lines = out.getvalue().splitlines()
    assert lines[0] == "history 0.0%, 0 rows, 0 rows/s"
    assert lines[1].startswith("history 50.0%, 600 of about 1,200 rows, ")
    assert lines[-1].endswith("after 1 h 0 min")
    assert len(lines) <= 8


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


async def test_a_terminal_gets_bars(autojump_clock, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    board, out = Board(), Terminal()
    board.jobs["j"] = job(50, 600)
    await run_for(2.0, board, out)
    assert "C:EURUSD quotes" in out.getvalue()
    assert "50.0 %" in out.getvalue()
    assert out.getvalue().rstrip().endswith("after 2 s")


async def test_a_finished_job_that_leaves_the_board_leaves_the_terminal(autojump_clock, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    board, out = Board(), Terminal()
    board.jobs["j"] = job(50, 600)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(show_progress, board, VirtualClock(0), out)
        await trio.sleep(1.0)
        board.jobs.clear()
        await trio.sleep(1.0)
        before = len(out.getvalue())
        await trio.sleep(1.0)
        assert "C:EURUSD" not in out.getvalue()[before:]
        nursery.cancel_scope.cancel()


def test_limits_are_sane():
    assert progress.TERMINAL_EVERY_S < progress.PLAIN_EVERY_S < progress.WINDOW_S
