"""Random lives of a log on a disk that forgets, against a plain list.

Each seed draws its own rates (a third of the seeds is free of each kind of fault), then commits, stores cursors,
fills the disk, breaks syncs, kills the process and cuts the power at any operation, many times. After every start:

* every acknowledged group is there, in order, with content f(id); behind it at most a beginning of what was under way
* offsets are dense, stamps rise, producers stand where the list says, nothing is called damaged
* the cursor is the last stored one, or the one that was being stored
The oracle is the list; it never asks the log what it should hold. `HOLDFAST_LOG_SEEDS` = how many seeds.
"""

from __future__ import annotations

import contextlib
import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from runtime.disk import MemoryDisk, SimulatedCrash
from runtime.disk_memory import MemoryFile
from runtime.errors import HoldfastError, LogFull, LogSyncFailed
from runtime.log import recovery
from runtime.log.cursor import Cursor
from runtime.log.frame import FrameHeader
from runtime.log.log import Log
from runtime.log.scan import Walker
from runtime.log.types import GroupDraft

SEEDS = int(os.environ.get("HOLDFAST_LOG_SEEDS", "12"))
STEPS = 40

Key = tuple[str, int]


class Lost(AssertionError):
    """The log broke its promise."""


@attrs.define
class Life:
    """One seed."""

    seed: int
    rig: Any
    everything: Callable[..., Any]
    random: random.Random = attrs.field(init=False)
    starts: random.Random = attrs.field(init=False)
    """Of its own, so that the other draws of a seed stay what they were."""
    full_start: float = 0.0
    acked: list[Key] = attrs.field(factory=list)
    """The model: what must be there, in this order."""
    under_way: list[Key] = attrs.field(factory=list)
    positions: dict[Key, int] = attrs.field(factory=dict)
    """As they were acknowledged."""
    cursor_acked: int = 0
    cursor_under_way: int = 0
    seen: Counter[str] = attrs.field(factory=Counter)
    rates: dict[str, float] = attrs.field(init=False)
    log: Log | None = None
    waiting: list[GroupDraft] | None = None
    """Refused by a full disk, to be given again."""

    def __attrs_post_init__(self) -> None:
        self.random = random.Random(self.seed)
        faults = ("crash", "crash_during_start", "kill", "sync", "short", "full", "reopen")
        self.rates = {name: self.random.choice((0.0, 0.1, 0.3)) for name in faults}
        self.starts = random.Random(f"{self.seed}/starts")
        self.full_start = self.starts.choice((0.0, 0.0, 0.3))
        self.rig.disk = MemoryDisk(seed=self.seed)
        self.rig.segment_bytes = self.random.choice((6 << 10, 20 << 10))
        self.rig.background = self.random.random() < 0.7
        self.rig.retention_s = self.random.choice((0, 604_800))

    def run(self) -> Counter[str]:
        self._start()
        for _ in range(STEPS):
            self._step()
        return self.seen

    def _hit(self, name: str) -> bool:
        if self.random.random() < self.rates[name]:
            self.seen[name] += 1
            return True
        return False

    def _step(self) -> None:
        disk: MemoryDisk = self.rig.disk
        if self._hit("crash"):
            disk.crash_after(self.random.choice((1, 1, 2, self.random.randrange(30))))  # 1: the first write
        if self._hit("sync"):
            disk.fail("sync", suffix=".seg.new", after=self.random.randrange(2))
        if self._hit("short"):
            disk.fail("short write", suffix=".seg.new")
        disk.capacity_bytes = disk._used() + self.random.randrange(9000) if self._hit("full") else None
        try:
            self._work()
            if self._hit("reopen"):
                assert self.log is not None
                self.log.close()
                self._start()
        except SimulatedCrash:
            self._power_cut()
        except LogSyncFailed:
            self.seen["sync failed"] += 1
            self._killed()
        else:
            if self._hit("kill"):
                self._killed()

    def _work(self) -> None:
        assert self.log is not None
        for _ in range(self.random.randrange(1, 4)):
            again = self.waiting is not None
            drafts = self.waiting or self._drafts()
            self.waiting = drafts
            self.under_way = [(d.producer, d.sequence) for d in drafts]
            try:
                answers, groups = self.log.commit(drafts)
            except LogFull:
                self.seen["log full"] += 1
                continue  # the same drafts again, as the buffer does
            self._demand(again or not any(a.duplicate for a in answers), "a new draft was called a duplicate")
            self._demand(len(groups) == sum(not a.duplicate for a in answers), "groups and answers differ")
            self.acked += self.under_way
            self.positions |= {
                key: answer.position
                for key, answer in zip(self.under_way, answers, strict=True)
                if not answer.duplicate
            }
            self.under_way, self.waiting = [], None
            if self.rig.background and self.random.random() < 0.5:
                self._upkeep()
        if self.random.random() < 0.3:
            self._store_cursor()

    def _upkeep(self) -> None:
        """As the buffer does beside its commits; between them is every place where it can have stopped."""
        assert self.log is not None
        try:
            start = self.log.start_position
            self.log.upkeep(verified=self.log.verified_by(["sink"]))
            self.seen["upkeep"] += 1
            self.seen["trimmed"] += self.log.start_position > start
        except LogFull:
            self.seen["no runway"] += 1

    def _drafts(self) -> list[GroupDraft]:
        drafts = []
        next_sequence = Counter(name for name, _ in self.acked)
        for _ in range(self.random.randrange(1, 4)):
            name = self.random.choice("abc")
            next_sequence[name] += 1
            drafts.append(self._draft_of(name, next_sequence[name]))
        return drafts

    def _draft_of(self, name: str, sequence: int) -> GroupDraft:
        rng = random.Random(f"{name}{sequence}")
        sizes = tuple(rng.choice((0, 30, 700, 2500)) for _ in range(rng.randrange(1, 4)))
        draft: GroupDraft = self.rig.draft(name, sequence, sizes=sizes, partition=rng.randrange(4), kind="quotes")
        return draft

    def _store_cursor(self) -> None:
        assert self.log is not None
        self.cursor_under_way = self.log.end_position
        cursor = self.log.cursor("sink")
        with contextlib.suppress(LogFull):
            cursor.load()
            cursor.store(Cursor(position=self.cursor_under_way))
            self.cursor_acked = self.cursor_under_way
            self.seen["cursor"] += 1

    # --- ends and starts

    def _power_cut(self) -> None:
        self.seen["power cut"] += 1
        self.rig.disk.crash()
        self._start()

    def _killed(self) -> None:
        self.seen["killed"] += 1
        self.rig.disk.kill()
        self._start()

    def _start(self) -> None:
        disk: MemoryDisk = self.rig.disk
        disk._faults.clear()
        disk.capacity_bytes = None
        if self.starts.random() < self.full_start:
            disk.capacity_bytes = disk._used() + self.starts.choice((0, 0, 5000))
        if self._hit("crash_during_start"):
            disk.crash_after(self.random.randrange(40))
        try:
            self.log = self.rig.open()
        except SimulatedCrash:
            self._power_cut()
            return
        except LogFull:
            self.seen["start refused"] += 1
            self.full_start = 0.0 if self.starts.random() < 0.3 else self.full_start
            self._killed()
            return
        self.seen["full start"] += self.log.room_bytes == 0
        self._check()
        disk._crash_at = None

    def _check(self) -> None:
        log = self.log
        assert log is not None
        try:
            groups = self.everything(log)
            position = log.cursor("sink").load().position
        except SimulatedCrash:
            self._power_cut()
            return
        keys = [(g.producer, g.sequence) for g in groups]
        gone, kept = self._split(log.start_position, keys, max(self.cursor_acked, self.cursor_under_way))
        rest = keys[len(kept) :]
        self._demand(keys[: len(kept)] == kept, f"acknowledged {self.acked[-4:]}, found {keys[-4:]}")
        self._demand(rest == self.under_way[: len(rest)], f"invented: {rest}, under way was {self.under_way}")
        self._demand(log.damage == [], f"called damaged: {log.damage}")
        self._demand(position in (self.cursor_acked, self.cursor_under_way), f"cursor {position}")
        self._content(groups, gone)
        self.seen["unacknowledged but kept"] += bool(rest)
        self.seen["torn"] += bool(log.torn)
        self.acked, self.under_way, self.waiting, self.cursor_acked = gone + keys, [], None, position
        last = {name: max(s for n, s in self.acked if n == name) for name, _ in self.acked}
        self._demand({n: p.sequence for n, p in log.producers().items()} == last, "producers")

    def _split(self, start: int, keys: list[Key], verified: int) -> tuple[list[Key], list[Key]]:
        """(what was trimmed, what must be there): only what was verified may be gone, and it is a beginning."""
        at = self.acked.index(keys[0]) if keys and keys[0] in self.acked else len(self.acked)
        if start == 0:
            at = 0
        self._demand(start <= verified, f"trimmed to {start}, verified was {verified}")
        beyond = [key for key in self.acked[:at] if self.positions.get(key, 0) >= start]
        self._demand(not beyond, f"lost: {beyond}, the log begins at {start}")
        return self.acked[:at], self.acked[at:]

    def _content(self, groups: list[Any], gone: list[Key]) -> None:
        offsets = [0] * 4
        for name, sequence in gone:
            for frame in self._draft_of(name, sequence).frames:
                offsets[frame.partition] += 1
        stamp = 0
        for group in groups:
            self._demand(group.stamp_ns > stamp, "stamps")
            stamp = group.stamp_ns
            draft = self._draft_of(group.producer, group.sequence)
            wanted = [(f.partition, f.body, f.rows) for f in draft.frames]
            self._demand([(f.partition, f.body, f.rows) for f in group.frames] == wanted, "content")
            for frame in group.frames:
                self._demand(frame.offset == offsets[frame.partition], "offsets")
                offsets[frame.partition] += 1

    def _demand(self, true: bool, what: str) -> None:
        if not true:
            raise Lost(f"SEED={self.seed}: {what}; seen {dict(self.seen)}")


