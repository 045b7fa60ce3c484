"""The options of one simulator process; light to import, for command lines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import attrs

from actors.embedded.simulator.query import LIMIT_MAX
from runtime.errors import ConfigError

PORT_DEFAULT = 8801


@attrs.frozen(kw_only=True)
class Options:
    """As on the command line; port 0 takes a free one."""

    host: str = "127.0.0.1"
    port: int = PORT_DEFAULT
    seed: int = 0
    recording: Path | None = None
    requests_per_minute: int = 0
    latency_ms: float = 0.0
    page_rows_max: int = LIMIT_MAX
    api_keys: Sequence[str] = ()
    refused_keys: Sequence[str] = ("wrong",)
    symbols: Sequence[str] = ()
    always_open: bool = True

    def check(self) -> None:
        """Raises: ConfigError naming the option, its value and the valid ones."""
        bounds = (
            ("--port", self.port, 0, 65_535),
            ("--requests-per-minute", self.requests_per_minute, 0, 1_000_000),
            ("--latency-ms", self.latency_ms, 0, 600_000),
            ("--page-rows-max", self.page_rows_max, 1, LIMIT_MAX),
        )
        for name, value, low, high in bounds:
            if not low <= value <= high:
                raise ConfigError(f"{name} {value}: must be {low} to {high}")
