"""Root's ways to run PostgreSQL, with trials whose outcome the test decides."""

import os
import stat
from pathlib import Path

import pytest

from actors.embedded import privileges
from actors.embedded.postgres import PostgresSpec
from actors.embedded.privileges import unprivileged_prefix
from actors.embedded.spec import EmbeddedHome
from runtime.errors import ConfigError, NotConnected

BINARY = Path("/bin/sh")
NOBODY = 65534
FORBIDDEN = ("sh", "-c", "exit 1")
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="NOT COVERED: what root does, needs root")


@pytest.fixture
def folder(tmp_path):
    """DATA_DIR/embedded/postgres, as `check` makes it, below folders that everybody may enter."""
    room = tmp_path / "embedded"
    (room / "postgres").mkdir(mode=0o700, parents=True)
    room.chmod(0o700)
    return room / "postgres"


@pytest.fixture
def open_to_all(folder):
    """pytest's own folders are private: open those above for the test."""
    above = [path for path in folder.parent.parents if not path.stat().st_mode & stat.S_IXOTH]
    for path in above:
        path.chmod(path.stat().st_mode | stat.S_IXOTH)
    yield folder
    for path in above:
        path.chmod(path.stat().st_mode & ~stat.S_IXOTH)


def owner(path):
    return path.stat().st_uid


def script(text):
    """A prefix that runs `text`, then what it was put before."""
    return ("sh", "-c", f'{text}; exec "$@"', "sh")


@pytest.mark.parametrize("ending", ["kill -INT $$", "kill -KILL $$", "exit 130", "sleep 60"])
def test_a_trial_that_is_killed_or_hangs_decides_nothing(folder, monkeypatch, ending):
    monkeypatch.setattr(privileges, "TRIAL_TIMEOUT_S", 0.2)
    monkeypatch.setattr(privileges, "UNSHARE", script(ending))
    with pytest.raises(NotConnected, match="3 trials failed"):
        unprivileged_prefix(folder, BINARY)
    assert owner(folder) == 0
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700


def test_a_trial_that_is_killed_is_asked_again(folder, monkeypatch, tmp_path):
    once = script(f"test -e {tmp_path}/again || {{ touch {tmp_path}/again; kill -INT $$; }}")
    monkeypatch.setattr(privileges, "UNSHARE", once)
    assert unprivileged_prefix(folder, BINARY) == once


def test_the_trial_is_in_a_session_of_its_own_where_ctrl_c_does_not_reach_it(folder, monkeypatch, tmp_path):
    seen = script(f"cut -d' ' -f6 /proc/$$/stat > {tmp_path}/session")
    monkeypatch.setattr(privileges, "UNSHARE", seen)
    unprivileged_prefix(folder, BINARY)
    assert int((tmp_path / "session").read_text()) != os.getsid(0)


def test_without_namespaces_a_fresh_folder_goes_to_nobody(open_to_all, monkeypatch):
    monkeypatch.setattr(privileges, "UNSHARE", FORBIDDEN)
    assert unprivileged_prefix(open_to_all, BINARY)[0] == "setpriv"
    assert owner(open_to_all) == NOBODY
    assert unprivileged_prefix(open_to_all, BINARY)[0] == "setpriv"  # and the next start decides the same


def test_a_folder_that_nobody_cannot_reach_stays_as_it_is(folder, monkeypatch):
    monkeypatch.setattr(privileges, "UNSHARE", FORBIDDEN)
    folder.parent.parent.chmod(0o700)
    with pytest.raises(ConfigError, match="Run the pipeline as an ordinary user"):
        unprivileged_prefix(folder, BINARY)
    assert owner(folder) == 0
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700


def test_without_namespaces_the_folder_of_roots_cluster_is_not_given_away(open_to_all, monkeypatch):
    (open_to_all / "data").mkdir(mode=0o700)
    monkeypatch.setattr(privileges, "UNSHARE", FORBIDDEN)
    with pytest.raises(ConfigError, match="chown -R nobody"):
        unprivileged_prefix(open_to_all, BINARY)
    assert owner(open_to_all) == 0


def test_a_folder_that_was_parted_from_roots_cluster_is_given_back(open_to_all, monkeypatch):
    working = script(":")
    monkeypatch.setattr(privileges, "UNSHARE", working)
    (open_to_all / "data").mkdir(mode=0o700)
    os.chown(open_to_all, NOBODY, NOBODY)
    open_to_all.parent.chmod(0o711)
    assert unprivileged_prefix(open_to_all, BINARY) == working
    assert owner(open_to_all) == 0
    assert stat.S_IMODE(open_to_all.parent.stat().st_mode) == 0o700


def test_the_cluster_of_an_ordinary_user_is_left_alone(open_to_all):
    (open_to_all / "data").mkdir(mode=0o700)
    for path in (open_to_all, open_to_all / "data"):
        os.chown(path, NOBODY, NOBODY)
    open_to_all.parent.chmod(0o711)
    assert unprivileged_prefix(open_to_all, BINARY)[0] == "setpriv"
    assert owner(open_to_all) == NOBODY


async def test_a_start_that_cannot_find_out_is_an_outage_and_not_refused(house, monkeypatch):
    monkeypatch.setattr(privileges, "UNSHARE", script("kill -INT $$"))
    ready = []
    ctx = house.context("postgres")
    ctx._on_ready = lambda: ready.append(True)
    with pytest.raises(NotConnected, match="is not known"):
        await house.actor(PostgresSpec(home=EmbeddedHome(data_dir=house.home.data_dir))).run(ctx)
    assert ready == [True]
    assert house.state("postgres") == "DOWN"
