"""The live downloader with the buffer's seam and history behind it: after confirmation every tick is there once."""

from __future__ import annotations

import attrs
import pytest

from actors.downloader.memory_live import MemoryMarket, StreamScript
from runtime.clock import NS_PER_HOUR, NS_PER_MINUTE, NS_PER_S
from tests.support.live import EUR, T0, World, check, walk

H, M = NS_PER_HOUR, NS_PER_MINUTE


def world(script: StreamScript | None = None, *, seed: int = 1, rate: float = 60.0, rows: int = 6_000, **more) -> World:
    ticks = walk(seed, T0 - 2 * H, T0 + 5 * H, rows)
    market = MemoryMarket(ticks={EUR: ticks}, start_ns=T0 + 17 * NS_PER_S, rate=rate)
    return World(market=market, script=script or StreamScript(), **more)


async def test_an_undisturbed_day_is_stored_once_and_confirmed(autojump_clock):
    w = world()
    await w.until_confirmed(T0 + 2 * H)
    found = check(w, T0 + 2 * H)
    heartbeats = [r for e in found if e.live for r in e.records]
    assert heartbeats
    assert len({r.session for r in heartbeats}) == 1
