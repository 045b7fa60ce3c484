"""Our engine against OTP's supervisor: a short run; `make otp-diff SEED= SCENARIOS=` is the long one (must-show 2)."""

from __future__ import annotations

import pytest

from tests.supervisors.otp_diff.diff import NOT_COVERED, ask_otp, compare, differences, explain, has_erlang
from tests.supervisors.otp_diff.mutants import MUTANTS, planted
from tests.supervisors.otp_diff.ours import run_all
from tests.supervisors.otp_diff.scenario import make

SEED = 20
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def otp() -> dict[int, str]:
    if not has_erlang():
        pytest.skip(NOT_COVERED)
    return ask_otp([make(SEED, n) for n in range(200)], concurrency=100, settle_ms=4)


def test_random_scenarios_go_as_on_otp() -> None:
    if not has_erlang():
        pytest.skip(NOT_COVERED)
    found = compare(SEED, 300, first=1000)
    assert not found, f"seed {SEED}\n" + "\n".join(explain(*f) for f in found)


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_planted_bug_is_found_within_200_scenarios(otp: dict[int, str], mutant: str) -> None:
    """Positive control: without its restart rules right, the engine does differ."""
    scenarios = [make(SEED, n) for n in range(200)]
    with planted(mutant):
        found = differences(scenarios, otp)
    assert len(found) >= 2, mutant  # two, so that a hiccup of the machine on OTP's side cannot be what was found


def test_the_scenarios_are_not_dull() -> None:
    """What they must contain for agreement to mean anything; needs no Erlang."""
    events = " ".join(run_all([make(SEED, n) for n in range(200)]).values())
    for word in ("root_down", "start_failed", "=running", "=ok", "~w", "!w", ":idle", "stopped"):
        assert word in events, word
