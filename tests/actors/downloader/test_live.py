"""The live downloader with the buffer's seam and history behind it: after confirmation every tick is there once."""

from __future__ import annotations

import attrs
import pytest

from actors.downloader.memory_live import MemoryMarket, StreamScript
from runtime.clock import NS_PER_HOUR, NS_PER_MINUTE, NS_PER_S
from tests.support.live import EUR, T0, World, check, walk

H, M = NS_PER_HOUR, NS_PER_MINUTE


def world(script: StreamScript | None = None, *, seed: int = 1, rate: float = 120.0, rows: int = 6_000, **more) -> World:
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


def sessions(found) -> list[str]:
    return list(dict.fromkeys(r.session for e in found for r in e.records if r.session))


def at(*minutes: float) -> tuple[int, ...]:
    return tuple(T0 + round(m * M) for m in minutes)


def spans(*pairs: tuple[float, float]) -> tuple[tuple[int, int], ...]:
    return tuple((T0 + round(a * M), T0 + round(b * M)) for a, b in pairs)


SCRIPTS = {
    "disconnects": StreamScript(ends_ns=at(10, 12.5, 33, 61, 89)),
    "silence with pings": StreamScript(silent_ns=spans((20, 45))),
    "silence without pings": StreamScript(hung_ns=spans((20, 50))),
    "a gap without a sign": StreamScript(hole_ns=spans((31, 32.5), (70, 75))),
    "late ticks": StreamScript(late_share=0.05, late_ns=30 * M, ends_ns=at(40)),
    "very late ticks": StreamScript(late_share=0.02, late_ns=100 * M, ends_ns=at(40)),
    "replayed events": StreamScript(replay_rows=1_000, ends_ns=at(15, 50, 51)),
    "everything": StreamScript(
        ends_ns=at(10, 55, 72),
        silent_ns=spans((20, 45)),
        hung_ns=spans((85, 110)),
        hole_ns=spans((62, 63.5)),
        late_share=0.02,
        late_ns=40 * M,
        replay_rows=500,
    ),
}
FIRED = {"disconnects": "end", "silence with pings": "silent", "silence without pings": "hung", "replayed events": "replay"}


@pytest.mark.parametrize("name", SCRIPTS)
async def test_whatever_the_stream_does_every_tick_is_there_once_after_confirmation(name, autojump_clock):
    w = world(SCRIPTS[name])
    await w.until_confirmed(T0 + 2 * H)
    found = check(w, T0 + 2 * H)
    if name in FIRED:
        assert w.lives[0].fired[FIRED[name]]
        assert len(sessions(found)) > 1
