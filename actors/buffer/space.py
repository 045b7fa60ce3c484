"""The log's housekeeping beside its commits: next segment, trimming, the ladder of a filling disk, the board."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import attrs
import trio

from actors.buffer.ladder import FillRate, Level, Space, describe, judge
from actors.buffer.port import CommitLog
from runtime.actor import ActorContext
from runtime.board import LogState
from runtime.errors import LogFull, NotConnected
from runtime.log.losses import Lost
from runtime.log.recovery import Damage

UPKEEP_S = 1.0
"""How often the disk is looked at, and a failed allocation tried again."""


@attrs.frozen(kw_only=True)
class Keeping:
    """What the log is kept for."""

    retention_bytes: int = 20 << 30
    on_loss: Callable[[Damage, Lost], Awaitable[None]] | None = None
    """Asks for what is lost again. Raises NotConnected: later."""
    verified: Callable[[], int] = attrs.field(default=lambda: 0)
    """Blocking: the position below which every required consumer has verified, durably. Default: nothing is trimmed."""


@attrs.define(eq=False)
class SpaceWatch:
    """One per incarnation of the buffer. `run` is its task; the commit loop tells it what it met."""

    _log: CommitLog
    _keeping: Keeping
    _ctx: ActorContext
    _refused: str = ""
    _runway_failed: str = ""
    _verified: int = 0
    _damage_told: int = 0
    _level: Level = Level.FINE
    _warning: str = ""
    _left_s: float | None = None
    _rate: FillRate = attrs.field(factory=FillRate)
    _wake: trio.Event = attrs.field(factory=trio.Event)
    _limiter: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(1))

    async def run(self) -> None:
        """Until cancelled. Raises LogSyncFailed."""
        while True:
            await self._look()
            self._wake = trio.Event()
            with trio.move_on_after(UPKEEP_S):
                await self._wake.wait()

    def committed(self) -> None:
        """A commit succeeded."""
        self._refused = ""
        if self._log.upkeep_due and not self._runway_failed:
            self._wake.set()
        self.publish()

    def refused(self, reason: str) -> None:
        """A commit found no space."""
        self._refused = reason
        self._level, self._left_s = Level.FULL, 0.0
        self.publish()

    def publish(self) -> None:
        """The board's view of the log."""
        log = self._log
        self._ctx.board.log = LogState(
            log_id=log.log_id,
            end_position=log.end_position,
            bytes=log.bytes,
            segments=log.segments,
            records_accepted=log.records_accepted,
            seconds_until_loss=self._left_s,
            error=self._refused,
            warning=self._warning,
            runway_bytes=log.room_bytes,
            shed_backfill=self._warning if self._level >= Level.SHED else "",
        )

    async def _look(self) -> None:
        pressed = self._level >= Level.SHED
        self._verified = await self._ctx.offload(self._keeping.verified, limiter=self._limiter)
        try:
            verified = self._verified
            await self._ctx.offload(lambda: self._log.upkeep(verified=verified, pressed=pressed), limiter=self._limiter)
            self._runway_failed = ""
        except LogFull as exc:
            self._runway_failed = str(exc)
        await self._tell_damage()
        used, free = await self._ctx.offload(self._log.space, limiter=self._limiter)
        self._judge(used, free)
        self.publish()

    async def _tell_damage(self) -> None:
        """Exactly the damaged groups: named, put aside, asked for again."""
        for damage in tuple(self._log.damage[self._damage_told :]):
            lost = await self._ctx.offload(lambda one=damage: self._log.lost_of(one), limiter=self._limiter)  # type: ignore[misc]
            rows = sum(frame.rows for frame in lost.frames)
            text = f"{damage.segment} [{damage.position}, {damage.end_position}): {damage.reason}, "
            text += f"{sum(frame.count for frame in lost.frames)} frames"
            if self._keeping.on_loss is not None:
                try:
                    await self._keeping.on_loss(damage, lost)
                except NotConnected as exc:
                    self._ctx.log.warning("log_refetch_waits", reason=str(exc))
                    return
            self._ctx.log.error("log_damaged", what=text, rows=rows)
            self._ctx.board.events.append((self._ctx.clock.wall_ns(), f"the log lost {text}, {rows} rows"))
            self._damage_told += 1

    def _judge(self, used: int, free: int) -> None:
        log = self._log
        space = Space(
            volume_used=used,
            volume_free=free,
            unverified_bytes=max(0, log.end_position - max(self._verified, log.start_position)),
            retention_bytes=self._keeping.retention_bytes,
            room_bytes=log.room_bytes,
            runway_failed=bool(self._runway_failed),
            refused=bool(self._refused),
        )
        before, self._level = self._level, judge(space, self._level)
        self._warning = describe(space, self._level)
        self._rate.seen(log.end_position, self._ctx.clock.monotonic_s())
        self._left_s = self._rate.seconds_until_loss(space, self._level)
        if self._level > before:
            self._ctx.log.warning("log_space", level=self._level.name, reason=self._warning)
        elif self._level < before:
            self._ctx.log.info("log_space", level=self._level.name, reason=self._warning)
