"""What a standing run says on its terminal, in the words of /healthz."""

from __future__ import annotations

from collections.abc import Callable
from typing import TextIO

import trio

from actors.health.probes import Status, Verdict
from runtime.board import Board

LOOK_S = 1.0
GRACE_S = 30.0
"""What is still coming up so long after the start is told as what is wrong."""
BEAT_S = 60.0
BEAT_FEEDS_MAX = 4
"""More would not fit into a line."""


async def tell(board: Board, judge: Callable[[], Verdict], out: TextIO) -> None:
    """All of it, until cancelled; who watches a terminal sees once a minute that data moves."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(say_when_stored, board, judge, out)
        while out.isatty():
            await trio.sleep(BEAT_S)
            _write(out, beat_line(judge(), board))


async def say_when_stored(board: Board, judge: Callable[[], Verdict], out: TextIO) -> None:
    """A line when everything so far is stored and, if something is not well then, another when it has become so."""
    await _until_stored(board)
    with trio.move_on_after(GRACE_S):
        await _until_healthy(judge)
    _write(out, stored_line(verdict := judge(), board))
    if verdict.status is not Status.HEALTHY:
        await _until_healthy(judge)
        await _until_stored(board)
        _write(out, stored_line(judge(), board))


async def _until_healthy(judge: Callable[[], Verdict]) -> None:
    while judge().status is not Status.HEALTHY:  # noqa: ASYNC110
        await trio.sleep(LOOK_S)


async def _until_stored(board: Board) -> None:
    """What was accepted by now, and no job is left: a live stream goes on behind it, so the log's end moves."""
    while not (board.jobs_idle and board.log is not None):  # noqa: ASYNC110
        await trio.sleep(LOOK_S)
    mark = board.log.end_position
    while not _has_passed(board, mark):  # noqa: ASYNC110
        await trio.sleep(LOOK_S)


def _has_passed(board: Board, mark: int) -> bool:
    known = board.consumers
    return board.consumers_expected <= known.keys() and all(at.verified_position >= mark for at in known.values())


def stored_line(verdict: Verdict, board: Board) -> str:
    """The word and the reasons of /healthz, and what is stored. Pure."""
    reasons = f" ({'; '.join(verdict.reasons)})" if verdict.reasons else ""
    rows = ", ".join(f"{name} {c.records_stored:,} rows" for name, c in sorted(board.consumers.items()))
    return f"holdfast: {verdict.status.value}{reasons}; everything accepted so far is stored and verified ({rows})"


def beat_line(verdict: Verdict, board: Board) -> str:
    """The word of /healthz, and the last price and pace of the first feeds. Pure."""
    feeds = sorted(board.live.values(), key=lambda state: state.symbol)
    parts = [
        f"{state.symbol} {' / '.join(f'{price:.10g}' for price in state.prices)}, {state.ticks_per_s:,.1f} ticks/s"
        for state in feeds[:BEAT_FEEDS_MAX]
    ]
    more = [f"{len(feeds) - BEAT_FEEDS_MAX} more"] if len(feeds) > BEAT_FEEDS_MAX else []
    return "; ".join([f"holdfast: {verdict.status.value}", *parts, *more])


def _write(out: TextIO, text: str) -> None:
    out.write("".join(c if c.isprintable() else " " for c in text) + "\n")
    out.flush()
