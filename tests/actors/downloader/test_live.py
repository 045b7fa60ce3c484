"""The live downloader with the buffer's seam and history behind it: after confirmation every tick is there once."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import attrs
import pytest
import trio

from actors.downloader.live_group import LiveLimits
from actors.downloader.memory import Fault
from actors.downloader.memory_live import MemoryMarket, StreamScript
from runtime.actor import offload_inline
from runtime.clock import NS_PER_HOUR, NS_PER_MINUTE, NS_PER_S
from runtime.log.types import LiveDraft
from tests.support.live import EUR, T0, World, check, events, physical, truth, walk

H, M = NS_PER_HOUR, NS_PER_MINUTE


def world(
    script: StreamScript | None = None, *, seed: int = 1, rate: float = 120.0, rows: int = 6_000, **more
) -> World:
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


async def test_rows_that_come_while_an_append_takes_long_are_all_appended(autojump_clock, monkeypatch):
    # found at 100,000 ticks/s: the deadline of the next flush cut off what was still being handed over
    async def slow(*args, **more):
        await trio.sleep(1.0)
        return await offload_inline(*args, **more)

    monkeypatch.setattr("tests.support.live.offload_inline", slow)
    limits = LiveLimits(rows_max=5, under_way_max=1, linger_s=0.4, minute_settle_s=0.5)
    symbols = (EUR, "C:GBPUSD")
    ticks = {symbol: walk(n, T0 - 2 * H, T0 + 5 * H, 60_000) for n, symbol in enumerate(symbols)}
    market = MemoryMarket(ticks=ticks, start_ns=T0 + 17 * NS_PER_S, rate=20.0)
    w = World(market=market, confirm=False, limits=limits, kinds=dict.fromkeys(symbols, "quotes"))
    await w.process(lambda: w.market.now_ns() > T0 + 15 * M)
    for symbol in symbols:
        found = [e for e in events(w.log, f"{symbol}/quotes") if e.live]
        from_ns = min(r.from_ns for e in found for r in e.records)
        to_ns = max(r.to_ns for e in found for r in e.records)
        held = Counter((ts // 10**6, *prices) for e in found for ts, *prices in e.rows if ts < to_ns)
        told = truth(ticks[symbol], from_ns, to_ns)  # the stream tells milliseconds
        assert held == Counter((ts // 10**6, *prices) for ts, *prices in told.elements())
        assert len(held) > 1_000


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
FIRED = {
    "disconnects": "end",
    "silence with pings": "silent",
    "silence without pings": "hung",
    "replayed events": "replay",
}


@pytest.mark.parametrize("name", SCRIPTS)
async def test_whatever_the_stream_does_every_tick_is_there_once_after_confirmation(name, autojump_clock):
    w = world(SCRIPTS[name])
    await w.until_confirmed(T0 + 2 * H)
    found = check(w, T0 + 2 * H)
    if name in FIRED:
        assert w.lives[0].fired[FIRED[name]]
        assert len(sessions(found)) > 1


@pytest.mark.parametrize("durable", [True, False], ids=["behind a commit", "before a commit"])
@pytest.mark.parametrize("seed", range(3))
async def test_killed_again_and_again_nothing_is_lost_or_doubled(seed, durable, autojump_clock):
    """The process dies at commits, a new one goes on from the log; the vendor's market goes on meanwhile."""
    w = world(SCRIPTS["everything"], seed=seed)
    w.log.durable = durable
    rng = random.Random(seed)
    for _ in range(8):
        w.log.crash_at = len(w.log.commits) + rng.randint(1, 25)
        if await w.process(lambda: w.confirmed(T0 + 2 * H)):
            break
        await trio.sleep(rng.random() * 10)  # down for a while
    w.log.crash_at = None
    await w.until_confirmed(T0 + 2 * H)
    assert len(w.lives) > 5
    check(w, T0 + 2 * H)


@pytest.mark.slow
async def test_killed_at_every_single_commit_of_its_first_hour(autojump_clock):
    for crash_at in range(1, 120, 3):
        w = world(SCRIPTS["disconnects"], rows=1_500, history_from_ns=T0 - 10 * M, rate=240.0)
        w.log.crash_at = crash_at
        w.log.durable = bool(crash_at % 2)
        await w.until_confirmed(T0 + H)
        check(w, T0 + H, seeds=2)


