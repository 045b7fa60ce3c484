"""The command line as a user meets it: exit code, stdout, stderr."""

from __future__ import annotations

import logging
import socket
from pathlib import Path

import attrs
import pytest
import structlog

from runtime.telemetry import close_logging
from supervisors.cli.main import main


@attrs.frozen
class Said:
    """What a command left behind."""

    code: int
    out: str
    err: str


@pytest.fixture
def pipeline(tmp_path: Path, monkeypatch, capsys):
    """Calls `pipeline …` in an empty working directory, without the caller's environment."""
    for name in ("POLYGON_API_KEY",):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    root, raises = logging.getLogger(), logging.raiseExceptions
    level = root.level

    def call(*argv: str) -> Said:
        code = main(argv)
        out, err = capsys.readouterr()
        return Said(code, out, err)

    yield call
    close_logging()
    root.setLevel(level)
    logging.raiseExceptions = raises
    structlog.reset_defaults()


@pytest.fixture
def taken_port():
    """A loopback port that somebody listens on."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]
