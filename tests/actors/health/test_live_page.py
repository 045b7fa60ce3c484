"""The live page: its candles, its stream of events, and that nothing from outside can become markup or script."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest
import structlog
import trio

from actors.health import live
from actors.health.follow import Follower
from actors.health.live import EventStreams, candles
from actors.health.page import SCRIPT_HASH, page
from actors.health.page_script import SCRIPT
from actors.health.probes import Probes
from actors.health.recent import BARS_PER_SERIES, RecentCandles
from actors.health.report import About, report
from actors.market.flags import Flag
from runtime.actor import ActorContext, Seams, offload_inline
from runtime.board import Board, OpenBar, OpenBars
from runtime.clock import VirtualClock
from runtime.entropy import SeededEntropy
from runtime.errors import ConfigError, LogCorrupt
from tests.support.bridge import DAY, EUR, MINUTE, T0, FakeConsumer, LogBuilder
from tests.support.bridge import candles as bars_of

BTC = "X:BTCUSD"


def bars(log: LogBuilder, minutes: range, *, revision: int = 1, **more) -> None:
    log.append([(2, "candles", bars_of([{"ts_ns": T0 + m * MINUTE, "revision": revision, **more} for m in minutes]))])


def taken(log: LogBuilder) -> RecentCandles:
    recent = RecentCandles()
    recent.take(log.groups)
    return recent


def shown(recent: RecentCandles, opened: OpenBars | None = None, *, basis: str = "bid", limit: int = 500):
    return recent.bars((EUR, "1m", basis), opened, limit)


def open_bar(minute: int, close: float = 9.0) -> OpenBars:
    bar = OpenBar(
        timeframe="1m", basis="bid", ts_ns=T0 + minute * MINUTE, open=1.0, high=9.0, low=1.0, close=close, volume=0.0,
        vwap=None, ticks=3, source="polygon",
    )  # fmt: skip
    return OpenBars(symbol=EUR, watermark_ns=T0, bars=(bar,))


# --- candles


def test_of_each_bar_the_newest_revision_is_shown_whatever_order_they_came_in():
    log = LogBuilder()
    bars(log, range(3), revision=5, close=1.5)
    bars(log, range(1, 2), revision=9, close=1.75)
    bars(log, range(1, 2), revision=7, close=1.25)
    assert [(bar.ts_ns, bar.close) for bar in shown(taken(log))] == [
        (T0, 1.5), (T0 + MINUTE, 1.75), (T0 + 2 * MINUTE, 1.5),
    ]  # fmt: skip


def test_a_bar_that_is_gone_and_a_vendors_bar_are_not_shown():
    log = LogBuilder()
    bars(log, range(2), revision=5)
    bars(log, range(1, 2), revision=9, flags=int(Flag.GONE))
    bars(log, range(5, 6), origin="vendor")
    assert [bar.ts_ns for bar in shown(taken(log))] == [T0]


def test_memory_is_bounded_and_keeps_the_newest():
    log = LogBuilder()
    bars(log, range(2 * BARS_PER_SERIES))
    found = shown(taken(log), limit=10**6)
    assert len(found) == BARS_PER_SERIES
    assert found[-1].ts_ns == T0 + (2 * BARS_PER_SERIES - 1) * MINUTE


def test_the_open_bar_stands_at_the_end_and_wins_over_what_the_log_has_of_it():
    log = LogBuilder()
    bars(log, range(3))
    found = shown(taken(log), open_bar(2))
    assert [(bar.close, bar.is_open) for bar in found] == [(1.5, False), (1.5, False), (9.0, True)]
    assert [bar.is_open for bar in shown(taken(log), open_bar(3))] == [False, False, False, True]


def test_what_lies_before_a_hole_of_weeks_is_left_out_and_a_weekend_is_none():
    log = LogBuilder()
    bars(log, range(3))
    weekend = 49 * 60
    bars(log, range(weekend, weekend + 2))
    assert len(shown(taken(log))) == 5
    bars(log, range(20 * 1440, 20 * 1440 + 2))
    assert [bar.ts_ns for bar in shown(taken(log))] == [T0 + 20 * DAY, T0 + 20 * DAY + MINUTE]


async def test_candles_without_a_wish_are_the_first_series_and_a_wrong_one_names_what_there_is():
    log = LogBuilder()
    bars(log, range(2))
    bars(log, range(2), symbol=BTC, basis="last")
    recent, board = taken(log), Board()
    answer = await candles({}, recent, board)
    assert (answer["symbol"], answer["timeframe"], answer["basis"], len(answer["bars"])) == (EUR, "1m", "bid", 2)
    assert answer["series"] == {EUR: {"1m": ["bid"]}, BTC: {"1m": ["last"]}}
    assert answer["bars"][0]["ts"] == T0 // 10**6
    assert (await candles({"symbol": BTC, "limit": "1"}, recent, board))["bars"][0]["ts"] == (T0 + MINUTE) // 10**6
    for wrong in (
        {"symbol": "C:X"},
        {"timeframe": "2m"},
        {"basis": "last"},
        {"limit": "0"},
        {"limit": "1e3"},
        {"limit": "000000001999"},
    ):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            await candles(wrong, recent, board)


async def test_candles_before_there_are_any_are_an_empty_answer():
    answer = await candles({}, RecentCandles(), Board())
    assert (answer["bars"], answer["series"]) == ([], {})


def context(board: Board) -> ActorContext:
    seams = Seams(clock=VirtualClock(T0), entropy=SeededEntropy(1), offload=offload_inline, board=board)
    return ActorContext(name="health", incarnation=1, seams=seams, log=structlog.get_logger())


async def test_the_follower_sees_candles_as_they_are_appended_and_survives_damage(autojump_clock, monkeypatch):
    log = LogBuilder()
    bars(log, range(2))
    recent = RecentCandles()
    consumer = FakeConsumer(log)
    read = consumer.read
    damage = iter([LogCorrupt("rot")])

    async def sometimes(**kwargs):
        for error in damage:
            raise error
        return await read(**kwargs)

    monkeypatch.setattr(consumer, "read", sometimes)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Follower(consumer=consumer, candles=recent).run, context(Board()))
        await trio.sleep(10)
        assert len(shown(recent)) == 2
        bars(log, range(2, 3))
        consumer.wake()
        await trio.sleep(0.1)
        assert len(shown(recent)) == 3
        nursery.cancel_scope.cancel()


async def test_the_follower_of_a_long_log_begins_near_its_end(autojump_clock):
    log = LogBuilder()
    for minute in range(500):
        bars(log, range(minute, minute + 1))
    recent = RecentCandles()
    consumer = FakeConsumer(log)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Follower(consumer=consumer, candles=recent).run, context(Board()))
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert len(recent._series[EUR, "1m", "bid"]) == BARS_PER_SERIES
    assert min(recent._series[EUR, "1m", "bid"]) > T0 + 100 * MINUTE


# --- events


async def test_a_status_comes_every_second_until_the_process_is_drained(autojump_clock):
    drained = trio.Event()
    streams = EventStreams(drained)
    found: list[tuple[float, dict]] = []
    start = trio.current_time()
    async for chunk in streams.events(lambda: {"n": len(found)}):
        if chunk.startswith(b"event: status"):
            found.append((trio.current_time() - start, json.loads(chunk.split(b"data: ")[1])))
        if len(found) == 3:
            drained.set()
    assert [(round(at), event["n"]) for at, event in found] == [(0, 0), (1, 1), (2, 2)]
    assert not streams.is_full


async def test_streams_are_counted_end_by_themselves_and_free_their_place(autojump_clock, monkeypatch):
    monkeypatch.setattr(live, "STREAMS_MAX", 1)
    streams = EventStreams()
    start = trio.current_time()
    async for _ in streams.events(dict):
        assert streams.is_full
    assert trio.current_time() - start == pytest.approx(live.STREAM_S_MAX, abs=2)
    assert not streams.is_full


async def test_streams_let_in_at_the_same_moment_are_no_more_than_allowed(autojump_clock, monkeypatch):
    monkeypatch.setattr(live, "STREAMS_MAX", 1)
    streams = EventStreams()
    first, second = streams.events(dict), streams.events(dict)
    assert b"status" in [await anext(first), await anext(first)][1]
    assert [chunk async for chunk in second] == [b"retry: 10000\n\n"]
    assert streams.is_full
    await first.aclose()
    assert not streams.is_full


# --- nothing from outside becomes markup


class Scripts(HTMLParser):
    """Collects what a browser would run, load or submit."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts: list[str] = []
        self.bad: list[str] = []
        self._inside = False

    def handle_starttag(self, tag, attrs):
        self._inside = tag == "script"
        self.bad += [f"{tag} {k}" for k, v in attrs if k.startswith("on") or k == "src"]
        self.bad += [f"{tag} {v}" for k, v in attrs if k == "href" and v and not re.match(r"/|data:,$", v)]

    def handle_endtag(self, tag):
        self._inside = False

    def handle_data(self, data):
        if self._inside:
            self.scripts.append(data)


