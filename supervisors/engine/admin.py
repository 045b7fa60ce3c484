"""Admin calls (R30-R33): look at a supervisor's children and start, stop, restart, delete single ones by hand.

Each call is a message in the supervisor's own inbox, so it never races a restart; it fails at once when the supervisor
ends before answering. Starts by hand spend no budget. `already_started` and its like are `AdminRefused` with a code.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import StrEnum
from functools import partial
from typing import Generic, TypeVar, cast

import attrs
import trio

from runtime.errors import AdminRefused
from supervisors.engine.child import AnySpec, Restart, check_child
from supervisors.engine.host import Host
from supervisors.engine.keeper import start_error
from supervisors.engine.slot import Slot
from supervisors.engine.supervisor import Supervisor
from supervisors.engine.watchdog import late_actors

T = TypeVar("T")


class Presence(StrEnum):
    """What `which_children` says of a child: OTP's pid, `restarting`, `undefined`."""

    RUNNING = "running"
    RESTARTING = "restarting"
    IDLE = "idle"


@attrs.frozen
class ChildEntry:
    """One known child."""

    id: str
    presence: Presence
    is_supervisor: bool
    incarnation: int


@attrs.frozen
class ChildCounts:
    """R33: `active` excludes children that wait for a restart; `supervisors` and `workers` count specs."""

    specs: int
    active: int
    supervisors: int
    workers: int


@attrs.define(eq=False)
class Call(Generic[T]):
    """One request on its way through the inbox of a supervisor."""

    request: Callable[[Supervisor], Awaitable[T]]
    done: trio.Event = attrs.field(factory=trio.Event)
    answer: T | None = None
    error: AdminRefused | Exception | None = None

    async def serve(self, supervisor: Supervisor) -> None:
        """Run by the supervisor's loop; what is refused is the caller's problem, not the supervisor's."""
        try:
            self.answer = await self.request(supervisor)
        except Exception as exc:  # noqa: BLE001 - handed to the caller
            self.error = exc
        self.done.set()

    def abort(self, why: str) -> None:
        """The supervisor ends without serving it."""
        self.error = AdminRefused("noproc", why)
        self.done.set()


class Admin:
    """The calls, addressed by a supervisor's path (`pipeline/core/flow`). Make one, hand it to `run_tree`."""

    def __init__(self) -> None:
        self._host: Host | None = None

    def bind(self, host: Host) -> None:
        """`run_tree` says which tree it is."""
        self._host = host

    @property
    def is_stopping(self) -> bool:
        """The ordered stop of the whole tree has begun."""
        return self._host is not None and self._host.stop_asked.is_set()

    def leftovers(self) -> tuple[str, ...]:
        """After the tree has ended: paths of the children that did not. Then only leaving the process ends them."""
        return self._host.leftovers() if self._host is not None and self.is_stopping else ()

    def path_of(self, child_id: str) -> str | None:
        """Where the child with this id is in the tree, running or not."""
        supervisors = self._host.supervisors.values() if self._host is not None else ()
        return next((slot.path for s in supervisors for slot in s.slots if slot.spec.id == child_id), None)

    def late(self) -> tuple[str, ...]:
        """Ids of the actors that are past their progress deadline now; for `runtime.notify.feed_watchdog`."""
        return late_actors(self._host) if self._host is not None else ()

    async def ping(self) -> None:
        """Return when the root supervisor's loop has answered. Raises: AdminRefused noproc."""
        root = next(iter(self._host.supervisors), "") if self._host is not None else ""
        await self.count_children(root)

    async def which_children(self, path: str) -> tuple[ChildEntry, ...]:
        """All known children in reverse start order, as OTP lists them."""
        return await self._call(path, _which_children)

    async def count_children(self, path: str) -> ChildCounts:
        """How many there are."""
        return await self._call(path, _count_children)

    async def child_spec(self, path: str, child_id: str) -> AnySpec:
        """The spec with every default filled in. Raises: AdminRefused not_found."""
        return await self._call(path, partial(_child_spec, child_id=child_id))

    async def start_child(self, path: str, spec: AnySpec) -> bool:
        """Add `spec` as the last child and start it; False = it had nothing to run.

        Raises: AdminRefused already_started / already_present, ConfigError for a bad spec, StartFailed; then the spec
        is not kept.
        """
        return await self._call(path, partial(_start_child, spec=spec))

    async def terminate_child(self, path: str, child_id: str) -> None:
        """Stop a child; also ends its restart loop; idle is fine. The spec stays unless temporary.

        Raises: AdminRefused not_found.
        """
        await self._call(path, partial(_terminate_child, child_id=child_id))

    async def restart_child(self, path: str, child_id: str) -> bool:
        """Start an idle child again; False = it had nothing to run.

        Raises: AdminRefused not_found / running / restarting; StartFailed, then the spec is kept, idle.
        """
        return await self._call(path, partial(_restart_child, child_id=child_id))

    async def recover_child(self, path: str, child_id: str) -> None:
        """Have an idle child restarted as after a crash: with backoff, at the budget's cost, until it runs.

        Not OTP's: for who stopped a child by hand and cannot start it again. Raises: AdminRefused not_found.
        """
        await self._call(path, partial(_recover_child, child_id=child_id))

    async def delete_child(self, path: str, child_id: str) -> None:
        """Forget an idle child. Raises: AdminRefused not_found / running / restarting."""
        await self._call(path, partial(_delete_child, child_id=child_id))

    async def _call(self, path: str, request: Callable[[Supervisor], Awaitable[T]]) -> T:
        supervisors = self._host.supervisors if self._host is not None else {}
        supervisor = supervisors.get(path)
        if supervisor is None:
            raise AdminRefused("noproc", f"no supervisor runs at {path!r}; there are {sorted(supervisors)}")
        call = Call(request)
        supervisor.post(call)
        await call.done.wait()
        if call.error is not None:
            raise call.error
        return cast("T", call.answer)


