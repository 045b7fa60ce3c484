"""A vendor whose clock is wrong for a while: no minute may be left out for that, even if nobody confirms it later."""

from __future__ import annotations

from collections import Counter

import attrs
import pytest
import trio

from actors.downloader.claims import Claims
from actors.downloader.live_group import LiveLimits
from actors.downloader.live_watch import SilenceLimits
from actors.downloader.memory_live import MemoryMarket, MemoryTime, StreamScript
from runtime.backoff import Backoff
from runtime.clock import NS_PER_HOUR, NS_PER_MINUTE, NS_PER_S
from runtime.market_clock import MarketClock
from tests.support.live import EUR, T0, World, events, no_word_after_a_slice, physical, truth, walk

LIMITS = LiveLimits(backoff=Backoff(initial_s=1.0, max_s=8.0), minute_settle_s=0.5, linger_s=0.4)
H, M, S = NS_PER_HOUR, NS_PER_MINUTE, NS_PER_S


def world(wrong: tuple[float, float, float], *ends_s: float, confirm: bool = False, seed: int = 3) -> World:
    """`wrong`: (from, to, by), seconds after the start; the stream ends at `ends_s`. A tick in 18 s: where many come, a
    session claims no more than the newest of them proves."""
    start_ns = T0 + 17 * S
    market = MemoryMarket(ticks={EUR: walk(seed, T0 - H, T0 + 2 * H, 600)}, start_ns=start_ns)

    def wrong_s() -> float:
        now_s = (market.now_ns() - start_ns) / S
        return wrong[2] if wrong[0] <= now_s < wrong[1] else 0.0

    limits = attrs.evolve(LIMITS, silence=SilenceLimits(real_s=1e9))  # a step ahead would look like silence
    script = StreamScript(ends_ns=tuple(start_ns + round(at_s * S) for at_s in ends_s))
    return World(
        market=market,
        script=script,
        confirm=confirm,
        history_from_ns=T0 - 5 * M,
        time=MemoryTime(market=market, wrong_s=wrong_s),
        limits=limits,
    )


def lacking(w: World, to_ns: int) -> Counter[tuple[int, ...]]:
    """(minute, rows) that the market has and the log lacks, or has too often (negative)."""
    have = Counter(row[0] // M for row in physical(events(w.log)).elements())
    want = Counter(row[0] // M for row in truth(w.market.ticks[EUR], T0 - 5 * M, to_ns).elements())
    minutes = sorted(minute for minute in have.keys() | want.keys() if (T0 - 5 * M) // M <= minute < to_ns // M)
    return Counter(
        {minute - T0 // M: want[minute] - have[minute] for minute in minutes if want[minute] != have[minute]}
    )


CASES = {
    "ahead for 14 s, then a reconnect": ((100, 114, 240), (120,)),
    "ahead for 14 s, a reconnect in it": ((100, 114, 240), (105,)),
    "behind for 14 s, a reconnect in it": ((100, 114, -240), (105,)),
    "ahead for so long that it is believed, then a reconnect": ((100, 200, 240), (250,)),
    "ahead for so long that it is believed, a reconnect in it": ((100, 200, 240), (190, 250)),
    "ahead for so long that it is believed, away when it ends": ((100, 200, 240), (195, 201, 202, 204)),
    "ahead for so long that it is believed, then nothing": ((100, 200, 240), ()),
    "behind for so long that it is believed, a reconnect in it": ((100, 200, -240), (190,)),
    "behind for so long that it is believed, two reconnects in it": ((100, 200, -240), (170, 190)),
    "ahead at the first answer": ((0, 1.0, 240), ()),
    "ahead at the first answers, then a reconnect": ((0, 40, 240), (60,)),
    "behind at the first answers": ((0, 40, -240), (60,)),
}
TO_NS = T0 + 8 * M


async def run(name: str, seed: int = 3) -> World:
    w = world(CASES[name][0], *CASES[name][1], seed=seed)
    await w.process(lambda: w.market.now_ns() > TO_NS + 70 * S)
    return w


@pytest.mark.parametrize("name", CASES)
async def test_a_clock_that_was_wrong_for_a_while_leaves_no_minute_out(name, autojump_clock):
    w = await run(name)
    assert not lacking(w, TO_NS)
    no_word_after_a_slice(events(w.log))


@pytest.mark.parametrize(
    ("killed_s", "down_s"), [(105, 1), (150, 1), (150, 60), (195, 1), (198, 1), (198, 60), (205, 60), (231, 180)]
)
async def test_also_when_the_process_was_killed_meanwhile(killed_s, down_s, autojump_clock):
    w = world((100, 200, 240))
    start_ns = w.market.now_ns()
    await w.process(lambda: w.market.now_ns() > start_ns + killed_s * S)
    await trio.sleep(down_s)
    await w.process(lambda: w.market.now_ns() > TO_NS + 70 * S)
    assert not lacking(w, TO_NS)


async def test_a_session_that_begins_in_the_future_ends_when_the_clock_is_right_again(autojump_clock):
    w = await run("ahead at the first answers, then a reconnect")
    begun = [r.from_ns for e in events(w.log) if e.live for r in e.records]
    assert min(begun) < T0 + 5 * M, "where the first one, by the wrong clock, began"


async def test_control_nothing_taken_back_leaves_minutes_out(autojump_clock, monkeypatch):
    monkeypatch.setattr(Claims, "review", lambda *_: [])
    assert lacking(await run("ahead for so long that it is believed, away when it ends"), TO_NS)


async def test_control_one_wrong_answer_believed_and_nothing_taken_back_leaves_minutes_out(autojump_clock, monkeypatch):
    monkeypatch.setattr(Claims, "review", lambda *_: [])
    monkeypatch.setattr(MarketClock, "_doubts", lambda *_: False)
    assert lacking(await run("ahead for 14 s, then a reconnect"), TO_NS)
