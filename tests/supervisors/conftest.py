"""A small world for supervision tests: scripted children, a trace of starts and ends, virtual time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
import trio.testing

from runtime.actor import Actor, ActorContext, Seams, offload_inline
from runtime.board import Board
from runtime.clock import VirtualClock
from runtime.entropy import SeededEntropy
from supervisors.engine.admin import Admin
from supervisors.engine.child import AnySpec, ChildSpec, RestartIntensity, Strategy, SupervisorSpec, walk
from supervisors.engine.events import Event, EventKind, Report
from supervisors.engine.run import run_tree


class Boom(Exception):
    """A crash on demand."""


class Scripted:
    """An actor that does what the test tells it, and stops when drained."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name

    async def run(self, ctx: ActorContext) -> None:
        world, name = self.world, self.name
        world.trace.append(f"+{name}")
        world.contexts[name] = ctx
        if world.start_script[name]:
            await world.start_script[name].pop(0)(ctx)
        ctx.ready()
        world.inboxes[name] = inbox = trio.open_memory_channel[Callable](10)
        try:
            async with trio.open_nursery() as nursery:

                async def drain() -> None:
                    await ctx.drain_requested.wait()
                    await world.on_drain[name](ctx)
                    nursery.cancel_scope.cancel()

                nursery.start_soon(drain)
                while True:
                    act = await inbox[1].receive()
                    if act is None:
                        nursery.cancel_scope.cancel()
                    else:
                        await act(ctx)
        finally:
            world.trace.append(f"-{name}")


async def _nothing(ctx: ActorContext) -> None:
    pass


class World:
    """Owns the trace and the scripts; `running` runs a tree."""

    def __init__(self) -> None:
        self.seams = Seams(
            clock=VirtualClock(1_400_000_000 * 10**9),
            entropy=SeededEntropy(1),
            offload=offload_inline,
            board=Board(),
        )
        self.trace: list[str] = []
        self.events: list[Event] = []
        self.report: Report = self.events.append
        self.contexts: dict[str, ActorContext] = {}
        self.inboxes: dict[str, tuple] = {}
        self.start_script: dict[str, list] = defaultdict(list)
        """Per child: what the next starts do before they are ready (each used once)."""
        self.on_drain: dict[str, Callable] = defaultdict(lambda: _nothing)
        self.stop = trio.Event()
        self.admin = Admin()
        self.spec: SupervisorSpec | None = None
        self.Boom = Boom

    # ---- building

    def child(self, name: str, make: Callable[[], Actor | None] | None = None, **options: object) -> ChildSpec:
        return ChildSpec(name, make or partial(Scripted, self, name), **options)

    def sup(self, name: str, strategy: str, *children: AnySpec | str, intensity=(3, 30.0), **options) -> SupervisorSpec:
        specs = tuple(self.child(c) if isinstance(c, str) else c for c in children)
        limit = RestartIntensity(restarts_max=intensity[0], period_s=intensity[1]) if intensity else None
        return SupervisorSpec(name, Strategy(strategy), specs, limit, **options)

    def actor(self, run: Callable) -> Callable[[], Actor]:
        """A factory of actors whose body is `async run(ctx)`."""

        class Plain:
            async def run(self, ctx: ActorContext) -> None:
                await run(ctx)

        return Plain

    # ---- running

    async def run(self, spec: SupervisorSpec, **options: object) -> None:
        self.spec = spec
        await run_tree(spec, seams=self.seams, stop=self.stop, report=self.report, admin=self.admin, **options)

    @asynccontextmanager
    async def running(self, spec: SupervisorSpec, **options: object) -> AsyncIterator[trio.Nursery]:
        """The tree runs inside; leaving the block stops it in order."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(self.run, spec, **options))
            await self.settle()
            yield nursery
            self.stop.set()

    async def settle(self) -> None:
        await trio.testing.wait_all_tasks_blocked()

    async def tell(self, name: str, act: Callable | None) -> None:
        self.inboxes[name][0].send_nowait(act)
        await self.settle()

    async def crash(self, name: str, error: BaseException | None = None) -> None:
        async def act(ctx: ActorContext) -> None:
            raise error or Boom(name)

        await self.tell(name, act)

    async def end(self, name: str) -> None:
        """It returns normally."""
        await self.tell(name, None)

    async def hang(self, ctx: ActorContext) -> None:
        await trio.sleep_forever()

    def fail_start(self, name: str, times: int = 1, error: Exception | None = None) -> None:
        async def act(ctx: ActorContext) -> None:
            raise error or Boom(f"start of {name}")

        self.start_script[name] += [act] * times

    # ---- looking

    def take(self) -> str:
        """What happened since the last look, e.g. `-b +b`."""
        text = " ".join(self.trace)
        self.trace.clear()
        return text

    def state(self, name: str) -> str:
        return self.child_state(name).state

    def child_state(self, name: str):
        assert self.spec is not None
        path = next(path for path, spec in walk(self.spec) if spec.id == name)
        return self.seams.board.children[path]

    def kinds(self, path_end: str) -> list[EventKind]:
        return [e.kind for e in self.events if e.path.endswith(path_end)]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "otp(number, ...): covers these cases of OTP's supervisor_SUITE")


@pytest.fixture
def world() -> World:
    """Tests also ask for `autojump_clock` themselves: pytest-trio looks for the clock among their own arguments."""
    return World()
