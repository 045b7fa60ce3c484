"""An hour that comes back with fewer rows than live had is not believed at once; and what the account says is waited for."""

from __future__ import annotations

import itertools

import attrs
import numpy as np
import pytest
import trio

from actors.downloader.live_watch import SilenceLimits
from actors.downloader.memory import MemoryHistory, MemoryTicks, random_trades
from actors.downloader.memory_live import MemoryMarket, MemoryTime, StreamScript
from actors.market.coverage import UNCONFIRMED_FINAL
from runtime.clock import NS_PER_HOUR, NS_PER_MINUTE, NS_PER_S
from runtime.errors import PermanentSourceError
from tests.support.live import EUR, T0, World, check, events, final, physical, truth, walk

H, M = NS_PER_HOUR, NS_PER_MINUTE


def world(script: StreamScript | None = None, *, rows: int = 3_000, **more) -> World:
    ticks = {EUR: walk(5, T0 - H, T0 + 4 * H, rows)}
    market = MemoryMarket(ticks=ticks, start_ns=T0 + 17 * NS_PER_S, rate=240.0)
    return World(market=market, script=script or StreamScript(), **more)


def thinned(ticks: MemoryTicks, from_ns: int, to_ns: int) -> MemoryTicks:
    """As a vendor answers that lost every second row of an hour."""
    keep = ~((ticks.ts_ns >= from_ns) & (ticks.ts_ns < to_ns) & (np.arange(len(ticks.ts_ns)) % 2 == 0))
    return MemoryTicks(ts_ns=ticks.ts_ns[keep], bid=ticks.bid[keep], ask=ticks.ask[keep])


def quarantined(w: World) -> list:
    return [r for e in events(w.log) for r in e.records if r.status == "quarantined"]


async def test_an_answer_with_fewer_rows_than_live_had_is_asked_for_again(autojump_clock):
    """The vendor's answer was bad once: the good one decides, and nothing was ever replaced by the bad one."""
    w = world()
    whole, thin = w.market.ticks[EUR], thinned(w.market.ticks[EUR], T0, T0 + H)
    answers = {EUR: thin}
    w.source = lambda source: attrs.evolve(source, ticks=answers)
    async with trio.open_nursery() as nursery:

        async def mend() -> None:
            while not quarantined(w):  # noqa: ASYNC110
                await trio.sleep(0.5)
            answers[EUR] = whole

        nursery.start_soon(mend)
        await w.until_confirmed(T0 + H)
    check(w, T0 + H)
    (first, *_) = quarantined(w)
    assert (first.from_ns, first.to_ns) == (T0, T0 + H)
    assert "the live stream had" in first.reason
    finals = [e.slice for e in events(w.log) if e.slice and e.slice.status == "final" and e.slice.from_ns == T0]
    assert [piece.rows for piece in finals] == [sum(truth(whole, T0, T0 + H).values())]


@pytest.mark.parametrize("killed", [False, True])
async def test_a_second_answer_that_is_equal_decides_also_after_a_kill(killed, autojump_clock):
    w = world()
    thin = thinned(w.market.ticks[EUR], T0, T0 + H)
    w.source = lambda source: attrs.evolve(source, ticks={EUR: thin})
    if killed:
        await w.process(lambda: bool(quarantined(w)))
    await w.until_confirmed(T0 + H)
    assert len(quarantined(w)) == 1
    have = {r: n for r, n in physical(events(w.log)).items() if T0 <= r[0] < T0 + H}
    assert have == truth(thin, T0, T0 + H)


@pytest.mark.parametrize("killed_at", [70, 75])
async def test_what_live_had_is_known_after_a_kill(killed_at, autojump_clock):
    """The counts were in memory alone: after a kill the thin answer replaced what live had, and nobody noticed."""
    w = world()
    thin = thinned(w.market.ticks[EUR], T0, T0 + H)
    w.source = lambda source: attrs.evolve(source, ticks={EUR: thin})
    await w.process(lambda: w.market.now_ns() > T0 + killed_at * M)
    assert not quarantined(w)
    await w.until_confirmed(T0 + H)
    (first,) = quarantined(w)
    assert (first.from_ns, first.to_ns) == (T0, T0 + H)


async def test_control_without_the_counts_of_the_position_a_kill_loses_them(autojump_clock, monkeypatch):
    monkeypatch.setattr("actors.downloader.seam.MinuteCounts.restore", lambda *_: None)
    w = world()
    thin = thinned(w.market.ticks[EUR], T0, T0 + H)
    w.source = lambda source: attrs.evolve(source, ticks={EUR: thin})
    await w.process(lambda: w.market.now_ns() > T0 + 75 * M)
    await w.until_confirmed(T0 + H)
    assert not quarantined(w)


