"""Restarts and starts per second of the engine, beside a bare Trio nursery doing the same, and OTP for orientation."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import attrs
import trio

from runtime.actor import ActorContext, Seams, offload_inline
from runtime.board import Board
from runtime.clock import SystemClock
from runtime.entropy import SeededEntropy
from supervisors.engine.child import ChildSpec, RestartIntensity, Strategy, SupervisorSpec
from supervisors.engine.run import run_tree
from tests.bench.figure import Figure

RESTARTS = 2_000
CHILDREN = 2_000
ROUNDS = 15
"""Many short rounds in turn, in CPU time (each side is one thread): what else the machine does then hits both alike."""
_OTP = """
-module(b).
-mode(compile).
-export([main/1, init/1, start/2, life/0]).
main([N]) ->
    logger:set_primary_config(level, none), process_flag(trap_exit, true),
    Trees = list_to_integer(N) div 900, T = erlang:monotonic_time(),
    [one(C) || _ <- lists:seq(1, Trees), C <- [counters:new(1, [])]],
    io:format("~w~n", [Trees * 900 / ((erlang:monotonic_time() - T) / 1.0e9)]).
one(C) ->
    {ok, S} = supervisor:start_link(?MODULE, [C, self()]),
    receive done -> exit(S, shutdown) end, receive {'EXIT', S, _} -> ok end.
init(Args) -> {ok, {{one_for_one, 1000, 1}, [{w, {?MODULE, start, Args}, permanent, 5000, worker, []}]}}.
start(C, Main) ->
    counters:add(C, 1, 1),
    case counters:get(C, 1) of
        901 -> Main ! done, {ok, spawn_link(timer, sleep, [infinity])};
        _ -> {ok, spawn_link(?MODULE, life, [])}
    end.
life() -> exit(boom).
"""
"""900 restarts a supervisor: OTP's window is a list, and a long one is slow (SUPERVISION R18)."""


class _Boom(Exception):
    pass


class _Crasher:
    """Crashes as soon as it is ready, `RESTARTS` times; then it stops the tree."""

    def __init__(self, left: list[int], stop: trio.Event) -> None:
        self.left, self.stop = left, stop

    async def run(self, ctx: ActorContext) -> None:
        ctx.ready()
        self.left[0] -= 1
        if self.left[0] > 0:
            raise _Boom
        self.stop.set()
        await ctx.drain_requested.wait()


class _Sleeper:
    async def run(self, ctx: ActorContext) -> None:
        ctx.ready()
        await ctx.drain_requested.wait()


class _Last(_Sleeper):
    def __init__(self, stop: trio.Event) -> None:
        self.stop = stop

    async def run(self, ctx: ActorContext) -> None:
        self.stop.set()
        await super().run(ctx)


async def _tree(children: tuple[ChildSpec, ...], stop: trio.Event) -> None:
    seams = Seams(clock=SystemClock(), entropy=SeededEntropy(1), offload=offload_inline, board=Board())
    budget = RestartIntensity(restarts_max=10**6, period_s=1.0)
    spec = SupervisorSpec("root", Strategy.ONE_FOR_ONE, children, budget)
    await run_tree(spec, seams=seams, stop=stop, report=lambda event: None)


async def _our_restarts() -> None:
    left, stop = [RESTARTS], trio.Event()
    await _tree((ChildSpec("a", lambda: _Crasher(left, stop)),), stop)


async def _bare_restarts() -> None:
    """One task a life, start handshake, crash caught at the boundary, the next life from a loop that is told."""
    send, receive = trio.open_memory_channel[None](1)

    async def life(task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        raise _Boom

    async def boundary(*, task_status: trio.TaskStatus[None]) -> None:
        try:
            with trio.CancelScope():
                await life(task_status)
        except _Boom:
            send.send_nowait(None)

    async with trio.open_nursery() as nursery:
        for _ in range(RESTARTS):
            await nursery.start(boundary)
            await receive.receive()


async def _our_starts() -> None:
    """Start and stop; the grace of 0 makes the stop the cancellation that the bare nursery does."""
    stop = trio.Event()
    many = tuple(ChildSpec(f"c{n}", _Sleeper, shutdown_grace_s=0) for n in range(CHILDREN))
    await _tree((*many, ChildSpec("last", lambda: _Last(stop))), stop)


async def _bare_starts() -> None:
    """Each with its own scope and start handshake, ended one by one in reverse order."""

    async def life(scope: trio.CancelScope, done: trio.Event, *, task_status: trio.TaskStatus[None]) -> None:
        with scope:
            task_status.started()
            await trio.sleep_forever()
        done.set()

    lives = [(trio.CancelScope(), trio.Event()) for _ in range(CHILDREN)]
    async with trio.open_nursery() as nursery:
        for scope, done in lives:
            await nursery.start(life, scope, done)
        for scope, done in reversed(lives):
            scope.cancel()
            await done.wait()


def _per_s(count: int, run: Callable[[], Awaitable[None]]) -> float:
    started = time.process_time()
    trio.run(run)
    return count / (time.process_time() - started)


def _figure(name: str, count: int, ours: Callable[[], Awaitable[None]], bare: Callable[[], Awaitable[None]]) -> Figure:
    """Medians of runs in turn."""
    pairs = [(_per_s(count, ours), _per_s(count, bare)) for _ in range(ROUNDS)]
    return Figure(
        name=name,
        value=statistics.median(a for a, _ in pairs),
        unit="/s",
        anchor="bare Trio nursery",
        anchor_value=statistics.median(b for _, b in pairs),
    )


def _otp_restarts_per_s() -> float | None:
    if shutil.which("escript") is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "b.escript"
        script.write_text("#!/usr/bin/env escript\n" + _OTP)
        command = ["escript", str(script), "90000"]
        return float(subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout)


def figures() -> Iterator[Figure]:
    """Restart and start rates; goal: at least 0.7 of the bare nursery."""
    restarts = _figure("supervision_restarts", RESTARTS, _our_restarts, _bare_restarts)
    yield restarts
    yield _figure("supervision_starts_and_stops", CHILDREN, _our_starts, _bare_starts)
    otp = _otp_restarts_per_s()
    if otp is None:
        print("NOT COVERED: restarts beside OTP's, because escript (Debian: erlang-base) is not installed")
    else:
        yield attrs.evolve(restarts, name="supervision_restarts_beside_otp", anchor="OTP", anchor_value=otp)
