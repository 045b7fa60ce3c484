"""What is wrong around a run is told before anything is touched; and who is asked is who works here."""

from __future__ import annotations

import json
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from actors.market.schema import KINDS, schema_message
from runtime.clock import SystemClock
from runtime.disk import RealDisk
from runtime.entropy import SystemEntropy
from runtime.log.log import Log, LogSettings
from supervisors.cli import run as run_module

LISTEN = ("--set", "health.listen=127.0.0.1:0")


def one_line(said, *words: str) -> None:
    assert said.code == 78, said
    assert len(said.err.splitlines()) == 1, said.err
    for word in words:
        assert word in said.err


def write_day(folder: Path, day: str = "20140501", text: str = "292,1.38676,1.38686") -> Path:
    target = folder / "tick" / "eurusd" / f"{day}_quote.zip"
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("ticks.csv", text)
    return target


def ambiguous(folder: Path) -> str:
    write_day(folder / "oanda")
    write_day(folder / "fxcm")
    return "name one of them: fxcm | oanda"


def empty(folder: Path) -> str:
    folder.mkdir()
    return "not a Lean forex folder"


def wrongly_named(folder: Path) -> str:
    write_day(folder)
    return "the folder's name must say whose clock the files have, one of: oanda, fxcm"


def damaged(folder: Path) -> str:
    write_day(folder / "oanda", "20140501")
    path = write_day(folder / "oanda", "20140502")
    path.write_bytes(path.read_bytes()[:40])
    return f"recording file {path} cannot be used, replace it"


@pytest.mark.parametrize("make", [ambiguous, empty, wrongly_named, damaged])
@pytest.mark.parametrize(
    "argv", [("run",), ("run", "--until-idle"), ("backfill", "C:EURUSD", "--from", "2014-05-01", "--to", "2014-05-02")]
)
def test_a_recording_that_cannot_be_used_stops_a_run_before_anything_is_touched(pipeline, tmp_path, make, argv):
    words = make(tmp_path / "ticks")
    said = pipeline(*argv, "--set", "embedded.recording=ticks", "--set", "downloader.history_from=2014-05-01", *LISTEN)
    one_line(said, "pipeline: embedded.recording: ", words)
    assert [path.name for path in tmp_path.iterdir()] == ["ticks"]
    one_line(pipeline("check", "--set", "embedded.recording=ticks", *LISTEN), "pipeline: embedded.recording: ", words)


def test_without_that_look_the_run_begins(pipeline, tmp_path, monkeypatch):
    """The control of the test above."""
    ambiguous(tmp_path / "ticks")
    monkeypatch.setattr(run_module, "check_runnable", lambda settings, now_ns: None)

    def reached(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(run_module, "open_parts", reached)
    assert pipeline("run", "--set", "embedded.recording=ticks", *LISTEN).code != 78


@pytest.mark.parametrize("data_dir", ["file", "file/below", "/proc/holdfast-test"])
def test_a_data_directory_that_cannot_be_one_says_what_to_do(pipeline, tmp_path, data_dir):
    (tmp_path / "file").write_text("precious")
    sets = ("--set", f"pipeline.data_dir={data_dir}", *LISTEN)
    one_line(pipeline("run", *sets), data_dir, "set pipeline.data_dir to a directory that we may write to")
    one_line(pipeline("check", *sets), f"pipeline.data_dir = {tmp_path / data_dir}", "set it to another")
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.parametrize("command", ["run", "check"])
def test_an_address_that_is_not_ours_says_what_to_do(pipeline, command):
    said = pipeline(command, "--set", "health.listen=192.0.2.1:8831")
    one_line(said, 'health.listen = "192.0.2.1:8831": Cannot assign', "set it to an address of this machine")


# -- whose status it is


class _Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps({"service": "the other one", "status": "healthy"}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        return


@pytest.fixture
def other_instance():
    """A pipeline of somebody else at our address."""
    server = HTTPServer(("127.0.0.1", 0), _Answer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_status_of_another_data_directory_is_not_ours(pipeline, tmp_path, other_instance):
    said = pipeline("status", "--set", f"health.listen={other_instance}", "--set", "pipeline.data_dir=mine")
    assert (said.code, said.out) == (1, "")
    assert said.err == (
        f"pipeline: not running on {tmp_path / 'mine'}: the other one answers at http://{other_instance} but does not "
        "work on it: set pipeline.data_dir to its own\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_the_status_of_who_works_on_the_data_directory_is_shown(pipeline, tmp_path, other_instance):
    log = Log.open(
        RealDisk(),
        tmp_path / "mine" / "log",
        settings=LogSettings(segment_bytes=17825792),
        schemas={kind: schema_message(kind) for kind in KINDS},
        wall_ns=SystemClock().wall_ns,
        entropy=SystemEntropy(),
    )
    try:
        sets = ("--set", f"health.listen={other_instance}", "--set", "pipeline.data_dir=mine")
        assert '"the other one"' in pipeline("status", "--json", *sets).out
    finally:
        log.close()