def campaign(rig: Any, everything: Any, seeds: range) -> Counter[str]:
    seen: Counter[str] = Counter()
    for seed in seeds:
        rig.path = Path(f"/data/{seed}")
        seen += Life(seed, rig, everything).run()
        rig.logs.clear()
    return seen


@pytest.mark.parametrize("seed", [488])
def test_lives_that_once_went_wrong(memory_rig: Any, everything: Any, seed: int) -> None:
    """488: a sync failed on a full disk, SUSPECT could not be written, and the next start believed the page cache."""
    campaign(memory_rig, everything, range(seed, seed + 1))


def test_random_lives_lose_and_invent_nothing(memory_rig: Any, everything: Any) -> None:
    seen = campaign(memory_rig, everything, range(SEEDS))
    for name in (
        "power cut",
        "killed",
        "torn",
        "sync failed",
        "log full",
        "unacknowledged but kept",
        "cursor",
        "reopen",
        "upkeep",
        "no runway",
        "trimmed",
        "full start",
    ):
        assert seen[name] >= SEEDS // 6, f"{name} was reached only {seen[name]} times: {dict(seen)}"


def caught(rig: Any, everything: Any, *, seeds: int = 150) -> bool:
    """Is the mutant seen in one of the seeds?"""
    for seed in range(seeds):
        rig.path = Path(f"/data/{seed}")
        try:
            Life(seed, rig, everything).run()
        except (Lost, HoldfastError):
            return True
    return False


