"""`python -m tests.supervisors.conformance`: run the conformance tests and write docs/otp-conformance.md from the outcome.

Exit 1 when a case is neither passed nor not applicable: none is skipped in silence.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

import pytest

from tests.supervisors.otp_cases import CASES, Case

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "otp-conformance.md"


class Recorder:
    """A pytest plugin: which marked tests ran, and how they ended."""

    def __init__(self) -> None:
        self.tests: dict[int, set[str]] = defaultdict(set)
        self.failed: set[str] = set()
        self._cases_of: dict[str, list[int]] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Keep the marked tests only."""
        for item in items:
            numbers = [n for mark in item.iter_markers("otp") for n in mark.args]
            if numbers:
                self._cases_of[item.nodeid] = numbers
        items[:] = [item for item in items if item.nodeid in self._cases_of]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note the outcome under each case the test covers."""
        name = report.nodeid.split("::")[-1].split("[")[0]
        if report.failed or report.skipped:
            self.failed.add(name)
        elif report.when == "call":
            for number in self._cases_of[report.nodeid]:
                self.tests[number].add(name)


def outcome(case: Case, tests: dict[int, set[str]], failed: set[str]) -> str:
    """`passed`, `not applicable`, `FAILED` or `MISSING`."""
    if case.not_applicable:
        return "not applicable"
    covering = tests.get(case.number, set())
    if covering & failed:
        return "FAILED"
    return "passed" if covering else "MISSING"


def page(tests: dict[int, set[str]], failed: set[str]) -> str:
    """The whole document."""
    outcomes = [outcome(case, tests, failed) for case in CASES]
    counts = {word: outcomes.count(word) for word in ("passed", "not applicable", "FAILED", "MISSING")}
    lines = [
        "# Conformance with OTP's supervisor",
        "",
        "Written by `python -m tests.supervisors.conformance` from the tests; do not edit.",
        "Left: the cases of `supervisor_SUITE` (erlang/otp, lib/stdlib/test). Right: what covers them here. Beside these,",
        "`make otp-diff SEED= SCENARIOS=` runs random trees on both engines and compares every start, stop and state.",
        "",
        "Deliberate deviations: times are exact instead of whole seconds (`RestartIntensity(whole_seconds=True)` is OTP's),",
        "unknown fields are refused, a start has a time limit, a stop request interrupts a start, nothing waits for ever for",
        "a child that will not die: it is reported, no twin is started, and the process leaves with code 70.",
        "",
        f"{len(CASES)} cases: " + ", ".join(f"{n} {word}" for word, n in counts.items() if n) + ".",
        "",
        "| # | group | case | checks | outcome | by |",
        "|---|---|---|---|---|---|",
    ]
    for case, word in zip(CASES, outcomes, strict=True):
        word += f"; here {case.deviation}" if case.deviation else ""
        by = case.not_applicable or "<br>".join(f"`{t}`" for t in sorted(tests.get(case.number, ())))
        lines.append(f"| {case.number} | {case.group} | {case.name} | {case.checks} | {word} | {by} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run, write, judge."""
    recorder = Recorder()
    folder = str(Path(__file__).parent)
    pytest.main(["-q", "-m", "otp", "-p", "no:cacheprovider", folder], plugins=[recorder])
    text = page(recorder.tests, recorder.failed)
    PAGE.write_text(text)
    return 1 if "| FAILED" in text or "| MISSING" in text else 0


if __name__ == "__main__":
    sys.exit(main())
