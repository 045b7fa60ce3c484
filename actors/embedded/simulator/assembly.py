"""From options to the world of a real process."""

from __future__ import annotations

from collections.abc import Sequence

from actors.embedded.simulator.access import Keys, RequestBudget
from actors.embedded.simulator.feed import Feed
from actors.embedded.simulator.options import Options
from actors.embedded.simulator.pages import PartCache
from actors.embedded.simulator.recording import open_recording
from actors.embedded.simulator.symbols import UNIVERSE, canonical
from actors.embedded.simulator.synthetic import SyntheticMarket
from actors.embedded.simulator.world import Manners, World
from runtime.actor import offload_to_thread
from runtime.clock import SystemClock
from runtime.entropy import SystemEntropy
from runtime.errors import ConfigError


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
