"""Run both sides and compare."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.supervisors.otp_diff.ours import run_all
from tests.supervisors.otp_diff.scenario import Scenario, make

ESCRIPT = Path(__file__).with_name("otp_diff.escript")
NOT_COVERED = "NOT COVERED: the differential test against OTP, because escript (Debian: erlang-base) is not installed"


def has_erlang() -> bool:
    """Whether OTP can be asked."""
    return shutil.which("escript") is not None


def ask_otp(scenarios: list[Scenario], *, concurrency: int, settle_ms: int) -> dict[int, str]:
    """What OTP's own supervisor does with them."""
    with tempfile.TemporaryDirectory() as folder:
        terms = Path(folder) / "scenarios.terms"
        terms.write_text("".join(s.erlang() for s in scenarios))
        command = ["escript", str(ESCRIPT), str(terms), str(concurrency), str(settle_ms)]
        output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=1200).stdout
    lines = (line.split("\t", 1) for line in output.splitlines())
    return {int(number): events for number, events in lines}


def differences(scenarios: list[Scenario], otp: dict[int, str]) -> list[tuple[Scenario, str, str]]:
    """Those where ours differs from what `otp` says: (scenario, OTP's events, ours)."""
    ours = run_all(scenarios)
    return [(s, otp[s.number], ours[s.number]) for s in scenarios if otp[s.number] != ours[s.number]]


def compare(seed: int, count: int, *, first: int = 0) -> list[tuple[Scenario, str, str]]:
    """`count` scenarios on both sides; a difference counts only when OTP repeats it, alone and given more time."""
    scenarios = [make(seed, first + n) for n in range(count)]
    differing = differences(scenarios, ask_otp(scenarios, concurrency=100, settle_ms=4))
    if not differing:
        return []
    again = [s for s, _, _ in differing]
    return differences(again, ask_otp(again, concurrency=4, settle_ms=40))


def explain(scenario: Scenario, otp: str, ours: str) -> str:
    """For people: the scenario and where the two part."""
    a, b = otp.split(), ours.split()
    same = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    head = " ".join(a[:same])
    return (
        f"scenario {scenario.number}: {scenario.erlang()}"
        f"  both: {head}\n  OTP:  {' '.join(a[same:])}\n  ours: {' '.join(b[same:])}"
    )
