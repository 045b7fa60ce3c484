"""How far a session may claim to be contiguous, and when its silence is suspicious."""

from __future__ import annotations

import attrs

from actors.downloader.live_watch import Contiguity, Silence, SilenceLimits
from runtime.clock import NS_PER_S, parse_instant_ns
from runtime.market_clock import MarketClock

THURSDAY = parse_instant_ns("2014-05-01T10:00Z")
FRIDAY_CLOSE = parse_instant_ns("2014-05-02T21:00Z")


@attrs.define
class Hands:
    """A clock set by hand."""

    s: float = 0.0
    start_ns: int = THURSDAY

    def wall_ns(self) -> int:
        return self.start_ns + round(self.s * NS_PER_S)

    def monotonic_s(self) -> float:
        return self.s


def watch(hands: Hands) -> Contiguity:
    return Contiguity(market=MarketClock(hands), safety_s=0.25)


def claimed(found: Contiguity, hands: Hands) -> float:
    return (found.to_ns(hands.s) - THURSDAY) / NS_PER_S


def test_nothing_is_claimed_before_the_first_proof():
    hands = Hands(s=100.0)
    assert watch(hands).to_ns(100.0) == 0


def test_an_answered_ping_proves_what_was_before_it_less_a_little():
    hands = Hands(s=100.0)
    found = watch(hands)
    found.alive(99.5)
    assert claimed(found, hands) == 99
    hands.s = 130.0
    assert claimed(found, hands) == 99, "silence proves nothing"


def test_a_stream_that_is_behind_proves_only_its_own_events():
    hands = Hands(s=100.0)
    found = watch(hands)
    found.saw(THURSDAY + 60 * NS_PER_S, 100.0)  # 40 s old, and the newest of all: held back
    found.alive(100.0)
    assert claimed(found, hands) == 60
    found.saw(THURSDAY + 99 * NS_PER_S, 100.0)
    assert claimed(found, hands) == 99


def test_a_vendor_that_is_quiet_holds_nothing_back():
    hands = Hands(s=100.0)
    found = watch(hands)
    found.saw(THURSDAY + 60 * NS_PER_S, 100.0)
    hands.s = 106.0
    found.alive(106.0)
    assert claimed(found, hands) == 105


def test_a_late_tick_says_nothing_about_the_others():
    hands = Hands(s=100.0)
    found = watch(hands)
    found.saw(THURSDAY + 99 * NS_PER_S, 100.0)
    found.saw(THURSDAY + 1 * NS_PER_S, 100.0)
    found.alive(100.0)
    assert claimed(found, hands) == 99


def test_silence_in_open_hours_is_suspicious_after_a_while_and_each_time_later():
    silence = Silence(symbols=["C:EURUSD"], limits=SilenceLimits(market_s=120, real_s=5))
    now = THURSDAY
    silence.began(now, 0.0)
    assert not silence.overdue(now + 120 * NS_PER_S, 120.0)
    assert silence.overdue(now + 121 * NS_PER_S, 121.0)
    silence.began(now, 0.0)
    assert not silence.overdue(now + 200 * NS_PER_S, 200.0), "patience doubles while nothing comes"
    assert silence.overdue(now + 241 * NS_PER_S, 241.0)


def test_the_weekend_is_silent():
    silence = Silence(symbols=["C:EURUSD"])
    silence.began(FRIDAY_CLOSE - 60 * NS_PER_S, 0.0)
    assert not silence.overdue(FRIDAY_CLOSE + 40 * 3600 * NS_PER_S, 40 * 3600.0)
    assert silence.overdue(FRIDAY_CLOSE + 48 * 3600 * NS_PER_S + 90 * NS_PER_S, 48 * 3600.0), "Sunday has opened"


def test_coins_trade_on_the_weekend():
    silence = Silence(symbols=["C:EURUSD", "X:BTCUSD"])
    silence.began(FRIDAY_CLOSE, 0.0)
    assert silence.overdue(FRIDAY_CLOSE + 121 * NS_PER_S, 121.0)


def test_a_market_that_is_thin_teaches_patience():
    silence = Silence(symbols=["C:EURUSD"])
    silence.began(THURSDAY, 0.0)
    silence.heard(THURSDAY + 100 * NS_PER_S, 100.0)
    assert not silence.overdue(THURSDAY + 390 * NS_PER_S, 390.0)
    assert silence.overdue(THURSDAY + 410 * NS_PER_S, 410.0)


def test_a_market_that_runs_fast_is_not_silent_before_real_time_has_passed():
    silence = Silence(symbols=["C:EURUSD"])
    silence.began(THURSDAY, 0.0)
    assert not silence.overdue(THURSDAY + 600 * NS_PER_S, 1.2)
