"""A stand-in for the pipeline: runs embedded servers under the simplest supervisor, so that tests can kill it.

`python tests/support/embedded.py DATA_DIR NAME…`; SIGTERM stops it in order. One line on stdout for each change.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Parent:
    """That process, from the test's side."""

    def __init__(self, data_dir: Path, *names: str, prefix: Sequence[str] = (), env: dict[str, str] | None = None):
        self.data_dir, self.names = data_dir, names
        self._argv = [*prefix, sys.executable, "-P", str(Path(__file__)), str(data_dir), *names]
        self._env = os.environ | {"PYTHONPATH": str(ROOT)} | (env or {})
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with open(self.data_dir / "parent.log", "ab") as out:
            self.process = subprocess.Popen(self._argv, env=self._env, stdout=out, stderr=out)

    def start_and_wait(self, timeout_s: float = 60) -> float:
        """Seconds until every server answered."""
        begin = time.monotonic()
        self.start()
        self.wait_for(lambda: len(self.endpoints()) == len(self.names), timeout_s)
        return time.monotonic() - begin

    def wait_for(self, wanted, timeout_s: float = 60) -> None:
        deadline = time.monotonic() + timeout_s
        while not wanted():
            if time.monotonic() > deadline:
                raise TimeoutError(self.log())
            time.sleep(0.02)

    def endpoints(self) -> dict[str, str]:
        path = self.data_dir / "endpoints.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def record(self, name: str) -> dict:
        path = self.data_dir / "embedded" / f"{name}.json"
        return json.loads(path.read_text()) if path.exists() else {"pid": 0}

    def secret(self, name: str) -> str:
        return (self.data_dir / "embedded" / f"{name}.secret").read_text().strip()

    def log(self) -> str:
        return (self.data_dir / "parent.log").read_text()

    def kill(self) -> None:
        """kill -9: the servers stay."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def forget_endpoints(self) -> None:
        """So that the next `start_and_wait` waits for the next life."""
        (self.data_dir / "endpoints.json").unlink(missing_ok=True)

    def stop(self, timeout_s: float = 60) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)

    def clean_up(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()
        for name in self.names:
            if pid := self.record(name)["pid"]:
                end(pid)


def end(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def alive(pid: int) -> bool:
    """Whether this pid runs, zombies aside (nobody may reap an orphan in a container)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def main() -> None:
    """The process itself."""
    import structlog
    import trio

    from actors.embedded.clickhouse import ClickHouseSpec
    from actors.embedded.endpoints import EndpointsFile
    from actors.embedded.market import MarketSpec
    from actors.embedded.postgres import PostgresSpec
    from actors.embedded.server import EmbeddedServer
    from actors.embedded.spec import EmbeddedHome
    from runtime.actor import ActorContext, Seams, offload_to_thread
    from runtime.board import Board
    from runtime.clock import SystemClock
    from runtime.entropy import SystemEntropy
    from runtime.errors import NotConnected

    home = EmbeddedHome(data_dir=Path(sys.argv[1]))
    endpoints = EndpointsFile(path=home.data_dir / "endpoints.json")
    seams = Seams(clock=SystemClock(), entropy=SystemEntropy(), offload=offload_to_thread, board=Board())
    kinds = {"postgres": PostgresSpec, "clickhouse": ClickHouseSpec, "market": MarketSpec}
    stopping = trio.Event()

    async def supervise(name: str) -> None:
        incarnation = 0
        while not stopping.is_set():
            incarnation += 1
            log = structlog.get_logger()
            ctx = ActorContext(name=name, incarnation=incarnation, seams=seams, log=log, drain_requested=stopping)
            spec = kinds[name](home=home)
            try:
                await EmbeddedServer(spec=spec, home=home, endpoints=endpoints).run(ctx)
            except NotConnected as exc:
                log.info("restarted", error=str(exc))
                await trio.sleep(0.1)

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            for name in sys.argv[2:]:
                nursery.start_soon(supervise, name)
            with trio.open_signal_receiver(signal.SIGTERM) as signals:
                async for _ in signals:
                    break
            stopping.set()

    trio.run(run)


if __name__ == "__main__":
    main()
