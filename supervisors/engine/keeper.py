"""Starting and stopping one child: the handshake and the rungs, with their reports. Whom and when: supervisor.py."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import attrs
import trio

from runtime.errors import StartFailed, UnstoppableChild
from supervisors.engine import slot as states
from supervisors.engine.child import ChildSpec, Restart
from supervisors.engine.events import Event, EventKind
from supervisors.engine.exits import ExitKind, ExitReason, describe
from supervisors.engine.host import Host
from supervisors.engine.life import Life, climb
from supervisors.engine.slot import Slot

Body = Callable[[Life], Awaitable[None]]


@attrs.define(eq=False)
class Keeper:
    """The hands of one supervisor. At most one call at a time: the supervisor's loop is sequential."""

    host: Host
    body_of: Callable[[Slot], Body]
    on_end: Callable[[Slot, Life], None]
    """Called once for each incarnation when it has ended, also when `stop` ended it."""
    _wait: trio.CancelScope | None = None
    _is_interrupted: bool = False

    async def start(self, slot: Slot, *, by_hand: bool = False) -> ExitReason | None:
        """Start a child and wait until it is ready, has ended, or its time is over; why it failed, or None.

        After `interrupt` it returns None early, with the child still starting: a stop of it must follow.
        """
        slot.forget_restart()
        if self.host.is_stuck(slot.path):
            twin = UnstoppableChild(f"an incarnation of {slot.path} still lives")
            return self._start_failed(slot, ExitReason(ExitKind.CRASHED, twin))
        slot.incarnations += 1
        life = slot.life = self._new_life(slot)
        self.host.spawn(life, slot.spec if isinstance(slot.spec, ChildSpec) else None)
        if not await self._handshake(life, slot):
            return None if self._is_interrupted else await self._too_slow(slot)
        if life.is_ready or life.exit is None or life.exit.kind is ExitKind.NORMAL:
            self._started(slot, life, by_hand)
            return None
        return self._start_failed(slot, slot.bury())

    def interrupt(self) -> None:
        """A stop has to go first: end the wait of a running `start`. Nothing may be started after this."""
        self._is_interrupted = True
        if self._wait is not None:
            self._wait.cancel(reason="a stop goes first")

    async def stop_all(self, slots: Iterable[Slot]) -> None:
        """Stop one after the other, in the given order (R26)."""
        for slot in list(slots):
            await self.stop(slot)

    async def stop(self, slot: Slot) -> None:
        """End a child and wait for it; an idle one only loses its pending restart."""
        slot.forget_restart()
        life = slot.life
        if life is None:
            if slot.state == states.BACKING_OFF:
                slot.publish(self.host, states.STOPPED)
            return
        if not life.done.is_set():
            slot.publish(self.host, states.DRAINING)
        await self._climb(slot, life, grace_s=None)
        if slot.life is None:
            return
        reason = slot.bury()
        slot.publish(self.host, states.STOPPED)
        kind = EventKind.STOPPED if is_accepted(slot, reason) else EventKind.STOP_FAILED
        self.host.report(slot_event(kind, slot, reason))

    def _new_life(self, slot: Slot) -> Life:
        def on_end(life: Life) -> None:
            self.host.forget(life)
            self.on_end(slot, life)

        outages = slot.spec.outages if isinstance(slot.spec, ChildSpec) else ()
        return Life(slot.path, slot.incarnations, self.body_of(slot), on_end=on_end, outages=outages)

    async def _handshake(self, life: Life, slot: Slot) -> bool:
        """Wait for ready or end; False = neither. A supervisor has no time limit: its children bound its start."""
        for _ in range(2):  # most are ready in their first step; two checkpoints are cheaper than a deadline
            await trio.lowlevel.checkpoint()
            if life.settled.is_set() or self._is_interrupted:
                return life.settled.is_set()
        slot.publish(self.host, states.STARTING)
        timeout_s = slot.spec.start_timeout_s if isinstance(slot.spec, ChildSpec) else math.inf
        with trio.move_on_after(timeout_s) as self._wait:
            await life.settled.wait()
        self._wait = None
        return life.settled.is_set()

    def _started(self, slot: Slot, life: Life, by_hand: bool) -> None:
        if slot.backoff is not None:
            slot.started_s = self.host.seams.clock.monotonic_s()
        if life.is_ignored:
            slot.life = None
            slot.publish(self.host, states.STOPPED)
            return
        slot.publish(self.host, states.RUNNING)
        self.host.report(slot_event(EventKind.STARTED, slot, is_quiet=by_hand))

    async def _too_slow(self, slot: Slot) -> ExitReason:
        life = slot.life
        timeout_s = slot.spec.start_timeout_s if isinstance(slot.spec, ChildSpec) else math.inf
        if life is not None:
            await self._climb(slot, life, grace_s=0.0)
            slot.life = None
        error = trio.TooSlowError(f"not ready within {timeout_s} s")
        return self._start_failed(slot, ExitReason(ExitKind.CRASHED, error))

    def _start_failed(self, slot: Slot, reason: ExitReason) -> ExitReason:
        slot.last_exit = str(reason)
        slot.publish(self.host, states.FAILED)
        self.host.report(slot_event(EventKind.START_FAILED, slot, reason))
        return reason

    async def _climb(self, slot: Slot, life: Life, *, grace_s: float | None) -> None:
        """The ladder; a child that stays is abandoned: no twin is started and the process ends with code 70 (4.5)."""
        spec = slot.spec
        if not isinstance(spec, ChildSpec):
            # A sub-supervisor has no limit of its own: each of its children has one; cut off, it would orphan them.
            life.ask_to_stop()
            await life.done.wait()
            return
        grace_s = spec.shutdown_grace_s if grace_s is None else grace_s
        if await climb(
            life,
            grace_s=0.0 if self.host.is_cut else grace_s,
            cancel_grace_s=spec.cancel_grace_s,
            deadline_s=self.host.deadline_s,
        ):
            return
        slot.life, slot.last_exit = None, "unstoppable"
        slot.publish(self.host, states.FAILED)
        self.host.report_unstoppable(life)


def is_accepted(slot: Slot, reason: ExitReason) -> bool:
    """R25: which ends are no error while the supervisor stops a child."""
    if reason.kind is ExitKind.KILLED:
        return isinstance(slot.spec, ChildSpec) and slot.spec.shutdown_grace_s == 0
    if reason.kind is ExitKind.NORMAL:
        return slot.spec.restart is not Restart.PERMANENT
    return reason.kind is ExitKind.SHUTDOWN


def slot_event(kind: EventKind, slot: Slot, reason: ExitReason | None = None, **fields: Any) -> Event:
    """An event about one child."""
    return Event(kind=kind, path=slot.path, incarnation=slot.incarnations, reason=reason, **fields)


def start_error(slot: Slot, reason: ExitReason) -> StartFailed:
    """What a supervisor raises when `slot` fails while it comes up; the innermost child keeps its name (T51)."""
    if isinstance(reason.error, StartFailed):
        return reason.error
    error = StartFailed(f"{slot.path} did not start: {describe(reason.error) if reason.error else reason}")
    error.__cause__ = reason.error
    return error
