"""Ctrl-C: silent while the command begins, and told apart from "done" when work is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.board import Board
from supervisors.cli.run import RunMode, _verdict

ROOT = Path(__file__).resolve().parents[3]
INTERRUPT_AT_IMPORT = """
import os, signal, sys
class AtImport:
    def find_spec(self, fullname, *_):
        if fullname == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, AtImport())
from supervisors.cli.main import main
sys.exit(main())
"""
NOTHING_ANSWERS = (
    "embedded.market=false",
    'vendors.polygon.rest_url="http://127.0.0.1:1"',
    'sinks.timescale.dsn="postgresql://nobody@127.0.0.1:1/market"',
    'sinks.clickhouse.dsn="clickhouse://nobody@127.0.0.1:1/market"',
    'health.listen="127.0.0.1:0"',
)


def environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HOLDFAST__", "POLYGON"))}
    return {**kept, "PYTHONPATH": str(ROOT), "POLYGON_API_KEY": "none"}


@pytest.mark.parametrize("module", ["supervisors.cli.command_line", "trio", "supervisors.cli.run", "pyarrow.lib"])
def test_ctrl_c_during_the_imports_is_silent_and_130(tmp_path, module):
    done = subprocess.run(
        [sys.executable, "-P", "-c", INTERRUPT_AT_IMPORT.format(module=module), "tree"],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_the_control_without_an_interrupt_the_command_runs(tmp_path):
    done = subprocess.run(
        [sys.executable, "-P", "-c", INTERRUPT_AT_IMPORT.format(module="no.such"), "tree"],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def interrupted(folder: Path, number: int, *argv: str) -> tuple[int, str]:
    """Exit code and last line of a command that is signalled when it shows its progress, with nothing to reach."""
    sets = [part for text in (f"pipeline.data_dir={folder}/data", *NOTHING_ANSWERS) for part in ("--set", text)]
    process = subprocess.Popen(
        [sys.executable, "-m", "supervisors.cli.main", *argv, *sets],
        cwd=folder, env=environment(), stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    try:
        while not (line := process.stderr.readline()).startswith("history "):
            assert line, process.wait()
        process.send_signal(number)
        said = process.stderr.read().splitlines()
        return process.wait(60), said[-1]
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_backfill_without_a_process_that_is_interrupted_is_130_and_says_that_it_resumes(tmp_path, number):
    code, said = interrupted(tmp_path, number, "backfill", "C:EURUSD", "--from", "2026-01-05", "--to", "2026-01-06")
    assert code == 130
    assert said.startswith("pipeline backfill: interrupted before it was done; the job is kept")
    assert len(list((tmp_path / "data" / "jobs").glob("*.json"))) == 1


def test_a_run_until_idle_that_is_interrupted_is_130(tmp_path):
    code, said = interrupted(tmp_path, signal.SIGINT, "run", "--until-idle")
    assert code == 130
    assert said == "pipeline: interrupted before everything was done; the next start goes on where it stopped"


def test_a_standing_run_that_is_stopped_is_fine(capsys):
    assert _verdict(Board(), RunMode(), is_interrupted=True) == 0
    assert _verdict(Board(), RunMode(until_idle=True), is_interrupted=False) == 0
    assert capsys.readouterr().err == ""
