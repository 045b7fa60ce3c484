"""Commits at the head while somebody reads a backlog of many GB as fast as it can, beside commits with nobody there.

`HOLDFAST_BENCH_BACKLOG_GB` = how much backlog (default 1).
"""

from __future__ import annotations

import os
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import attrs
import psutil
import structlog
import trio

from actors.buffer.buffer import Buffer, CommitLimits
from runtime.actor import ActorContext, Seams, offload_to_thread
from runtime.board import Board
from runtime.clock import SystemClock
from runtime.entropy import SeededEntropy
from runtime.log.appender import Appender, AppendRequest
from runtime.log.consumer import Consumer
from runtime.log.log import Log
from runtime.mailbox import Mailbox
from tests.bench.figure import Figure
from tests.bench.log_reading import forget
from tests.bench.log_writer import draft, open_log, p99

BACKLOG = int(float(os.environ.get("HOLDFAST_BENCH_BACKLOG_GB", "1")) * 1e9)
BLOCKS = 12
BLOCK_S = 1.0
EVERY_S = 0.01
READ_BYTES = 512 * 1024
"""As a delivery reads."""


@attrs.define
class Run:
    """What was seen."""

    alone: list[float] = attrs.field(factory=list)
    beside: list[float] = attrs.field(factory=list)
    read_bytes: int = 0
    read_s: float = 0.0
    rss_before: int = 0
    rss_max: int = 0
    live_late: list[float] = attrs.field(factory=list)
    """Seconds from a commit's answer until a consumer at the head had its group, while the backlog is read."""


def figures() -> Iterator[Figure]:
    folder = Path(tempfile.mkdtemp(prefix="holdfast-bench-", dir=os.environ.get("HOLDFAST_BENCH_DIR")))
    try:
        log = open_log(folder / "log")
        fill(log)
        for path in (folder / "log").glob("*.seg"):
            forget(path)
        run = trio.run(one_run, log)
        log.close()
    finally:
        shutil.rmtree(folder)
    grown = (run.rss_max - run.rss_before) / 1e6
    print(
        f"  backlog {BACKLOG / 1e9:.1f} GB, read {run.read_bytes / 1e9:.2f} GB at {run.read_bytes / run.read_s / 1e6:,.0f} "
        f"MB/s of its turns, memory grew by at most {grown:.0f} MB; groups at the head reached a live consumer after p50 "
        f"{statistics.median(run.live_late) * 1e3:.2f} ms, p99 {p99(run.live_late) * 1e3:.2f} ms",
        flush=True,
    )
    for name, of in (("p50", statistics.median), ("p99", p99)):
        yield Figure(
            name=f"log_backlog_commit_{name}",
            value=of(run.beside) * 1e6,
            unit="us",
            anchor="nobody reads, us",
            anchor_value=of(run.alone) * 1e6,
        )
    yield Figure(name="log_backlog_memory", value=grown, unit="MB", anchor="allowed, MB", anchor_value=64.0)


def fill(log: Log) -> None:
    body = random.randbytes(26_000)
    n = 0
    while log.end_position < BACKLOG:
        log.commit([draft("backlog", n + i + 1, body) for i in range(256)])
        n += 256
        log.upkeep()


async def one_run(log: Log) -> Run:
    run = Run()
    seams = Seams(clock=SystemClock(), entropy=SeededEntropy(1), offload=offload_to_thread, board=Board())
    inbox: Mailbox[AppendRequest] = Mailbox("buffer", 64)
    ready = trio.Event()
    ctx = ActorContext(name="buffer", incarnation=1, seams=seams, log=structlog.get_logger(), on_ready=ready.set)
    appender = Appender(inbox=inbox, lookup=log.producer)
    behind, live = log.consumer("behind"), log.consumer("live")
    live.seek(log.end_position)
    answered: dict[int, float] = {}
    process = psutil.Process()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Buffer(log=log, inbox=inbox, limits=CommitLimits()).run, ctx)
        nursery.start_soon(follow, live, answered, run)
        await ready.wait()
        run.rss_before = process.memory_info().rss
        for block in random.sample(["alone", "beside"] * BLOCKS, 2 * BLOCKS):
            with trio.CancelScope() as reading:
                async with trio.open_nursery() as work:
                    if block == "beside":
                        work.start_soon(read_on, behind, run, process)
                    await commit_for(appender, log, getattr(run, block), answered)
                    reading.cancel()
        ctx.drain_requested.set()
        nursery.cancel_scope.cancel()
    return run


async def follow(live: Consumer, answered: dict[int, float], run: Run) -> None:
    while True:
        for group in await live.read():
            if group.sequence in answered:
                run.live_late.append(max(0.0, time.perf_counter() - answered.pop(group.sequence)))
            else:
                run.live_late.append(0.0)


async def read_on(behind: Consumer, run: Run, process: psutil.Process) -> None:
    while behind.end() - behind.position > 8 << 20:
        start = time.perf_counter()
        groups = await behind.read(bytes_max=READ_BYTES)
        run.read_s += time.perf_counter() - start
        run.read_bytes += sum(len(frame.body) for group in groups for frame in group.frames)
        run.rss_max = max(run.rss_max, process.memory_info().rss)
    behind.seek(0)


async def commit_for(appender: Appender, log: Log, times: list[float], answered: dict[int, float]) -> None:
    body = random.randbytes(26_000)
    until = time.perf_counter() + BLOCK_S
    while time.perf_counter() < until:
        one = draft("live", log.producer("live").sequence + 1, body)
        start = time.perf_counter()
        await appender.append(one)
        answered[one.sequence] = time.perf_counter()
        times.append(answered[one.sequence] - start)
        await trio.sleep(EVERY_S)
