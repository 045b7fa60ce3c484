"""What the page asks for while it is open: the status as a stream of events, and the candles of one series."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import attrs
import trio

from actors.health.recent import BARS_PER_SERIES, BASES, RecentCandles
from runtime.board import Board
from runtime.errors import ConfigError

EVENT_S = 1.0
STREAM_S_MAX = 600.0
"""A browser opens a new stream by itself; an abandoned one does not hold its place for ever."""
STREAMS_MAX = 8
"""At the same time; more are told to come again, and the page then asks for the status instead."""
BARS_SHOWN = 120


@attrs.define
class EventStreams:
    """Counts the open streams; all end when the process is told to."""

    drained: trio.Event = attrs.field(factory=trio.Event)
    _open: int = 0

    @property
    def is_full(self) -> bool:
        """No more now."""
        return self._open >= STREAMS_MAX

    async def events(self, status: Callable[[], Mapping[str, Any]]) -> AsyncIterator[bytes]:
        """One `status` event a second. What a slow reader does not take is not made: nothing piles up."""
        if self.is_full:  # several were let in at the same moment
            yield b"retry: 10000\n\n"
            return
        self._open += 1
        try:
            end_s = trio.current_time() + STREAM_S_MAX
            yield b"retry: 1000\n\n"
            while trio.current_time() < end_s and not self.drained.is_set():
                yield b"event: status\ndata: " + json.dumps(status(), separators=(",", ":")).encode() + b"\n\n"
                with trio.move_on_after(EVENT_S):
                    await self.drained.wait()
        finally:
            self._open -= 1


async def candles(query: Mapping[str, str], recent: RecentCandles, board: Board) -> dict[str, Any]:
    """The answer of /api/candles; without parameters the first series there is.

    Raises: ConfigError for an unknown symbol, timeframe, basis or a limit that is no number, naming what there is.
    """
    async with recent.lock:
        names = recent.names(board.open_candles.values())
        symbol = _one_of("symbol", query.get("symbol"), sorted(names))
        timeframes = names.get(symbol, {})
        timeframe = _one_of("timeframe", query.get("timeframe"), list(timeframes), of=symbol)
        bases = [basis for basis in BASES if basis in timeframes.get(timeframe, [])]
        basis = _one_of("basis", query.get("basis"), bases, of=symbol)
        opened = board.open_candles.get(symbol)
        bars = recent.bars((symbol, timeframe, basis), opened, _limit(query.get("limit")))
    return {
        "symbol": symbol,
        "timeframe": timeframe,
        "basis": basis,
        "watermark": None if opened is None or opened.watermark_ns is None else opened.watermark_ns // 1_000_000,
        "bars": [bar.to_json() for bar in bars],
        "series": names,
    }


def _one_of(name: str, wanted: str | None, known: list[str], *, of: str = "") -> str:
    if not wanted:
        return known[0] if known else ""
    if wanted not in known:
        whose = f" for {of}" if of else ""
        raise ConfigError(f"{name}: {wanted!r} is not one of {', '.join(known) or 'none yet'}{whose}")
    return wanted


def _limit(text: str | None) -> int:
    if text is None:
        return BARS_SHOWN
    if not (text.isascii() and text.isdigit() and len(text) < 9 and 0 < int(text) <= BARS_PER_SERIES):
        raise ConfigError(f"limit: expected a number from 1 to {BARS_PER_SERIES}")
    return int(text)
