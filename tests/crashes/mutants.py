"""Broken promises, to see that the proof can fail: planted by `tests.crashes.small_batches`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

MUTANTS: dict[str, Callable[[], None]] = {}


def mutant(plant: Callable[[], None]) -> Callable[[], None]:
    """Register under its name."""
    MUTANTS[plant.__name__.replace("_", "-")] = plant
    return plant


@mutant
def no_after_mark() -> None:
    """A slice over live rows does not say after which: it is applied early, and finds nothing to delete."""
    from actors.downloader.slices import Framed

    Framed.stamped = lambda self, after_offset: self.frames  # type: ignore[method-assign]


@mutant
def half_slices() -> None:
    """PostgreSQL: what a slice replaces is deleted in a transaction of its own, before its rows come."""
    from actors.bridge.pgsink import PostgresSink

    real = PostgresSink._apply

    async def apply(self: Any, batch: Any, decoded: Any, steps: Sequence[Any]) -> Any:
        for step in steps:
            async with self._writer.con.transaction():
                await self._delete(step.slices)
        if any(step.slices for step in steps):
            await asyncio.sleep(0.5)  # a reader that polls five times a second must have a chance
        return await real(self, batch, decoded, steps)

    PostgresSink._apply = apply  # type: ignore[method-assign]


@mutant
def no_confirmation() -> None:
    """Live rows are believed for good (`downloader.confirm = false`): a gap without a sign stays."""
