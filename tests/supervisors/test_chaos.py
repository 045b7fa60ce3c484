"""Random trees of awkward children, poked at by hand, then stopped: no twin, no late end, nobody left unreported.

A seed is a tree, what its children do and what is done to them: `python -m tests.supervisors.test_chaos 0 500`.
"""

from __future__ import annotations

import itertools
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from random import Random

import attrs
import pytest
import trio
import trio.testing

from runtime.actor import ActorContext
from runtime.backoff import Backoff
from runtime.errors import AdminRefused, RestartIntensityExceeded, Shutdown, StartFailed, UnstoppableChild
from supervisors.engine.child import ChildSpec, Restart, Strategy, SupervisorSpec, walk
from supervisors.engine.events import EventKind
from supervisors.engine.life import Life
from supervisors.engine.run import OVERTIME_S
from tests.supervisors.conftest import World

SEEDS = 40
DEADLINE_S = 8.0
CALLS = ("terminate_child", "restart_child", "recover_child", "delete_child")


@attrs.define
class Chaos:
    """One seed."""

    rng: Random
    world: World = attrs.field(factory=World)
    alive: Counter[str] = attrs.field(factory=Counter)
    """Tasks by actor, the leaked ones included."""
    problems: list[str] = attrs.field(factory=list)
    release: trio.Event = attrs.field(factory=trio.Event)
    _numbers: Iterator[int] = attrs.field(factory=itertools.count)

    # ---- the tree

    def sup(self, depth: int) -> SupervisorSpec:
        rng = self.rng
        kids = [self.sup(depth - 1) if depth and rng.random() < 0.4 else self.child() for _ in range(rng.randint(1, 4))]
        name = f"s{next(self._numbers)}"
        return self.world.sup(name, rng.choice(list(Strategy)), *kids, intensity=(rng.choice((1, 3, 10)), 30.0))

    def child(self) -> ChildSpec:
        rng, name = self.rng, f"w{next(self._numbers)}"

        async def run(ctx: ActorContext) -> None:
            with self.counted(name):
                await self.live(name, ctx)

        return self.world.child(
            name,
            self.world.actor(run),
            restart=rng.choice(list(Restart)),
            shutdown_grace_s=rng.choice((0, 1, 3)),
            cancel_grace_s=1.0,
            start_timeout_s=rng.choice((1, 30)),
            backoff=rng.choice((None, Backoff(initial_s=0.1, max_s=1.0, jitter=0.1))),
        )

    @contextmanager
    def counted(self, name: str, *, is_helper: bool = False) -> Iterator[None]:
        if self.alive[name] and not is_helper:
            self.problems.append(f"{name} has a twin")
        self.alive[name] += 1
        try:
            yield
        finally:
            self.alive[name] -= 1

    # ---- what the children do

    async def live(self, name: str, ctx: ActorContext) -> None:
        rng = self.rng
        if rng.random() < 0.1:
            await trio.sleep(rng.uniform(0, 3))
        if rng.random() < 0.05:
            raise OSError("while starting")
        ctx.ready()
        ways: dict[Callable[[str, ActorContext], Awaitable[None]], int] = {
            self.behaves: 50, self.returns: 10, self.crashes: 15, self.ends_on_purpose: 5, self.leaks: 8,
            self.fails_in_cleanup: 7, self.swallows: 5, self.fails_in_drain: 3, self.stays: 2, self.leaks_what_stays: 2,
        }  # fmt: skip
        await rng.choices(list(ways), list(ways.values()))[0](name, ctx)

    async def behaves(self, name: str, ctx: ActorContext) -> None:
        await ctx.drain_requested.wait()
        await trio.sleep(self.rng.uniform(0, 2))

    async def returns(self, name: str, ctx: ActorContext) -> None:
        await trio.sleep(self.rng.uniform(0, 5))

    async def crashes(self, name: str, ctx: ActorContext) -> None:
        await trio.sleep(self.rng.uniform(0, 5))
        raise BaseExceptionGroup("several", [GeneratorExit(), ValueError()])

    async def ends_on_purpose(self, name: str, ctx: ActorContext) -> None:
        await trio.sleep(self.rng.uniform(0, 5))
        raise Shutdown("enough")

    async def leaks(self, name: str, ctx: ActorContext) -> None:
        async def helper() -> None:
            with self.counted(name, is_helper=True):
                try:
                    await trio.sleep_forever()
                finally:
                    with trio.CancelScope(shield=True):
                        await trio.sleep(self.rng.uniform(0, 0.9))

        (await trio.open_nursery().__aenter__()).start_soon(helper)
        await trio.sleep(self.rng.uniform(0, 5))
        raise OSError("with a nursery open")

    async def fails_in_cleanup(self, name: str, ctx: ActorContext) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with ctx.shielded(5):
                await trio.sleep(self.rng.uniform(0, 3))
            raise RuntimeError("while cleaning up")

    async def swallows(self, name: str, ctx: ActorContext) -> None:
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            return

    async def fails_in_drain(self, name: str, ctx: ActorContext) -> None:
        await ctx.drain_requested.wait()
        raise OSError("while draining")

    async def stays(self, name: str, ctx: ActorContext) -> None:
        with trio.CancelScope(shield=True):
            await self.release.wait()

    async def leaks_what_stays(self, name: str, ctx: ActorContext) -> None:
        async def helper() -> None:
            with self.counted(name, is_helper=True):
                await self.stays(name, ctx)

        (await trio.open_nursery().__aenter__()).start_soon(helper)
        await trio.sleep(self.rng.uniform(0, 5))

    # ---- the run

    async def poke(self, spec: SupervisorSpec) -> None:
        """Some admin calls at random children, then the ordered stop."""
        rng = self.rng
        paths = [path.rpartition("/") for path, _ in walk(spec) if "/" in path]
        for _ in range(rng.randint(0, 8)):
            await trio.sleep(rng.uniform(0, 3))
            parent, _, child = rng.choice(paths)
            try:
                await getattr(self.world.admin, rng.choice(CALLS))(parent, child)
            except (AdminRefused, StartFailed):
                continue
        await trio.sleep(rng.uniform(0, 5))
        self.world.stop.set()

    async def run(self) -> list[str]:
        """What was wrong."""
        spec, world = self.sup(2), self.world
        errors: list[BaseException] = []
        stopping_s = []

        def report(event) -> None:
            world.events.append(event)
            if event.kind is EventKind.TREE_STOPPING:
                stopping_s.append((trio.current_time(), event.detail))

        world.report = report
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.poke, spec)
                await world.run(spec, shutdown_deadline_s=DEADLINE_S)
                nursery.cancel_scope.cancel()
        except* (RestartIntensityExceeded, StartFailed, UnstoppableChild) as group:
            errors += group.exceptions
        ((began_s, why),) = stopping_s
        self.judge(errors, why, trio.current_time() - began_s)
        self.release.set()
        await trio.sleep(5)
        if +self.alive:
            self.problems.append(f"still alive: {+self.alive}")
        return self.problems

    def judge(self, errors: list[BaseException], why: str, took_s: float) -> None:
        left = set(self.world.admin.leftovers())
        told = {e.path for e in self.world.events if e.kind is EventKind.UNSTOPPABLE}
        if took_s > DEADLINE_S + OVERTIME_S + 0.2:
            self.problems.append(f"ended {took_s} s after the stop began")
        if left - told:
            self.problems.append(f"left behind and not told: {left - told}")
        if unknown := {name for name in +self.alive if not any(path.endswith(f"/{name}") for path in left)}:
            self.problems.append(f"alive and unknown: {unknown}")
        if why == "asked" and not all(isinstance(error, UnstoppableChild) for error in errors):
            self.problems.append(f"an ordered stop ended with {errors}")


