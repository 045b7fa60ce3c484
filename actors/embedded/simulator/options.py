"""The options of one simulator process, and the world they make."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import attrs

from actors.embedded.simulator.access import Keys, RequestBudget
from actors.embedded.simulator.feed import Feed
from actors.embedded.simulator.pages import PartCache
from actors.embedded.simulator.query import LIMIT_MAX
from actors.embedded.simulator.recording import open_recording
from actors.embedded.simulator.symbols import UNIVERSE, canonical
from actors.embedded.simulator.synthetic import SyntheticMarket
from actors.embedded.simulator.world import Manners, World
from runtime.actor import offload_to_thread
from runtime.clock import SystemClock
from runtime.entropy import SystemEntropy
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


def make_feed(options: Options) -> Feed:
    """The market that the options name. Raises: ConfigError."""
    only = frozenset(canonical(symbol) for symbol in options.symbols)
    if options.recording is not None:
        recording = open_recording(options.recording)
        _check_known(only, recording.symbols)
        return recording if not only else recording.restricted(only)
    _check_known(only, tuple(one.symbol for one in UNIVERSE))
    return SyntheticMarket(seed=options.seed, always_open=options.always_open, only=only)


def _check_known(asked: frozenset[str], known: Sequence[str]) -> None:
    for symbol in sorted(asked - frozenset(known)):
        raise ConfigError(f"--symbols {symbol}: not in this market, which has {', '.join(known)}")


def make_world(options: Options) -> World:
    """Everything real: this machine's clock, entropy and threads. Raises: ConfigError."""
    options.check()
    feed = make_feed(options)
    return World(
        feed=feed,
        cache=PartCache(feed, offload_to_thread),
        clock=SystemClock(),
        entropy=SystemEntropy(),
        offload=offload_to_thread,
        keys=Keys(accepted=frozenset(options.api_keys), refused=frozenset(options.refused_keys)),
        budget=RequestBudget(requests_per_minute=options.requests_per_minute),
        manners=Manners(seed=options.seed, latency_s=options.latency_ms / 1000, page_rows_max=options.page_rows_max),
    )
