"""Runs the real `pipeline` command as a child process, as a user would, and reads what it stored."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import polars as pl

ROOT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


class Pipeline:
    """One data directory and the command line that works on it."""

    def __init__(self, data_dir: Path, *settings: str) -> None:
        self.data_dir = data_dir
        self.settings = [f"pipeline.data_dir={data_dir}", f"health.listen=127.0.0.1:{free_port()}", *settings]
        self.module: tuple[str, ...] = ("supervisors.cli.main",)
        """What `python -m` runs."""
        self.process: subprocess.Popen[bytes] | None = None

    def argv(self, command: str, *args: str, extra: tuple[str, ...] = ()) -> list[str]:
        sets = [part for s in (*self.settings, *extra) for part in ("--set", s)]
        return [sys.executable, "-m", *self.module, command, *args, *sets]

    def environment(self) -> dict[str, str]:
        return {k: v for k, v in os.environ.items() if not k.startswith(("HOLDFAST__", "POLYGON"))}

    def call(self, command: str, *args: str, timeout_s: float = 120, extra: tuple[str, ...] = ()):
        """Run a command to its end; stdout and stderr as text."""
        return subprocess.run(
            self.argv(command, *args, extra=extra), cwd=ROOT, env=self.environment(), capture_output=True, text=True,
            timeout=timeout_s, check=False,
        )  # fmt: skip

    def start(self, *args: str, extra: tuple[str, ...] = ()) -> None:
        """`pipeline run …` in the background; output appended to DATA_DIR/../run.log."""
        with open(self.data_dir.parent / "run.log", "ab") as out:
            self.process = subprocess.Popen(
                self.argv("run", *args, extra=extra), cwd=ROOT, env=self.environment(), stdout=out, stderr=out
            )

    def wait(self, timeout_s: float) -> int:
        assert self.process is not None
        return self.process.wait(timeout_s)

    def kill(self) -> None:
        """kill -9 of the pipeline's own process only: its embedded servers stay alive."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self, timeout_s: float = 60) -> int:
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(timeout_s)

    def log_text(self) -> str:
        return (self.data_dir.parent / "run.log").read_text(errors="replace")

    def endpoints(self) -> dict[str, str]:
        path = self.data_dir / "endpoints.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def wait_endpoint(self, name: str, timeout_s: float = 60) -> str:
        """Poll endpoints.json until `name` is there."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if name in (found := self.endpoints()):
                return found[name]
            time.sleep(0.1)
        raise TimeoutError(f"no endpoint {name} after {timeout_s} s; {self.log_text()[-2000:]}")

    def embedded_pid(self, name: str) -> int:
        return int(json.loads((self.data_dir / "embedded" / f"{name}.json").read_text())["pid"])

    def sql(self, sink: str, query: str, *, timeout_s: float = 180) -> pl.DataFrame:
        """`pipeline sql … --format parquet`, as a frame."""
        argv = self.argv("sql", sink, query, "--format", "parquet")
        done = subprocess.run(
            argv, cwd=ROOT, env=self.environment(), capture_output=True, timeout=timeout_s, check=False
        )
        if done.returncode != 0:
            raise AssertionError(f"pipeline sql: exit {done.returncode}\n{done.stderr.decode()[-3000:]}")
        return pl.read_parquet(io.BytesIO(done.stdout))

    def stop_embedded(self) -> None:
        """After a kill -9: end what this directory's record says we started, by pid."""
        for path in (self.data_dir / "embedded").glob("*.json"):
            pid = json.loads(path.read_text()).get("pid")
            if pid:
                try:
                    os.kill(int(pid), signal.SIGINT if path.stem == "postgres" else signal.SIGTERM)
                except ProcessLookupError:
                    continue


QUOTES_SQL = "SELECT ts_ns, bid, ask FROM market.v_quotes WHERE symbol = 'C:EURUSD' ORDER BY ts_ns, accepted_at, seq"
QUOTES_ALL_SQL = (
    "SELECT symbol, ts_ns, bid, ask, bid_size, ask_size, source, flags FROM market.v_quotes "
    "ORDER BY symbol, ts_ns, bid, ask, bid_size, ask_size"
)
CANDLES_SQL = (
    "SELECT symbol, timeframe, basis, toUnixTimestamp64Milli(ts) * 1000000 AS ts_ns, open, high, low, close, volume, vwap, "
    "ticks, origin, source, final, flags FROM market.candles_latest ORDER BY symbol, timeframe, basis, ts"
)
