"""The faults: one task per class, each with its rate from the seed, until the fire is over."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import trio

from actors.bridge.memory_db import State
from actors.downloader.jobs import BackfillJob
from tests.simulation.market import HOUR, MINUTE, NS, kind_of
from tests.simulation.stream_chaos import StreamChaos

if TYPE_CHECKING:
    from tests.simulation.world import World

SINKS = ("timescale", "clickhouse")
ACTORS = ("buffer", "bridge.timescale", "bridge.clickhouse", "aggregator", "downloader.history")


class Chaos:
    """Owned by the world; draws from its own generator, so that a class that is off changes no other one much."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.rng = world.rng("chaos")

    async def rage(self) -> None:
        """All classes side by side. Cancelled at the end of the fire."""
        world = self.world
        classes: dict[str, Callable[[], Awaitable[None]]] = {
            "kill": self._kill,
            "power": self._power,
            "disk_death": self._disk_death,
            "restart": self._restart,
            "actor": self._actor,
            "bug_in_disk": self._bug_in_disk,
            "down": self._down,
            "answer_lost": self._answer_lost,
            "mid_write": self._mid_write,
            "poison": self._poison,
            "forgot": self._forgot,
            "full": self._full,
            "short": self._short,
            "sync": self._sync,
            "vendor_down": self._vendor_down,
            "refetch": self._refetch,
            "changed": self._changed,
            "jump": self._jump,
        }
        if world.stream is not None:
            classes |= StreamChaos(world, world.stream).classes()
        async with trio.open_nursery() as nursery:
            for name, strike in classes.items():
                if world.draw.rates[name] > 0:
                    nursery.start_soon(self._again_and_again, name, strike)

    async def _again_and_again(self, name: str, strike: Callable[[], Awaitable[None]]) -> None:
        rng = self.world.rng(f"chaos/{name}")
        while True:
            await trio.sleep(rng.expovariate(self.world.draw.rates[name]))
            await strike()

    def heal(self) -> None:
        """Everything works again, but for the sink that is dead for good."""
        world = self.world
        world.disk.capacity_bytes = None
        world.disk._faults.clear()
        world.disk._crash_at = world.disk.die_at = None
        world.disk.bug_after = None
        world.vendor_is_down = False
        world.step_trap = None
        world.clock.jump_ns = 0
        if world.stream is not None:
            world.stream.heal()
        for name, database in world.databases.items():
            faults = database.faults
            faults.times_answer_lost = faults.times_crash_in_write = 0
            faults.poison_symbol = ""
            faults.down = name == world.draw.dead_sink

    # --- the process

    async def _kill(self) -> None:
        self._at_some_step(lambda: self.world.death.dies("kill"))

    async def _power(self) -> None:
        self._at_some_step(lambda: self.world.death.dies("power"))

    def _at_some_step(self, strike: Callable[[], None]) -> None:
        """At the n-th step of any task from now: any await of anybody."""
        world = self.world
        world.step_trap = (world.steps + self.rng.choice((0, 1, 7, 60, 400)) + self.rng.randrange(9), strike)

    async def _disk_death(self) -> None:
        if self.rng.random() < 0.7:  # inside of a commit, where it hurts
            self.world.disk.die_at = (self.rng.choice(("write", "write", "sync")), self.rng.randrange(3), ".seg")
        else:
            self.world.disk.crash_after(self.rng.randrange(40))

    async def _restart(self) -> None:
        if self.world.process is not None:
            self.world.trace("asked to stop", reached="ordered stop")
            self.world.process.stop.set()
            await trio.sleep(self.rng.random() * 5)

    async def _actor(self) -> None:
        live = ("downloader.live", "buffer") if self.world.stream is not None else ()
        actor = self.rng.choice((*ACTORS, *live))
        self._at_some_step(lambda: self.world.crash_actor(actor))

    async def _bug_in_disk(self) -> None:
        self.world.disk.bug_after = self.rng.randrange(30)

    # --- the disk

    async def _full(self) -> None:
        disk = self.world.disk
        disk.capacity_bytes = disk._used() + self.rng.choice((0, 2_000, 20_000))
        self.world.trace("disk is filling", reached="disk: full for a while")
        await trio.sleep(0.5 + 6 * self.rng.random())
        disk.capacity_bytes = None

    async def _short(self) -> None:
        self.world.disk.fail(
            "short write", suffix=self.rng.choice((".seg", ".seg.new", "")), after=self.rng.randrange(3)
        )

    async def _sync(self) -> None:
        suffix = self.rng.choice(("", ".seg", ".seg.new", "checkpoint.json.tmp"))
        self.world.disk.fail("sync", errno.EIO, suffix=suffix, after=self.rng.randrange(4))

    # --- the sinks

    def _sink(self) -> str:
        return self.rng.choice(SINKS)

    async def _down(self) -> None:
        name = self._sink()
        faults = self.world.databases[name].faults
        if faults.down:
            return
        self.world.trace(f"{name} is down", reached=f"{name} down")
        faults.down = True
        await trio.sleep(0.2 + 8 * self.rng.random() ** 2)
        faults.down = False

    async def _answer_lost(self) -> None:
        self.world.databases[self._sink()].faults.times_answer_lost += self.rng.choice((1, 1, 3))

    async def _mid_write(self) -> None:
        self.world.databases[self._sink()].faults.times_crash_in_write += self.rng.choice((1, 1, 3))

    async def _poison(self) -> None:
        name = self._sink()
        faults = self.world.databases[name].faults
        faults.poison_symbol = self.rng.choice(self.world.draw.symbols)
        self.world.trace(f"{name} refuses {faults.poison_symbol}", reached="sink refuses rows")
        await trio.sleep(0.5 + 5 * self.rng.random())
        faults.poison_symbol = ""

    async def _forgot(self) -> None:
        """The row store comes back from a backup, the key store as an empty new server; connections break."""
        name, world = self._sink(), self.world
        database = world.databases[name]
        if database.faults.down:
            return
        database.faults.down = True
        await trio.sleep(0.3)
        if name in world.connections:
            world.connections[name]._broken = True  # to a server that is no more
        if name == "timescale":
            database.state = self.rng.choice(world.backups)
        else:
            database.state, database.log_ids = State(), []
        world.forgot.add(name)
        world.trace(f"{name} forgot", reached=f"{name} forgot")
        await trio.sleep(1.0)
        database.faults.down = False

    # --- the vendor, and what is asked of it

    async def _vendor_down(self) -> None:
        self.world.vendor_is_down = True
        self.world.trace("vendor is down", reached="vendor down")
        await trio.sleep(0.2 + 10 * self.rng.random() ** 2)
        self.world.vendor_is_down = False

    async def _refetch(self) -> None:
        symbol = self.rng.choice(self.world.draw.symbols)
        from_ns, to_ns = self._interval()
        await self.world.submit(symbol, from_ns, to_ns)

    async def _changed(self) -> None:
        """The vendor corrects an interval, and somebody orders it anew."""
        symbol = self.rng.choice(self.world.draw.symbols)
        from_ns, to_ns = self._interval()
        if len(self.world.market.versions[symbol]) < 8:
            self.world.market.change(symbol, from_ns, to_ns)
            self.world.trace(
                f"vendor changes {symbol} [{self.world.minute(from_ns)}, {self.world.minute(to_ns)})",
                reached="changed data",
            )
            await self.world.submit(symbol, from_ns, to_ns)

    def _interval(self) -> tuple[int, int]:
        draw = self.world.draw
        to_ns = draw.to_ns if draw.live is None else self.world.now_ns()
        minutes = (to_ns - draw.from_ns) // MINUTE
        from_ns = draw.from_ns + self.rng.randrange(minutes) * MINUTE
        length = self.rng.choice((1, 7, 60, 130))
        return from_ns, min(from_ns + length * MINUTE, to_ns)

    # --- time

    async def _jump(self) -> None:
        """Somebody sets the wall clock. Forward only where no history follows it: with a stream it follows the vendor's."""
        behind = self.world.draw.follows and self.world.stream is None
        steps = (-HOUR, -2 * MINUTE, -1 * NS) if behind else (-HOUR, -1 * NS, 1 * NS, 3 * HOUR)
        self.world.clock.jump_ns = self.rng.choice((0, *steps))
        self.world.trace(f"wall clock off by {self.world.clock.jump_ns / NS:.0f} s", reached="wall clock jumped")


def backfill(job_id: str, symbol: str, from_ns: int, to_ns: int) -> BackfillJob:
    """A refetch."""
    return BackfillJob(
        id=job_id, symbols=(symbol,), kinds=(kind_of(symbol),), from_ns=from_ns, to_ns=to_ns, refetch=True
    )
