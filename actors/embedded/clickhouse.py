"""ClickHouse (chDB behind HTTP, see clickhouse_server.py) as an embedded server."""

from __future__ import annotations

import importlib.util
import signal
import sys
import urllib.parse
from pathlib import Path

import attrs

from actors.embedded.probe import probe_http
from actors.embedded.process import send_signal, working_in
from actors.embedded.python_server import SOURCE_ROOT, package_version, python_env, sources_digest
from actors.embedded.record import fingerprint_of
from actors.embedded.spec import EmbeddedHome
from runtime.entropy import Entropy
from runtime.errors import ConfigError, NotConnected

MODULE = "actors.embedded.clickhouse_server"
USER = "holdfast"
DATABASE = "market"


@attrs.frozen(kw_only=True)
class ClickHouseSpec:
    """A `ServerSpec`."""

    home: EmbeddedHome
    name: str = "clickhouse"
    endpoint: str = "clickhouse"
    stop_signal: int = signal.SIGTERM
    stop_grace_s: float = 15.0
    start_patience_s: float = 120.0

    @property
    def _data(self) -> Path:
        return self.home.folder / self.name

    def check(self) -> None:
        """The engine's wheel is there."""
        if importlib.util.find_spec("chdb") is None:
            raise ConfigError(
                "embedded ClickHouse is not installed: `pip install 'holdfast[embedded]'`, "
                "or set sinks.clickhouse.dsn to a server of your own"
            )

    def prepare(self, entropy: Entropy) -> None:
        """A folder and a password; the engine makes the rest. A server that lives although the record does not know
        it (the record was deleted) holds the engine's lock: it is told to stop.

        Raises: NotConnected while one does.
        """
        self._data.mkdir(mode=0o700, exist_ok=True)
        self.home.make_secret(self.name, entropy)
        users = working_in(self._data, is_ours=lambda command_line: MODULE.encode() in command_line.split(b"\0"))
        for user in users:
            send_signal(user, self.stop_signal)
        if users:
            raise NotConnected(f"{self._data} is still in use by process {', '.join(str(user.pid) for user in users)}")

    def argv(self, port: int) -> list[str]:
        """`python -P`: the folder we were started in must not shadow our modules."""
        secret_file = str(self.home.secret_path(self.name))
        own = ["--path", str(self._data), "--port", str(port), "--secret-file", secret_file]
        return [sys.executable, "-P", "-m", MODULE, *own]

    def env(self) -> dict[str, str]:
        """Finds our modules."""
        return python_env()

    def version(self) -> str:
        """Another engine, another façade or another password means another server."""
        folder = SOURCE_ROOT / "actors" / "embedded"
        sources = sources_digest(*sorted(folder.glob("clickhouse_*.py")))
        return fingerprint_of([package_version("chdb"), sources, self.home.secret(self.name)])

    async def probe(self, port: int, *, timeout_s: float) -> None:
        """A query through the engine: an answer to /ping would not show that it hangs."""
        await probe_http(port, "/?query=SELECT%201", timeout_s=timeout_s)

    def url(self, port: int) -> str:
        """Without credentials: who comes without them may read."""
        return f"http://127.0.0.1:{port}"

    def dsn_for_pipeline(self) -> str:
        """With the credentials that may write."""
        secret = urllib.parse.quote(self.home.secret(self.name), safe="")
        return f"clickhouse://{USER}:{secret}@127.0.0.1:{self.home.port(self.name)}/{DATABASE}"
