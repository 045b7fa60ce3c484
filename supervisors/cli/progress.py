"""How far long work is: bars on a terminal, a line every few seconds elsewhere. `Meter` and `line` are pure."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import TextIO

import attrs
import trio
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from runtime.board import Board
from runtime.clock import Clock

WINDOW_S = 10.0
"""Speed is an average over so long: shorter jumps about, longer lags behind."""
PLAIN_EVERY_S = 5.0
TERMINAL_EVERY_S = 0.25
BARS_MAX = 12
"""More jobs than this are shown as one bar."""


@attrs.frozen(kw_only=True)
class Bar:
    """One line of progress."""

    name: str
    done: float
    """0 to 1."""
    detail: str


@attrs.frozen(kw_only=True)
class Reading:
    """One look at the whole."""

    bars: tuple[Bar, ...]
    rows: int
    rows_total: int
    """An estimate; 0 = unknown."""
    done: float
    """Of the wanted time span, 0 to 1."""
    rows_per_s: float
    left_s: float | None
    """None = cannot be told."""
    waiting_for: tuple[str, ...]
    """Consumers that are not verified up to the end of the log."""


@attrs.define
class Meter:
    """Turns looks at the board into speed and time left."""

    _seen: deque[tuple[float, int, float]] = attrs.field(factory=deque)
    """(monotonic seconds, rows, done) inside the window, oldest first."""

    def look(self, board: Board, now_s: float) -> Reading:
        """Read the board at monotonic `now_s`; call it at steady intervals."""
        jobs = list(board.jobs.values())
        span_ns = sum(job.to_ns - job.from_ns for job in jobs)
        done_ns = sum(_done_ns(job.from_ns, job.done_to_ns, job.to_ns, job.finished) for job in jobs)
        rows = sum(job.rows for job in jobs)
        done = done_ns / span_ns if span_ns else float(board.jobs_idle)
        rows_per_s, done_per_s = self._speed(now_s, rows, done)
        left_s = 0.0 if done >= 1 else (1 - done) / done_per_s if done_per_s > 0 else None
        bars = [*self._job_bars(board), *self._consumer_bars(board)]
        end = board.log.end_position if board.log is not None else 0
        waiting = tuple(name for name, c in sorted(board.consumers.items()) if c.verified_position < end)
        known = all(job.rows_total_estimate or job.finished for job in jobs)
        return Reading(
            bars=tuple(bars),
            rows=rows,
            rows_total=sum(job.rows if job.finished else job.rows_total_estimate for job in jobs) if known else 0,
            done=done,
            rows_per_s=rows_per_s,
            left_s=left_s,
            waiting_for=waiting,
        )

    def _speed(self, now_s: float, rows: int, done: float) -> tuple[float, float]:
        self._seen.append((now_s, rows, done))
        while self._seen[0][0] < now_s - WINDOW_S and len(self._seen) > 2:
            self._seen.popleft()
        then_s, then_rows, then_done = self._seen[0]
        passed_s = now_s - then_s
        if passed_s <= 0 or rows < then_rows or done < then_done:  # a new job began: start measuring again
            self._seen = deque([(now_s, rows, done)])
            return 0.0, 0.0
        return (rows - then_rows) / passed_s, (done - then_done) / passed_s

    def _job_bars(self, board: Board) -> list[Bar]:
        bars = [
            Bar(
                name=f"{job.symbol} {job.kind}",
                done=_done_ns(job.from_ns, job.done_to_ns, job.to_ns, job.finished) / max(1, job.to_ns - job.from_ns),
                detail=job.error or _of(job.rows, 0 if job.finished else job.rows_total_estimate),
            )
            for _, job in sorted(board.jobs.items())
        ]
        if len(bars) > BARS_MAX:
            done = sum(bar.done for bar in bars) / len(bars)
            rows = sum(job.rows for job in board.jobs.values())
            return [Bar(name=f"{len(bars)} jobs", done=done, detail=_of(rows, 0))]
        return bars

    def _consumer_bars(self, board: Board) -> list[Bar]:
        end = board.log.end_position if board.log is not None else 0
        return [
            Bar(
                name=name,
                done=min(1.0, c.verified_position / end) if end else 1.0,
                detail="verified" if c.verified_position >= end else f"{c.lag_records:,} rows behind",
            )
            for name, c in sorted(board.consumers.items())
        ]


def _done_ns(from_ns: int, done_to_ns: int, to_ns: int, finished: bool) -> int:
    return to_ns - from_ns if finished else min(max(0, done_to_ns - from_ns), to_ns - from_ns)


def _of(rows: int, total: int) -> str:
    return f"{rows:,} of about {total:,} rows" if total > rows else f"{rows:,} rows"


def duration(seconds: float) -> str:
    """`45 s`, `3 min 20 s`, `2 h 5 min`, `67 days`."""
    whole = math.ceil(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 72 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86_400:,} days"


def line(reading: Reading) -> str:
    """The whole in one line."""
    parts = [f"history {reading.done:.1%}", _of(reading.rows, reading.rows_total), f"{reading.rows_per_s:,.0f} rows/s"]
    if reading.left_s is not None and reading.done < 1:
        parts.append(f"{duration(reading.left_s)} left")
    if reading.waiting_for:
        parts.append(f"to be verified: {', '.join(reading.waiting_for)}")
    return ", ".join(parts)


def last_line(reading: Reading, verdict: str, *, is_new: bool) -> str:
    """The whole at its end. Pure."""
    if verdict:  # what the readers still have before them is not of this work
        reading = attrs.evolve(reading, waiting_for=())
    text = line(reading) if is_new else "already there, nothing fetched"
    return f"{text}, {verdict}" if verdict else text


def nothing_new(board: Board) -> bool:
    """True when all that was wanted was there before: nobody was asked."""
    return bool(board.jobs) and all(job.finished and not job.asked for job in board.jobs.values())


async def show_progress(board: Board, clock: Clock, out: TextIO, *, verdict: Callable[[], str] = lambda: "") -> None:
    """Show the board's progress on `out` until cancelled; a last line says where it ended.

    `verdict`: what is known of the end, asked then; empty: it is left to the reading.
    """
    meter = Meter()
    started_s, rows_before = clock.monotonic_s(), sum(job.rows for job in board.jobs.values())
    try:
        if out.isatty():
            await _bars(meter, board, clock, out)
        else:
            await _lines(meter, board, clock, out)
    finally:
        reading = meter.look(board, clock.monotonic_s())
        took_s = clock.monotonic_s() - started_s
        rows = max(0, reading.rows - rows_before)
        reading = attrs.evolve(reading, rows_per_s=rows / max(took_s, 0.001))
        out.write(f"{last_line(reading, verdict(), is_new=not nothing_new(board))}, after {duration(took_s)}\n")
        out.flush()


async def _lines(meter: Meter, board: Board, clock: Clock, out: TextIO) -> None:
    shown = ""
    while True:
        text = line(meter.look(board, clock.monotonic_s()))
        if text != shown:  # an outage must not fill a file with the same line
            out.write(text + "\n")
            out.flush()
            shown = text
        await trio.sleep(PLAIN_EVERY_S)


async def _bars(meter: Meter, board: Board, clock: Clock, out: TextIO) -> None:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>5.1f} %"),
        TextColumn("{task.fields[detail]}"),
    )
    tasks: dict[str, TaskID] = {}
    # No refresh thread: the loop refreshes, so nothing is drawn after a cancellation.
    with Progress(*columns, console=Console(file=out), auto_refresh=False, get_time=clock.monotonic_s) as progress:
        while True:
            reading = meter.look(board, clock.monotonic_s())
            left = f", {duration(reading.left_s)} left" if reading.left_s else ""
            total = Bar(name="history", done=reading.done, detail=f"{reading.rows_per_s:,.0f} rows/s{left}")
            for bar in (total, *reading.bars):
                if bar.name not in tasks:
                    tasks[bar.name] = progress.add_task(bar.name, total=1.0, detail="")
                progress.update(tasks[bar.name], completed=bar.done, detail=bar.detail)
            for name in set(tasks) - {total.name, *(bar.name for bar in reading.bars)}:
                progress.remove_task(tasks.pop(name))
            progress.refresh()
            await trio.sleep(TERMINAL_EVERY_S)