async def test_control_without_the_doubt_the_thin_answer_replaces_what_live_had(autojump_clock, monkeypatch):
    monkeypatch.setattr("actors.downloader.behind.Behind.doubts", lambda *_: "")
    w = world()
    thin = thinned(w.market.ticks[EUR], T0, T0 + H)
    w.source = lambda source: attrs.evolve(source, ticks={EUR: thin})
    await w.until_confirmed(T0 + H)
    with pytest.raises(AssertionError):
        check(w, T0 + H)


# --- without confirmation


async def test_without_confirmation_live_minutes_say_that_they_are_final(autojump_clock):
    w = world(StreamScript(ends_ns=(T0 + 20 * M,)), confirm=False)
    await w.process(lambda: w.market.now_ns() > T0 + 70 * M)
    found = events(w.log)
    beats = [r for e in found if e.live for r in e.records]
    assert {r.reason for r in beats} == {UNCONFIRMED_FINAL}
    slices = [e.slice for e in found if e.slice]
    assert {piece.status for piece in slices} <= {"final", "empty"}
    have = sum(n for row, n in physical(found).items() if T0 - H <= row[0] < T0 + H)
    assert have == sum(truth(w.market.ticks[EUR], T0 - H, T0 + H).values())


# --- heartbeats


async def test_heartbeats_go_on_when_nothing_trades_and_cover_whole_minutes(autojump_clock):
    w = world(rows=2)
    w.limits = attrs.evolve(w.limits, silence=SilenceLimits(real_s=1e9))
    w.market.rate = 20.0
    await w.process(lambda: w.market.now_ns() > T0 + 10 * M)
    beats = [r for e in events(w.log) if e.live for r in e.records]
    assert len(beats) > 10
    for one, next_ in itertools.pairwise(beats):
        assert next_.from_ns <= one.to_ns <= next_.to_ns, "contiguous and never back"
        assert next_.from_ns in {one.from_ns, one.to_ns}, "cumulative inside a minute"
    whole = [(r.from_ns, r.to_ns) for r in beats if r.to_ns % M == 0]
    assert all(a % M == 0 for a, _ in whole)
    assert [a for a, _ in whole[1:]] == [b for _, b in whole[:-1]], "every minute's end was told"
    assert all(r.market_clock_ns >= r.to_ns for r in beats)


async def test_a_stream_without_answers_to_pings_claims_nothing_more(autojump_clock):
    hang = (T0 + 20 * M, T0 + 60 * M)
    w = world(StreamScript(hung_ns=(hang,)))
    w.market.rate = 60.0
    await w.process(lambda: w.market.now_ns() > T0 + 28 * M)
    assert max(r.to_ns for e in events(w.log) if e.live for r in e.records) <= T0 + 20 * M


# --- the account


async def test_another_process_with_our_key_is_given_a_minute_each_time(autojump_clock):
    w = world(StreamScript(evictions=3))
    w.market.rate = 1.0
    await w.process(lambda: len(w.lives[0].connections) >= 4)
    asked_s = w.lives[0].connections
    assert all(b - a >= 60 for a, b in itertools.pairwise(asked_s))


async def test_a_wrong_key_is_said_and_not_hammered(autojump_clock):
    w = world(StreamScript(auth_failed=True))
    w.market.rate = 1.0
    await w.process(lambda: trio.current_time() > 900)
    assert len(w.lives[0].connections) <= 4
    assert "authentication failed" in w.board.dependencies["memory.fx"].reason


async def test_a_connection_that_dies_before_it_was_useful_waits_longer_each_time(autojump_clock):
    ends = tuple(T0 + 18 * NS_PER_S + n * NS_PER_S for n in range(600))
    w = world(StreamScript(ends_ns=ends))
    w.market.rate = 1.0
    await w.process(lambda: trio.current_time() > 120)
    waits_s = np.diff(w.lives[0].connections)
    assert waits_s[0] < waits_s[1] < waits_s[2]
    assert waits_s.max() <= 8.0 * 1.2 + 3


