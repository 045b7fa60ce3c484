"""`status` for people, and how a running process is found."""

from __future__ import annotations

import attrs
import httpx
import pytest

from actors.health.probes import Probes
from actors.health.report import About, report
from runtime.board import Board, ChildState, ConsumerState, DependencyState, JobState, LiveState, LogState
from runtime.config import load
from runtime.disk import RealDisk
from runtime.entropy import SystemEntropy
from runtime.errors import ConfigError, NotConnected
from runtime.log.dead_letters import DROPPED, DeadLetters, Letter
from runtime.mailbox import Mailbox
from supervisors.cli.instance import Instance, endpoints, http_address, is_running
from supervisors.cli.main import main
from supervisors.cli.status import lines
from supervisors.engine.events import Event, EventKind
from supervisors.engine.exits import ExitKind, ExitReason
from supervisors.engine.history import History, dump


class StoppedClock:
    def wall_ns(self) -> int:
        return 10**18

    def monotonic_s(self) -> float:
        return 100.0


def text_of(board: Board, **more: object) -> str:
    probes = Probes(service="holdfast", stalled_after_s=30.0, inboxes={"buffer": Mailbox("appends", 8)})
    about = About(version="1", started_ns=0, listen="127.0.0.1:8800")
    return "\n".join(lines({**report(probes, about, board, StoppedClock()), **more}))


def test_everything_worth_knowing_is_in_it():
    board = Board(
        log=LogState(
            log_id="l", end_position=200, bytes=4096, segments=1, records_accepted=1234, seconds_until_loss=90.0
        )
    )
    board.dependency("timescale", DependencyState.DOWN, reason="refused\x1b[2J")
    board.jobs["history/C:EURUSD/quotes"] = JobState(
        symbol="C:EURUSD", kind="quotes", from_ns=0, to_ns=8 * 10**9, done_to_ns=10**9, rows=55
    )
    board.consumers["bridge.timescale"] = ConsumerState(committed_position=100, verified_position=50, lag_records=9)
    board.children["pipeline"] = ChildState(path="pipeline", state="RUNNING")
    board.children["pipeline/health"] = ChildState(
        path="pipeline/health", state="BACKING_OFF", restarts=2, last_exit="crashed"
    )
    text = text_of(board)
    for words in (
        "holdfast: degraded",
        "! timescale: down, refused",
        "1,234 rows accepted, 4,096 bytes in 1 files, room for 1 min 30 s if no database takes anything",
        "12.5%",
        "verified 25.0%",
        "9 rows behind",
        "  health  BACKING_OFF  restarts 2  crashed",
        "appends  0/8",
    ):
        assert words in text, text
    assert "\x1b" not in text


def test_a_process_that_just_started_has_a_status_too():
    assert "holdfast: unhealthy" in text_of(Board())


@pytest.fixture
def settings(tmp_path):
    return load(cwd=tmp_path, overrides=["health.listen=0.0.0.0:8801"]).settings


def test_the_address_is_where_the_process_says_it_is(settings, tmp_path):
    assert http_address(settings) == "http://127.0.0.1:8801"
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "endpoints.json").write_text('{"health": "http://127.0.0.1:9/"}')
    assert http_address(settings) == "http://127.0.0.1:9"
    assert endpoints(settings) == {"health": "http://127.0.0.1:9/"}
    six = attrs.evolve(
        settings,
        health=attrs.evolve(settings.health, listen="[::]:8801"),
        pipeline=load(cwd=tmp_path / "x").settings.pipeline,
    )
    assert http_address(six) == "http://[::1]:8801"


def test_an_empty_directory_has_no_process(settings, tmp_path):
    assert not is_running(settings)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (httpx.Response(200, json={"ok": 1}), None, ""),
        (httpx.Response(200, text="<html>"), NotConnected, "no answer"),
        (httpx.Response(200, json=[1]), NotConnected, "not this pipeline"),
        (httpx.Response(503, json={"error": "too many jobs"}), NotConnected, "too many jobs"),
        (httpx.Response(400, json={"error": "kinds: no"}), ConfigError, "kinds: no"),
    ],
)
def test_answers_become_results_or_errors(answer, error, words):
    asked = Instance(url="http://x", transport=httpx.MockTransport(lambda _: answer))
    if error is None:
        assert asked.status() == {"ok": 1}
    else:
        with pytest.raises(error, match=words):
            asked.status()


