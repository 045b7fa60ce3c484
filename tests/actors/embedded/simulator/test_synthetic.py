"""The synthetic market: the same for everyone who knows the seed, continuous, and it looks like a market."""

from __future__ import annotations

import datetime
import subprocess
import sys
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from actors.embedded.simulator.hashing import draws, mix
from actors.embedded.simulator.session import fx_open, is_summer
from actors.embedded.simulator.symbols import UNIVERSE, canonical, rest_spelling
from actors.embedded.simulator.synthetic import SyntheticMarket, decimal_text
from runtime.clock import NS_PER_DAY, NS_PER_HOUR, parse_instant_ns

DAY = parse_instant_ns("2024-03-05")
DIGEST = """
import hashlib
from actors.embedded.simulator.synthetic import SyntheticMarket
market = SyntheticMarket(seed=7)
digest = hashlib.sha256()
for part in market.parts("C:EURUSD", {start}, {stop}):
    quotes = market.quotes("C:EURUSD", part)
    digest.update(quotes.ts_ns.tobytes() + "|".join(quotes.bid.to_pylist() + quotes.ask.to_pylist()).encode())
"""


def hours(market, symbol, from_ns, to_ns):
    return [market.quotes(symbol, part) for part in market.parts(symbol, from_ns, to_ns)]


def points(texts, decimals):
    return np.array([int(text.replace(".", "")) for text in texts.to_pylist()]), decimals


def test_the_market_of_a_seed_never_changes():
    """A golden value: change it only with intent, it changes every synthetic market."""
    scope: dict[str, object] = {}
    exec(DIGEST.format(start=DAY, stop=DAY + NS_PER_HOUR), scope)
    assert scope["digest"].hexdigest()[:16] == "bdbcde4d7b5ff5e2"  # type: ignore[attr-defined]


