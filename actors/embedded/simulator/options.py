"""The options of one simulator process; light to import, for command lines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import attrs

from actors.embedded.simulator.faults import KINDS
from actors.embedded.simulator.query import LIMIT_MAX
from runtime.clock import parse_instant_ns
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
    rate: int = 0
    """Ticks per second of every symbol, evenly; 0: the ordinary synthetic market."""
    market_from: str = ""
    """Where a market with a rate begins; empty: the last whole minute before its first start."""
    replay_speed: float = 0.0
    """Times real time at which a recording is played; 0: all of it has happened already."""
    replay_from: str = ""
    """Where playing starts; empty: the recording's first minute."""
    market_clock: Path | None = None
    """File from which a killed process knows what time it is in the market it plays."""
    faults: Path | None = None
    fault_seed: int = 0
    fault_every_s: float = 0.0
    """About one fault by seed per so many real seconds; 0: none."""
    fault_kinds: Sequence[str] = ()
    """Of the faults by seed; empty: all."""
    auth_timeout_s: float = 10.0
    stream_buffer_bytes: int = 16 * 2**20
    refuse_second_connection: bool = False
    """The newcomer gets max_connections, instead of the older connection."""
    quirks: bool = True

    def check(self) -> None:
        """Raises: ConfigError naming the option, its value and the valid ones."""
        bounds = (
            ("--port", self.port, 0, 65_535),
            ("--requests-per-minute", self.requests_per_minute, 0, 1_000_000),
            ("--latency-ms", self.latency_ms, 0, 600_000),
            ("--page-rows-max", self.page_rows_max, 1, LIMIT_MAX),
            ("--rate", self.rate, 0, 500_000),
            ("--replay-speed", self.replay_speed, 0, 100_000),
            ("--fault-every", self.fault_every_s, 0, 1_000_000),
            ("--auth-timeout", self.auth_timeout_s, 0.01, 3_600),
            ("--stream-buffer-bytes", self.stream_buffer_bytes, 1_024, 2**31),
        )
        for name, value, low, high in bounds:
            if not low <= value <= high:
                raise ConfigError(f"{name} {value}: must be {low} to {high}")
        self._check_combination()
        for name, text in (("--replay-from", self.replay_from), ("--market-from", self.market_from)):
            if text:
                instant_of(name, text)
        for kind in self.fault_kinds:
            if kind not in KINDS:
                raise ConfigError(f"--fault-kinds {kind}: must be of {', '.join(KINDS)}")

    def _check_combination(self) -> None:
        if self.recording is None and (self.replay_speed or self.replay_from):
            raise ConfigError("--replay-speed and --replay-from need a --recording")
        if self.recording is not None and self.rate:
            raise ConfigError("--rate is for the synthetic market, leave it or --recording out")
        if self.market_clock is not None and not self.market_clock.parent.is_dir():
            raise ConfigError(f"--market-clock {self.market_clock}: its folder does not exist")
        if self.replay_from and not self.replay_speed:
            raise ConfigError("--replay-from needs a --replay-speed")


def instant_of(name: str, text: str) -> int:
    """An instant in ns. Raises: ConfigError naming the option."""
    try:
        return parse_instant_ns(text)
    except ValueError as error:
        raise ConfigError(f"{name} {text}: not an instant like 2014-05-01T10:00Z") from error