def _find(supervisor: Supervisor, child_id: str) -> Slot:
    for slot in supervisor.slots:
        if slot.spec.id == child_id:
            return slot
    known = [s.spec.id for s in supervisor.slots]
    raise AdminRefused("not_found", f"{supervisor.path} has no child {child_id!r}; it has {known}")


def _presence(slot: Slot) -> Presence:
    if slot.is_restarting:
        return Presence.RESTARTING
    return Presence.RUNNING if slot.life is not None else Presence.IDLE


def _idle(supervisor: Supervisor, child_id: str) -> Slot:
    slot = _find(supervisor, child_id)
    presence = _presence(slot)
    if presence is not Presence.IDLE:
        raise AdminRefused(presence.value, f"{slot.path} is {presence}")
    return slot


async def _which_children(supervisor: Supervisor) -> tuple[ChildEntry, ...]:
    return tuple(
        ChildEntry(s.spec.id, _presence(s), s.is_supervisor, s.incarnations) for s in reversed(supervisor.slots)
    )


async def _count_children(supervisor: Supervisor) -> ChildCounts:
    slots = supervisor.slots
    return ChildCounts(
        specs=len(slots),
        active=sum(_presence(s) is Presence.RUNNING for s in slots),
        supervisors=sum(s.is_supervisor for s in slots),
        workers=sum(not s.is_supervisor for s in slots),
    )


async def _child_spec(supervisor: Supervisor, *, child_id: str) -> AnySpec:
    return _find(supervisor, child_id).spec


async def _start_child(supervisor: Supervisor, *, spec: AnySpec) -> bool:
    check_child(supervisor.spec, spec)
    for slot in supervisor.slots:
        if slot.spec.id == spec.id:
            code = "already_started" if _presence(slot) is Presence.RUNNING else "already_present"
            raise AdminRefused(code, f"{slot.path} is {_presence(slot)}")
    other = supervisor.host.path_of(spec.id)
    if other is not None:  # actor ids name mailboxes, consumers and metrics
        raise AdminRefused("already_started", f"{other} has this id")
    slot = Slot.of(spec, supervisor.path)
    supervisor.slots.append(slot)
    reason = await supervisor.keeper.start(slot, by_hand=True)
    if reason is not None:
        supervisor.remove(slot)
        raise start_error(slot, reason)
    supervisor.drop_if_ignored(slot)
    return slot.life is not None


async def _terminate_child(supervisor: Supervisor, *, child_id: str) -> None:
    slot = _find(supervisor, child_id)
    siblings = slot.due_siblings
    await supervisor.keeper.stop(slot)
    if slot.spec.restart is Restart.TEMPORARY:
        supervisor.remove(slot)
    await supervisor.start_idle(siblings)  # stopped because of it and healthy: only its own restart was called off


async def _restart_child(supervisor: Supervisor, *, child_id: str) -> bool:
    slot = _idle(supervisor, child_id)
    reason = await supervisor.keeper.start(slot, by_hand=True)
    if reason is not None:
        raise start_error(slot, reason)
    return slot.life is not None


async def _recover_child(supervisor: Supervisor, *, child_id: str) -> None:
    slot = _find(supervisor, child_id)
    if _presence(slot) is Presence.IDLE and not supervisor.host.is_stuck(slot.path):
        supervisor.recover(slot)


async def _delete_child(supervisor: Supervisor, *, child_id: str) -> None:
    slot = _idle(supervisor, child_id)
    supervisor.remove(slot)
    supervisor.host.seams.board.children.pop(slot.path, None)
