import os
import signal
import subprocess
import sys

import attrs
import pytest
import trio

from actors.embedded import process


@pytest.fixture
def spawned(tmp_path):
    made = []

    def make(*argv):
        child = process.spawn(argv, env={"PATH": os.environ["PATH"], "SEEN": "yes"}, log_path=tmp_path / "log")
        made.append(child)
        return child

    yield make
    for child in made:
        process.send_signal(child.who, signal.SIGKILL)
        try:
            os.waitpid(child.who.pid, 0)
        except ChildProcessError:
            continue


async def until(wanted):
    with trio.fail_after(5):
        while not wanted():  # noqa: ASYNC110 (another process has no trio.Event)
            await trio.sleep(0.005)


async def test_a_child_runs_only_after_its_release_and_keeps_pid_and_start_time(spawned, tmp_path):
    child = spawned("/bin/sh", "-c", 'echo "$SEEN"; ps -o sid= -p $$; exec sleep 600')
    assert process.is_alive(child.who)
    assert (tmp_path / "log").read_text() == ""
    child.release()
    await until(lambda: len((tmp_path / "log").read_text().split()) == 2)
    seen, session = (tmp_path / "log").read_text().split()
    assert seen == "yes"
    assert int(session) == child.who.pid  # a session of its own: Ctrl-C does not reach it
    assert process.is_alive(child.who)


async def test_a_child_whose_parent_dies_before_the_release_never_becomes_the_server(tmp_path):
    """Positive control of the trampoline: the parent is killed between spawn and record."""
    script = (
        "import sys, os; from pathlib import Path; from actors.embedded import process; "
        "child = process.spawn(['/bin/sleep', '600'], env={}, log_path=Path(sys.argv[1])); "
        "print(child.who.pid, child.who.start_ticks, flush=True); os.kill(os.getpid(), 9)"
    )
    argv = [sys.executable, "-c", script, str(tmp_path / "log")]
    done = await trio.run_process(argv, capture_stdout=True, check=False)
    pid, ticks = map(int, done.stdout.split())
    who = process.ProcessId(pid=pid, start_ticks=ticks, boot_id=process.boot_id())
    with trio.fail_after(5):
        await process.wait_exit(who)


async def test_a_reused_pid_is_never_signalled(spawned):
    child = spawned("/bin/sleep", "600")
    child.release()
    for impostor in (
        attrs.evolve(child.who, start_ticks=child.who.start_ticks + 1),
        attrs.evolve(child.who, boot_id="another boot"),
    ):
        assert not process.send_signal(impostor, signal.SIGKILL)
        assert await process.stop(impostor, signal_number=signal.SIGTERM, grace_s=1) == "was gone"
    assert process.is_alive(child.who)


async def test_wait_exit_gives_the_childs_code_and_leaves_no_zombie(spawned):
    child = spawned("/bin/sh", "-c", "exit 7")
    child.release()
    with trio.fail_after(5):
        assert await process.wait_exit(child.who) == 7
    with pytest.raises(ProcessLookupError):
        os.kill(child.who.pid, 0)


async def test_wait_exit_works_without_a_pidfd(spawned, monkeypatch):
    def refused(pid):
        raise OSError("not in this kernel")

    monkeypatch.setattr(os, "pidfd_open", refused)
    child = spawned("/bin/sleep", "600")
    child.release()
    assert process.send_signal(child.who, signal.SIGTERM)
    with trio.fail_after(5):
        assert await process.wait_exit(child.who) == -signal.SIGTERM


async def test_stop_kills_what_ignores_its_signal(spawned, tmp_path):
    child = spawned("/bin/sh", "-c", "trap '' TERM; echo armed; while :; do sleep 0.05; done")
    child.release()
    await until(lambda: "armed" in (tmp_path / "log").read_text())
    with trio.fail_after(5):
        assert await process.stop(child.who, signal_number=signal.SIGTERM, grace_s=0.2) == "killed after 0.2 s"
    assert not process.is_alive(child.who)


def test_a_zombie_is_not_alive():
    child = subprocess.Popen(["/bin/true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert process.identify(child.pid) is None
    child.wait()
