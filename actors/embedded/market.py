"""The market simulator as an embedded server: how its process is started and asked."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import attrs

from actors.embedded.probe import probe_http
from actors.embedded.python_server import SOURCE_ROOT, python_env, sources_digest
from actors.embedded.simulator.recordings import check_recording
from actors.embedded.spec import EmbeddedHome
from runtime.entropy import Entropy

MODULE = "actors.embedded.simulator"


@attrs.frozen(kw_only=True)
class MarketSpec:
    """A `ServerSpec`. `arguments` are the simulator's own options beyond those that have a field here."""

    home: EmbeddedHome
    seed: int = 1
    recording: Path | None = None
    replay_speed: float = 0.0
    """Play the recording so many times as fast as real time; 0: all of it has happened already."""
    rate: int = 0
    """Ticks per second of every symbol of the synthetic market, evenly; 0: the ordinary one."""
    faults: Path | None = None
    """A script of faults of the stream."""
    arguments: tuple[str, ...] = ()
    name: str = "market"
    endpoint: str = "market"
    stop_signal: int = signal.SIGTERM
    stop_grace_s: float = 5.0
    start_patience_s: float = 60.0

    def check(self) -> None:
        """The recording is there. Raises: ConfigError naming the choices when it holds several feeds."""
        if self.recording is not None:
            check_recording(self.recording)

    def prepare(self, entropy: Entropy) -> None:
        """It keeps nothing on disk."""

    def argv(self, port: int) -> list[str]:
        """`python -P`: the folder we were started in must not shadow our modules."""
        recording = [] if self.recording is None else ["--recording", str(self.recording.absolute())]
        own = ["--port", str(port), "--seed", str(self.seed), *recording, *self._timing()]
        faults = [] if self.faults is None else ["--faults", str(self.faults.absolute())]
        return [sys.executable, "-P", "-m", MODULE, *own, *faults, *self.arguments]

    def _timing(self) -> list[str]:
        """With the file by which a market that was killed goes on where it would be."""
        if not (self.recording is not None and self.replay_speed) and not self.rate:
            return []
        pace = ["--rate", str(self.rate)] if self.rate else ["--replay-speed", str(self.replay_speed)]
        return [*pace, "--market-clock", str(self.home.folder / f"{self.name}.clock")]

    def env(self) -> dict[str, str]:
        """Finds our modules."""
        return python_env()

    def version(self) -> str:
        """Changed code is another market."""
        return sources_digest(SOURCE_ROOT / "actors" / "embedded" / "simulator")

    async def probe(self, port: int, *, timeout_s: float) -> None:
        """GET /healthz."""
        await probe_http(port, "/healthz", timeout_s=timeout_s)

    def url(self, port: int) -> str:
        """Where its REST API answers."""
        return f"http://127.0.0.1:{port}"

    def stream_url(self, port: int) -> str:
        """Where its streams answer: append `/forex` or `/crypto`."""
        return f"ws://127.0.0.1:{port}"

    def dsn_for_pipeline(self) -> str:
        """The same address."""
        return self.url(self.home.port(self.name))
