"""Reload of the configuration as a transaction (SIGHUP): what may change while the process runs, and what it touches.

The whole new configuration is read and checked first; a mistake in it changes nothing. Of a valid one the keys that can
change live are taken over, all or none: when a child does not come up with its new values, everything is put back. The
other changed keys are named; they hold from the next start.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from runtime.errors import AdminRefused, ConfigError, StartFailed
from runtime.settings import Settings, redact_dsn
from supervisors.cli.check import values_of
from supervisors.engine.admin import Admin

NOTHING = ""
"""The new value is simply used from now on."""
_RENEWS = {
    "pipeline.log_level": NOTHING,
    "pipeline.log_format": NOTHING,
    "vendors.polygon.requests_per_minute": NOTHING,
    "pipeline.name": "health",
    "health.stalled_after_s": "health",
    "vendors.polygon.request_timeout_s": "downloader.history",
    "vendors.polygon.api_key_file": "downloader.history",
    "vendors.polygon.api_key": "downloader.history",
    "embedded.latency_ms": "embedded.market",
    "embedded.requests_per_minute": "embedded.market",
}
"""Key that can change live -> the child that is started anew with it."""


@attrs.frozen(kw_only=True)
class Change:
    """What a valid new configuration means for the running process."""

    settings: Settings
    """The running ones, with the live keys of the new ones."""
    live: tuple[str, ...]
    fixed: tuple[str, ...]
    """Changed too, but only a restart of the process takes them over."""
    renew: tuple[str, ...]
    """Children to start anew, in this order."""

    def __str__(self) -> str:
        parts = [f"changed: {', '.join(self.live)}" if self.live else "nothing changed"]
        if self.fixed:
            parts.append(f"only from the next start on: {', '.join(self.fixed)}")
        return "; ".join(parts)


def compare(running: Settings, wanted: Settings) -> Change:
    """Sort the keys whose values differ. Pure."""
    before = {path: value for path, _, value in values_of(running)}
    after = {path: value for path, _, value in values_of(wanted)}
    changed = [path for path in {**before, **after} if before.get(path) != after.get(path)]
    renews = {path: _renewed_by(path, before, after, running, wanted) for path in changed}
    live = tuple(path for path, child in renews.items() if child is not None)
    settings = running
    for path in live:
        settings = _with_value(settings, path.split("."), after[path])
    return Change(
        settings=settings,
        live=live,
        fixed=tuple(path for path in changed if path not in live),
        renew=tuple(dict.fromkeys(child for child in renews.values() if child)),
    )


def _renewed_by(
    path: str, before: dict[str, Any], after: dict[str, Any], running: Settings, wanted: Settings
) -> str | None:
    """The child that has to start anew for `path`, NOTHING, or None: it cannot change live."""
    table, _, rest = path.partition(".")
    if table == "sinks" and path in before and path in after:
        name, _, key = rest.partition(".")
        other_password = key == "dsn" and redact_dsn(str(before[path])) == redact_dsn(str(after[path]))
        return f"bridge.{name}" if key == "password_file" or other_password else None
    if "api_key" in path and running.uses_simulator != wanted.uses_simulator:
        return None  # another vendor: the tree has, or lacks, the simulator
    return _RENEWS.get(path)


def _with_value(node: Any, path: list[str], value: object) -> Any:
    name, *rest = path
    inner = _with_value(node[name] if isinstance(node, dict) else getattr(node, name), rest, value) if rest else value
    return {**node, name: inner} if isinstance(node, dict) else attrs.evolve(node, **{name: inner})


async def carry_out(change: Change, use: Callable[[Settings], None], admin: Admin, *, running: Settings) -> None:
    """Take over `change`: `use` the settings, then start each child anew; on a failure put everything back.

    Raises: ConfigError when it was put back, saying why.
    """
    renewed: list[str] = []
    use(change.settings)
    try:
        for child in change.renew:
            renewed.append(child)
            await _renew(admin, child)
    except (StartFailed, AdminRefused) as exc:
        use(running)
        for child in renewed:
            await _renew(admin, child)
        raise ConfigError(f"{renewed[-1]} does not run with it: {exc}") from exc


async def _renew(admin: Admin, child: str) -> None:
    """Stop and start by hand: no budget is spent. A child that the tree does not have needs nothing."""
    path = admin.path_of(child)
    if path is None:
        return
    parent = path.rpartition("/")[0]
    await admin.terminate_child(parent, child)
    await admin.restart_child(parent, child)
