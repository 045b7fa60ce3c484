"""`backfill`: the same question goes on with the same job; watching ends when everything is stored."""

from __future__ import annotations

import json

import attrs
import pytest

from actors.downloader.job_files import write_job
from actors.downloader.jobs import BackfillJob
from runtime.board import Board
from supervisors.cli.backfill import Order, Watch, same_job

ORDER = Order(symbols=("C:EURUSD",), kinds=("quotes",), from_ns=0, to_ns=60 * 10**9, refetch=False)


def test_asking_for_the_same_again_goes_on_with_the_same_job(tmp_path):
    assert same_job(tmp_path / "none", ORDER) is None
    write_job(tmp_path, BackfillJob(id="a", **attrs.asdict(attrs.evolve(ORDER, refetch=True))))
    write_job(tmp_path, BackfillJob(id="b", **attrs.asdict(ORDER)))
    (tmp_path / "broken.json").write_text("{")
    assert same_job(tmp_path, ORDER).id == "b"
    assert same_job(tmp_path, attrs.evolve(ORDER, to_ns=120 * 10**9)) is None


def status(*, done: bool = True, error: str = "", end: int = 100, verified: int = 100, down: str = "") -> dict:
    job = {
        "symbol": "C:EURUSD", "kind": "quotes", "from_ns": 0, "to_ns": 10, "done_to_ns": 10 if done else 5, "rows": 7,
        "finished": done and not error, "error": error, "from": "…", "to": "…", "done": 1.0,
    }  # fmt: skip
    log = {
        "log_id": "l",
        "end_position": end,
        "bytes": 1,
        "segments": 1,
        "records_accepted": 1,
        "of_a_later_version": 1,
    }
    return {
        "jobs": {"j1/C:EURUSD/quotes": job, "history/C:EURUSD/quotes": {**job, "finished": False}},
        "log": log,
        "consumers": {"bridge.timescale": {"committed_position": verified, "verified_position": verified}},
        "dependency_details": {"timescale": {"state": "DOWN" if down else "UP", "reason": down}},
    }


@pytest.fixture
def watch() -> Watch:
    return Watch(parts=("j1/C:EURUSD/quotes",))


def test_it_waits_for_the_job_then_for_the_ticks_then_for_the_candles(watch):
    board = Board()
    assert not watch.look(status(done=False), board)
    assert board.jobs["j1/C:EURUSD/quotes"].rows == 7
    assert list(board.jobs) == ["j1/C:EURUSD/quotes"]
    assert not watch.look(status(end=100, verified=50), board)
    assert not watch.look(status(end=130, verified=100), board)  # the ticks are there, candles were appended meanwhile
    assert not watch.look(status(end=130, verified=120), board)
    assert watch.look(status(end=200, verified=130), board)
    assert not watch.failed


def test_a_job_that_is_not_shown_yet_is_waited_for(watch):
    answer = status()
    del answer["jobs"]["j1/C:EURUSD/quotes"]
    assert not watch.look(answer, Board())


def test_a_refused_job_is_a_no_with_its_reason(watch):
    board = Board()
    while not watch.look(status(error="unknown symbol"), board):
        pass
    assert watch.failed
    assert watch.reasons == ["C:EURUSD quotes: unknown symbol"]


def test_an_outage_of_a_sink_is_not_waited_for(watch):
    assert watch.look(status(verified=0, down="connection refused"), Board())
    assert not watch.failed
    assert watch.reasons == ["durable, but not everywhere yet: timescale: connection refused"]


def test_the_job_file_is_what_the_downloader_reads(tmp_path):
    path = write_job(tmp_path, BackfillJob(id="a", **attrs.asdict(ORDER)))
    assert json.loads(path.read_text())["symbols"] == ["C:EURUSD"]
