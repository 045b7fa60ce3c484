"""What a command is at that takes long, on a terminal: who waits for an answer sees that it is being worked on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TextIO

import attrs
import trio

PATIENCE_S = 2.0
"""Who is answered sooner needs no line."""
BEAT_S = 1.0
START, CLEAR = "\r", "\x1b[K"
"""The line is written over, and gone when the answer comes."""


@attrs.define
class Doing:
    """Set `what` to what is done now."""

    what: str = ""


@asynccontextmanager
async def told(command: str, out: TextIO) -> AsyncIterator[Doing]:
    """While inside, `what` is on `out` with the seconds it all took; nothing unless `out` is a terminal."""
    doing = Doing()
    if not out.isatty():
        yield doing
        return
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_beat, command, doing, out)
        try:
            yield doing
        finally:
            nursery.cancel_scope.cancel(reason="it is done")


async def _beat(command: str, doing: Doing, out: TextIO) -> None:
    began_s = trio.current_time()
    await trio.sleep(PATIENCE_S)
    try:
        while True:
            out.write(f"{START}{command}: {doing.what}, {trio.current_time() - began_s:,.0f} s{CLEAR}")
            out.flush()
            await trio.sleep(BEAT_S)
    finally:
        out.write(f"{START}{CLEAR}")
        out.flush()
