"""What a seed is: sizes, shape of the market, and the rates of every class of faults (swarm).

A third of the seeds has none of a class, else faults would hide each other. Three seeds of ten have a live stream.
"""

from __future__ import annotations

import random

import attrs

from tests.simulation.market import HOUR, MINUTE, NS

SYMBOLS = ("C:EURUSD", "C:GBPUSD", "C:USDJPY", "C:AUDNZD")
COIN = "X:BTCUSD"
LIVE_SHARE = 0.3
"""Of the seeds."""
BACKLOG_SHARE = 0.4
"""Of those with a stream."""
DAY_NS = 1_709_596_800 * NS
"""2024-03-05."""
CLASSES: dict[str, tuple[float, float]] = {
    # class -> (rare, frequent) per virtual second, or the share where it is asked per call
    "kill": (0.02, 0.12),
    "power": (0.02, 0.12),
    "disk_death": (0.04, 0.25),
    "restart": (0.01, 0.05),
    "actor": (0.05, 0.35),
    "actor_in_thread": (0.03, 0.12),
    "bug_in_disk": (0.02, 0.08),
    "down": (0.03, 0.15),
    "answer_lost": (0.05, 0.4),
    "mid_write": (0.05, 0.3),
    "poison": (0.01, 0.05),
    "forgot": (0.01, 0.04),
    "full": (0.02, 0.1),
    "short": (0.05, 0.3),
    "sync": (0.02, 0.08),
    "vendor": (0.05, 0.3),
    "vendor_down": (0.02, 0.1),
    "refused": (0.0, 0.004),
    "refetch": (0.05, 0.3),
    "changed": (0.05, 0.2),
    "jump": (0.02, 0.2),
    "slow_thread": (0.1, 0.5),
}
LIVE_CLASSES: dict[str, tuple[float, float]] = {
    # of the stream; per virtual second, or a share
    "stream_cut": (0.04, 0.25),
    "stream_silent": (0.03, 0.15),
    "stream_hung": (0.05, 0.25),
    "stream_hole": (0.05, 0.3),
    "stream_burst": (0.05, 0.2),
    "stream_rival": (0.02, 0.08),
    "stream_stands": (0.02, 0.1),
    "clock_down": (0.03, 0.15),
    "state_death": (0.1, 0.4),
    "topic_refused": (0.05, 0.3),
    "late": (0.03, 0.3),
}
PER_CALL = frozenset({"vendor", "refused", "slow_thread", "topic_refused", "late"})


@attrs.frozen(kw_only=True)
class Live:
    """The stream of a seed."""

    rate: float
    """Market seconds per second: 1 = a real vendor, more = a recording that is played."""
    border_ns: int
    """An hour ends soon after the fire: it is waited for until it is confirmed."""
    settle_s: int
    linger_ms: int
    late_s: int
    """The longest that a late tick needs, by the market's clock."""
    replay_rows: int
    """Old rows that come again after each reconnect."""
    confirm: bool
    stands_at_first: bool
    """The market's time begins with the first subscription, as that of a played recording."""
    wall_offset_ns: int
    """Our clock minus the vendor's, at the beginning."""
    batch_rows: int
    """The most of one delivery: small ones make lanes wait for each other; of 1 a batch is one group."""
    batch_linger_s: float
    """How long rows of a lane may wait for company: the other lane may overtake them as far as its marks allow."""
    read_bytes: int
    """Of the log, by a delivery at once."""
    backlog_s: float = 0.0
    """So long the row store is down in calm weather while the market runs and slices come; 0: not at all."""


@attrs.frozen(kw_only=True)
class Draw:
    """Everything that is decided before the run begins."""

    seed: int
    symbols: tuple[str, ...]
    from_ns: int
    to_ns: int
    """Where the history ends; with a live stream: where the market stands at the beginning."""
    follows: bool
    """The history has no end: it follows the clock."""
    start_ns: int
    """Wall clock at the beginning; with a live stream the vendor's."""
    partitions: int
    segment_bytes: int
    retention_s: int
    mailbox_groups: int
    sync_linger_ms: int
    page_rows: int
    vendor_latency_s: float
    sink_latency_s: float
    fire_s: float
    rates: dict[str, float]
    dead_sink: str
    """Never comes back after the fire."""
    live: Live | None = None
    """None: history only."""

    def without(self, classes: frozenset[str]) -> Draw:
        """The same seed with these classes of faults switched off: to shrink a failure."""
        return attrs.evolve(self, rates={k: 0.0 if k in classes else v for k, v in self.rates.items()})


