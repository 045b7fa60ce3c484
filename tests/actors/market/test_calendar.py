import itertools

import pytest

from actors.market.calendar import sessions
from runtime.clock import format_ns, parse_instant_ns

HOUR = 3600 * 10**9


def opened(from_text, to_text, symbol="C:EURUSD"):
    got = sessions(symbol, parse_instant_ns(from_text), parse_instant_ns(to_text))
    return [(format_ns(a)[:16], format_ns(b)[:16]) for a, b in got]


@pytest.mark.parametrize(
    ("week", "session"),
    [  # UPSTREAM 3: 22:00Z in winter, 21:00Z in summer
        (("2014-05-03", "2014-05-10"), ("2014-05-04T21:00", "2014-05-09T21:00")),
        (("2026-01-10", "2026-01-17"), ("2026-01-11T22:00", "2026-01-16T22:00")),
    ],
)
def test_a_currency_week_in_summer_and_in_winter(week, session):
    assert opened(*week) == [session]


def test_daylight_saving_changes_the_weekend_not_the_week():
    spring = opened("2026-03-02", "2026-03-13")
    assert [(a[1], b[0]) for a, b in itertools.pairwise(spring)] == [("2026-03-06T22:00", "2026-03-08T21:00")]
    autumn = opened("2026-10-26", "2026-11-06")
    assert [(a[1], b[0]) for a, b in itertools.pairwise(autumn)] == [("2026-10-30T21:00", "2026-11-01T22:00")]
    year = sessions("C:EURUSD", parse_instant_ns("2026-01-04T22:00Z"), parse_instant_ns("2026-12-25T22:00Z"))
    assert len(year) == 51
    assert {b - a for a, b in year} == {120 * HOUR}


def test_cut_to_the_question():
    assert opened("2014-05-06T10:00Z", "2014-05-06T11:00Z") == [("2014-05-06T10:00", "2014-05-06T11:00")]
    assert opened("2014-05-10", "2014-05-11") == []
    assert opened("2014-05-06", "2014-05-06") == []


def test_weeks_before_1970_and_at_every_weekday_start():
    assert opened("1969-12-27", "1970-01-03") == [("1969-12-28T22:00", "1970-01-02T22:00")]
    for day in range(4, 11):
        assert (
            sum(
                b - a
                for a, b in sessions(
                    "C:EURUSD", parse_instant_ns(f"2014-05-{day:02d}"), parse_instant_ns(f"2014-05-{day + 7:02d}")
                )
            )
            == 120 * HOUR
        )


def test_crypto_never_closes_and_stocks_have_no_calendar_yet():
    assert opened("2014-05-10", "2014-05-11", "X:BTCUSD") == [("2014-05-10T00:00", "2014-05-11T00:00")]
    with pytest.raises(ValueError, match="no session calendar"):
        sessions("AAPL", 0, 1)
