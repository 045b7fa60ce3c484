"""`python -m tests.support.rogues KIND[,KIND…] run …`: the real command with children that misbehave in its tree.

They stand under a supervisor of their own, `pipeline/rogues`, last in the tree: so they are stopped first.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator

import attrs
import trio

import supervisors.cli.run as run_module
from runtime.actor import ActorContext
from runtime.errors import LogSyncFailed
from supervisors.cli.main import main
from supervisors.engine.admin import Admin
from supervisors.engine.child import ChildSpec, RestartIntensity, Strategy, SupervisorSpec


class Swallows:
    """Goes on after it was cancelled, and shields itself: nothing ends it."""

    async def run(self, ctx: ActorContext) -> None:
        ctx.ready()
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await trio.sleep_forever()


class Blocks:
    """Holds the event loop for three real seconds."""

    async def run(self, ctx: ActorContext) -> None:
        ctx.ready()
        await trio.sleep(2)
        time.sleep(3)  # noqa: ASYNC251
        await ctx.drain_requested.wait()


class FailsInCleanup:
    async def run(self, ctx: ActorContext) -> None:
        ctx.ready()
        try:
            await trio.sleep_forever()
        finally:
            raise RuntimeError("while cleaning up")


class RaisesGroup:
    async def run(self, ctx: ActorContext) -> None:
        ctx.ready()
        if ctx.incarnation == 1:
            await trio.sleep(1)
            raise BaseExceptionGroup("several", [asyncio.CancelledError(), OSError("disk")])
        await ctx.drain_requested.wait()


class LeaksNursery:
    async def run(self, ctx: ActorContext) -> None:
        ctx.ready()
        if ctx.incarnation == 1:
            nursery = await trio.open_nursery().__aenter__()
            nursery.start_soon(trio.sleep_forever)
            await trio.sleep(1)
            return
        await ctx.drain_requested.wait()


class LeaksStubborn:
    """Returns, and leaves a task behind that swallows its cancellation."""

    async def run(self, ctx: ActorContext) -> None:
        ctx.ready()
        nursery = await trio.open_nursery().__aenter__()
        nursery.start_soon(Swallows().run, ctx)
        await trio.sleep(1)


async def _endless() -> AsyncIterator[int]:
    try:
        yield 1
    finally:
        with trio.CancelScope(shield=True):
            await trio.sleep_forever()


class LeaksGenerator:
    """Forgets an async generator whose cleanup nothing ends; Trio runs it, in a task that nobody owns."""

    async def run(self, ctx: ActorContext) -> None:
        ctx.ready()
        await anext(_endless())
        await ctx.drain_requested.wait()


class LosesDisk:
    """Ends with the error after which the process must stop, with a code of its own."""

    async def run(self, ctx: ActorContext) -> None:
        ctx.ready()
        await trio.sleep(1)
        raise LogSyncFailed("fdatasync: input/output error")


KINDS = {
    "loses": LosesDisk,
    "stubborn": LeaksStubborn,
    "swallows": Swallows,
    "blocks": Blocks,
    "cleanup": FailsInCleanup,
    "group": RaisesGroup,
    "leaks": LeaksNursery,
    "generator": LeaksGenerator,
}


def plant(kinds: list[str]) -> None:
    if "blind" in kinds:  # a process that does not know what it leaves behind
        kinds.remove("blind")
        Admin.leftovers = lambda self: ()
        run_module.leave_soon = lambda error, note: None
    build = run_module.build_spec
    specs = tuple(ChildSpec(kind, KINDS[kind], shutdown_grace_s=0.5, cancel_grace_s=0.5) for kind in kinds)
    rogues = SupervisorSpec("rogues", Strategy.ONE_FOR_ONE, specs, RestartIntensity(restarts_max=5, period_s=60.0))

    def with_rogues(*args: object, **options: object) -> SupervisorSpec:
        spec = build(*args, **options)
        return attrs.evolve(spec, children=(*spec.children, rogues))

    run_module.build_spec = with_rogues


if __name__ == "__main__":
    plant(sys.argv[1].split(","))
    sys.exit(main(sys.argv[2:]))
