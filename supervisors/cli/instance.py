"""The process that works on a data directory: whether there is one, and how to ask it."""

from __future__ import annotations

import json
import pwd
from pathlib import Path
from typing import Any

import attrs
import httpx

from runtime.disk import RealDisk
from runtime.disk_port import Lock
from runtime.errors import ConfigError, NotConnected
from runtime.log.meta import LOCK
from runtime.settings import Settings

ANSWER_S_MAX = 10.0


def try_lock(settings: Settings) -> Lock | None:
    """The data directory for ourselves; None while a process works there. It must hold a log (`has_data`).

    Raises: ConfigError when its files are not ours to open.
    """
    path = settings.pipeline.data_dir / "log" / LOCK
    try:
        return RealDisk().lock(path)
    except PermissionError as exc:
        raise ConfigError(denied(path)) from exc
    except OSError as exc:
        raise ConfigError(f"{path}: {exc.strerror}") from exc


def has_data(settings: Settings) -> bool:
    """True when a pipeline was started on this data directory before. Raises: ConfigError when we may not look."""
    path = settings.pipeline.data_dir / "log" / LOCK
    try:
        path.stat()
    except PermissionError as exc:
        raise ConfigError(denied(path)) from exc
    except OSError:
        return False
    return True


def check_data(settings: Settings) -> None:
    """Raises: ConfigError when there is nothing to look at yet, or never will be."""
    data_dir = settings.pipeline.data_dir
    if data_dir.exists() and not data_dir.is_dir():
        raise ConfigError(f"pipeline.data_dir = {data_dir} is no directory: set it to another")
    if not has_data(settings):
        raise ConfigError(f"{settings.pipeline.data_dir} holds no data yet: `pipeline run` makes it")


def denied(path: Path) -> str:
    """That we may not open `path`, and as whom it works."""
    return f"{path}: Permission denied: run it as {_owner(path)}, to whom it belongs, or have them let you in"


def _owner(path: Path) -> str:
    """Of `path`, or of the nearest directory above that can be looked at."""
    for one in (path, *path.parents):
        try:
            user = one.stat().st_uid
        except OSError:
            continue
        try:
            return f"user {pwd.getpwuid(user).pw_name}"
        except KeyError:
            return f"user {user}"
    return "another user"


def is_running(settings: Settings) -> bool:
    """True while a process holds the data directory's log. Looking takes nothing away from it."""
    if not has_data(settings):
        return False
    lock = try_lock(settings)
    if lock is None:
        return True
    lock.release()
    return False


def endpoints(settings: Settings) -> dict[str, str]:
    """DATA_DIR/endpoints.json; empty when there is none, or only half of one."""
    path: Path = settings.pipeline.data_dir / "endpoints.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(name): str(url) for name, url in found.items()} if isinstance(found, dict) else {}


def http_address(settings: Settings) -> str:
    """Where the running process answers."""
    if url := endpoints(settings).get("health"):
        return url.rstrip("/")
    host, port = settings.health.host, settings.health.port
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@attrs.frozen(kw_only=True)
class Instance:
    """The HTTP side of a running process."""

    url: str
    transport: httpx.BaseTransport | None = None
    """Only tests give one."""

    def status(self) -> dict[str, Any]:
        """/api/status. Raises: NotConnected."""
        return self._ask("GET", "/api/status")

    def backfill(self, order: dict[str, object]) -> str:
        """Order history; returns the job's id. Raises: ConfigError (refused), NotConnected (not now)."""
        return str(self._ask("POST", "/api/backfill", json=order)["job"])

    def cancel(self, job_id: str) -> None:
        """Give a backfill up. Raises: ConfigError (no such job), NotConnected (not now)."""
        self._ask("POST", "/api/backfill/cancel", json={"job": job_id})

    def _ask(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        try:
            # trust_env off: a proxy for the vendor must not see, or hide, what is on this machine.
            with httpx.Client(trust_env=False, timeout=ANSWER_S_MAX, transport=self.transport) as client:
                answer = client.request(method, self.url + path, **more)
            body = answer.json()
        except (httpx.HTTPError, ValueError) as exc:
            raise NotConnected(f"no answer from {self.url}: {str(exc) or type(exc).__name__}") from exc
        if not isinstance(body, dict):
            raise NotConnected(f"{self.url} is not this pipeline: it answers something else")
        if answer.status_code >= 500:
            raise NotConnected(f"{self.url}: {body.get('error', answer.status_code)}")
        if answer.status_code >= 400:
            raise ConfigError(f"{body.get('error', answer.status_code)}")
        return body


def instance_of(settings: Settings) -> Instance:
    """How to ask the running process."""
    return Instance(url=http_address(settings))