async def test_a_symbol_that_is_not_streamed_to_us_is_named_and_history_follows_it(autojump_clock):
    jpy = "C:USDJPY"
    ticks = {EUR: walk(5, T0 - H, T0 + 4 * H, 2_000), jpy: walk(6, T0 - H, T0 + 4 * H, 2_000)}
    market = MemoryMarket(ticks=ticks, start_ns=T0 + 17 * NS_PER_S, rate=240.0)
    w = World(
        market=market, script=StreamScript(refused={jpy: "not in your plan"}), kinds={EUR: "quotes", jpy: "quotes"}
    )
    await w.until_confirmed(T0 + H)
    check(w, T0 + H)
    check(w, T0 + H, symbol=jpy)
    assert not [e for e in events(w.log, f"{jpy}/quotes") if e.live]
    assert "not in your plan" in w.board.dependencies["memory.fx"].reason


# --- trades, clocks


async def test_trades_of_coins_live_and_confirmed(autojump_clock):
    btc = "X:BTCUSD"
    ticks = {EUR: walk(5, T0 - H, T0 + 4 * H, 2_000), btc: random_trades(walk(7, T0 - H, T0 + 4 * H, 2_000))}
    market = MemoryMarket(ticks=ticks, start_ns=T0 + 17 * NS_PER_S, rate=240.0)
    w = World(market=market, script=StreamScript(ends_ns=(T0 + 30 * M,)), kinds={EUR: "quotes", btc: "trades"})
    await w.until_confirmed(T0 + H)
    check(w, T0 + H)
    check(w, T0 + H, symbol=btc)


async def test_nothing_is_asked_before_the_vendors_clock_is_known(autojump_clock):
    """Our clock says 2025, the market's 2014: by ours, every hour up to 2025 would be "asked, nothing there"."""
    w = world()
    down = [True]
    w.time = MemoryTime(market=w.market, down=lambda: down[0])
    async with trio.open_nursery() as nursery:

        async def mend() -> None:
            await trio.sleep(30)
            assert not w.log.groups
            assert not w.histories[0].requests
            down[0] = False

        nursery.start_soon(mend)
        await w.until_confirmed(T0 + H)
    check(w, T0 + H)


async def test_relative_history_begins_back_from_the_markets_now(autojump_clock):
    w = world()
    w.relative = True
    w.history_from_ns = w.clock_start_ns - H
    await w.process(lambda: w.market.now_ns() > T0 + 10 * M)
    found = events(w.log)
    assert min(e.slice.from_ns for e in found if e.slice) // M in {(T0 - H) // M, (T0 - H) // M + 1}


# --- hours that the vendor will not give


async def test_an_hour_that_is_refused_for_good_stops_neither_gaps_nor_later_hours(autojump_clock):
    bad = (T0, T0 + H)

    @attrs.define(kw_only=True, eq=False)
    class Refusing(MemoryHistory):
        async def pages(self, symbol, kind, from_ns, to_ns):
            if from_ns < bad[1] and bad[0] < to_ns and to_ns - from_ns > 30 * M:
                raise PermanentSourceError("more rows in a minute than a slice holds")
            async for page in MemoryHistory.pages(self, symbol, kind, from_ns, to_ns):
                yield page

    w = world(StreamScript(ends_ns=(T0 + 130 * M,)))
    w.source = lambda source: Refusing(ticks=source.ticks, visible_to_ns=source.visible_to_ns, page_rows=700)
    confirmed = (T0 + H, T0 + 2 * H)
    await w.process(lambda: any(a <= confirmed[0] and confirmed[1] <= b for a, b in final(events(w.log))))
    found = events(w.log)
    assert not any(a < bad[1] and bad[0] < b for a, b in final(found))
    have = {r: n for r, n in physical(found).items() if T0 - H <= r[0] < confirmed[1]}
    whole = truth(w.market.ticks[EUR], T0 - H, confirmed[1])
    assert sum(have.values()) == sum(whole.values()), "the hour keeps what live had"
    assert "more rows in a minute" in w.board.jobs[f"history/{EUR}/quotes"].error, "and it is said"


async def test_a_symbol_that_is_refused_altogether_is_not_hammered(autojump_clock):
    asked: list[float] = []

    @attrs.define(kw_only=True, eq=False)
    class Refusing(MemoryHistory):
        async def pages(self, symbol, kind, from_ns, to_ns):
            asked.append(trio.current_time())
            raise PermanentSourceError("403 NOT_AUTHORIZED")
            yield

    w = world()
    w.source = lambda source: Refusing(ticks=source.ticks, visible_to_ns=source.visible_to_ns)
    await w.process(lambda: w.market.now_ns() > T0 + 3 * H)
    assert len(asked) <= 6
    assert [e for e in events(w.log) if e.live], "the stream goes on"
