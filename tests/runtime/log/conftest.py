"""A log on either disk, with drafts whose content follows from their identity."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest

from runtime.actor import offload_inline
from runtime.disk import Disk, MemoryDisk, RealDisk
from runtime.entropy import SeededEntropy
from runtime.log.log import Log, LogSettings
from runtime.log.retention import Retention
from runtime.log.types import FrameDraft, Group, GroupDraft

SCHEMAS = {"quotes": b"schema of quotes", "candles": b"schema of candles"}


def payload(producer: str, sequence: int, index: int, size: int) -> bytes:
    """f(id): what a frame must contain, whoever asks."""
    return random.Random(f"{producer}/{sequence}/{index}").randbytes(size)


def make_draft(
    producer: str = "p", sequence: int = 1, *, sizes: tuple[int, ...] = (40,), partition: int = 0, kind: str = "quotes"
) -> GroupDraft:
    return GroupDraft(
        producer=producer,
        sequence=sequence,
        producer_position=f"at {sequence}".encode(),
        frames=tuple(
            FrameDraft(
                partition=(partition + index) % 4,
                kind=kind,
                body=payload(producer, sequence, index, size),
                rows=index + 1,
                event_time_ns_min=sequence,
                event_time_ns_max=sequence + 1,
            )
            for index, size in enumerate(sizes)
        ),
    )


@attrs.define
class Rig:
    disk: Disk
    path: Path
    segment_bytes: int = 64 << 10
    partitions: int = 2
    now_ns: int = 1_000
    tail_bytes: int = 16 << 20
    background: bool = False
    retention_s: int = 604_800
    logs: list[Log] = attrs.field(factory=list)
    draft: Callable[..., GroupDraft] = make_draft

    def open(self, **changes: object) -> Log:
        arguments: dict[str, object] = {
            "settings": LogSettings(
                partitions=self.partitions,
                segment_bytes=self.segment_bytes,
                tail_bytes=self.tail_bytes,
                background_upkeep=self.background,
                retention=Retention(seconds=self.retention_s),
            ),
            "schemas": SCHEMAS,
            "wall_ns": lambda: self.now_ns,
            "entropy": SeededEntropy(1),
            "offload": offload_inline,
        }
        log = Log.open(self.disk, self.path, **(arguments | changes))  # type: ignore[arg-type]
        self.logs.append(log)
        return log

    def filled(self, groups: int, *, sizes: tuple[int, ...] = (40, 70), close: bool = True) -> list[Group]:
        """A log of so many groups, one commit each."""
        log = self.open()
        made = [group for i in range(1, groups + 1) for group in log.commit([make_draft("p", i, sizes=sizes)])[1]]
        if close:
            log.close()
        return made

    def last_segment(self) -> Path:
        return self.path / [n for n in self.disk.names(self.path) if n.endswith(".seg")][-1]

    def overwrite(self, path: Path, offset: int, data: bytes) -> None:
        file = self.disk.open(path, write=True)
        file.pwritev([data], offset)
        file.sync()
        file.close()

    def flip(self, path: Path, bit: int) -> None:
        file = self.disk.open(path)
        byte = file.pread(1, bit // 8)[0]
        file.close()
        self.overwrite(path, bit // 8, bytes([byte ^ 1 << (bit % 8)]))


def read_all(log: Log, start: int = 0, partitions: frozenset[int] | None = None) -> list[Group]:
    """Everything, from the files."""
    reader, groups, position = log.reader(), [], max(start, log.start_position)
    while position < log.end_position:
        found, position = reader.read(position, log.end_position, bytes_max=10_000, partitions=partitions)
        groups += found
    reader.close()
    return groups


@pytest.fixture
def draft() -> Callable[..., GroupDraft]:
    return make_draft


@pytest.fixture
def everything() -> Callable[..., list[Group]]:
    return read_all


@pytest.fixture
def memory_rig() -> Rig:
    return Rig(MemoryDisk(), Path("/data/log"))


@pytest.fixture(params=["real", "memory"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    made = Rig(RealDisk(), tmp_path / "log") if request.param == "real" else Rig(MemoryDisk(), Path("/data/log"))
    yield made
    for log in made.logs:
        log.close()
