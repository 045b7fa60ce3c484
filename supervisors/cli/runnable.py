"""What a run needs of its surroundings, found out before anything is touched: the same for `run` and `check`."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from runtime import config
from runtime.errors import ConfigError
from runtime.settings import Settings


def check_runnable(settings: Settings, now_ns: int) -> None:
    """As `runtime.config.check_runnable`, and the recording is one feed whose files can be used.

    Blocking. Raises: ConfigError.
    """
    config.check_runnable(settings, now_ns)
    if not (settings.uses_simulator and settings.embedded.recording):
        return
    from actors.embedded.spec import EmbeddedHome  # slow to import: not for --help
    from supervisors.tree import server_spec

    try:
        server_spec("market", settings, EmbeddedHome(data_dir=settings.pipeline.data_dir)).check()
    except ConfigError as exc:
        raise ConfigError(f"embedded.recording: {exc}") from exc


def check_data_dir(data_dir: Path) -> Path:
    """The nearest directory that exists at or above `data_dir`. Raises: ConfigError when we cannot work there."""
    there = next(path for path in (data_dir, *data_dir.parents) if path.exists())
    try:
        fine = there.is_dir() and os.access(there, os.W_OK | os.X_OK) and shutil.disk_usage(there).total > 0
    except OSError:
        fine = False
    if not fine:  # /proc and its like have no space at all
        raise ConfigError(
            f"pipeline.data_dir = {data_dir}: {there} is not a directory that we may write to; set it to another"
        )
    return there
