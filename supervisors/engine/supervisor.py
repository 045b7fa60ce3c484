"""One supervisor: one loop that owns the state of its children. It decides nothing (restart.py) and catches nothing
(life.py); starting and stopping a single child is keeper.py.

Everything reaches it through its inbox: ends of children, due restarts, retries, admin calls (R20, R27). Only a stop
request overtakes the inbox; it interrupts a start, never a stop.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Protocol

import attrs
import msgspec
import trio

from runtime.errors import RestartIntensityExceeded, Shutdown
from supervisors.engine import slot as states
from supervisors.engine.child import Restart, Strategy, SupervisorSpec
from supervisors.engine.events import Event, EventKind
from supervisors.engine.exits import ExitKind, ExitReason
from supervisors.engine.host import Host
from supervisors.engine.keeper import Body, Keeper, slot_event, start_error
from supervisors.engine.life import Life
from supervisors.engine.restart import ChildView, Decision, Policy, RestartWindow, Verdict, decide_exit, decide_restart
from supervisors.engine.slot import Slot, run_actor


class Ended(msgspec.Struct, frozen=True):
    """A child's incarnation ended."""

    slot: Slot
    life: Life


@attrs.frozen
class Retry:
    """A restart failed: decide about the next attempt (R20)."""

    slot: Slot


@attrs.frozen
class Due:
    """A decided restart has waited out its backoff."""

    slot: Slot


@attrs.frozen
class Wake:
    """Nothing but a reason to look at the stop flag."""


class Request(Protocol):
    """An admin call (admin.py)."""

    async def serve(self, supervisor: Supervisor) -> None:
        """Do it; never raises."""

    def abort(self, why: str) -> None:
        """The supervisor ends; tell the caller."""


Message = Ended | Retry | Due | Wake | Request


