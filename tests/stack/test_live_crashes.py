"""A short live run whose parts are killed (issue 4, Must show 4; `make crashes` is the long one), and its control."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support import lean

pytestmark = [pytest.mark.stack, pytest.mark.slow]


@pytest.mark.parametrize(("mutant", "code"), [("", 0), ("half-slices", 1)])
def test_kill_9_of_anything_during_a_live_run_leaves_no_trace_and_half_slices_would(mutant: str, code: int) -> None:
    if lean.feed("oanda") is None:
        pytest.skip("NOT COVERED: crashes of a live run, no recorded data beside this checkout")
    argv = [sys.executable, "-m", "tests.crashes", "--seed", "2", "--rounds", "3", "--mutant", mutant]
    done = subprocess.run(argv, cwd=lean.ROOT, capture_output=True, text=True, timeout=1500, check=False)
    assert done.returncode == code, done.stdout[-5000:] + done.stderr[-3000:]
    if mutant:
        assert "fewer rows than before" in done.stderr or "half a slice" in done.stderr, done.stderr[-3000:]
