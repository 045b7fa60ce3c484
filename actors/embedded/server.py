"""One embedded server as a supervised operating-system process.

The process runs in a session of its own and survives a kill -9 of the pipeline; the next life adopts exactly it (pid,
start time, boot) when it answers and is configured as wanted, and stops exactly it otherwise. A server that ends or
hangs is an outage of the dependency `embedded.NAME`: DOWN is on the board before this actor ends with NotConnected,
and the supervisor starts it anew under backoff.
"""

from __future__ import annotations

import contextlib
import math
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import attrs
import trio

from actors.embedded import process
from actors.embedded.endpoints import EndpointsFile
from actors.embedded.record import ServerRecord, Takeover, decide, fingerprint_of, load_record, save_record
from actors.embedded.spec import EmbeddedHome, ServerSpec, child_environment
from runtime.actor import ActorContext
from runtime.board import DependencyState
from runtime.errors import ConfigError, HoldfastError, NotConnected

LOG_TAIL_BYTES = 2000
EX_CONFIG = 78


@attrs.frozen(kw_only=True)
class Ending:
    """The server is over, and nobody asked for it."""

    reason: str
    error: type[HoldfastError] = NotConnected
    """ConfigError when its exit code says that a person must mend something."""


@attrs.frozen(kw_only=True)
class ProbePlan:
    """How often to ask, and how much silence is an outage."""

    first_every_s: float = 0.1
    """Until it answers."""
    every_s: float = 1.0
    timeout_s: float = 5.0
    failures_max: int = 6
    """Probes in a row that may fail before the server counts as hung and is stopped (with time-outs: 36 s)."""
    adopt_patience_s: float = 10.0
    """How long a process that a former life left may take to answer before it is replaced."""
    settle_s: float = 10.0
    """How long the helpers of a killed server may take to end."""
    log_bytes_max: int = 16 * 1024 * 1024
    """The server's log starts anew beyond this."""


