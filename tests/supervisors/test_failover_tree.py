"""Source switching in a whole supervised tree on virtual time (must-show 6).

No actor of the product switches sources yet (there is one vendor and one route); what is shown is that the directive
holds up between real supervised actors: sources that go up and down, and one that ends and is started again.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import attrs
import pytest
import trio

from runtime.actor import ActorContext
from runtime.backoff import Backoff
from supervisors.engine.failover import Failover, FailoverLimits, Switch

HOUR_S = 3600
CALM = FailoverLimits(fall_n=3, fall_of=5, rise_after_s=30.0, dwell_s=60.0)
HASTY = FailoverLimits(fall_n=2, fall_of=3, rise_after_s=3.0, dwell_s=5.0, penalty_max=64.0)
"""Would go back within each 10 s: only what it has learned of the source keeps it away."""
EAGER = FailoverLimits(fall_n=2, fall_of=3, rise_after_s=3.0, dwell_s=5.0, penalty_max=1.0)


@attrs.frozen
class Source:
    """Delivers once a second while it is up; one that ends when it goes down is started again by its supervisor."""

    name: str
    beats: dict[str, float]
    ends: bool = False
    flaps: bool = False

    async def run(self, ctx: ActorContext) -> None:
        ctx.ready()
        while not ctx.drain_requested.is_set():
            up = not self.flaps or ctx.clock.monotonic_s() % 20 < 10
            if up:
                self.beats[self.name] = ctx.clock.monotonic_s()
            elif self.ends:
                raise ConnectionError(f"{self.name} is down")
            with trio.move_on_after(1):
                await ctx.drain_requested.wait()


@attrs.frozen
class Consumer:
    """Looks at every source each second, takes the active one's delivery, and does what the directive says."""

    beats: dict[str, float]
    limits: FailoverLimits
    switches: list[Switch]
    taken: dict[str, list[float]]

    async def run(self, ctx: ActorContext) -> None:
        ctx.ready()
        failover = Failover(("first", "second"), self.limits, now_s=ctx.clock.monotonic_s())
        with trio.move_on_after(0.5):  # between the beats
            await ctx.drain_requested.wait()
        while not ctx.drain_requested.is_set():
            now_s = ctx.clock.monotonic_s()
            for name in failover.preference:
                fresh = now_s - self.beats.get(name, -1e9) < 1
                failover.observe(name, fresh, now_s)
                if fresh and name == failover.active:
                    self.taken[name].append(now_s)
            if switch := failover.decide(now_s):
                self.switches.append(switch)
            with trio.move_on_after(1):
                await ctx.drain_requested.wait()


async def an_hour(world, limits: FailoverLimits, *, ends: bool) -> tuple[list[Switch], dict[str, list[float]]]:
    beats: dict[str, float] = {}
    switches: list[Switch] = []
    taken: dict[str, list[float]] = {"first": [], "second": []}
    tree = world.sup(
        "root",
        "one_for_one",
        world.sup(
            "sources",
            "one_for_one",
            world.child(
                "first",
                partial(Source, "first", beats, ends=ends, flaps=True),
                backoff=Backoff(initial_s=1.0, max_s=1.0, jitter=0.0),
                outages=(ConnectionError,),
            ),
            world.child("second", partial(Source, "second", beats)),
        ),
        world.child("consumer", partial(Consumer, beats, limits, switches, taken)),
    )
    async with world.running(tree):
        await trio.sleep(HOUR_S)
        restarts = world.child_state("first").restarts
        assert (restarts > 500) if ends else (restarts == 0)
        assert world.child_state("second").restarts == world.child_state("consumer").restarts == 0, "no restart"
    return switches, taken


@pytest.mark.parametrize("limits", [CALM, HASTY])
@pytest.mark.parametrize("ends", [False, True])
async def test_an_hour_beside_a_flapping_source_has_at_most_six_switches_and_no_silence(
    autojump_clock, world, ends: bool, limits: FailoverLimits
) -> None:
    """10 s up, 10 s down; the second source is healthy throughout."""
    switches, taken = await an_hour(world, limits, ends=ends)
    assert 1 <= len(switches) <= 6
    assert [s.to for s in switches] == ["second", "first"] * (len(switches) // 2) + ["second"] * (len(switches) % 2)
    times_s = sorted(taken["first"] + taken["second"])
    gaps_s = [later - earlier for earlier, later in pairwise(times_s)]
    assert max(gaps_s) <= limits.fall_n + 1, "no longer silent than it takes to notice"
    assert sum(gap > 1.5 for gap in gaps_s) <= len(switches)
    assert len(times_s) > HOUR_S - 5 * len(switches)
    assert len(taken["second"]) > 0.9 * HOUR_S


async def test_control_without_penalty_it_flaps_along(autojump_clock, world) -> None:
    switches, _ = await an_hour(world, EAGER, ends=False)
    assert len(switches) > 100
