"""Run a whole tree: from a spec to an ordered end."""

from __future__ import annotations

import trio

from runtime.actor import Seams
from runtime.errors import InvariantViolation, RestartIntensityExceeded, Shutdown, StartFailed, UnstoppableChild
from supervisors.engine import slot as states
from supervisors.engine.admin import Admin
from supervisors.engine.child import SupervisorSpec, check_tree
from supervisors.engine.events import Report, report_to
from supervisors.engine.exits import ExitReason, describe, leaves
from supervisors.engine.host import Host
from supervisors.engine.life import Life
from supervisors.engine.slot import Slot
from supervisors.engine.supervisor import Supervisor
from supervisors.engine.watchdog import end_stalled

OVERTIME_S = 1.0
"""Past the shutdown deadline the supervisors themselves get this long; more is a bug of the engine."""


async def run_tree(  # noqa: PLR0913 - the one entry point: its options are the whole contract
    spec: SupervisorSpec,
    *,
    seams: Seams,
    stop: trio.Event,
    shutdown_deadline_s: float = 30.0,
    fatal: tuple[type[BaseException], ...] = (),
    report: Report | None = None,
    admin: Admin | None = None,
    ready: trio.Event | None = None,
) -> None:
    """Start `spec`, keep it running, return after an ordered stop once `stop` is set; cancelling it does the same.

    Sets `ready` when every child has started. Whatever happens, it ends within `shutdown_deadline_s` of the reason to
    stop.

    Raises:
        RestartIntensityExceeded, StartFailed: the root gave up or did not come up (exit 75).
        UnstoppableChild: a child would not end, and nothing worse happened before (exit 70).
        one of `fatal`, KeyboardInterrupt, SystemExit: a child raised it; the rest was stopped in order first.
        ConfigError: actor ids are not unique in the tree.

    Whatever it raises: when `admin.leftovers()` is not empty, tasks still live that keep `trio.run` from returning.
    Leave the process with `os._exit` then.
    """
    check_tree(spec)
    report = report_to(seams.board, seams.clock.wall_ns) if report is None else report
    host = Host(seams, report, stop=stop, fatal=fatal, shutdown_deadline_s=shutdown_deadline_s)
    if admin is not None:
        admin.bind(host)
    try:
        async with trio.open_nursery() as outer:
            outer.start_soon(_relay_cancel, host)
            outer.start_soon(_relay_stop, host)
            outer.start_soon(host.cut_at_deadline)
            outer.start_soon(end_stalled, host)
            with trio.CancelScope(shield=True):
                await _run(spec, host, trio.Event() if ready is None else ready)
            outer.cancel_scope.cancel(reason="the tree has ended")
    finally:
        # In `finally`: what went wrong matters more than the cancellation that may be passing through here.
        if host.error is not None:
            raise host.error


async def _relay_cancel(host: Host) -> None:
    try:
        await trio.sleep_forever()
    finally:
        host.ask_to_stop("cancelled", ordered=True)


async def _relay_stop(host: Host) -> None:
    await host.stop.wait()
    host.ask_to_stop("asked", ordered=True)


async def _run(spec: SupervisorSpec, host: Host, ready: trio.Event) -> None:
    await host.open()
    try:
        slot = Slot(spec=spec, path=spec.id, incarnations=1)
        slot.publish(host, states.STARTING)
        root = host.run_root(spec.id, Supervisor(spec, host, spec.id).run)
        await _wait_until_over(root, slot, host, ready)
        outcome = _outcome(root.exit, ordered=host.is_ordered)
        slot.last_exit = str(root.exit or "unstoppable")
        slot.publish(host, states.STOPPED if outcome is None else states.FAILED)
        host.error = host.error or outcome
    finally:
        await host.close()
        if host.error is None and (names := host.leftovers()):
            host.error = UnstoppableChild(f"{', '.join(names)} did not end")


async def _wait_until_over(root: Life, slot: Slot, host: Host, ready: trio.Event) -> None:
    """Wait for the root's end; once the stop was asked for, no longer than the deadline. Show its state meanwhile."""
    async with trio.open_nursery() as nursery:

        async def show() -> None:
            await root.settled.wait()
            if root.is_ready:
                slot.publish(host, states.RUNNING)
                ready.set()

        async def limit() -> None:
            await host.stop_asked.wait()
            slot.publish(host, states.DRAINING)
            await trio.sleep_until(host.deadline_s() + OVERTIME_S)
            nursery.cancel_scope.cancel(reason="the shutdown deadline is over")

        nursery.start_soon(show)
        nursery.start_soon(limit)
        await root.done.wait()
        nursery.cancel_scope.cancel(reason="the root has ended")


def _outcome(end: ExitReason | None, *, ordered: bool) -> BaseException | None:
    """What the root's end means to the caller: an automatic shutdown is no error, nor is giving up in a stop."""
    if end is None:
        return UnstoppableChild("the root supervisor did not end")
    if end.error is None:
        return None
    for leaf in leaves(end.error):
        if isinstance(leaf, RestartIntensityExceeded | StartFailed):
            return None if ordered else leaf
        if isinstance(leaf, Shutdown):
            return None
    bug = InvariantViolation(f"the root supervisor crashed: {describe(end.error)}")
    bug.__cause__ = end.error
    return bug