class Supervisor:
    """One incarnation of a supervisor; a restarted one is a new object with an empty history (R17)."""

    def __init__(self, spec: SupervisorSpec, host: Host, path: str) -> None:
        self.spec = spec
        self.path = path
        self.host = host
        self.slots = [Slot.of(child, path) for child in spec.children]
        """Known children in start order."""
        self.keeper = Keeper(host, self._body_of, self._on_end)
        self._policy = Policy(spec.strategy, spec.auto_shutdown)
        self._window = RestartWindow(spec.intensity)
        self._send, self._receive = trio.open_memory_channel[Message](math.inf)  # at most one Ended per incarnation
        self._stopping = False

    def __repr__(self) -> str:
        return f"<Supervisor {self.path} {self.spec.strategy} {[(s.spec.id, s.state) for s in self.slots]}>"

    async def run(self, life: Life) -> None:
        """The body: start all in order, serve until asked to stop, stop all in reverse.

        Raises: StartFailed, RestartIntensityExceeded, Shutdown (automatic); each only after the children have stopped.
        """
        life.on_ask(self._on_ask)
        self.host.supervisors[self.path] = self
        try:
            await self._start_all()
            if not self._stopping:
                life.mark_ready()
                await self._serve()
        finally:
            self._stopping = True
            if self.path == self.spec.id:  # the root: also when it gave up, the stop has its deadline
                self.host.ask_to_stop("the root supervisor ends")
            del self.host.supervisors[self.path]
            self._abort_requests()
            await self.keeper.stop_all(reversed(self.slots))

    def post(self, request: Request) -> None:
        """Put an admin call into the inbox."""
        self._send.send_nowait(request)

    def recover(self, slot: Slot) -> None:
        """Take an idle child as one whose restart failed: tried again under its backoff and the budget (R20)."""
        slot.is_restarting = True
        slot.publish(self.host, states.BACKING_OFF)
        self._send.send_nowait(Retry(slot))

    def _abort_requests(self) -> None:
        while self._receive.statistics().current_buffer_used:
            match self._receive.receive_nowait():
                case Ended() | Retry() | Due() | Wake():
                    pass
                case request:
                    request.abort(f"{self.path} has ended")

    def _on_ask(self) -> None:
        self._stopping = True
        self._send.send_nowait(Wake())
        self.keeper.interrupt()

    def _on_end(self, slot: Slot, life: Life) -> None:
        self._send.send_nowait(Ended(slot, life))

    def _body_of(self, slot: Slot) -> Body:
        if isinstance(slot.spec, SupervisorSpec):
            return Supervisor(slot.spec, self.host, slot.path).run
        return partial(run_actor, slot.spec, self.host)

    # ---- the loop

    async def _serve(self) -> None:
        while not self._stopping:
            await self._handle(await self._next())  # nothing of a message stays in this frame (R15)

    async def _handle(self, message: Message) -> None:
        match message:
            case Ended(slot, life):
                if slot.life is life:  # else: stopped by us meanwhile, or an older incarnation (R12)
                    await self._on_ended(slot, life)
            case Retry(slot):
                if slot.is_restarting and slot.due_s is None:  # else: overtaken (R22)
                    await self._carry_out(slot, self._decide_again(slot))
            case Due(slot):
                slot.due_s = None
                await self.start_idle(slot.todo)
            case Wake():
                pass
            case request:
                await request.serve(self)

    async def _next(self) -> Message:
        """The next message; a due restart only when no message waits, so that requests are served between attempts."""
        try:
            return self._receive.receive_nowait()
        except trio.WouldBlock:
            pass
        waiting = [(s.due_s, i) for i, s in enumerate(self.slots) if s.due_s is not None]
        if not waiting:
            return await self._receive.receive()
        due_s, index = min(waiting)
        with trio.move_on_after(max(0.0, due_s - self._now_s())):
            return await self._receive.receive()
        return Due(self.slots[index])

    def _now_s(self) -> float:
        return self.host.seams.clock.monotonic_s()

    # ---- start

    async def _start_all(self) -> None:
        for slot in tuple(self.slots):
            if self._stopping:
                return
            reason = await self.keeper.start(slot)
            if reason is None:
                self.drop_if_ignored(slot)
            elif reason.kind is ExitKind.OUTAGE:
                self._back_off(slot, (slot.spec.id,))  # a dependency that is down never blocks the start
            elif not self._stopping:
                raise start_error(slot, reason)

    def drop_if_ignored(self, slot: Slot) -> None:
        """A temporary child that had nothing to run is not kept (R8)."""
        if slot.life is None and slot.spec.restart is Restart.TEMPORARY:
            self.remove(slot)

    # ---- ends and restarts

    async def _on_ended(self, slot: Slot, life: Life) -> None:
        reason = slot.bury()
        if self.host.is_cut or life.is_fatal:
            slot.publish(self.host, states.FAILED)
            self.host.report(slot_event(EventKind.CRASHED, slot, reason))
            return
        now_s = self._now_s()
        if slot.backoff is not None:
            slot.backoff.ran(now_s - slot.started_s)
        decision = decide_exit(
            reason.kind,
            slot.spec.id,
            self._views(),
            policy=self._policy,
            window=self._window,
            now_s=now_s,
        )
        self._report_end(slot, reason, decision.verdict, self._window.left(now_s))
        await self._carry_out(slot, decision)

    def _decide_again(self, slot: Slot) -> Decision:
        return decide_restart(
            slot.spec.id, self._views(), policy=self._policy, window=self._window, now_s=self._now_s()
        )

    def _views(self) -> list[ChildView]:
        if self.spec.strategy is Strategy.ONE_FOR_ONE:  # nobody waits for a sibling
            return [slot.view() for slot in self.slots]
        due = {name for slot in self.slots for name in slot.due_siblings}
        return [slot.view(is_due=slot.spec.id in due) for slot in self.slots]

    async def _carry_out(self, slot: Slot, decision: Decision) -> None:
        match decision.verdict:
            case Verdict.LEAVE:
                slot.publish(self.host, states.STOPPED)
            case Verdict.REMOVE:
                self.remove(slot)
            case Verdict.SHUT_DOWN:
                slot.publish(self.host, states.STOPPED)
                self._report(EventKind.AUTO_SHUTDOWN, detail=f"{slot.spec.id} has ended")
                raise Shutdown(f"{self.path}: {slot.spec.id} is significant and has ended")
            case Verdict.GIVE_UP:
                slot.is_restarting = False
                slot.publish(self.host, states.FAILED)
                self._give_up(slot)
            case Verdict.RESTART | Verdict.WAIT:
                slot.is_restarting = True
                if decision.stop:
                    await self._clear(decision)
                if not self._back_off(slot, decision.start):
                    await self.start_idle(decision.start)

    async def _clear(self, decision: Decision) -> None:
        """Stop the siblings that a group restart concerns; temporary ones go (R14, R16)."""
        await self.keeper.stop_all(self._named(decision.stop))
        for sibling in self._named(decision.remove):
            self.remove(sibling)

    def _give_up(self, slot: Slot) -> None:
        intensity = self.spec.intensity
        limit = f"{intensity.restarts_max} restarts in {intensity.period_s} s" if intensity else "its budget"
        text = f"{self.path} gave up: more than {limit}; last: {slot.spec.id} ({slot.last_exit})"
        self._report(EventKind.ESCALATED, detail=text)
        raise RestartIntensityExceeded(text)

    def _back_off(self, slot: Slot, todo: tuple[str, ...]) -> bool:
        """Whether the restart of `todo` has to wait; then it is due later."""
        if slot.backoff is None:
            return False
        delay_s = slot.backoff.next_s(self.host.seams.entropy.uniform())
        slot.is_restarting, slot.todo, slot.due_s = True, todo, self._now_s() + delay_s
        slot.publish(self.host, states.BACKING_OFF, retry_in_s=delay_s)
        attempt, left = slot.backoff.attempt, self._window.left(self._now_s())
        self.host.report(slot_event(EventKind.RESTARTING, slot, delay_s=delay_s, attempt=attempt, budget_left=left))
        return True

    async def start_idle(self, todo: tuple[str, ...]) -> None:
        """Start everyone in `todo` that does not run; a failure leaves those already started running (R21)."""
        for position, slot in enumerate(self._named(todo)):
            if self._stopping or self.host.is_cut:
                return
            if slot.life is not None or self.host.is_stuck(slot.path):
                continue
            slot.restarts += 1
            reason = await self.keeper.start(slot)
            if reason is None:
                continue
            if self.host.error is not None:
                return  # it failed fatally, or something else did: the tree is about to stop
            if reason.kind is ExitKind.OUTAGE:
                self._back_off(slot, todo[position:])
            else:
                self.recover(slot)
            return

    def _named(self, ids: tuple[str, ...]) -> list[Slot]:
        by_id = {s.spec.id: s for s in self.slots} if ids else {}
        return [by_id[i] for i in ids if i in by_id]

    def remove(self, slot: Slot) -> None:
        """Forget a child that does not run."""
        slot.publish(self.host, states.STOPPED)
        self.slots.remove(slot)

    # ---- reports

    def _report_end(self, slot: Slot, reason: ExitReason, verdict: Verdict, left: int | None) -> None:
        kind = EventKind.ENDED if reason.kind.is_silent else EventKind.CRASHED
        if reason.kind is ExitKind.OUTAGE:
            kind = EventKind.OUTAGE
        self.host.report(slot_event(kind, slot, reason, budget_left=left, decision=verdict.value))

    def _report(self, kind: EventKind, *, detail: str) -> None:
        self.host.report(Event(kind=kind, path=self.path, detail=detail))
