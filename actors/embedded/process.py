"""One operating-system process, named so exactly that it can never be mistaken for another.

A pid is reused; a pid with the tick at which the process started (field 22 of /proc/PID/stat) and the boot it belongs
to is not. Everything here signals and waits through a pidfd where the kernel has one, so that a pid that was reused
between the look and the signal is never hit. A process may be our child or adopted: both are awaited the same way.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import attrs
import trio

POLL_S = 0.1
"""How often /proc is looked at where the kernel gives no pidfd (Linux < 5.3, some sandboxes)."""
TRAMPOLINE = 'umask 077; read -r go && [ "$go" = go ] && exec "$@" </dev/null'
"""The child waits for one line before it becomes the server, so that its pid is on disk before it does anything: a
parent that is killed in between leaves an end of file on the pipe, and the child ends by itself."""


@attrs.frozen(kw_only=True)
class ProcessId:
    """Exactly one process of the machine's history."""

    pid: int
    start_ticks: int
    boot_id: str


def boot_id() -> str:
    """What the kernel calls this boot; empty where /proc does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def identify(pid: int) -> ProcessId | None:
    """Who has `pid` now; None when nobody has, or only a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # The command in parentheses may hold anything, so count fields from its last parenthesis: state is the first.
    fields = stat[stat.rindex(b")") + 2 :].split()
    if fields[0] in (b"Z", b"X"):
        return None
    return ProcessId(pid=pid, start_ticks=int(fields[19]), boot_id=boot_id())


def is_alive(who: ProcessId) -> bool:
    """Whether exactly this process runs (a zombie does not)."""
    return identify(who.pid) == who


def working_in(folder: Path, *, is_ours: Callable[[bytes], bool]) -> list[ProcessId]:
    """Processes whose working directory is `folder` and whose command line (arguments end in NUL) is one of ours:
    how a server is found that no record names, and a killed server's helpers. Somebody's shell there is not ours."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            who = identify(int(entry.name))
            if who is not None and (entry / "cwd").samefile(folder) and is_ours((entry / "cmdline").read_bytes()):
                found.append(who)
        except OSError:
            continue  # gone, or somebody else's
    return found


@attrs.define(kw_only=True)
class Spawned:
    """A child that waits behind the trampoline until `release`."""

    who: ProcessId
    _go_fd: int

    def release(self) -> None:
        """Let it become the server."""
        try:
            os.write(self._go_fd, b"go\n")
        except BrokenPipeError:
            pass  # it is dead already; the waiter will say so
        finally:
            os.close(self._go_fd)

    def abort(self) -> None:
        """End it before it became anything."""
        os.close(self._go_fd)


def spawn(argv: Sequence[str], *, env: Mapping[str, str], log_path: Path) -> Spawned:
    """Start `argv` in a session of its own (Ctrl-C does not reach it), output appended to `log_path`.

    No PR_SET_PDEATHSIG: Trio spawns from a worker thread, and the child would die when that thread idles out.
    Raises: OSError when the machine has no process or file descriptor left.
    """
    read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
    try:
        append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        _keep_descriptors_to_ourselves()
        pid = os.posix_spawn(
            "/bin/sh",
            ["sh", "-c", TRAMPOLINE, "sh", *argv],
            dict(env),
            file_actions=[
                (os.POSIX_SPAWN_DUP2, read_fd, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(log_path), append, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
            setsigmask=[],
            # Python ignores these, and an ignored signal stays ignored in a child.
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM, signal.SIGHUP],
        )
    except OSError:
        os.close(write_fd)
        raise
    finally:
        os.close(read_fd)
    who = identify(pid)
    if who is None:  # died within microseconds, which only a broken /bin/sh does
        who = ProcessId(pid=pid, start_ticks=-1, boot_id="")
    return Spawned(who=who, go_fd=write_fd)


def _pidfd(who: ProcessId) -> int | None:
    """A pidfd of exactly this process; None where it is gone or the kernel cannot.

    Identity is checked after the descriptor is open: from then on the pid cannot be reused under us.
    """
    try:
        fd = os.pidfd_open(who.pid)
    except OSError:
        return None
    if is_alive(who):
        return fd
    os.close(fd)
    return None


def send_signal(who: ProcessId, signal_number: int) -> bool:
    """Signal exactly this process; False when it was gone already.

    Raises: PermissionError when it belongs to somebody else.
    """
    fd = _pidfd(who)
    try:
        if fd is not None:
            signal.pidfd_send_signal(fd, signal_number)
        elif is_alive(who):
            os.kill(who.pid, signal_number)
        else:
            return False
    except ProcessLookupError:
        return False
    finally:
        if fd is not None:
            os.close(fd)
    return True


async def wait_exit(who: ProcessId) -> int | None:
    """Sleep until this process has ended; its exit code (negative: signal) when it was our child, else None."""
    fd = _pidfd(who)
    try:
        while is_alive(who):
            if fd is None:
                await trio.sleep(POLL_S)
            else:
                await trio.lowlevel.wait_readable(fd)
    finally:
        if fd is not None:
            os.close(fd)
    return _reap(who.pid)


def _reap(pid: int) -> int | None:
    """Take a dead child's exit code; None for one that was not our child."""
    try:
        done, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return None
    return os.waitstatus_to_exitcode(status) if done else None


async def stop(who: ProcessId, *, signal_number: int, grace_s: float, kill_grace_s: float = 10.0) -> str:
    """End exactly this process: its own stop signal, then SIGKILL after `grace_s`. Says how it went.

    Raises: trio.TooSlowError when not even SIGKILL ended it within `kill_grace_s` (stuck in the kernel: a disk that
    hangs), PermissionError when it is not ours to signal.
    """
    if not send_signal(who, signal_number):
        _reap(who.pid)
        return "was gone"
    with trio.move_on_after(grace_s):
        await wait_exit(who)
        return "stopped"
    send_signal(who, signal.SIGKILL)
    with trio.fail_after(kill_grace_s):
        await wait_exit(who)
    return f"killed after {grace_s:g} s"


def _keep_descriptors_to_ourselves() -> None:
    """Mark every descriptor but the standard three close-on-exec.

    `posix_spawn` hands on whatever is inheritable, and libraries make theirs so (hypercorn its listening sockets): a
    server that outlives us would keep the port of the status page.
    """
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the descriptor of this listing is gone by now
            if int(name) > 2:
                os.set_inheritable(int(name), False)
