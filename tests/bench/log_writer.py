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
from pathlib import Path

import attrs
import structlog
import trio

from actors.buffer.buffer import Buffer, CommitLimits
from runtime.actor import ActorContext, Seams, offload_to_thread
from runtime.board import Board
from runtime.clock import SystemClock
from runtime.disk import File, RealDisk, RealFile
from runtime.entropy import SeededEntropy
from runtime.errors import LogFull
from runtime.log.appender import Appender, AppendRequest
from runtime.log.frame import body_checksum, pack_fields
from runtime.log.log import Log, LogSettings
from runtime.log.types import Appended, FrameDraft, GroupDraft
from runtime.mailbox import Mailbox
from tests.bench.figure import Figure

BLOCK = 8
"""Commits in turn: short, so that what else the machine does hits both sides."""
SEGMENT = 64 << 20
HEADER = 176
"""Of a frame, as `draft` makes them."""
FIELDS = tuple(range(1, 19))
"""Some header."""


class SlowFile(RealFile):
    """Its sync takes `delay_s` longer."""

    delay_s = 0.0

    def datasync(self) -> None:
        super().datasync()
        time.sleep(self.delay_s)


@attrs.define
class SlowDisk(RealDisk):
    delay_s: float

    def open(self, path: Path, *, write: bool = False, create: bool = False) -> File:
        file = super().open(path, write=write, create=create)
        assert isinstance(file, RealFile)
        slow = SlowFile(file._fd)
        slow.delay_s = self.delay_s
        return slow