@pytest.mark.slow
def test_another_process_makes_the_same_bytes():
    code = DIGEST.format(start=DAY, stop=DAY + 3 * NS_PER_HOUR)
    scope: dict[str, object] = {}
    exec(code, scope)
    out = subprocess.run(
        [sys.executable, "-c", code + "print(digest.hexdigest())"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert out.stdout.strip() == scope["digest"].hexdigest()  # type: ignore[attr-defined]


def test_an_hour_does_not_depend_on_what_was_asked_before():
    asked_first = SyntheticMarket(seed=1)
    late = hours(asked_first, "C:EURUSD", DAY + 5 * NS_PER_HOUR, DAY + 6 * NS_PER_HOUR)[0]
    in_order = hours(SyntheticMarket(seed=1), "C:EURUSD", DAY, DAY + 6 * NS_PER_HOUR)[5]
    assert np.array_equal(late.ts_ns, in_order.ts_ns)
    assert late.bid.equals(in_order.bid)


def test_seeds_and_symbols_differ():
    one, other = (hours(SyntheticMarket(seed=s), "C:EURUSD", DAY, DAY + 1)[0] for s in (1, 2))
    franc = hours(SyntheticMarket(seed=1), "C:EURCHF", DAY, DAY + 1)[0]
    assert one.ts_ns[:50].tolist() != other.ts_ns[:50].tolist()
    assert one.ts_ns[:50].tolist() != franc.ts_ns[:50].tolist()


@pytest.mark.parametrize("instrument", [one for one in UNIVERSE if one.kind == "quotes"], ids=lambda one: one.symbol)
def test_a_day_looks_like_a_market(instrument):
    market = SyntheticMarket(seed=3)
    parts = hours(market, instrument.symbol, DAY, DAY + NS_PER_DAY)
    ts = np.concatenate([part.ts_ns for part in parts])
    bid, ask = (
        np.concatenate([[int(text.replace(".", "")) for text in getattr(part, side).to_pylist()] for part in parts])
        for side in ("bid", "ask")
    )
    assert len(parts) == 24
    assert all(np.all((part.ts_ns >= DAY + h * NS_PER_HOUR) & (part.ts_ns < DAY + (h + 1) * NS_PER_HOUR))
               for h, part in enumerate(parts))  # fmt: skip
    assert np.all(np.diff(ts) >= 0)
    assert np.all(ts % 1_000_000 == 0), "the vendor's times are whole milliseconds"
    assert 1.8 < len(ts) / 86_400 < 4.5
    assert 0.001 < np.mean(np.diff(ts) == 0) < 0.05, "ties now and then"
    per_second = np.bincount((ts - DAY) // 1_000_000_000)
    assert per_second.max() >= 15, "bursts"
    assert np.all(ask > bid)
    mid = (bid + ask) / 2
    assert 0.001 < (mid.max() - mid.min()) / mid.mean() < 0.04
    assert np.abs(np.diff(mid)).max() / mid.mean() < 0.001, "no jump, over hour borders neither"
    quiet, roll = _spread(bid, ask, ts, 12.0), _spread(bid, ask, ts, 22.0)
    assert roll > 3 * quiet, "wide around 17:00 New York"
    assert quiet == pytest.approx(instrument.spread_points * 0.85, rel=0.25)


def _spread(bid, ask, ts, hour):
    near = np.abs(ts - DAY - hour * NS_PER_HOUR) < 240 * 1_000_000_000
    return float(np.median((ask - bid)[near]))


def test_prices_stay_sane_over_the_years():
    market = SyntheticMarket(seed=5)
    for year in range(2001, 2027):
        part = next(iter(market.parts("C:EURUSD", parse_instant_ns(f"{year}-07-02T12:00Z"), 2**62)))
        assert 0.9 < float(market.quotes("C:EURUSD", part).bid[0].as_py()) < 1.25


def test_the_week_is_open_from_sunday_to_friday_17h_new_york_by_the_real_time_zone():
    zone = ZoneInfo("America/New_York")
    for hour in range(parse_instant_ns("2026-02-20") // NS_PER_HOUR, parse_instant_ns("2026-11-20") // NS_PER_HOUR):
        local = datetime.datetime.fromtimestamp(hour * 3600, zone)
        since_sunday = (local.weekday() + 1) % 7 * 24 + local.hour
        assert fx_open(hour * NS_PER_HOUR) == (17 <= since_sunday < 5 * 24 + 17), local
        assert is_summer(hour * NS_PER_HOUR) == bool(local.dst()), local


def test_at_weekends_the_market_is_shut_unless_it_is_always_open():
    saturday = parse_instant_ns("2026-07-11")
    assert hours(SyntheticMarket(seed=1, always_open=False), "C:EURUSD", saturday, saturday + NS_PER_DAY) == []
    assert len(hours(SyntheticMarket(seed=1), "C:EURUSD", saturday, saturday + NS_PER_DAY)) == 24


def test_parts_descend_and_begin_with_the_market():
    market = SyntheticMarket(seed=1)
    down = [part.from_ns for part in market.parts("C:EURUSD", DAY, DAY + 5 * NS_PER_HOUR, descending=True)]
    assert down == [DAY + h * NS_PER_HOUR for h in (4, 3, 2, 1, 0)]
    assert next(iter(market.parts("C:EURUSD", 0, 2**63 - 1))).from_ns == parse_instant_ns("2000-01-01")


def test_decimal_text_has_all_its_digits():
    texts = decimal_text(np.array([108450, 99999, 100000, 5, 0]), 5)
    assert texts.to_pylist() == ["1.08450", "0.99999", "1.00000", "0.00005", "0.00000"]


def test_draws_are_uniform_and_separate():
    one, other = draws(1, 0, 50_000), draws(1, 1, 50_000)
    assert 0 <= one.min() < one.max() < 1
    assert one.mean() == pytest.approx(0.5, abs=0.01)
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.02
    assert np.array_equal(one[:10], draws(1, 0, 10))


def test_spellings():
    assert canonical("C:EUR-USD") == canonical("C:EURUSD") == "C:EURUSD"
    assert canonical("C:-USD") == "C:-USD"
    assert canonical("AAPL") == "AAPL"
    assert rest_spelling("C:EURUSD") == "C:EUR-USD"


def test_the_hash_is_splitmix64():
    """First outputs of the reference implementation (Vigna, splitmix64.c) for state 0."""
    assert [mix(0), mix(0x9E3779B97F4A7C15)] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]
