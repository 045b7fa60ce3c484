"""Chance: one generator for each purpose, so that a class of faults that is off changes no other one much."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import attrs

from actors.downloader.memory import Fault
from tests.simulation.fences import PlantedBug

if TYPE_CHECKING:
    from tests.simulation.world import World

FAULTS = (
    Fault.CUT, Fault.HTML, Fault.RATE_LIMIT, Fault.TIMEOUT, Fault.REPEAT_AT_BORDER, Fault.LOSE_AT_BORDER,
    Fault.LOSE_AT_BORDER, Fault.LOOP, Fault.UNSORTED, Fault.OUTSIDE,
)  # fmt: skip


@attrs.define(eq=False)
class Fate:
    """One per run."""

    world: World
    _rngs: dict[str, random.Random] = attrs.field(factory=dict)

    def rng(self, name: str) -> random.Random:
        """A generator for one purpose."""
        if name not in self._rngs:
            self._rngs[name] = random.Random(f"{self.world.draw.seed}/{name}")
        return self._rngs[name]

    def thread_times_s(self) -> tuple[float, float]:
        """Virtual time that a worker thread takes before and after its effect."""
        rng = self.rng("threads")
        if self.world.on_fire and rng.random() < self.world.draw.rates["slow_thread"]:
            return rng.choice((0.0, 0.01, 0.5)) * rng.random(), rng.choice((0.0, 0.01, 0.5)) * rng.random()
        return 0.0, 0.0

    def perhaps_bug(self, owner: str, when: str) -> None:
        """An exception that comes out of a worker thread."""
        rate = self.world.draw.rates["actor_in_thread"] / 20
        if self.world.on_fire and rate and self.rng("bugs").random() < rate:
            self.world.trace(f"bug in {owner}, {when} its thread", reached="bug in a worker thread")
            raise PlantedBug(f"in {owner}, {when} its thread")

    def latency_s(self, most_s: float) -> float:
        return most_s * self.rng("latency").random() if most_s else 0.0

    def next_vendor_fault(self) -> Fault | None:
        if not self.world.on_fire:
            return None
        if self.world.vendor_is_down:
            return Fault.TIMEOUT
        rng = self.rng("vendor")
        if rng.random() < self.world.draw.rates["refused"]:
            self.world.refused.update(self.world.draw.symbols)
            return Fault.UNKNOWN_SYMBOL
        return rng.choice(FAULTS) if rng.random() < self.world.draw.rates["vendor"] else None
