"""`backfill`: the same question goes on with the same job; watching ends when everything is stored."""

from __future__ import annotations

import json

import attrs
import pytest

from actors.downloader.job_files import write_job
from actors.downloader.jobs import BackfillJob
from runtime.board import Board, JobState
from supervisors.cli.backfill import Order, Watch, same_job
from supervisors.cli.progress import Meter, last_line, nothing_new
from supervisors.cli.run import RunMode, _verdict

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


def test_the_last_word_after_waiting_is_what_holds_and_not_what_the_live_stream_still_brings(watch):
    board = Board()
    for end, verified in ((100, 100), (200, 150), (300, 250)):  # live data goes on behind the job
        watch.look(status(end=end, verified=verified), board)
    assert watch.verdict == "done and verified"
    reading = Meter().look(board, 0.0)
    assert reading.waiting_for == ("bridge.timescale",)
    assert last_line(reading, watch.verdict, is_new=True) == "history 100.0%, 7 rows, 0 rows/s, done and verified"


def test_the_last_word_of_a_job_that_was_left_alone_is_the_reading(watch):
    board = Board()
    assert not watch.look(status(done=False), board)
    assert watch.verdict == ""


def test_the_last_word_does_not_call_a_refused_or_undelivered_job_done():
    refused, down = Watch(parts=("j1/C:EURUSD/quotes",)), Watch(parts=("j1/C:EURUSD/quotes",))
    while not refused.look(status(error="unknown symbol"), Board()):
        pass
    down.look(status(verified=0, down="connection refused"), Board())
    assert (refused.verdict, down.verdict) == ("refused in part, the rest verified", "durable, to be delivered")


def test_what_is_there_already_is_said_to_be(watch):
    board = Board()
    answer = status()
    answer["jobs"]["j1/C:EURUSD/quotes"]["asked"] = False
    watch.look(answer, board)
    assert nothing_new(board)
    reading = Meter().look(board, 0.0)
    assert last_line(reading, "done and verified", is_new=False) == "already there, nothing fetched, done and verified"
    watch.look(status(), board)
    assert not nothing_new(board)  # the control: somebody was asked, and gave no row or some


def test_a_kind_that_a_symbol_does_not_have_is_told_when_it_was_asked_for(pipeline):
    argv = ("C:EURUSD", "X:BTCUSD", "--from", "-2h", "--to", "-1h", "--set", "embedded.market=false")
    assert pipeline("backfill", *argv, "--kind", "quotes,trades").err.splitlines()[:2] == [
        "pipeline backfill: C:EURUSD has no trades: left out",
        "pipeline backfill: X:BTCUSD has no quotes: left out",
    ]
    assert "left out" not in pipeline("backfill", *argv).err  # the default means what there is


def test_the_last_word_of_a_standing_run_is_not_about_somebody_elses_backfill(capsys):
    refused = {"from_ns": 0, "to_ns": 1, "done_to_ns": 0, "error": "unknown symbol"}
    board = Board()
    board.jobs["j1/C:EURUSX/quotes"] = JobState(symbol="C:EURUSX", kind="quotes", **refused)
    assert _verdict(board, RunMode()) == 0
    assert capsys.readouterr().err == ""
    assert _verdict(board, RunMode(until_idle=True, only_jobs=True)) == 1
    assert capsys.readouterr().err == "pipeline: C:EURUSX quotes: unknown symbol\n"
    board.jobs = {"history/C:EURUSX/quotes": JobState(symbol="C:EURUSX", kind="quotes", **refused)}
    assert _verdict(board, RunMode()) == 0
    assert capsys.readouterr().err == "pipeline: C:EURUSX quotes: unknown symbol\n"


def test_a_job_is_cancelled_by_its_file_when_nothing_runs(pipeline, tmp_path):
    jobs = tmp_path / "data" / "jobs"
    write_job(jobs, BackfillJob(id="a", **attrs.asdict(ORDER)))
    write_job(jobs, BackfillJob(id="b", **attrs.asdict(ORDER)))
    said = pipeline("backfill", "--cancel", "a")
    assert (said.code, said.out, said.err) == (0, "job a is cancelled; what was fetched of it stays\n", "")
    assert [path.name for path in jobs.iterdir()] == ["b.json"]
    for unknown in ("a", "../b", "history"):
        said = pipeline("backfill", "--cancel", unknown)
        assert (said.code, said.err) == (78, f"pipeline: no backfill {unknown!r} is under way: there is b\n")


def test_a_job_of_a_running_process_is_cancelled_by_that_process(pipeline, tmp_path, monkeypatch):
    asked = []

    def answer(self, method, path, **more):
        asked.append((method, path, more["json"]))
        return {"job": "a"}

    monkeypatch.setattr("supervisors.cli.instance.is_running", lambda settings: True)
    monkeypatch.setattr("supervisors.cli.instance.Instance._ask", answer)
    assert pipeline("backfill", "--cancel", "a").code == 0
    assert asked == [("POST", "/api/backfill/cancel", {"job": "a"})]


@pytest.mark.parametrize("more", [["C:EURUSD"], ["--from", "-2h"], ["--refetch"], ["--kind", "quotes"]])
def test_cancel_takes_no_order(pipeline, more):
    said = pipeline("backfill", "--cancel", "a", *more)
    assert said.code == 2
    assert "--cancel: takes a job and no order" in said.err


def test_who_watches_a_cancelled_job_is_told_and_waits_no_longer(watch):
    while not watch.look(status(error="cancelled"), Board()):
        pass
    assert watch.reasons == ["C:EURUSD quotes: cancelled"]
    assert (watch.failed, watch.verdict) == (True, "cancelled, the rest verified")