async def test_only_the_live_actor_is_restarted(autojump_clock):
    """rest_for_one does not touch it: history and the shared seam go on."""
    w = world()
    w.live_restarts = at(20, 40, 70)
    await w.until_confirmed(T0 + 2 * H)
    found = check(w, T0 + 2 * H)
    assert len(sessions(found)) == 4


async def test_rest_outages_delay_confirmation_and_change_nothing_else(autojump_clock):
    w = world(SCRIPTS["disconnects"])
    faults = itertools.cycle([Fault.TIMEOUT, None, Fault.HTML, None, None, Fault.RATE_LIMIT, None])
    w.source = lambda source: attrs.evolve(source, next_fault=lambda: next(faults))
    await w.until_confirmed(T0 + 2 * H)
    check(w, T0 + 2 * H)


# --- controls: each protection taken away, the same scripts must fail


async def spoiled(script: StreamScript, **more) -> bool:
    """True when the oracle or the deadline notices."""
    w = world(script, **more)
    try:
        with trio.fail_after(600):
            await w.until_confirmed(T0 + 2 * H)
        check(w, T0 + 2 * H)
    except (AssertionError, trio.TooSlowError):
        return True
    return False


async def test_control_without_the_mark_a_slice_overtakes_the_rows_it_replaces(autojump_clock, monkeypatch):
    monkeypatch.setattr("actors.downloader.slices.Framed.stamped", lambda framed, after_offset: framed.frames)
    assert await spoiled(SCRIPTS["a gap without a sign"])


async def test_control_without_refusal_a_late_tick_is_there_twice(autojump_clock, monkeypatch):
    order = LiveDraft.group
    monkeypatch.setattr(LiveDraft, "group", lambda draft, keep_out: order(draft, keep_out[:1]))
    assert await spoiled(SCRIPTS["very late ticks"])


async def test_control_without_the_seam_rule_replayed_ticks_are_there_twice(autojump_clock, monkeypatch):
    order = LiveDraft.group
    monkeypatch.setattr(LiveDraft, "group", lambda draft, keep_out: order(draft, keep_out[1:]))
    w = world(SCRIPTS["replayed events"])
    with trio.fail_after(600):
        await w.process(lambda: w.market.now_ns() > T0 + 55 * M)
    rows = physical(events(w.log))
    assert max(rows.values()) > max(truth(w.market.ticks[EUR], T0 - 2 * H, T0 + 5 * H).values())


async def test_control_without_confirmation_a_silent_gap_stays(autojump_clock):
    w = world(SCRIPTS["a gap without a sign"], confirm=False)
    await w.process(lambda: w.market.now_ns() > T0 + 3 * H)
    hole = (T0 + 31 * M, T0 + 32.5 * M)
    have = [row for row in physical(events(w.log)) if hole[0] <= row[0] < hole[1]]
    assert not have
    assert truth(w.market.ticks[EUR], *map(int, hole))


async def test_control_a_session_that_claims_more_than_it_has_leaves_a_hole_until_confirmation(
    autojump_clock, monkeypatch
):
    monkeypatch.setattr("actors.downloader.seam.floor_minute", lambda ns: ns - ns % M + 2 * M)
    w = world(SCRIPTS["disconnects"])
    await w.process(lambda: w.market.now_ns() > T0 + 30 * M)
    minute = T0 + 10 * M  # the session ended where it begins
    have = [row for row in physical(events(w.log)) if minute <= row[0] < minute + M]
    assert len(have) < sum(truth(w.market.ticks[EUR], minute, minute + M).values())


async def test_heartbeats_that_lag_behind_confirmation_do_not_speak_after_it(autojump_clock):
    """A market that runs so fast, or a hour that settles so soon, that the slice comes before the last heartbeats."""
    w = world(SCRIPTS["disconnects"], settle_s=0.0, rate=400.0)
    await w.until_confirmed(T0 + 2 * H)
    check(w, T0 + 2 * H)


async def test_control_without_the_cut_heartbeats_speak_after_a_slice(autojump_clock, monkeypatch):
    monkeypatch.setattr("actors.downloader.live_rows.clipped", lambda records, keep_out: list(records))
    # Whether a heartbeat comes so late is a matter of how commits fall: at one of these paces it does.
    assert any([await spoiled(SCRIPTS["disconnects"], settle_s=0.0, rate=rate) for rate in (400.0, 1600.0, 2400.0)])