def problems_of(seed: int) -> list[str]:
    async def main() -> list[str]:
        return await Chaos(Random(seed)).run()

    return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.parametrize("first", range(0, SEEDS, 10))
def test_chaos_leaves_no_twin_and_nobody_unreported_and_ends_in_time(first: int) -> None:
    assert {seed: found for seed in range(first, first + 10) if (found := problems_of(seed))} == {}


@pytest.mark.parametrize("seed", [383, 494, 508, 617, 1398])
def test_seeds_that_once_found_a_twin(seed: int) -> None:
    """A supervisor that was started anew did not know that its predecessor's child still lived."""
    assert problems_of(seed) == []


def test_control_a_boundary_that_disowns_leaked_tasks_is_found(monkeypatch) -> None:
    async def disown(life: Life) -> None:
        for nursery in life.task.child_nurseries:
            nursery.cancel_scope.cancel(reason="leaked")

    monkeypatch.setattr(Life, "_end_leaked_tasks", disown)
    found = [text for seed in range(SEEDS) for text in problems_of(seed)]
    assert any("has a twin" in text for text in found)


if __name__ == "__main__":
    for number in range(int(sys.argv[1]), int(sys.argv[2])):
        if wrong := problems_of(number):
            print(f"seed {number}: {wrong}")
