"""Metrics of one process, by the names of CONTRACT: counters that actors feed, and gauges read off the board.

A counter is fed where the fact becomes true: `accepted` by the producer whose append was answered, `stored` by the
delivery whose sink said yes. Everything else is read from the board at the moment of the scrape, so it cannot go stale.
Only names that have a source are there: a metric that never moves would say "fine".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import attrs
from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from runtime.board import Board, DependencyState
from runtime.clock import NS_PER_S
from runtime.mailbox import Mailbox

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series beside each counter, which nobody asked for

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SYNC_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_LATENCY_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0)


class Metrics:
    """One registry with what actors feed directly. Made by the tree, lent to actors through `Seams`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self._accepted = self._counter("records_accepted", "Rows made durable in the log.", "source", "kind")
        self._stored = self._counter("records_stored", "Rows a sink confirmed.", "sink", "kind")
        self._dead = self._counter("records_dead_lettered", "Rows kept aside.", "sink", "reason")
        self._dropped = self._counter("duplicates_dropped", "Rows recognised as seen before.", "stage")
        self._held = self._counter("loop_held_seconds", "Time for which one step held up everybody else.", "actor")
        self._sync = Histogram(
            "holdfast_log_sync_seconds",
            "Time of one fdatasync of the log.",
            registry=self.registry,
            buckets=_SYNC_BUCKETS_S,
        )
        self._latency = Histogram(
            "holdfast_delivery_latency_seconds",
            "From accepted to stored, per group.",
            ["sink", "lane"],
            registry=self.registry,
            buckets=_LATENCY_BUCKETS_S,
        )

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"holdfast_{name}", text, labels, registry=self.registry)

    def accepted(self, *, source: str, kind: str, rows: int) -> None:
        """`rows` became durable; `source` = the vendor's name, or `aggregator`."""
        self._accepted.labels(source, kind).inc(rows)

    def stored(self, *, sink: str, kind: str, rows: int) -> None:
        """`sink` confirmed `rows`."""
        self._stored.labels(sink, kind).inc(rows)

    def dead_lettered(self, *, sink: str, reason: str, rows: int) -> None:
        """`rows` went to the dead-letter log; `reason` is one of a few fixed words, never data."""
        self._dead.labels(sink, reason).inc(rows)

    def dead_letters(self) -> dict[tuple[str, str], int]:
        """(sink, reason) -> rows kept aside since the process began."""
        samples = (sample for metric in self._dead.collect() for sample in metric.samples)
        return {(s.labels["sink"], s.labels["reason"]): int(s.value) for s in samples}

    def duplicates_dropped(self, *, stage: str, rows: int) -> None:
        """`stage` = where they were recognised: `downloader`, `buffer`, `bridge`."""
        self._dropped.labels(stage).inc(rows)

    def loop_held(self, *, actor: str, seconds: float) -> None:
        """`actor` kept the event loop for so long in one step (only long ones are told)."""
        self._held.labels(actor).inc(seconds)

    def log_synced(self, seconds: float) -> None:
        """One fdatasync took so long."""
        self._sync.observe(seconds)

    def delivered(self, *, sink: str, seconds: float, lane: str = "history") -> None:
        """A group was stored `seconds` after it was accepted; `lane` = `live` or `history`."""
        self._latency.labels(sink, lane).observe(seconds)


@attrs.define(eq=False)
class BoardCollector(Collector):
    """Gauges and counters read off the board and the mailboxes at each scrape."""

    board: Board
    mailboxes: Sequence[Mailbox[Any]] = ()

    def collect(self) -> Iterator[Metric]:
        """Everything the board knows now."""
        yield from self._log()
        yield from self._consumers()
        up = _gauge("dependency_up", "1 = answers, 0 = down or not known yet.", "dependency")
        for name, dependency in self.board.dependencies.items():
            up.add_metric([name], float(dependency.state is DependencyState.UP))
        yield up
        restarts = CounterMetricFamily("holdfast_actor_restarts", "Automatic restarts.", labels=["actor"])
        for child in self.board.children.values():
            restarts.add_metric([child.path.rpartition("/")[2]], child.restarts)
        yield restarts
        depth = _gauge("mailbox_depth", "Items waiting.", "mailbox")
        for mailbox in self.mailboxes:
            depth.add_metric([mailbox.name], mailbox.statistics().depth)
        yield depth
        yield self._missing()
        dropped = CounterMetricFamily(
            "holdfast_stream_elements_dropped", "Elements of the stream that nobody could use.", labels=["reason"]
        )
        for reason, count in self.board.stream_dropped().items():
            dropped.add_metric([reason], count)
        yield dropped
        active = _gauge("source_active", "1 = this is where the consumer reads from.", "consumer", "source")
        if vendor := self.board.facts.get("vendor"):
            active.add_metric(["history", vendor], 1.0)
        yield active

    def _log(self) -> Iterator[Metric]:
        log = self.board.log
        if log is None:
            return
        yield _single("log_bytes", "Size of the log's files.", log.bytes)
        yield _single("log_segments", "Files of the log.", log.segments)
        yield _single(
            "log_end_position_bytes", "Bytes since the log began; everything below is durable.", log.end_position
        )
        if log.seconds_until_loss is not None:
            yield _single("seconds_until_loss", "How long the log has room if nothing changes.", log.seconds_until_loss)

    def _consumers(self) -> Iterator[Metric]:
        lag = _gauge("consumer_lag_records", "Rows accepted and not yet committed by the consumer.", "consumer")
        behind = _gauge("consumer_lag_bytes", "The same in bytes of the log.", "consumer")
        unverified = _gauge("consumer_unverified_bytes", "Bytes of the log not yet verified at the sink.", "consumer")
        end = self.board.log.end_position if self.board.log is not None else 0
        for name, consumer in self.board.consumers.items():
            lag.add_metric([name], consumer.lag_records)
            behind.add_metric([name], max(0, end - consumer.committed_position))
            unverified.add_metric([name], max(0, end - consumer.verified_position))
        yield from (lag, behind, unverified)

    def _missing(self) -> Metric:
        """Wanted and not yet durable, summed over the jobs of a (symbol, kind)."""
        missing = _gauge("coverage_missing_seconds", "Time span that is wanted and not yet durable.", "symbol", "kind")
        seconds: dict[tuple[str, str], float] = {}
        for job in self.board.jobs.values():
            left = 0.0 if job.finished else max(0, job.to_ns - max(job.from_ns, job.done_to_ns)) / NS_PER_S
            seconds[job.symbol, job.kind] = seconds.get((job.symbol, job.kind), 0.0) + left
        for (symbol, kind), value in seconds.items():
            missing.add_metric([symbol, kind], value)
        return missing


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"holdfast_{name}", text, labels=labels)


def _single(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"holdfast_{name}", text, value=value)


def render(metrics: Metrics, collector: BoardCollector) -> bytes:
    """The text of /metrics: what actors fed, then what the board says."""
    board_registry = CollectorRegistry()
    board_registry.register(collector)
    return generate_latest(metrics.registry) + generate_latest(board_registry)
