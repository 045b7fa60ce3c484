"""From options to the world of a real process."""

from __future__ import annotations

from actors.embedded.simulator.access import Keys, RequestBudget
from actors.embedded.simulator.disturb import Disturber
from actors.embedded.simulator.fault_book import FaultBook
from actors.embedded.simulator.faults import KINDS, BadFault, RandomFaults, parse_script
from actors.embedded.simulator.hub import Hub
from actors.embedded.simulator.lane import Lane
from actors.embedded.simulator.market_maker import Market, make_market, make_time
from actors.embedded.simulator.options import Options
from actors.embedded.simulator.pages import PartCache
from actors.embedded.simulator.topics import CRYPTO, FOREX
from actors.embedded.simulator.world import Manners, World
from runtime.actor import Offload, offload_to_thread
from runtime.clock import Clock, SystemClock
from runtime.entropy import Entropy, SystemEntropy
from runtime.errors import ConfigError

EVENT_CACHE_BYTES = 48 * 2**20


def make_world(
    options: Options,
    *,
    clock: Clock | None = None,
    entropy: Entropy | None = None,
    offload: Offload = offload_to_thread,
) -> World:
    """All parts; by default everything real: this machine's clock, entropy and threads. Raises: ConfigError."""
    options.check()
    clock = clock or SystemClock()
    market = make_market(options, clock)
    return World(
        feed=market.quotes,
        cache=PartCache(market.quotes, offload, load=market.quote_pages),
        trades=market.trades,
        trade_cache=PartCache(market.trades, offload, load=market.trade_pages) if market.trades is not None else None,
        hub=make_hub(options, market, clock, offload),
        clock=clock,
        entropy=entropy or SystemEntropy(),
        offload=offload,
        keys=Keys(accepted=frozenset(options.api_keys), refused=frozenset(options.refused_keys)),
        budget=RequestBudget(requests_per_minute=options.requests_per_minute),
        manners=Manners(seed=options.seed, latency_s=options.latency_ms / 1000, page_rows_max=options.page_rows_max),
    )


def make_hub(options: Options, market: Market, clock: Clock, offload: Offload) -> Hub:
    """The stream over a market. Raises: ConfigError when the script of faults is wrong."""
    book = FaultBook(seed=options.fault_seed)
    arm_script(options, book)
    lanes = [
        Lane(
            asset=FOREX,
            feed=market.quotes,
            cache=PartCache(market.quotes, offload, EVENT_CACHE_BYTES, market.quote_events),
            disturber=Disturber(asset=FOREX.name, seed=options.fault_seed),
        )
    ]
    if market.trades is not None:
        lanes.append(
            Lane(
                asset=CRYPTO,
                feed=market.trades,
                cache=PartCache(market.trades, offload, EVENT_CACHE_BYTES, market.trade_events),
                disturber=Disturber(asset=CRYPTO.name, seed=options.fault_seed),
            )
        )
    return Hub(
        time=make_time(options, market, clock),
        lanes=tuple(lanes),
        faults=book,
        buffer_bytes=options.stream_buffer_bytes,
        auth_timeout_s=options.auth_timeout_s,
        refuse_new=options.refuse_second_connection,
        quirks=options.quirks,
    )


def arm_script(options: Options, book: FaultBook) -> None:
    """Arm the faults of the script, and those by seed. Raises: ConfigError."""
    if options.faults is not None:
        try:
            for fault in parse_script(options.faults.read_text()):
                book.arm(fault)
        except (OSError, UnicodeDecodeError, BadFault) as error:
            raise ConfigError(f"--faults {options.faults}: {error}") from error
    if options.fault_every_s:
        kinds = tuple(options.fault_kinds) or KINDS
        for fault in RandomFaults(seed=options.fault_seed, every_s=options.fault_every_s, kinds=kinds).faults():
            book.arm(fault)
