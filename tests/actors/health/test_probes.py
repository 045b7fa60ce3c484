"""The verdict: green only when every promise is kept, and the reason names the part that is not fine."""

from __future__ import annotations

import attrs
import pytest

from actors.health.probes import Probes, Status
from runtime.board import Board, ChildState, ConsumerState, DependencyState, JobState, LogState
from runtime.mailbox import Mailbox

LOG = LogState(log_id="l", end_position=1000, bytes=1000, segments=1, records_accepted=5, seconds_until_loss=3600.0)
NOW_S = 500.0


@pytest.fixture
def board() -> Board:
    """A process in which all is well."""
    board = Board(log=LOG)
    for name in ("timescale", "clickhouse", "polygon", "embedded.postgres"):
        board.dependency(name, DependencyState.UP)
    board.consumers["bridge.timescale"] = ConsumerState(committed_position=1000, verified_position=1000, caught_up=True)
    board.children["pipeline/core/storage/buffer"] = ChildState(path="pipeline/core/storage/buffer", state="RUNNING")
    return board


def judge(board: Board, **more):
    return Probes(service="holdfast", stalled_after_s=30.0, **more).judge(board, NOW_S)


def test_all_well_is_healthy_without_a_reason(board):
    verdict = judge(board)
    assert verdict.to_json() == {
        "service": "holdfast",
        "status": "healthy",
        "ready": True,
        "dependencies": {"clickhouse": "UP", "embedded.postgres": "UP", "polygon": "UP", "timescale": "UP"},
        "reasons": [],
        "seconds_until_loss": 3600.0,
    }
    assert verdict.live


def test_a_database_that_is_down_degrades_and_only_it_is_named(board):
    board.dependency("clickhouse", DependencyState.DOWN, reason="connection refused by http://u:pw@h:1/")
    verdict = judge(board)
    assert (verdict.status, verdict.ready, verdict.live) == (Status.DEGRADED, True, True)
    assert verdict.reasons == ("clickhouse: down, connection refused by http://u:***@h:1/",)
    assert verdict.dependencies["clickhouse"] == "DOWN"
    assert verdict.dependencies["timescale"] == "UP"


def test_what_is_not_known_is_not_green(board):
    board.dependency("timescale", DependencyState.UNKNOWN)
    assert judge(board).reasons == ("timescale: not known yet",)
    assert judge(board).status is Status.DEGRADED


def test_before_the_log_is_open_nothing_is_accepted():
    verdict = judge(Board())
    assert (verdict.status, verdict.ready, verdict.live) == (Status.UNHEALTHY, False, True)
    assert verdict.reasons == ("log: not open yet",)


def test_a_log_that_takes_nothing_is_unhealthy_whatever_else_is_fine(board):
    board.log = attrs.evolve(LOG, error="no space left on the disk", seconds_until_loss=0.0)
    verdict = judge(board)
    assert (verdict.status, verdict.ready, verdict.seconds_until_loss) == (Status.UNHEALTHY, False, 0.0)
    assert verdict.reasons == ("log: no space left on the disk",)


@pytest.mark.parametrize(
    ("child", "status", "reason"),
    [
        ("pipeline/core/storage/buffer", Status.UNHEALTHY, "buffer: waits for its restart (crashed: OSError: x)"),
        (
            "pipeline/core/flow/aggregation/aggregator",
            Status.DEGRADED,
            "aggregator: waits for its restart (crashed: OSError: x)",
        ),
    ],
)
def test_a_child_that_waits_for_its_restart_is_named(board, child, status, reason):
    board.children[child] = ChildState(path=child, state="BACKING_OFF", last_exit="crashed: OSError: x")
    assert (judge(board).status, judge(board).reasons) == (status, (reason,))


def test_a_child_that_failed_is_named(board):
    board.children["p/x"] = ChildState(path="p/x", state="FAILED")
    assert judge(board).reasons == ("x: failed",)


@pytest.mark.parametrize("state", ["STARTING", "RUNNING", "STOPPED", "DRAINING"])
def test_other_states_of_a_child_are_no_reason(board, state):
    board.children["p/x"] = ChildState(path="p/x", state=state, restarts=7, last_exit="crashed")
    assert judge(board).status is Status.HEALTHY


@pytest.mark.parametrize(
    ("age_s", "status", "live"),
    [(29.0, Status.HEALTHY, True), (31.0, Status.DEGRADED, True), (121.0, Status.DEGRADED, False)],
)
def test_a_reader_that_is_behind_must_move(board, age_s, status, live):
    board.consumers["bridge.timescale"] = ConsumerState(committed_position=400, verified_position=400)
    board.progress("bridge.timescale", NOW_S - age_s)
    verdict = judge(board)
    assert (verdict.status, verdict.live) == (status, live)
    if status is Status.DEGRADED:
        assert verdict.reasons == (f"bridge.timescale: work is waiting, no progress for {age_s:.0f} s",)


def test_a_reader_with_nothing_to_do_may_rest(board):
    board.progress("bridge.timescale", NOW_S - 10_000)
    assert judge(board).status is Status.HEALTHY


def test_work_that_waits_in_an_inbox_must_move(board):
    inbox: Mailbox[int] = Mailbox("appends", 2)
    board.progress("buffer", NOW_S - 40)
    assert judge(board, inboxes={"buffer": inbox}).status is Status.HEALTHY
    inbox.send_nowait(1)
    assert judge(board, inboxes={"buffer": inbox}).reasons == ("buffer: work is waiting, no progress for 40 s",)


def test_history_that_the_vendor_refuses_is_named_but_not_a_refused_backfill(board):
    refused = JobState(symbol="C:XXXYYY", kind="quotes", from_ns=0, to_ns=1, done_to_ns=0, error="unknown symbol")
    board.jobs["ab12/C:XXXYYY/quotes"] = refused
    assert judge(board).status is Status.HEALTHY
    board.jobs["history/C:XXXYYY/quotes"] = refused
    assert judge(board).reasons == ("C:XXXYYY quotes: unknown symbol",)


def test_reasons_come_worst_first(board):
    board.log = attrs.evolve(LOG, error="full")
    board.dependency("clickhouse", DependencyState.DOWN)
    assert judge(board).reasons == ("log: full", "clickhouse: down")