def open_log(folder: Path, delay_s: float = 0.0) -> Log:
    return Log.open(
        SlowDisk(delay_s) if delay_s else RealDisk(),
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
    name: str
    buffers: list[bytes]
    files: list[int] = attrs.field(factory=list)
    at: int = SEGMENT
    delay_s: float = 0.0
    header = 0
    """Bytes that `write` puts before each buffer."""

    def prepare(self, commits: int) -> None:
        """All the files it will need: it never waits for an allocation."""
        needed = commits * (sum(map(len, self.buffers)) + len(self.buffers) * self.header) // (SEGMENT - (1 << 20)) + 2
        for n in range(needed):
            fd = os.open(self.folder / f"{self.name}{n}", os.O_RDWR | os.O_CREAT)
            os.posix_fallocate(fd, 0, SEGMENT)
            os.fsync(fd)
            self.files.append(fd)
        self.at = 0

    def one(self) -> float:
        size = sum(map(len, self.buffers)) + len(self.buffers) * self.header
        if self.at + size > SEGMENT:
            os.close(self.files.pop(0))
            self.at = 0
        start = time.perf_counter()
        self.write()
        os.fdatasync(self.files[0])
        if self.delay_s:
            time.sleep(self.delay_s)
        took = time.perf_counter() - start
        self.at += size
        return took

    def write(self) -> None:
        os.pwritev(self.files[0], self.buffers, self.at)

    def close(self) -> None:
        for fd in self.files:
            os.close(fd)


class Floor(Raw):
    """Raw, and the least that any log has to do in Python: both checksums, a packed header, one object as the answer."""

    header = HEADER

    def write(self) -> None:
        buffers, crc = [], 0
        for body in self.buffers:
            packed, crc = pack_fields((*FIELDS, body_checksum(body), 0), b"p", b"p" * 20)
            buffers += [packed, body]
        os.pwritev(self.files[0], buffers, self.at)
        Appended(position=self.at, end_position=self.at + len(buffers), stamp_ns=crc, duplicate=False)


def figures() -> Iterator[Figure]:
    for groups, size, rounds in ((1, 65_536, 60), (8, 65_536, 40), (1, 26_000, 60)):
        yield from synchronous(groups, size, rounds)
    for delay_s in (0.001, 0.005):
        yield from synchronous(1, 65_536, 20, delay_s)
    yield from through_trio(1, 30)
    yield from through_trio(1, 10, 0.001)
    yield from through_trio(16, 60)


class Turns:
    """Seconds per commit of several sides that take turns in short blocks, in random order."""

    def __init__(self, *names: str) -> None:
        self.blocks: dict[str, list[list[float]]] = {name: [] for name in names}

    def all(self, name: str) -> list[float]:
        return [s for block in self.blocks[name] for s in block]

    def paired(self, name: str, anchor: str) -> float:
        """Median over the rounds of anchor's median / ours: 1 = as fast."""
        both = zip(self.blocks[name], self.blocks[anchor], strict=True)
        return statistics.median(statistics.median(b) / statistics.median(a) for a, b in both)

    def median(self, side: str, other: str, **words: str) -> Figure:
        rate, anchor_rate = (1 / statistics.median(self.all(n)) for n in (side, other))
        return Figure(value=rate, anchor_value=anchor_rate, paired=self.paired(side, other), **words)  # type: ignore[arg-type]

    def p99(self, side: str, other: str, **words: str) -> Figure:
        ours, raw = (p99(self.all(n)) * 1e6 for n in (side, other))
        return Figure(value=ours, anchor_value=raw, unit="us", **words)  # type: ignore[arg-type]


def synchronous(groups: int, size: int, rounds: int, delay_s: float = 0.0) -> Iterator[Figure]:
    """`delay_s`: so much is every sync of both sides slower than this machine's."""
    folder = Path(tempfile.mkdtemp(prefix="holdfast-bench-", dir=os.environ.get("HOLDFAST_BENCH_DIR")))
    body = random.randbytes(size)
    ours = Ours(open_log(folder / "log", delay_s), body, groups)
    raw = Raw(folder, "raw", [body + bytes(HEADER)] * groups, delay_s=delay_s)  # what a group of this size takes
    floor = Floor(folder, "floor", [body] * groups, delay_s=delay_s)
    sides: dict[str, Ours | Raw] = {"ours": ours, "raw": raw, "floor": floor}
    raw.prepare(rounds * BLOCK)
    floor.prepare(rounds * BLOCK)
    ours.start()
    turns = Turns(*sides)
    try:
        for _ in range(rounds):
            for name, side in random.sample(list(sides.items()), len(sides)):
                turns.blocks[name].append([side.one() for _ in range(BLOCK)])
    finally:
        ours.close()
        raw.close()
        floor.close()
        shutil.rmtree(folder)
    name = f"log_sync_{size // 1000}k_x{groups}" + _plus(delay_s)
    words = {"unit": "commits/s", "anchor": "raw append + fdatasync, same preallocation"}
    yield turns.median("ours", "raw", name=f"{name}_median", **words)
    yield turns.median("floor", "raw", name=f"{name}_floor", **words)
    # The mean counts everything, segment changes too; but one slow sync of the disk moves it.
    yield Figure(
        name=f"{name}_mean",
        value=1 / statistics.mean(turns.all("ours")),
        anchor_value=1 / statistics.mean(turns.all("raw")),
        unit=words["unit"],
        anchor=words["anchor"],
    )
    yield turns.p99("ours", "raw", name=f"{name}_p99", anchor="raw p99")


def p99(times: list[float]) -> float:
    return sorted(times)[int(len(times) * 0.99)]


def through_trio(producers: int, rounds: int, delay_s: float = 0.0) -> Iterator[Figure]:
    """Through mailbox and worker thread, 64 KiB each, beside the raw loop and the same loop in a worker thread.

    `delay_s`: as in `synchronous`.
    """
    folder = Path(tempfile.mkdtemp(prefix="holdfast-bench-", dir=os.environ.get("HOLDFAST_BENCH_DIR")))
    try:
        turns = trio.run(trio_turns, folder, producers, rounds, delay_s)
    finally:
        shutil.rmtree(folder)
    name = f"log_trio_{producers}_producers" + _plus(delay_s)
    raw, hop = "raw append + fdatasync", "the same, each in trio.to_thread"
    if producers == 1:
        yield turns.median("hop", "raw", name="bare_trio_hop" + _plus(delay_s), unit="commits/s", anchor=raw)
        yield turns.median("ours", "raw", name=name, unit="groups/s", anchor=raw)
        yield turns.median("ours", "hop", name=f"{name}_beside_hop", unit="groups/s", anchor=hop)
    else:
        value, anchor_value = producers / statistics.mean(turns.all("ours")), 1 / statistics.median(turns.all("raw"))
        yield Figure(name=name, value=value, unit="groups/s", anchor=f"{raw}, one by one", anchor_value=anchor_value)
    yield turns.p99("ours", "raw", name=f"{name}_p99", anchor="raw p99")


def _plus(delay_s: float) -> str:
    return f"_plus_{delay_s * 1000:.0f}ms" if delay_s else ""


async def trio_turns(folder: Path, producers: int, rounds: int, delay_s: float = 0.0) -> Turns:
    body = random.randbytes(65_536)
    log = open_log(folder / "log", delay_s)
    inbox: Mailbox[AppendRequest] = Mailbox("buffer", 64)
    seams = Seams(clock=SystemClock(), entropy=SeededEntropy(1), offload=offload_to_thread, board=Board())
    started = trio.Event()
    ctx = ActorContext(name="buffer", incarnation=1, seams=seams, log=structlog.get_logger(), on_ready=started.set)
    appender = Appender(inbox=inbox, lookup=log.producer)
    raw = Raw(folder, "raw", [body + bytes(HEADER)], delay_s=delay_s)
    raw.prepare(2 * rounds * BLOCK)
    turns = Turns("ours", "raw", "hop")

    async def produce(name: str, times: list[float]) -> None:
        for _ in range(BLOCK):
            one = draft(name, log.producer(name).sequence + 1, body)
            start = time.perf_counter()
            await appender.append(one)
            times.append(time.perf_counter() - start)

    async def block(side: str) -> list[float]:
        times: list[float] = []
        if side == "ours":
            async with trio.open_nursery() as work:
                for n in range(producers):
                    work.start_soon(produce, f"p{n}", times)
        for _ in range(BLOCK if side != "ours" else 0):
            start = time.perf_counter()
            if side == "hop":
                await trio.to_thread.run_sync(raw.one)
            else:
                raw.one()
            times.append(time.perf_counter() - start)
        return times

    async with trio.open_nursery() as nursery:
        nursery.start_soon(Buffer(log=log, inbox=inbox, limits=CommitLimits()).run, ctx)
        await started.wait()
        for _ in range(rounds):
            for side in random.sample(list(turns.blocks), 3):
                turns.blocks[side].append(await block(side))
        ctx.drain_requested.set()
    raw.close()
    log.close()
    return turns