def test_mutant_acknowledged_before_the_sync(memory_rig: Any, everything: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryFile, "datasync", lambda self: None)
    assert caught(memory_rig, everything)


def test_mutant_directory_never_synced(memory_rig: Any, everything: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryDisk, "sync_directory", lambda self, path: None)
    assert caught(memory_rig, everything)


def test_mutant_a_failed_sync_is_tried_again(memory_rig: Any, everything: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real = MemoryFile.datasync

    def retried(self: MemoryFile) -> None:
        try:
            real(self)
        except OSError:
            real(self)

    monkeypatch.setattr(MemoryFile, "datasync", retried)
    assert caught(memory_rig, everything)


def test_mutant_the_page_cache_is_believed_after_a_failed_sync(
    memory_rig: Any, everything: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "split_tail", lambda spans, evidence: (spans, []))
    assert caught(memory_rig, everything)


def test_mutant_a_short_write_is_ignored(memory_rig: Any, everything: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real = MemoryFile.pwritev

    def boastful(self: MemoryFile, buffers: Any, offset: int) -> int:
        real(self, buffers, offset)
        return sum(map(len, buffers))

    monkeypatch.setattr(MemoryFile, "pwritev", boastful)
    assert caught(memory_rig, everything)


def test_mutant_every_bad_tail_is_called_corrupt(
    memory_rig: Any, everything: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = recovery.judge
    monkeypatch.setattr(recovery, "judge", lambda walked, evidence: real(walked, 1 << 62))
    assert caught(memory_rig, everything)


def test_mutant_bodies_are_not_checked(memory_rig: Any, everything: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def unchecked(self: Walker, header: FrameHeader) -> bytes:
        buffer, at = self._source.fetch(header.position + header.header_bytes, header.body_bytes)
        return buffer[at : at + header.body_bytes]

    monkeypatch.setattr(Walker, "_body", unchecked)
    assert caught(memory_rig, everything)


def test_mutant_producers_are_not_folded_from_the_tail(
    memory_rig: Any, everything: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.log.recovery.Recovery._fold", lambda self, found, spans, end: None)
    assert caught(memory_rig, everything)


def test_mutant_space_on_a_full_disk_is_made_by_cutting_what_is_not_copied_yet(
    memory_rig: Any, everything: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = recovery.Recovery.give_back

    def greedy(self: recovery.Recovery, found: recovery.Recovered) -> int:
        return real(self, attrs.evolve(found, carry=[]))

    monkeypatch.setattr(recovery.Recovery, "give_back", greedy)
    assert caught(memory_rig, everything)
