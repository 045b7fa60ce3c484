"""After the fire: has everything converged, and is what readers see right?"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs
import trio

from runtime.board import Board
from tests.simulation.facts import missing_in
from tests.simulation.market import HOUR, MINUTE, NS

if TYPE_CHECKING:
    from tests.simulation.world import World

CONVERGE_S = 240.0
CALM_S = 7.0
"""Longer than anything that waits for company: then nothing more comes while the vendor's clock stands."""
SETTLE_NS = 5 * NS
MARGIN_NS = 2 * MINUTE
"""The newest minutes are nobody's yet: history waits some seconds, a session begins with a full minute."""
LIVE_S = 4.0
"""So long the stream runs after the fire, before it is held for a look."""


@attrs.define(eq=False)
class Verdict:
    """One per run."""

    world: World
    _calm: tuple[int, float] = (0, 0.0)
    """(end of the log, since when)."""

    async def history(self) -> None:
        """Nothing but history: all is there."""
        await self._until(self._at_rest, "not converged")
        world, draw = self.world, self.world.draw
        to_ns = draw.to_ns
        if draw.follows:
            now_ns = world.clock.wall_ns() - SETTLE_NS
            to_ns = now_ns - now_ns % MINUTE - MINUTE
        self._judge(to_ns)

    async def live(self) -> None:
        """Twice the vendor's clock is held, so that the log comes to rest: soon after the fire, before anything of it is
        confirmed; and when the hour is over, settled and confirmed."""
        world, draw, stream = self.world, self.world.draw, self.world.stream
        assert draw.live is not None
        assert stream is not None
        await trio.sleep(LIVE_S)
        held_ns = await self._rest()
        self._judge(held_ns)
        stream.turn(stands=False)
        if draw.live.backlog_s and draw.dead_sink != "timescale":
            await self._backlog(draw.live.backlog_s)
        border_ns = draw.live.border_ns if draw.live.confirm else held_ns
        await self._until(lambda: self._is_settled(border_ns), "not confirmed")
        self._judge(await self._rest())
        rows = world.databases["timescale"]
        if draw.live.confirm and draw.dead_sink != "timescale":
            wanted = dict.fromkeys(draw.symbols, (draw.from_ns, border_ns))
            world.oracle.confirmed(rows, wanted, world.refused)
            world.trace.reached["confirmed"] += 1

    async def _backlog(self, down_s: float) -> None:
        """The row store is down while the stream goes on, an hour ends and somebody orders the minutes that wait for it: when
        it is back, slices stand in the history lane behind live rows that they replace."""
        world = self.world
        faults = world.databases["timescale"].faults
        world.trace("timescale is down, in calm weather", reached="slices over a backlog")
        faults.down = True
        from_ns = world.now_ns() // MINUTE * MINUTE
        await trio.sleep(down_s / 2)
        to_ns = max(world.now_ns() // MINUTE * MINUTE, from_ns + MINUTE)
        for symbol in world.draw.symbols:
            await world.submit(symbol, from_ns, to_ns)
        await trio.sleep(down_s / 2)
        faults.down = False

    async def _rest(self) -> int:
        """The vendor's clock stands until nothing comes any more. Up to where all should be known."""
        stream = self.world.stream
        assert stream is not None
        stream.turn(stands=True)
        self._calm = (-1, 0.0)
        await self._until(self._is_calm, "not at rest")
        self.world.trace(f"held at {self.world.minute(stream.clock.now_ns())}", reached="held")
        return self._held_ns()

    async def _until(self, reached: Callable[[], bool], otherwise: str) -> None:
        with trio.move_on_after(CONVERGE_S) as limit:
            while not reached():  # noqa: ASYNC110
                await trio.sleep(0.25)
        if limit.cancelled_caught:
            self.world.fails(f"L1: {otherwise} after {CONVERGE_S} s: {self._state()}")

    # --- rest

    def _at_rest(self) -> bool:
        """All is computed, stored, verified, and no job is left, as far as it can be."""
        world, process = self.world, self.world.process
        board = process.board if process is not None else None
        if board is None or process is None or process.parts is None or board.log is None or self._jobs_left():
            return False
        if world.forgot - {world.draw.dead_sink}:
            return False
        if not board.jobs_idle and not self._only_refused_left(board):
            return False
        end = process.parts.log.end_position
        names = {"aggregator", *(f"bridge.{name}" for name in world.databases if name != world.draw.dead_sink)}
        return all(name in board.consumers and board.consumers[name].verified_position >= end for name in names)

    def _jobs_left(self) -> bool:
        """A job that reaches beyond now waits for its end, that of its hour if the time was not known when it came."""
        jobs = self.world.jobs.jobs
        if self.world.stream is None:
            return bool(jobs)
        hour_ns = self._held_ns() // HOUR * HOUR
        return any(job.to_ns <= hour_ns for job in jobs)

    def _only_refused_left(self, board: Board) -> bool:
        return bool(self.world.refused) and all(j.finished or j.error for j in board.jobs.values())

    def _is_calm(self) -> bool:
        """At rest, a session is up, and nothing has come for a while."""
        now_s, end, stream = trio.current_time(), self.world.ledger.end, self.world.stream
        assert stream is not None
        if not self._at_rest() or end != self._calm[0] or stream.streamed() < set(self.world.draw.symbols):
            self._calm = (end, now_s)
        return now_s - self._calm[1] >= CALM_S

    def _is_settled(self, border_ns: int) -> bool:
        """The hour is over, has settled and is confirmed."""
        live, stream = self.world.draw.live, self.world.stream
        assert live is not None
        assert stream is not None
        if stream.clock.now_ns() < border_ns + live.settle_s * NS:
            return False
        if not live.confirm:
            return True
        inside = set(range(self.world.draw.from_ns // MINUTE, border_ns // MINUTE))
        known = self.world.ledger.facts
        return all(s in self.world.refused or inside <= known.of(s).final for s in self.world.draw.symbols)

    def _held_ns(self) -> int:
        stream = self.world.stream
        assert stream is not None
        now_ns = stream.clock.now_ns() - MARGIN_NS
        return max(now_ns - now_ns % MINUTE, self.world.draw.from_ns)

    def _state(self) -> str:
        world, process = self.world, self.world.process
        board = process.board if process is not None else None
        if board is None:
            return "no process runs"
        consumers = {name: (c.committed_position, c.verified_position) for name, c in sorted(board.consumers.items())}
        down = {name: d.reason for name, d in board.dependencies.items() if d.reason}
        jobs = {name: j.error for name, j in board.jobs.items() if not j.finished}
        open_ = ""
        if world.draw.live is not None:
            inside = range(world.draw.from_ns // MINUTE, world.draw.live.border_ns // MINUTE)
            facts = {s: world.ledger.facts.of(s) for s in world.draw.symbols}
            lacking = {s: (len(set(inside) - m.final), missing_in(m, inside)[:3]) for s, m in facts.items()}
            open_ = f", not final and missing {lacking}, clock {board.market_clock}, streamed {world.stream.streamed()}"  # type: ignore[union-attr]
        return f"log {board.log}, idle {board.jobs_idle}, consumers {consumers}, down {down}, jobs {jobs}{open_}"

    # --- right?

    def _judge(self, to_ns: int) -> None:
        world, draw = self.world, self.world.draw
        wanted = dict.fromkeys(draw.symbols, (draw.from_ns, to_ns))
        rows, keys = world.databases["timescale"], world.databases["clickhouse"]
        alive = {name for name in world.databases if name != draw.dead_sink}
        if "timescale" in alive:
            world.oracle.look_at_ticks(rows, world.log_id)
            world.oracle.final_ticks(rows, wanted, world.refused)
            marks = rows.state.marks.get(world.log_id, {})
            ends = {p: world.ledger.frames(p) for p in range(world.ledger.partitions_total) if world.ledger.frames(p)}
            if {p: m for p, m in marks.items() if m} != ends:
                world.fails(f"S2: marks {marks}, the log ends at {ends}")
            self._judge_stream(to_ns)
        if alive == {"timescale", "clickhouse"}:
            world.candles.final(rows, keys)
        if "clickhouse" in alive:
            world.candles.look_at_cursor(
                keys, {p: world.ledger.frames(p) for p in range(world.ledger.partitions_total)}
            )

    def _judge_stream(self, to_ns: int) -> None:
        stream = self.world.stream
        for connection in stream.connections if stream is not None else ():
            if not connection.ended and not connection.fence.dead:
                for symbol, sent in connection.sent.items():
                    self.world.oracle.arrived(self.world.databases["timescale"], symbol, sent, to_ns)
