"""What a standing run says on its terminal, in the words of /healthz."""

from __future__ import annotations

from collections.abc import Callable
from typing import TextIO

import trio

from actors.health.probes import Status, Verdict
from runtime.board import Board

LOOK_S = 1.0


async def say_when_stored(board: Board, judge: Callable[[], Verdict], out: TextIO) -> None:
    """A line when everything so far is stored and, if something is not well then, another when it has become so."""
    while True:
        while not board.is_idle:  # noqa: ASYNC110
            await trio.sleep(LOOK_S)
        verdict = judge()
        _write(out, stored_line(verdict, board))
        if verdict.status is Status.HEALTHY:
            return
        while judge().status is not Status.HEALTHY:  # noqa: ASYNC110
            await trio.sleep(LOOK_S)


def stored_line(verdict: Verdict, board: Board) -> str:
    """The word and the reasons of /healthz, and what is stored. Pure."""
    reasons = f" ({'; '.join(verdict.reasons)})" if verdict.reasons else ""
    rows = ", ".join(f"{name} {c.records_stored:,} rows" for name, c in sorted(board.consumers.items()))
    return f"holdfast: {verdict.status.value}{reasons}; everything accepted so far is stored and verified ({rows})"


def _write(out: TextIO, text: str) -> None:
    out.write("".join(c if c.isprintable() else " " for c in text) + "\n")
    out.flush()
