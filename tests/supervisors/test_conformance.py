"""docs/otp-conformance.md tells the truth about the tests that exist."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

from tests.supervisors.conformance import PAGE, page
from tests.supervisors.otp_cases import CASES


def marked_tests() -> dict[int, set[str]]:
    found: dict[int, set[str]] = defaultdict(set)
    for path in Path(__file__).parent.glob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                for mark in node.decorator_list:
                    if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.otp":
                        for number in mark.args:
                            found[ast.literal_eval(number)].add(node.name)
    return found


def test_all_93_cases_are_listed_once() -> None:
    assert [c.number for c in CASES] == list(range(1, 94))


def test_every_case_is_covered_or_has_a_reason_not_to_be() -> None:
    tests = marked_tests()
    assert [c.number for c in CASES if not c.not_applicable and c.number not in tests] == []
    assert [c.number for c in CASES if c.not_applicable and c.number in tests] == []


def test_the_page_is_what_the_tests_say() -> None:
    """When this fails: `python -m tests.supervisors.conformance`."""
    assert PAGE.read_text() == page(marked_tests(), set())
