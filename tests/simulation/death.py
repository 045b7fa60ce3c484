"""How processes end: kill -9 and power cuts, between two steps or inside of a disk operation; and that it is the end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from tests.simulation.process import Process
    from tests.simulation.world import World


@attrs.define(eq=False)
class Death:
    """One per run; outlives processes."""

    world: World
    _power: str = ""
    _at_death: Any = None

    def ended(self, process: Process) -> None:
        """Its last task is gone."""
        if not process.fence.dead:  # it ended by itself: whatever it still holds is gone
            process.fence.dead = True
            self.world.disk.kill()
            self._remember()
        elif self._power:
            self._cut(self._power)

    def forget(self) -> None:
        """Nobody has been looking at the world."""
        self._at_death = None

    def dies(self, how: str) -> None:
        """kill -9 or a power cut, between two steps of any task."""
        process = self.world.process
        if process is None or process.fence.dead or not self.world.on_fire:
            return
        self.world.trace(f"dies: {how}", reached=f"process dies: {how}")
        self._fence_off(process)
        self._cut(how)

    def dies_in_disk(self, op: str, path: Path) -> None:
        """The process ends inside of an operation; the disk is sorted out once its stack is gone."""
        process = self.world.process
        if process is None or process.fence.dead:
            return
        how = self.world.rng("disk").choice(("kill", "power", "power"))
        self.world.trace(f"dies: {how} in {op} {path.name}", reached=f"process dies in {op}")
        self._power = how
        self._fence_off(process)

    def _fence_off(self, process: Process) -> None:
        process.fence.dead = True
        process.died.set()
        if not self._power:
            self._remember()

    def _cut(self, how: str) -> None:
        self._power = ""
        if how == "power":
            self.world.disk.crash()
        else:
            self.world.disk.kill()
        self._remember()

    def _remember(self) -> None:
        self._at_death = self.world.disk.operations, {name: id(d.state) for name, d in self.world.databases.items()}

    def look_that_the_dead_had_no_effect(self) -> None:
        """S10."""
        if self._at_death is None:
            return
        operations, states = self._at_death
        if self.world.disk.operations != operations:
            self.world.fails("S10: the disk was touched by a process that is gone")
        for name, database in self.world.databases.items():
            if id(database.state) != states[name] and name not in self.world.forgot:
                self.world.fails(f"S10: {name} was changed by a process that is gone")
