"""Reload of the configuration as a transaction (SIGHUP): what may change while the process runs, and what it touches.

The whole new configuration is read and checked first; a mistake in it changes nothing. Of a valid one the keys that can
change live are taken over, all or none: when a child does not come up with its new values, everything is put back. The
other changed keys are named; they hold from the next start.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import attrs

from runtime.errors import AdminRefused, ConfigError, HoldfastError
from runtime.settings import Settings, redact_dsn
from supervisors.cli.check import values_of
from supervisors.engine.admin import Admin
from supervisors.engine.exits import describe

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

    A child that does not even start with its old values is left to its supervisor, which tries on as after a crash.

    Raises: ConfigError when it was put back, saying why.
    """
    touched: list[str] = []
    try:
        use(change.settings)
        for child in change.renew:
            touched.append(child)
            await _renew(admin, child)
    except Exception as exc:
        troubles = [
            _told(touched[-1] if touched else "the process", exc),
            *await _put_back(touched, use, admin, running),
        ]
        raise ConfigError("; ".join(troubles)) from exc


def _told(what: str, error: Exception) -> str:
    return f"{what} does not run with it: {error if isinstance(error, HoldfastError) else describe(error)}"


async def _put_back(touched: list[str], use: Callable[[Settings], None], admin: Admin, running: Settings) -> list[str]:
    """The old settings, and each child anew with them. What did not work, one text each."""
    troubles = []
    try:
        use(running)
    except Exception as exc:  # noqa: BLE001 - a log file that cannot be opened any more, say
        troubles.append(f"putting back: {describe(exc)}")
    for child in touched:
        try:
            await _renew(admin, child)
        except Exception as exc:  # noqa: BLE001 - the other children come first
            troubles.append(f"putting back {child}: {describe(exc)}; its supervisor goes on trying")
            await _recover(admin, child)
    return troubles


async def _renew(admin: Admin, child: str) -> None:
    """Stop and start by hand: no budget is spent. A child that the tree does not have needs nothing."""
    path = admin.path_of(child)
    if path is None:
        return
    parent = path.rpartition("/")[0]
    await admin.terminate_child(parent, child)
    await admin.restart_child(parent, child)


async def _recover(admin: Admin, child: str) -> None:
    if (path := admin.path_of(child)) is not None:
        with suppress(AdminRefused):  # its supervisor ended meanwhile: who starts that one starts the child
            await admin.recover_child(path.rpartition("/")[0], child)
