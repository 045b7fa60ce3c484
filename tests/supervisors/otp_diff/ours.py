"""The same scenarios on our engine, additions off, virtual time; the same words for what happened."""

from __future__ import annotations

from collections import Counter
from functools import partial

import trio
import trio.testing

from runtime.actor import Actor, ActorContext, Seams, offload_inline
from runtime.board import Board
from runtime.clock import VirtualClock
from runtime.entropy import SeededEntropy
from runtime.errors import AdminRefused, RestartIntensityExceeded, Shutdown, StartFailed
from supervisors.engine.admin import Admin, Presence
from supervisors.engine.child import AutoShutdown, ChildSpec, Restart, RestartIntensity, Strategy, SupervisorSpec
from supervisors.engine.run import run_tree
from tests.supervisors.otp_diff.scenario import PERIOD_S, Scenario, Sup, Worker


class _Boom(Exception):
    pass


class _Run:
    def __init__(self) -> None:
        self.events: list[str] = []
        self.fails: Counter[str] = Counter()
        self.ignores: Counter[str] = Counter()
        self.inboxes: dict[str, trio.MemorySendChannel[str]] = {}
        self.paths: dict[str, str] = {}
        self.admin = Admin()

    def spec(self, node: Worker | Sup, parent: str = "") -> ChildSpec | SupervisorSpec:
        path = f"{parent}/{node.id}" if parent else node.id
        if isinstance(node, Worker):
            return ChildSpec(
                node.id,
                partial(self.start, node.id),
                restart=Restart(node.restart),
                significant=node.significant,
            )
        self.paths[node.id] = path
        return SupervisorSpec(
            node.id,
            Strategy(node.strategy),
            tuple(self.spec(c, path) for c in node.children),
            RestartIntensity(restarts_max=node.intensity, period_s=PERIOD_S),
            auto_shutdown=AutoShutdown(node.auto_shutdown),
            restart=Restart(node.restart),
            significant=node.significant,
        )

    def start(self, name: str) -> Actor | None:
        fails, ignores = self.fails[name] > 0, self.ignores[name] > 0
        self.fails[name] -= fails
        self.ignores[name] -= ignores
        if fails:
            self.events.append(f"!{name}")
            raise _Boom
        if ignores:
            self.events.append(f"~{name}")
            return None
        self.events.append(f"+{name}")
        return _Worker(self, name)

    async def shape(self, path: str) -> str:
        parts = []
        try:
            children = await self.admin.which_children(path)
        except AdminRefused:
            return "gone"
        for child in reversed(children):
            if child.presence is not Presence.RUNNING:
                parts.append(f"{child.id}:{child.presence}")
            elif child.is_supervisor:
                parts.append(f"{child.id}({await self.shape(f'{path}/{child.id}')})")
            else:
                parts.append(child.id)
        return ",".join(parts)

    async def step(self, step: tuple) -> None:
        match step:
            case ("exit", name, reason):
                if name in self.inboxes:
                    self.inboxes[name].send_nowait(reason)
            case ("wait", milliseconds):
                await trio.sleep(milliseconds / 1000)
            case ("fail", name, times):
                self.fails[name] = times
            case ("ignore", name, times):
                self.ignores[name] = times
            case (verb, home, child):
                self.events.append("=" + await self.call(verb, self.paths[home], child))

    async def call(self, verb: str, path: str, child: str | Worker) -> str:
        admin = self.admin
        try:
            match verb:
                case "terminate":
                    await admin.terminate_child(path, child)
                case "delete":
                    await admin.delete_child(path, child)
                case "restart":
                    return "ok" if await admin.restart_child(path, child) else "ignored"
                case "start":
                    return "ok" if await admin.start_child(path, self.spec(child)) else "ignored"
        except AdminRefused as refused:
            return refused.code
        except StartFailed:
            return "start_failed"
        return "ok"

    async def tree(self, spec: SupervisorSpec, seams: Seams, stop: trio.Event, over: trio.Event) -> None:
        try:
            await run_tree(spec, seams=seams, stop=stop, report=lambda event: None, admin=self.admin)
            self.events.append("stopped" if stop.is_set() else "root_down")
        except RestartIntensityExceeded:
            self.events.append("root_down")
        except StartFailed:
            self.events.append("start_failed")
        over.set()


class _Worker:
    def __init__(self, run: _Run, name: str) -> None:
        self.owner = run
        self.name = name

    async def run(self, ctx: ActorContext) -> None:
        send, receive = trio.open_memory_channel[str](1)
        self.owner.inboxes[self.name] = send
        try:
            ctx.ready()
            reason = ""
            async with trio.open_nursery() as nursery:

                async def drain() -> None:
                    await ctx.drain_requested.wait()
                    nursery.cancel_scope.cancel()

                nursery.start_soon(drain)
                reason = await receive.receive()
                nursery.cancel_scope.cancel()
        finally:
            del self.owner.inboxes[self.name]
            self.owner.events.append(f"-{self.name}")
        match reason:
            case "crash":
                raise _Boom
            case "shutdown" | "{shutdown,t}":
                raise Shutdown("t")


async def run_scenario(scenario: Scenario) -> str:
    """The events of one scenario, like the escript's line without its number."""
    run = _Run()
    seams = Seams(
        clock=VirtualClock(10**18), entropy=SeededEntropy(scenario.number), offload=offload_inline, board=Board()
    )
    stop, over = trio.Event(), trio.Event()
    steps = list(scenario.steps)
    while steps and steps[0][0] in ("fail", "ignore"):
        await run.step(steps.pop(0))
    spec = run.spec(scenario.tree)
    assert isinstance(spec, SupervisorSpec)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run.tree, spec, seams, stop, over)
        await trio.testing.wait_all_tasks_blocked()
        for step in [None, *steps]:
            if step is not None and not over.is_set():
                await run.step(step)
                await trio.testing.wait_all_tasks_blocked()
            if not over.is_set():
                run.events.append(f"[{await run.shape('root')}]")
        stop.set()
    return " ".join(run.events)


def run_all(scenarios: list[Scenario]) -> dict[int, str]:
    """All of them, one after the other in one Trio run."""

    async def main() -> dict[int, str]:
        return {s.number: await run_scenario(s) for s in scenarios}

    return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
