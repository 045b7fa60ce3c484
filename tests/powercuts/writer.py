"""The process that loses its power: writes a log and says on a pipe what was acknowledged.

What it writes follows from a seed and a number, so the oracle knows it without asking the log.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from pathlib import Path

import attrs

from runtime.disk import RealDisk
from runtime.entropy import SeededEntropy
from runtime.errors import LogFull
from runtime.log.cursor import Cursor
from runtime.log.log import Log, LogSettings
from runtime.log.retention import Retention
from runtime.log.types import FrameDraft, GroupDraft

SCENARIOS = ("idle", "steady", "roll", "trim", "cursor", "recovery")
PARTITIONS = 2
PRODUCERS = ("a", "b", "c")


def open_log(folder: Path, scenario: str) -> Log:
    small = scenario in ("roll", "trim", "recovery")
    return Log.open(
        RealDisk(),
        folder,
        settings=LogSettings(
            partitions=PARTITIONS,
            segment_bytes=(256 << 10) if small else (8 << 20),
            background_upkeep=scenario != "idle",
            retention=Retention(seconds=10**9, bytes=(1 << 20) if scenario == "trim" else (1 << 40)),
        ),
        schemas={"quotes": b"schema"},
        wall_ns=time.time_ns,
        entropy=SeededEntropy(1),
    )


def draft(number: int) -> GroupDraft:
    """Group `number` (from 0) of the log's life."""
    rng = random.Random(number)
    frames = tuple(
        FrameDraft(
            partition=rng.randrange(2 * PARTITIONS),
            kind="quotes",
            body=rng.randbytes(rng.choice((0, 100, 3_000, 20_000, 60_000))),
            rows=i + 1,
            event_time_ns_min=number,
            event_time_ns_max=number,
        )
        for i in range(rng.choice((1, 1, 2, 5)))
    )
    return GroupDraft(
        producer=PRODUCERS[number % len(PRODUCERS)],
        sequence=number // len(PRODUCERS) + 1,
        producer_position=b"%d" % number,
        frames=frames,
    )


@attrs.define
class Writer:
    folder: Path
    scenario: str
    pipe: int
    number: int
    rng: random.Random
    lying: bool
    """The control: acknowledge although nothing was synced."""

    def run(self) -> None:
        if self.lying:
            RealFile = type(RealDisk().open(Path(os.devnull)))
            RealFile.datasync = lambda self: None  # type: ignore[attr-defined]
            RealFile.start_writeback = lambda self, offset, size: None  # type: ignore[attr-defined]
        self._say("S")
        if self.scenario == "recovery":
            while True:
                self._life(self.rng.randrange(1, 5))
        self._life(sys.maxsize)

    def _life(self, commits: int) -> None:
        log = open_log(self.folder, self.scenario)
        self._say("O")
        if self.scenario == "idle":
            commits = self.rng.randrange(1, 20)
        elif self.scenario != "recovery":
            threading.Thread(target=self._keep_up, args=(log,), daemon=True).start()
        for _ in range(commits):
            self._commit(log)
        if self.scenario == "idle":
            time.sleep(3600)
        log._writer.close()  # as if killed: no snapshot, nothing synced
        log._lock.release()

    def _commit(self, log: Log) -> None:
        batch = [draft(self.number + i) for i in range(self.rng.choice((1, 1, 3)))]
        log.commit(batch)
        self.number += len(batch)
        self._say(f"A {self.number} {log.end_position}")
        if self.scenario in ("cursor", "trim"):
            position = log.end_position
            self._say(f"c {position}")
            log.cursor("sink").store(Cursor(position=position))
            self._say(f"C {position}")

    def _keep_up(self, log: Log) -> None:
        while True:
            try:
                log.upkeep(verified=log.verified_by(["sink"]))
            except LogFull:
                pass
            except Exception:  # noqa: BLE001  # the power is going
                return
            time.sleep(0.002)

    def _say(self, line: str) -> None:
        os.write(self.pipe, line.encode() + b"\n")
