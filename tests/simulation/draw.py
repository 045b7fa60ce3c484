"""What a seed is: sizes, shape of the market, and the rates of every class of faults (swarm).

A third of the seeds has none of a class, else faults would hide each other.
"""

from __future__ import annotations

import random

import attrs

from tests.simulation.market import HOUR, MINUTE, NS

SYMBOLS = ("C:EURUSD", "C:GBPUSD", "C:USDJPY", "C:AUDNZD")
DAY_NS = 1_709_596_800 * NS
"""2024-03-05."""
CLASSES: dict[str, tuple[float, float]] = {
    # class -> (rare, frequent) per virtual second, or the share where it is asked per call
    "kill": (0.02, 0.12),
    "power": (0.02, 0.12),
    "disk_death": (0.02, 0.1),
    "restart": (0.01, 0.05),
    "actor": (0.05, 0.25),
    "actor_in_thread": (0.03, 0.12),
    "bug_in_disk": (0.02, 0.08),
    "down": (0.03, 0.15),
    "answer_lost": (0.05, 0.4),
    "mid_write": (0.05, 0.3),
    "poison": (0.01, 0.05),
    "forgot": (0.01, 0.04),
    "full": (0.02, 0.1),
    "short": (0.05, 0.2),
    "sync": (0.02, 0.08),
    "vendor": (0.05, 0.3),
    "vendor_down": (0.02, 0.1),
    "refused": (0.0, 0.004),
    "refetch": (0.05, 0.3),
    "changed": (0.05, 0.2),
    "jump": (0.02, 0.2),
    "slow_thread": (0.1, 0.5),
}
PER_CALL = frozenset({"vendor", "refused", "slow_thread"})


@attrs.frozen(kw_only=True)
class Draw:
    """Everything that is decided before the run begins."""

    seed: int
    symbols: tuple[str, ...]
    from_ns: int
    to_ns: int
    follows: bool
    """The history has no end: it follows the clock."""
    start_ns: int
    """Wall clock at the beginning."""
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
    return Draw(
        seed=seed,
        symbols=tuple(rng.sample(SYMBOLS, rng.choice((1, 1, 2, 3)))),
        from_ns=from_ns,
        to_ns=to_ns,
        follows=follows,
        start_ns=to_ns + (rng.randrange(60) * NS if follows else HOUR),
        partitions=rng.choice((1, 2, 3)),
        segment_bytes=rng.choice((12, 24, 64, 400)) << 10,
        retention_s=retention_s,
        mailbox_groups=rng.choice((1, 2, 8, 64)),
        sync_linger_ms=rng.choice((0, 5, 50)),
        page_rows=rng.choice((7, 40, 150, 1000)),
        vendor_latency_s=rng.choice((0.0, 0.02, 0.3)),
        sink_latency_s=rng.choice((0.0, 0.01, 0.1)),
        fire_s=rng.choice((6.0, 12.0, 20.0, 30.0, 60.0)),
        rates=rates,
        dead_sink=rng.choice(("timescale", "clickhouse")) if rng.random() < 0.2 else "",
    )


def _rate(rng: random.Random, rare: float, frequent: float) -> float:
    return rng.choice((0.0, rare, frequent))
