"""What a wrong clock of the vendor claimed is taken back: once, and only what it claimed."""

import pytest

from actors.downloader.claims import Claims
from runtime.clock import NS_PER_MINUTE
from runtime.market_clock import MarketClock, Sample

M, S = NS_PER_MINUTE, 10**9
NOON = 1_700_000_000 * S // M * M


class Zero:
    """Our clocks stand at 0."""

    def wall_ns(self) -> int:
        return 0

    def monotonic_s(self) -> float:
        return 0.0


@pytest.fixture
def market():
    """The vendor's clock is NOON at 0 s of ours, by 20 answers until 0 s."""
    clock = MarketClock(Zero())
    for at in range(-20, 0):
        clock.observe(Sample(sent_s=at + 0.0, received_s=at + 0.01, vendor_ns=NOON + at * S, resolution_ns=10**6))
    assert clock.steady
    return clock


def test_what_was_over_is_believed(market):
    claims = Claims()
    for at_s in range(-300, 0):
        claims.over(NOON + at_s * S, float(at_s))
        claims.over(NOON + at_s * S - 40 * S, float(at_s))
        claims.begun(NOON + at_s * S + M, float(at_s))
    assert claims.review(market, 0.0) == []


def test_what_was_not_over_is_asked_for_once_from_the_true_instant_on(market):
    claims = Claims()
    claims.over(NOON - 200 * S, -200.0)
    claims.over(NOON - 130 * S + 10 * M, -130.0)
    claims.over(NOON - 129 * S + 10 * M, -129.0)
    assert claims.review(market, 0.0) == [(NOON - 3 * M, NOON + 8 * M)]
    assert claims.review(market, 0.0) == []


def test_a_seam_from_before_the_subscription_is_asked_for_up_to_it(market):
    claims = Claims()
    claims.begun(NOON - 12 * M, -90.0)
    assert claims.review(market, 0.0) == [(NOON - 12 * M, NOON - M)]
    assert claims.review(market, 0.0) == []


def test_nothing_is_taken_back_while_the_clock_is_in_doubt(market):
    claims = Claims()
    claims.over(NOON + 10 * M, -1.0)
    market.observe(Sample(sent_s=0.0, received_s=0.01, vendor_ns=NOON + 10 * M))
    assert claims.review(market, 0.0) == []
    market.observe(Sample(sent_s=1.0, received_s=1.01, vendor_ns=NOON + S))
    assert claims.review(market, 0.0) == [(NOON - M, NOON + 10 * M)]


def test_claims_of_more_than_an_hour_ago_are_believed_and_forgotten(market):
    claims = Claims()
    for at_s in range(-20_000, 0, 5):
        claims.over(NOON + at_s * S, float(at_s))
        claims.review(market, float(at_s))
        assert len(claims._over) <= 362
