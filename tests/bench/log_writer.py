"""The durable log's writer beside a raw append + fdatasync loop: same sizes, same preallocation, in turn."""

from __future__ import annotations

import os
import random
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import attrs
import structlog
import trio

from actors.buffer.buffer import Buffer, CommitLimits
from runtime.actor import ActorContext, Seams, offload_to_thread
from runtime.board import Board
from runtime.clock import SystemClock
from runtime.disk import RealDisk
from runtime.entropy import SeededEntropy
from runtime.errors import LogFull
from runtime.log.appender import Appender, AppendRequest
from runtime.log.log import Log, LogSettings
from runtime.log.types import FrameDraft, GroupDraft
from runtime.mailbox import Mailbox
from tests.bench.figure import Figure

SLICES = 10
SEGMENT = 64 << 20


def open_log(folder: Path) -> Log:
    return Log.open(
        RealDisk(),
        folder,
        settings=LogSettings(segment_bytes=SEGMENT, background_upkeep=True),
        schemas={"quotes": b"x" * 300},
        wall_ns=time.time_ns,
        entropy=SeededEntropy(1),
    )


def draft(producer: str, sequence: int, body: bytes) -> GroupDraft:
    frame = FrameDraft(
        partition=sequence % 4, kind="quotes", body=body, rows=1000, event_time_ns_min=1, event_time_ns_max=2
    )
    return GroupDraft(producer=producer, sequence=sequence, producer_position=b"p" * 20, frames=(frame,))


@attrs.define
class Ours:
    """The log, with its upkeep where it belongs: in another thread."""

    log: Log
    body: bytes
    groups: int
    sequence: int = 0
    stop: threading.Event = attrs.field(factory=threading.Event)
    thread: threading.Thread | None = None

    def start(self) -> None:
        self.thread = threading.Thread(target=self._keep_up)
        self.thread.start()

    def one(self) -> float:
        drafts = [draft("p", self.sequence + i + 1, self.body) for i in range(self.groups)]
        self.sequence += self.groups
        start = time.perf_counter()
        self.log.commit(drafts)
        return time.perf_counter() - start

    def close(self) -> None:
        self.stop.set()
        assert self.thread is not None
        self.thread.join()
        self.log.close()

    def _keep_up(self) -> None:
        while not self.stop.wait(0.01):
            if self.log.upkeep_due:
                try:
                    self.log.upkeep()
                except LogFull:
                    return


@attrs.define
class Raw:
    """pwritev + fdatasync of the same bytes, into preallocated files of the same size."""

    folder: Path
    buffers: list[bytes]
    files: list[int] = attrs.field(factory=list)
    at: int = SEGMENT

    def prepare(self, commits: int) -> None:
        """All the files it will need: it never waits for an allocation."""
        needed = commits * sum(map(len, self.buffers)) // (SEGMENT - (1 << 20)) + 2
        for n in range(needed):
            fd = os.open(self.folder / f"raw{n}", os.O_RDWR | os.O_CREAT)
            os.posix_fallocate(fd, 0, SEGMENT)
            os.fsync(fd)
            self.files.append(fd)
        self.at = 0

    def one(self) -> float:
        size = sum(map(len, self.buffers))
        if self.at + size > SEGMENT:
            os.close(self.files.pop(0))
            self.at = 0
        start = time.perf_counter()
        os.pwritev(self.files[0], self.buffers, self.at)
        os.fdatasync(self.files[0])
        took = time.perf_counter() - start
        self.at += size
        return took

    def close(self) -> None:
        for fd in self.files:
            os.close(fd)


def figures() -> Iterator[Figure]:
    for groups, size, per_slice in ((1, 65_536, 40), (8, 65_536, 25), (1, 26_000, 40)):
        yield from synchronous(groups, size, per_slice)
    yield from through_trio()