@attrs.frozen(kw_only=True)
class EmbeddedServer:
    """Keeps one server running while the actor runs; stops it when the actor is stopped."""

    spec: ServerSpec
    home: EmbeddedHome
    endpoints: EndpointsFile
    plan: ProbePlan = ProbePlan()

    async def run(self, ctx: ActorContext) -> None:
        """Adopt or start, probe for ever, stop when asked.

        Raises: ConfigError (a person must mend it), NotConnected (it ended, hangs or cannot start now).
        """
        try:
            await ctx.offload(self._check)
        except NotConnected as exc:
            ctx.ready()  # an outage like any other, under backoff: only a ConfigError refuses the start
            self._down(ctx, str(exc))
            raise
        ctx.ready()
        self._down(ctx, "starting")
        try:
            ending = await self._live(ctx)
        except (NotConnected, ConfigError) as exc:
            self._down(ctx, str(exc))
            raise
        finally:
            if trio.current_effective_deadline() == -math.inf:  # cancelled: the ordered stop's second rung
                with ctx.shielded(self._stop_bound_s):
                    self._down(ctx, await self._stop_recorded(ctx))
        if ending is None:
            self._down(ctx, await self._stop_recorded(ctx))
            return
        self._down(ctx, ending.reason)
        await self._stop_recorded(ctx)
        raise ending.error(f"embedded {self.spec.name}: {ending.reason}")

    async def _live(self, ctx: ActorContext) -> Ending | None:
        """From adoption or start to the end of the process; None when the end was ordered."""
        port, who = await self._adopt_or_start(ctx)
        return await _first_of(
            ctx.drain_requested.wait, lambda: self._until_exit(who), lambda: self._until_hung(ctx, port, who)
        )

    @property
    def _stop_bound_s(self) -> float:
        return self.spec.stop_grace_s + 15.0

    def _check(self) -> None:
        try:
            self.home.make()
        except OSError as exc:
            raise ConfigError(f"{self.home.folder}: cannot be made: {exc.strerror}") from exc
        self.spec.check()

    # Start or adopt

    async def _adopt_or_start(self, ctx: ActorContext) -> tuple[int, process.ProcessId]:
        """Settle what a former life left, then have exactly one process that is ours."""
        record = await ctx.offload(lambda: load_record(self.home.record(self.spec.name)))
        old = None if record is None else record.process
        alive = old is not None and process.is_alive(old)
        healthy = record is not None and alive and await self._answers(record.port)
        wanted = await ctx.offload(lambda: self._fingerprint(record.port if record is not None else 0))
        verdict = decide(record, alive=alive, healthy=healthy, fingerprint=wanted)
        ctx.log.info("embedded server", server=self.spec.name, verdict=verdict.value)
        if verdict is Takeover.ADOPT and record is not None and old is not None:
            return record.port, old
        if verdict is Takeover.REPLACE:
            await self._stop_recorded(ctx)
        await self._prepare(ctx)
        return await ctx.offload(lambda: self._start(record.port if record is not None else 0))

    async def _prepare(self, ctx: ActorContext) -> None:
        """A killed server's helpers need a moment to end, so "not now" is asked again for a while."""
        give_up_s = trio.current_time() + self.plan.settle_s
        while True:
            try:
                return await ctx.offload(lambda: self.spec.prepare(ctx.entropy))
            except NotConnected as exc:
                if trio.current_time() > give_up_s:
                    raise
                self._down(ctx, str(exc))
            await trio.sleep(self.plan.first_every_s)

    async def _answers(self, port: int) -> bool:
        with trio.move_on_after(self.plan.adopt_patience_s):
            while True:
                try:
                    await self.spec.probe(port, timeout_s=self.plan.adopt_patience_s)
                except NotConnected:
                    await trio.sleep(self.plan.first_every_s)
                else:
                    return True
        return False

    def _fingerprint(self, port: int) -> str:
        extra = [f"{name}={value}" for name, value in sorted(self.spec.env().items())]
        return fingerprint_of([*self.spec.argv(port), *extra, self.spec.version()])

    def _start(self, port_before: int) -> tuple[int, process.ProcessId]:
        """Blocking and in one piece, so that no cancel falls between the start and its record."""
        port = choose_port(port_before)
        log_path = self.home.log(self.spec.name)
        if log_path.exists():
            log_path.replace(log_path.with_suffix(".log.1"))
        try:
            spawned = process.spawn(self.spec.argv(port), env=child_environment(self.spec.env()), log_path=log_path)
        except OSError as exc:
            raise NotConnected(f"embedded {self.spec.name}: cannot start a process: {exc}") from exc
        try:
            record = ServerRecord(port=port, fingerprint=self._fingerprint(port), process=spawned.who)
            save_record(self.home.record(self.spec.name), record)
        except OSError as exc:
            spawned.abort()
            raise NotConnected(f"{self.home.record(self.spec.name)}: {exc}") from exc
        spawned.release()
        return port, spawned.who

    # Watch

    async def _until_exit(self, who: process.ProcessId) -> Ending:
        code = await process.wait_exit(who)
        how = "" if code is None else f" with signal {-code}" if code < 0 else f" with exit code {code}"
        reason = f"process {who.pid} ended{how}{last_words(self.home.log(self.spec.name))}"
        return Ending(reason=reason, error=ConfigError if code == EX_CONFIG else NotConnected)

    async def _until_hung(self, ctx: ActorContext, port: int, who: process.ProcessId) -> Ending:
        """Probe for ever; returns the reason when the silence is too long."""
        first_by_s = trio.current_time() + self.spec.start_patience_s
        served, failures = False, 0
        while True:
            try:
                await self.spec.probe(port, timeout_s=self.plan.timeout_s)
            except NotConnected as exc:
                failures += 1
                self._down(ctx, str(exc))
                if failures >= self.plan.failures_max if served else trio.current_time() > first_by_s:
                    return Ending(reason=f"process {who.pid} does not answer: {exc}")
            else:
                if not served:
                    ctx.log.info("embedded server answers", server=self.spec.name, port=port, pid=who.pid)
                served, failures = True, 0
                self._up(ctx, port)  # also writes down what other actors put on the board since
            ctx.progress()
            await ctx.offload(self._bound_log)
            await trio.sleep(self.plan.every_s if served else self.plan.first_every_s)

    def _bound_log(self) -> None:
        """Empty the log beyond its bound; the server appends, so it goes on at the new beginning."""
        path = self.home.log(self.spec.name)
        if path.exists() and path.stat().st_size > self.plan.log_bytes_max:
            path.write_bytes(b"")

    # Publish

    def _up(self, ctx: ActorContext, port: int) -> None:
        ctx.board.dependency(f"embedded.{self.spec.name}", DependencyState.UP, now_ns=ctx.clock.wall_ns())
        self.endpoints.put(ctx.board, self.spec.endpoint, self.spec.url(port))

    def _down(self, ctx: ActorContext, reason: str) -> None:
        ctx.board.dependency(
            f"embedded.{self.spec.name}", DependencyState.DOWN, reason=reason, now_ns=ctx.clock.wall_ns()
        )

    async def _stop_recorded(self, ctx: ActorContext) -> str:
        """Stop exactly the recorded process, if it lives, and remember only its port; says how it went.

        Ends by itself within the grace and the time that SIGKILL is given.

        Raises: ConfigError when it belongs to another user, NotConnected when not even SIGKILL ends it.
        """
        self.endpoints.remove(ctx.board, self.spec.endpoint)
        path = self.home.record(self.spec.name)
        record = load_record(path)
        if record is None or record.process is None:
            return "was gone"
        try:
            how = await process.stop(
                record.process, signal_number=self.spec.stop_signal, grace_s=self.spec.stop_grace_s
            )
        except PermissionError as exc:
            raise ConfigError(
                f"process {record.process.pid} is this data directory's {self.spec.name} and belongs to another user: "
                "stop it as that user"
            ) from exc
        except trio.TooSlowError as exc:
            raise NotConnected(f"process {record.process.pid} does not even end on SIGKILL") from exc
        ctx.log.info("embedded server ended", server=self.spec.name, pid=record.process.pid, how=how)
        with contextlib.suppress(OSError):  # a full disk: the old record names a process that is provably gone
            save_record(path, attrs.evolve(record, process=None))
        return how


async def _first_of(*waits: Callable[[], Awaitable[Any]]) -> Ending | None:
    """Run all; what the first to end returned."""
    result: Ending | None = None

    async def race(wait: Callable[[], Awaitable[Any]]) -> None:
        nonlocal result
        result = await wait()
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for wait in waits:
            nursery.start_soon(race, wait)
    return result


def choose_port(before: int) -> int:
    """A free loopback port: the one of before if it is free, so that open notebooks find the server again."""
    for candidate in (before, 0) if before else (0,):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", candidate))
            except OSError:
                continue
            port: int = probe.getsockname()[1]
            return port
    raise NotConnected("no free port on 127.0.0.1")


def last_words(log_path: Path) -> str:
    """The last line of a server's log, for the reason why it ended."""
    try:
        with log_path.open("rb") as log:
            log.seek(max(0, log_path.stat().st_size - LOG_TAIL_BYTES))
            lines = log.read().decode("utf-8", "replace").strip().splitlines()
    except OSError:
        return ""
    return f"; its last words: {lines[-1][:300]}" if lines else ""
