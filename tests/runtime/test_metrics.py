"""Metrics: the names of the contract, read off what is true at the scrape."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from runtime.board import Board, ChildState, ConsumerState, DependencyState, JobState, LogState
from runtime.mailbox import Mailbox
from runtime.metrics import BoardCollector, Metrics, render

HOUR_NS = 3600 * 10**9


def scrape(metrics: Metrics, board: Board, *mailboxes: Mailbox) -> dict[tuple, float]:
    text = render(metrics, BoardCollector(board, mailboxes)).decode()
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_an_empty_process_says_nothing_about_what_it_does_not_know():
    names = {key[0] for key in scrape(Metrics(), Board())}
    assert "holdfast_log_bytes" not in names
    assert "holdfast_seconds_until_loss" not in names


def test_the_board_is_read_at_the_moment_of_the_scrape():
    board, metrics = Board(), Metrics()
    board.log = LogState(
        log_id="x", end_position=1000, bytes=4096, segments=2, records_accepted=7, seconds_until_loss=9.5
    )
    board.consumers["clickhouse"] = ConsumerState(committed_position=400, verified_position=300, lag_records=12)
    board.dependency("postgres", DependencyState.UP)
    board.dependency("clickhouse", DependencyState.DOWN, reason="refused")
    board.children["pipeline/core/storage/buffer"] = ChildState(
        path="pipeline/core/storage/buffer", state="RUNNING", restarts=3
    )
    board.jobs["a"] = JobState(symbol="C:EURUSD", kind="quotes", from_ns=0, to_ns=2 * HOUR_NS, done_to_ns=HOUR_NS)
    board.jobs["b"] = JobState(symbol="C:EURUSD", kind="quotes", from_ns=0, to_ns=HOUR_NS, done_to_ns=0)
    board.jobs["c"] = JobState(symbol="C:USDJPY", kind="quotes", from_ns=0, to_ns=HOUR_NS, done_to_ns=0, finished=True)
    board.facts["vendor"] = "polygon"
    board.stream_dropped = lambda: {"unknown-event": 4}
    mailbox: Mailbox[int] = Mailbox("appends", 4)
    mailbox.send_nowait(1)

    seen = scrape(metrics, board, mailbox)
    assert seen["holdfast_log_bytes",] == 4096
    assert seen["holdfast_seconds_until_loss",] == 9.5
    assert seen["holdfast_consumer_lag_records", ("consumer", "clickhouse")] == 12
    assert seen["holdfast_consumer_lag_bytes", ("consumer", "clickhouse")] == 600
    assert seen["holdfast_consumer_unverified_bytes", ("consumer", "clickhouse")] == 700
    assert seen["holdfast_dependency_up", ("dependency", "postgres")] == 1
    assert seen["holdfast_dependency_up", ("dependency", "clickhouse")] == 0
    assert seen["holdfast_actor_restarts_total", ("actor", "buffer")] == 3
    assert seen["holdfast_mailbox_depth", ("mailbox", "appends")] == 1
    assert seen["holdfast_coverage_missing_seconds", ("kind", "quotes"), ("symbol", "C:EURUSD")] == 2 * 3600
    assert seen["holdfast_coverage_missing_seconds", ("kind", "quotes"), ("symbol", "C:USDJPY")] == 0
    assert seen["holdfast_source_active", ("consumer", "history"), ("source", "polygon")] == 1
    assert seen["holdfast_stream_elements_dropped_total", ("reason", "unknown-event")] == 4

    board.dependency("clickhouse", DependencyState.UP)
    assert scrape(metrics, board)["holdfast_dependency_up", ("dependency", "clickhouse")] == 1


def test_actors_feed_what_only_they_know():
    metrics = Metrics()
    metrics.accepted(source="polygon", kind="quotes", rows=5)
    metrics.accepted(source="polygon", kind="quotes", rows=6)
    metrics.stored(sink="timescale", kind="quotes", rows=11)
    metrics.dead_lettered(sink="timescale", reason="refused", rows=1)
    metrics.duplicates_dropped(stage="bridge", rows=2)
    metrics.log_synced(0.004)
    metrics.delivered(sink="timescale", lane="live", seconds=0.2)
    seen = scrape(metrics, Board())
    assert seen["holdfast_records_accepted_total", ("kind", "quotes"), ("source", "polygon")] == 11
    assert seen["holdfast_records_stored_total", ("kind", "quotes"), ("sink", "timescale")] == 11
    assert seen["holdfast_records_dead_lettered_total", ("reason", "refused"), ("sink", "timescale")] == 1
    assert seen["holdfast_duplicates_dropped_total", ("stage", "bridge")] == 2
    assert seen["holdfast_log_sync_seconds_bucket", ("le", "0.005")] == 1
    assert seen["holdfast_delivery_latency_seconds_count", ("lane", "live"), ("sink", "timescale")] == 1


def test_two_processes_in_one_test_do_not_share_counters():
    one, two = Metrics(), Metrics()
    one.accepted(source="s", kind="quotes", rows=1)
    assert ("holdfast_records_accepted_total", ("kind", "quotes"), ("source", "s")) not in scrape(two, Board())