def nasty_page() -> str:
    board = Board()
    board.events.append((0, "</noscript></script><script>alert(1)</script><img src=x onerror=alert(1)>"))
    board.endpoints["x"] = "javascript:alert(1)"
    probes = Probes(service="<b onclick=alert(1)>", stalled_after_s=30.0)
    about = About(version="1", started_ns=0, listen="127.0.0.1:1")
    return page(report(probes, about, board, VirtualClock(T0)))


async def test_the_page_runs_its_own_script_only_and_loads_nothing():
    found = Scripts()
    found.feed(nasty_page())
    assert found.bad == []
    (script,) = found.scripts
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"sha256-{digest}" == SCRIPT_HASH


def test_the_script_has_no_way_from_text_to_markup():
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", "srcdoc"):
        assert way not in SCRIPT
    assert "</" not in SCRIPT.replace("</g", "")
    assert re.findall(r"https?://[^']+", SCRIPT) == ["http://www.w3.org/2000/svg"]  # a name, nothing is fetched there


async def test_a_basis_that_a_symbol_does_not_have_names_the_symbol():
    bar = OpenBar(
        timeframe="1m", basis="mid", ts_ns=0, open=1.0, high=1.0, low=1.0, close=1.0, volume=0.0, vwap=None, ticks=1,
        source="s",
    )  # fmt: skip
    board = Board()
    board.open_candles["C:EURUSD"] = OpenBars(symbol="C:EURUSD", watermark_ns=None, bars=(bar,))
    asked = {"symbol": "C:EURUSD", "timeframe": "1m", "basis": "last"}
    with pytest.raises(ConfigError, match=r"^basis: 'last' is not one of mid for C:EURUSD$"):
        await candles(asked, RecentCandles(), board)
    with pytest.raises(ConfigError, match=r"^timeframe: '7m' is not one of 1m for C:EURUSD$"):
        await candles({**asked, "timeframe": "7m"}, RecentCandles(), board)
    with pytest.raises(ConfigError, match=r"^symbol: 'X' is not one of C:EURUSD$"):
        await candles({"symbol": "X"}, RecentCandles(), board)