def draw(seed: int) -> Draw:
    """A pure function of the seed."""
    rng = random.Random(f"draw/{seed}")
    from_ns = DAY_NS + rng.choice((0, 9, 21, 22)) * HOUR + rng.randrange(60) * MINUTE
    to_ns = from_ns + rng.choice((7, 45, 100, 200, 400)) * MINUTE
    follows = rng.random() < 0.3
    rates = {name: _rate(rng, *bounds) for name, bounds in CLASSES.items()}
    retention_s = rng.choice((604_800, 604_800, 0, 5))
    if follows:
        rates["changed"] = 0.0
    if retention_s < 604_800:
        rates["forgot"] = 0.0  # what is cut off could not be sent again
    if rates["full"] and rates["jump"]:
        rates["forgot"] = 0.0  # on a disk that fills up, a clock that is put forward cuts off as well (seed 638)
    history = Draw(
        seed=seed,
        symbols=tuple(rng.sample(SYMBOLS, rng.choice((1, 1, 2, 3)))),
        from_ns=from_ns,
        to_ns=to_ns,
        follows=follows,
        start_ns=to_ns + (rng.randrange(60) * NS if follows else HOUR),
        partitions=rng.choice((1, 2, 3)),
        segment_bytes=rng.choice((5, 12, 24, 64, 400)) << 10,
        retention_s=retention_s,
        mailbox_groups=rng.choice((1, 2, 8, 64)),
        sync_linger_ms=rng.choice((0, 5, 50)),
        page_rows=rng.choice((7, 40, 150, 1000)),
        vendor_latency_s=rng.choice((0.0, 0.02, 0.3)),
        sink_latency_s=rng.choice((0.0, 0.01, 0.1)),
        fire_s=rng.choice((6.0, 6.0, 12.0, 12.0, 20.0, 20.0, 30.0, 30.0, 50.0, 110.0)),
        rates=rates,
        dead_sink=rng.choice(("timescale", "clickhouse")) if rng.random() < 0.2 else "",
    )
    rng = random.Random(f"live/{seed}")
    return _with_live(history, rng) if rng.random() < LIVE_SHARE else history


def _with_live(history: Draw, rng: random.Random) -> Draw:
    """The market runs on while the seed does; the hour ends some seconds after the fire."""
    rate = rng.choice((1.0, 30.0, 100.0, 100.0, 300.0))
    fire_s = rng.choice((5.0, 5.0, 8.0, 12.0, 20.0))
    rates = history.rates | {name: _rate(rng, *bounds) for name, bounds in LIVE_CLASSES.items()}
    rates["changed"] = 0.0
    rates["clock_wrong"] = _rate(random.Random(f"clock/{history.seed}"), 0.05, 0.2)  # came later: moves no other draw
    border_ns = DAY_NS + rng.choice((10, 11, 22, 24)) * HOUR  # also: the last of a day
    start_ns = border_ns - round((fire_s + rng.choice((-4.0, 7.0, 9.0))) * rate) * NS - rng.randrange(NS)
    lead = rng.choice((2, 9, 30)) if rate == 1.0 else rng.choice((3, 20, 75))
    settle_s = max(30, round(8 * rate))
    drawn = attrs.evolve(
        history,
        symbols=_symbols(history.symbols[0], rng),
        from_ns=start_ns - start_ns % MINUTE - lead * MINUTE,
        to_ns=start_ns,
        follows=True,
        start_ns=start_ns,
        fire_s=fire_s,
        rates=rates,
        live=Live(
            rate=rate,
            border_ns=border_ns,
            settle_s=settle_s,
            linger_ms=rng.choice((300, 1000, 1000, 2000)),
            late_s=round(settle_s * rng.choice((0.1, 0.7))),
            replay_rows=rng.choice((0, 0, 3, 1000)),
            confirm=rng.random() < 0.9,
            stands_at_first=rng.random() < 0.3,
            wall_offset_ns=rng.choice((0, 0, 3, -40, 86_400 * 3650)) * NS,
            batch_rows=rng.choice((8, 40, 100_000)),
            batch_linger_s=rng.choice((0.05, 0.5, 9.0)),
            read_bytes=rng.choice((2_000, 512 << 10)),
        ),
    )
    backlog = random.Random(f"backlog/{history.seed}")  # came later: moves no other draw
    return _with_backlog(drawn, backlog) if backlog.random() < BACKLOG_SHARE else drawn


def _with_backlog(drawn: Draw, rng: random.Random) -> Draw:
    """History's tenth lets a slice overtake live rows only while live has nine times as many and more than one batch."""
    assert drawn.live is not None
    backlog_s, batch_rows = rng.choice((12.0, 16.0)), rng.choice((1, 1, drawn.live.batch_rows))
    return attrs.evolve(drawn, live=attrs.evolve(drawn.live, backlog_s=backlog_s, batch_rows=batch_rows))


def _symbols(pair: str, rng: random.Random) -> tuple[str, ...]:
    return rng.choice(((pair,), (pair,), (COIN,), (COIN,), (pair, COIN)))


def _rate(rng: random.Random, rare: float, frequent: float) -> float:
    return rng.choice((0.0, rare, frequent))
