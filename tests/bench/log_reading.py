"""Starting on a full segment that the page cache has forgotten, and reading a log again, beside plain reads."""

from __future__ import annotations

import os
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from runtime.log.segment import HEADER_BYTES
from tests.bench.figure import Figure
from tests.bench.log_writer import draft, open_log

ROUNDS = 5
FILL = 60 << 20
"""What a start has to scan at most: one segment."""


def figures() -> Iterator[Figure]:
    folder = Path(tempfile.mkdtemp(prefix="holdfast-bench-", dir=os.environ.get("HOLDFAST_BENCH_DIR")))
    try:
        fill(folder)
        yield recovery(folder)
        yield replay(folder)
    finally:
        shutil.rmtree(folder)


def fill(folder: Path) -> None:
    log = open_log(folder / "log")
    body = random.randbytes(256_000)
    n = 0
    while log.end_position < FILL:
        log.commit([draft("p", n + i + 1, body) for i in range(16)])
        n += 16
    log._writer.close()  # as if killed: nothing but the segment itself says where it ends
    log._lock.release()


def recovery(folder: Path) -> Figure:
    ours, raw = [], []
    for n in range(ROUNDS):
        copy = folder / f"copy{n}"
        shutil.copytree(folder / "log", copy)
        segment = max(copy.glob("*.seg"), key=lambda path: path.stat().st_size)
        forget(segment)
        start = time.perf_counter()
        log = open_log(copy)
        ours.append(time.perf_counter() - start)
        assert log.end_position >= FILL
        log.close()
        forget(segment)
        start = time.perf_counter()
        read(segment)
        raw.append(time.perf_counter() - start)
        shutil.rmtree(copy)
    return Figure(
        name="log_recovery_cold",
        value=FILL / 1e6 / statistics.median(ours),
        unit="MB/s",
        anchor="plain cold read",
        anchor_value=FILL / 1e6 / statistics.median(raw),
    )


def replay(folder: Path) -> Figure:
    log = open_log(folder / "log")
    ours, raw = [], []
    size = log.end_position
    segments = sorted((folder / "log").glob("*.seg"))
    for n in range(ROUNDS + 1):
        reader, position = log.reader(), 0
        start = time.perf_counter()
        while position < size:
            _, position = reader.read(position, size, bytes_max=4 << 20, partitions=None)
        took = time.perf_counter() - start
        reader.close()
        start = time.perf_counter()
        for segment in segments:
            read(segment)
        if n:  # the first one warms
            ours.append(took)
            raw.append(time.perf_counter() - start)
    log.close()
    return Figure(
        name="log_replay_warm",
        value=size / 1e6 / statistics.median(ours),
        unit="MB/s",
        anchor="plain warm read",
        anchor_value=size / 1e6 / statistics.median(raw),
    )


def forget(path: Path) -> None:
    """Out of the page cache."""
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def read(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    at = HEADER_BYTES
    while data := os.pread(fd, 1 << 20, at):
        at += len(data)
    os.close(fd)