def synchronous(groups: int, size: int, per_slice: int) -> Iterator[Figure]:
    folder = Path(tempfile.mkdtemp(prefix="holdfast-bench-", dir=os.environ.get("HOLDFAST_BENCH_DIR")))
    body = random.randbytes(size)
    ours = Ours(open_log(folder / "log"), body, groups)
    raw = Raw(folder, [body + bytes(176)] * groups)  # what a group of this size takes on disk
    raw.prepare(SLICES * per_slice)
    ours.start()
    times: dict[str, list[float]] = {"ours": [], "raw": []}
    try:
        for _ in range(SLICES):
            for name, side in random.sample([("ours", ours), ("raw", raw)], 2):
                times[name] += [side.one() for _ in range(per_slice)]
    finally:
        ours.close()
        raw.close()
        shutil.rmtree(folder)
    name = f"log_sync_{size // 1000}k_x{groups}"
    unit, anchor = "commits/s", "raw append + fdatasync, same preallocation"
    # The mean counts everything, segment changes too; one slow sync of the disk moves it, so the median beside it.
    yield Figure(
        name=f"{name}_mean",
        value=len(times["ours"]) / sum(times["ours"]),
        unit=unit,
        anchor=anchor,
        anchor_value=len(times["raw"]) / sum(times["raw"]),
    )
    yield Figure(
        name=f"{name}_median",
        value=1 / statistics.median(times["ours"]),
        unit=unit,
        anchor=anchor,
        anchor_value=1 / statistics.median(times["raw"]),
    )
    yield Figure(
        name=f"{name}_p99",
        value=p99(times["ours"]) * 1e6,
        unit="us",
        anchor="raw p99",
        anchor_value=p99(times["raw"]) * 1e6,
    )


def p99(times: list[float]) -> float:
    return sorted(times)[int(len(times) * 0.99)]


def through_trio() -> Iterator[Figure]:
    """One producer and sixteen, through mailbox and worker thread; 64 KiB each."""
    for producers in (1, 16):
        ours, raw = [], []
        for _ in range(4):
            folder = Path(tempfile.mkdtemp(prefix="holdfast-bench-", dir=os.environ.get("HOLDFAST_BENCH_DIR")))
            body = random.randbytes(65_536)
            try:
                ours += trio.run(partial(trio_slice, folder / "log", body, producers, 160 // producers + 40))
                anchor = Raw(folder, [body + bytes(176)])
                anchor.prepare(100)
                raw += [anchor.one() for _ in range(100)]
                anchor.close()
            finally:
                shutil.rmtree(folder)
        value = 1 / statistics.median(ours) if producers == 1 else producers / statistics.mean(ours)
        yield Figure(
            name=f"log_trio_{producers}_producers",
            value=value,
            unit="groups/s",
            anchor="raw append + fdatasync, one after the other",
            anchor_value=1 / statistics.median(raw),
        )
        yield Figure(
            name=f"log_trio_{producers}_p99",
            value=p99(ours) * 1e6,
            unit="us",
            anchor="raw p99",
            anchor_value=p99(raw) * 1e6,
        )


async def trio_slice(folder: Path, body: bytes, producers: int, each: int) -> list[float]:
    log = open_log(folder)
    inbox: Mailbox[AppendRequest] = Mailbox("buffer", 64)
    seams = Seams(clock=SystemClock(), entropy=SeededEntropy(1), offload=offload_to_thread, board=Board())
    started = trio.Event()
    ctx = ActorContext(name="buffer", incarnation=1, seams=seams, log=structlog.get_logger(), on_ready=started.set)
    appender = Appender(inbox=inbox, lookup=log.producer)
    times: list[float] = []

    async def produce(name: str) -> None:
        for n in range(each):
            start = time.perf_counter()
            await appender.append(draft(name, n + 1, body))
            times.append(time.perf_counter() - start)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(Buffer(log=log, inbox=inbox, limits=CommitLimits()).run, ctx)
        await started.wait()
        async with trio.open_nursery() as work:
            for n in range(producers):
                work.start_soon(produce, f"p{n}")
        ctx.drain_requested.set()
    log.close()
    return times
