"""A data directory of another user: one line that says as whom to run it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from actors.market.schema import KINDS, schema_message
from runtime.disk import RealDisk
from runtime.entropy import SeededEntropy
from runtime.log.log import Log, LogSettings

NOBODY = 65_534


@pytest.fixture
def locked(tmp_path: Path):
    """A data directory whose log we may not open."""
    log = Log.open(
        RealDisk(),
        tmp_path / "data" / "log",
        settings=LogSettings(segment_bytes=17825792),
        schemas={kind: schema_message(kind) for kind in KINDS},
        wall_ns=lambda: 1_700_000_000 * 10**9,
        entropy=SeededEntropy(1),
    )
    log.close()
    (tmp_path / "data").chmod(0)
    is_root = os.geteuid() == 0
    if is_root:  # who may do everything is told nothing
        for path in (tmp_path, *tmp_path.parents[:3]):
            path.chmod(path.stat().st_mode | 0o111)
        os.seteuid(NOBODY)
    yield tmp_path / "data"
    if is_root:
        os.seteuid(0)
    (tmp_path / "data").chmod(0o700)


@pytest.mark.parametrize(
    "argv",
    [
        *(("log", what) for what in ("ls", "stat", "cat", "verify")),
        ("log", "export", "x.parquet"),
        *(("dead-letters", what) for what in ("list", "show", "replay")),
        ("verify",),
        ("sql", "timescale", "select 1"),
        ("backfill", "C:EURUSD", "--from", "-2h", "--to", "-1h"),
    ],
)
def test_who_may_not_read_is_told_as_whom_to_run_it(pipeline, locked: Path, argv: tuple[str, ...]) -> None:
    said = pipeline(*argv)
    assert (said.code, said.out) == (78, "")
    assert len(said.err.splitlines()) == 1, said.err
    assert f"pipeline: {locked}" in said.err
    assert "Permission denied: run it as user " in said.err
