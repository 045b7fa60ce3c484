"""What the supervising actor must know of a server, and the folder where servers live."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

import attrs

from actors.embedded.record import load_record, write_private
from runtime.entropy import Entropy
from runtime.errors import NotConnected

ENVIRONMENT_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH")
"""All that a server inherits: the pipeline's environment holds keys that are none of its business."""


@attrs.frozen(kw_only=True)
class EmbeddedHome:
    """DATA_DIR/embedded and the names in it."""

    data_dir: Path

    @property
    def folder(self) -> Path:
        """Where everything lives, mode 0700."""
        return self.data_dir.absolute() / "embedded"

    def record(self, name: str) -> Path:
        """Pid, start time, port, fingerprint of the last process."""
        return self.folder / f"{name}.json"

    def log(self, name: str) -> Path:
        """What the server writes to stdout and stderr."""
        return self.folder / f"{name}.log"

    def secret_path(self, name: str) -> Path:
        """The generated password, mode 0600."""
        return self.folder / f"{name}.secret"

    def make(self) -> None:
        """Create the folder. Raises: OSError when the data directory is not writable."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def secret(self, name: str) -> str:
        """The generated password; empty when there is none yet."""
        try:
            return self.secret_path(name).read_text().strip()
        except OSError:
            return ""

    def make_secret(self, name: str, entropy: Entropy) -> str:
        """The password, made now if there is none."""
        secret = self.secret(name)
        if not secret:
            secret = entropy.new_secret()
            write_private(self.secret_path(name), secret + "\n")
        return secret

    def port(self, name: str) -> int:
        """The port of the last start. Raises: NotConnected when there was none."""
        record = load_record(self.record(name))
        if record is None:
            raise NotConnected(f"the embedded {name} has not been started yet")
        return record.port


class ServerSpec(Protocol):
    """One kind of server, as data and five verbs. Specs are frozen; what changes is in the record."""

    @property
    def name(self) -> str:
        """Names the files below DATA_DIR/embedded and the dependency `embedded.NAME`."""
        ...

    @property
    def endpoint(self) -> str:
        """Its key in endpoints.json."""
        ...

    @property
    def stop_signal(self) -> int:
        """What asks it to stop gracefully."""
        ...

    @property
    def stop_grace_s(self) -> float:
        """How long it may take before SIGKILL."""
        ...

    @property
    def start_patience_s(self) -> float:
        """How long it may live without answering its first probe (crash recovery) before it is stopped."""
        ...

    def check(self) -> None:
        """A quick look at what must be there; blocking, < 1 s.

        Raises: ConfigError saying what to do, NotConnected when the look itself failed: try again later.
        """
        ...

    def prepare(self, entropy: Entropy) -> None:
        """Whatever must be on disk before it starts (initdb, secrets); blocking, bounded, idempotent, and safe
        against a kill at any moment. Only called while no process of this server lives.

        Raises: ConfigError (a person must mend it), NotConnected (try again later).
        """
        ...

    def argv(self, port: int) -> list[str]:
        """The command line. No secret in it: everybody on the machine can read it."""
        ...

    def env(self) -> dict[str, str]:
        """Variables on top of `ENVIRONMENT_KEPT`."""
        ...

    def version(self) -> str:
        """Whatever else makes a running process another one than a fresh start would give: versions, passwords."""
        ...

    async def probe(self, port: int, *, timeout_s: float) -> None:
        """Ask whether it serves. Raises: NotConnected with the reason."""
        ...

    def url(self, port: int) -> str:
        """Its line in endpoints.json."""
        ...

    def dsn_for_pipeline(self) -> str:
        """The address with the pipeline's own credentials, as of now: ask again for every connection, because the
        port changes when somebody else took the old one. Blocking, two small files.

        Raises: NotConnected when it was never started.
        """
        ...


def child_environment(extra: dict[str, str]) -> dict[str, str]:
    """The environment a server gets."""
    return {name: os.environ[name] for name in ENVIRONMENT_KEPT if name in os.environ} | extra