def test_the_last_restarts_are_told_also_when_nothing_runs(tmp_path, capsys):
    history = History(lambda: 1_700_000_000 * 10**9)
    history.note("pipeline", "process_started", "pid 7")
    error = OSError("disk\x1b[2J")
    reason = ExitReason(ExitKind.CRASHED, error)
    history.record(
        Event(kind=EventKind.CRASHED, path="pipeline/core/x", reason=reason, budget_left=2, decision="restart")
    )
    (tmp_path / "restarts.jsonl").write_bytes(dump(history.entries()))
    assert main(["status", "--set", f"pipeline.data_dir={tmp_path}", "--set", "health.listen=127.0.0.1:1"]) == 1
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "last ends and restarts:"
    assert out[1] == "  2023-11-14T22:13:20Z pipeline process_started pid 7"
    assert out[2].startswith("  2023-11-14T22:13:20Z pipeline/core/x actor_crashed crashed: OSError: disk [2J <")
    assert out[2].endswith("> -> restart [2 restarts left]")


def test_what_is_live_is_one_line_for_each_symbol_and_kind():
    board = Board()
    board.live["X:BTCUSD/trades"] = LiveState(
        symbol="X:BTCUSD", kind="trades", prices=(61234.5,), ts_ns=0, heard_s=99.5, ticks_per_s=12.34
    )
    board.live["C:EURUSD/quotes"] = LiveState(
        symbol="C:EURUSD", kind="quotes", prices=(1.0850, float("nan")), ts_ns=0, heard_s=40.0, ticks_per_s=0.0
    )
    text = text_of(board)
    assert text[text.index("live:") :].splitlines()[:3] == [
        "live:",
        "  C:EURUSD quotes  1.085 / ?  0.0 ticks/s   last tick 60.0 s ago",
        "  X:BTCUSD trades  61234.5    12.3 ticks/s  last tick 0.5 s ago",
    ]
    assert "live:" not in text_of(Board())  # an older process, or one that follows nothing


def test_a_log_that_is_trimmed_is_not_said_to_fill_up():
    board = Board(
        log=LogState(
            log_id="l", end_position=1, bytes=1, segments=1, records_accepted=1, seconds_until_loss=43 * 86400.0
        )
    )
    assert "room for 43 days if no database takes anything" in text_of(board)
    assert "full in" not in text_of(board)


SEE = "see `pipeline dead-letters list`"


def test_dead_letters_are_a_line_by_sink_and_reason():
    assert "dead letters" not in text_of(Board())
    since = [{"sink": "timescale", "reason": "refused", "rows": 1200}]
    assert f"dead letters: 1,200 since the start (timescale refused 1,200); {SEE}" in text_of(
        Board(), dead_letters=since
    )
    of_the_log = [*since, {"sink": "rules", "reason": "bad\x1bprice", "rows": 2}]
    text = text_of(Board(), dead_letters=since, dead_letters_open=of_the_log)
    assert f"dead letters: 1,202 open (timescale refused 1,200, rules bad price 2); {SEE}" in text
    assert "dead letters" not in text_of(Board(), dead_letters=since, dead_letters_open=[])  # all are decided about


def test_open_dead_letters_of_the_data_directory_are_told_also_when_nothing_runs(tmp_path, capsys):
    sets = ["--set", f"pipeline.data_dir={tmp_path}", "--set", "health.listen=127.0.0.1:1"]
    assert main(["status", *sets]) == 1
    assert "dead letters" not in capsys.readouterr().out
    letters = DeadLetters(
        disk=RealDisk(), directory=tmp_path / "dead-letters", wall_ns=lambda: 1, entropy=SystemEntropy()
    )
    made = [
        Letter(sink=sink, log_id="l", partition=0, offset=n, row=0, kind="quotes", reason="refused", error="e",
               content="{}", first_ns=0, last_ns=0, version="1")
        for n, sink in enumerate(("rules", "timescale", "timescale", "timescale"))
    ]  # fmt: skip
    letters.add(made)
    letters.decide([made[3].key], DROPPED)
    letters.close()
    assert main(["status", *sets]) == 1
    assert capsys.readouterr().out == f"dead letters: 3 open (rules refused 1, timescale refused 2); {SEE}\n"
