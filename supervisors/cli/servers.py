"""Databases to ask: the ones that run, or the embedded ones started for as long as a command needs them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

import structlog
import trio

from actors.embedded.endpoints import FILE_NAME, EndpointsFile
from actors.embedded.server import EmbeddedServer
from actors.embedded.spec import EmbeddedHome
from runtime.actor import ActorContext, Seams, offload_to_thread
from runtime.board import Board, DependencyState
from runtime.clock import SystemClock
from runtime.entropy import SystemEntropy
from runtime.errors import ConfigError, NotConnected
from runtime.settings import Settings
from supervisors.cli.instance import check_data, try_lock
from supervisors.tree import SINK_SERVER, server_spec

START_S_MAX = 60.0
"""A server that needs longer is recovering: come again."""
STOP_S_MAX = 60.0
POLL_S = 0.05


def make_seams() -> Seams:
    """The real ones, with a board of their own."""
    return Seams(clock=SystemClock(), entropy=SystemEntropy(), offload=offload_to_thread, board=Board())


@asynccontextmanager
async def servers_for(settings: Settings, sinks: Collection[str], seams: Seams) -> AsyncIterator[None]:
    """While inside, every embedded server that `sinks` need is up: the running process has it, or we start it.

    Raises: ConfigError (no data directory, wheel missing), NotConnected (does not come up in time).
    """
    needed = {SINK_SERVER[settings.sinks[name].kind] for name in sinks if settings.sinks[name].dsn == "embedded"}
    if not needed:
        yield
        return
    check_data(settings)
    lock = try_lock(settings)
    if lock is None:  # somebody works there: the servers are his
        await _wait_until_up(settings, needed)
        yield
        return
    try:
        async with _started(settings, needed, seams):
            yield
    finally:
        lock.release()


async def _wait_until_up(settings: Settings, needed: Collection[str]) -> None:
    """The process that has the data directory may be just starting them."""
    home = EmbeddedHome(data_dir=settings.pipeline.data_dir)
    for name in sorted(needed):
        spec, reason = server_spec(name, settings, home), "not started yet"
        with trio.move_on_after(START_S_MAX):
            while True:
                try:
                    await spec.probe(home.port(name), timeout_s=5.0)
                    break
                except NotConnected as exc:
                    reason = str(exc)
                await trio.sleep(POLL_S)
            continue
        raise NotConnected(f"embedded {name} of the running process does not answer: {reason}")


@asynccontextmanager
async def _started(settings: Settings, needed: Collection[str], seams: Seams) -> AsyncIterator[None]:
    home = EmbeddedHome(data_dir=settings.pipeline.data_dir)
    file = EndpointsFile(path=settings.pipeline.data_dir / FILE_NAME)
    contexts = [_context(name, seams) for name in sorted(needed)]
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:

        async def keep(ctx: ActorContext) -> None:
            nonlocal failure
            name = ctx.name.removeprefix("embedded.")
            try:
                await EmbeddedServer(spec=server_spec(name, settings, home), home=home, endpoints=file).run(ctx)
            except (ConfigError, NotConnected) as exc:
                failure = exc
                nursery.cancel_scope.cancel(reason="an embedded server ended")

        for ctx in contexts:
            nursery.start_soon(keep, ctx)
        try:
            await _until_all_up(seams.board, needed)
            yield
        finally:
            for ctx in contexts:
                ctx.drain_requested.set()
            nursery.cancel_scope.deadline = min(nursery.cancel_scope.deadline, trio.current_time() + STOP_S_MAX)
    if failure is not None:
        raise failure


def _context(name: str, seams: Seams) -> ActorContext:
    actor = f"embedded.{name}"
    return ActorContext(
        name=actor, incarnation=1, seams=seams, log=structlog.stdlib.get_logger(actor).bind(actor=actor)
    )


async def _until_all_up(board: Board, needed: Collection[str]) -> None:
    with trio.move_on_after(START_S_MAX):
        while True:
            states = {name: board.dependencies.get(f"embedded.{name}") for name in needed}
            if all(d is not None and d.state is DependencyState.UP for d in states.values()):
                return
            await trio.sleep(POLL_S)
    reasons = "; ".join(f"{n}: {d.reason}" for n in needed if (d := board.dependencies.get(f"embedded.{n}")))
    raise NotConnected(f"not up after {START_S_MAX:g} s: {reasons}")


def address_of(settings: Settings, sink: str) -> str:
    """Where to read from a sink; embedded ones only inside `servers_for`. Raises: NotConnected."""
    wanted = settings.sinks[sink]
    if wanted.dsn != "embedded":
        return wanted.dsn
    home = EmbeddedHome(data_dir=settings.pipeline.data_dir)
    name = SINK_SERVER[wanted.kind]
    return server_spec(name, settings, home).url(home.port(name))
