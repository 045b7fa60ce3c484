"""Append, crash, recover, trim and read, in any order that Hypothesis thinks of, against a plain list.

The disk forgets, tears and reorders what was not synced (`MemoryDisk`); every crash point and what survives it is drawn
by Hypothesis too, so a failure shrinks to the fewest steps. The model is the list of what was acknowledged: it never
asks the log what it should hold. `test_crash_model.py` has longer lives with more kinds of fault at once, by seed.
"""

from __future__ import annotations

import contextlib
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from runtime.disk_memory import MemoryDisk, MemoryFile, SimulatedCrash
from runtime.errors import HoldfastError, LogFull, LogSyncFailed
from runtime.log.cursor import Cursor
from runtime.log.log import Log
from runtime.log.types import Group, GroupDraft
from tests.runtime.log.conftest import Rig, make_draft, read_all

CI = settings(
    max_examples=60,
    stateful_step_count=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
NAMES = st.sampled_from("abc")
Key = tuple[str, int]


def draft_of(name: str, sequence: int) -> GroupDraft:
    """f(id)."""
    rng = random.Random(f"{name}{sequence}")
    sizes = tuple(rng.choice((0, 30, 700, 2500)) for _ in range(rng.randrange(1, 4)))
    return make_draft(name, sequence, sizes=sizes, partition=rng.randrange(4))


class LogModel(RuleBasedStateMachine):
    """The log on one side, `acked` on the other."""

    def __init__(self) -> None:
        super().__init__()
        self.acked: list[Key] = []
        """Acknowledged, in order, from the beginning of time."""
        self.under_way: list[Key] = []
        """Given to the commit that the crash came into."""
        self.ends: dict[Key, int] = {}
        self.cursor = 0
        self.cursor_under_way = 0

    @initialize(seed=st.integers(0, 2**16), segment=st.sampled_from((6 << 10, 20 << 10)))
    def begin(self, seed: int, segment: int) -> None:
        self.rig = Rig(MemoryDisk(seed=seed), Path("/data/log"), segment_bytes=segment, background=True, retention_s=0)
        self.log: Log = self.rig.open()

    # --- what a process does

    @rule(names=st.lists(NAMES, min_size=1, max_size=4))
    def append(self, names: list[str]) -> None:
        drafts: list[GroupDraft] = []
        for name in names:
            known = [s for n, s in (*self.acked, *((d.producer, d.sequence) for d in drafts)) if n == name]
            drafts.append(draft_of(name, max(known, default=0) + 1))
        self.under_way = [(d.producer, d.sequence) for d in drafts]
        answers, groups = self.log.commit(drafts)
        assert [a.duplicate for a in answers] == [False] * len(drafts)
        assert [(g.producer, g.sequence) for g in groups] == self.under_way
        self.ends |= dict(zip(self.under_way, (a.end_position for a in answers), strict=True))
        self.acked, self.under_way = self.acked + self.under_way, []

    @precondition(lambda self: self.acked)
    @rule(name=NAMES)
    def append_again(self, name: str) -> None:
        known = [s for n, s in self.acked if n == name]
        if known:
            [answer], groups = self.log.commit([draft_of(name, known[-1])])
            assert (answer.duplicate, groups) == (True, [])

    @rule()
    def upkeep(self) -> None:
        self.log.upkeep(verified=self.log.verified_by(["sink"]))

    @rule()
    def store_cursor(self) -> None:
        self.cursor_under_way = self.log.end_position
        file = self.log.cursor("sink")
        file.load()
        file.store(Cursor(position=self.cursor_under_way))
        self.cursor = self.cursor_under_way

    # --- what happens to it

    @rule(keep=st.sampled_from((0.0, 0.3, 0.7, 1.0)))
    def power_cut(self, keep: float) -> None:
        self._crash(keep)

    @rule(
        operations=st.integers(0, 40),
        keep=st.sampled_from((0.0, 0.3, 0.7, 1.0)),
        names=st.lists(NAMES, min_size=1, max_size=4),
        what=st.sampled_from(("append", "cursor", "upkeep", "recovery", "two recoveries")),
    )
    def power_cut_in_the_middle(self, operations: int, keep: float, names: list[str], what: str) -> None:
        disk = self._disk
        if "recover" in what:
            self.log.close()
            disk.kill()
        disk.crash_after(operations)
        try:
            if what == "append":
                self.append(names)
            elif what == "cursor":
                self.store_cursor()
            elif what == "upkeep":
                self.upkeep()
            else:
                self.rig.open()
        except SimulatedCrash:
            pass
        self._crash(keep, again_after=operations // 2 if what == "two recoveries" else None)

    @rule()
    def killed(self) -> None:
        self._disk.kill()
        self._start()

    @rule(after=st.integers(0, 1), names=st.lists(NAMES, min_size=1, max_size=3))
    def sync_fails(self, after: int, names: list[str]) -> None:
        """The process ends (74); the page cache goes on showing what the disk never got."""
        self._disk.fail("sync", suffix=".seg.new", after=after)
        try:
            self.append(names)
        except LogSyncFailed:
            self._disk.kill()
            self._start()
        self._disk._faults.clear()

    @rule(room=st.integers(0, 9000), names=st.lists(NAMES, min_size=1, max_size=4))
    def disk_full(self, room: int, names: list[str]) -> None:
        """Nothing is taken, or all; when space is back the same drafts go in."""
        self._disk.capacity_bytes = self._disk.used_bytes(Path("/")) + room
        try:
            self.append(names)
        except LogFull:
            self._disk.capacity_bytes = None
            drafts = [draft_of(*key) for key in self.under_way]
            answers, _ = self.log.commit(drafts)
            assert not any(a.duplicate for a in answers)
            self.ends |= dict(zip(self.under_way, (a.end_position for a in answers), strict=True))
            self.acked, self.under_way = self.acked + self.under_way, []
        finally:
            self._disk.capacity_bytes = None

    # --- what must hold

    @invariant()
    def all_that_was_acknowledged_is_read(self) -> None:
        if hasattr(self, "log"):
            self._compare()

    @property
    def _disk(self) -> MemoryDisk:
        assert isinstance(self.rig.disk, MemoryDisk)
        return self.rig.disk

    def _crash(self, keep: float, again_after: int | None = None) -> None:
        self._disk.crash(keep=keep)
        if again_after is not None:
            self._disk.crash_after(again_after)
            with contextlib.suppress(SimulatedCrash):
                self.rig.open()
            self._disk.crash(keep=keep)
        self._start()

    def _start(self) -> None:
        self._disk._faults.clear()
        self._disk._crash_at = None
        self.log = self.rig.open()
        kept = [(g.producer, g.sequence) for g in read_all(self.log)]
        rest = kept[len(self._expected()) :]
        assert rest == self.under_way[: len(rest)], f"invented {rest}, under way was {self.under_way}"
        self.acked, self.under_way = self.acked + rest, []
        self.ends |= {(g.producer, g.sequence): g.end_position for g in read_all(self.log)}
        position = self.log.cursor("sink").load().position
        assert position in (self.cursor, self.cursor_under_way)
        self.cursor = self.cursor_under_way = position

    def _expected(self) -> list[Key]:
        """Without what was trimmed: only what a cursor has passed may be."""
        start = self.log.start_position
        assert start <= max(self.cursor, self.cursor_under_way)
        return [key for key in self.acked if self.ends[key] > start]

    def _compare(self) -> None:
        log = self.log
        groups = read_all(log)
        assert [(g.producer, g.sequence) for g in groups] == self._expected()
        assert log.damage == []
        offsets = [0] * 4
        for name, sequence in self.acked[: len(self.acked) - len(groups)]:
            for frame in draft_of(name, sequence).frames:
                offsets[frame.partition] += 1
        self._content(groups, offsets)
        last = {name: max(s for n, s in self.acked if n == name) for name, _ in self.acked}
        assert {name: state.sequence for name, state in log.producers().items()} == last

    def _content(self, groups: list[Group], offsets: list[int]) -> None:
        stamp = 0
        for group in groups:
            assert group.stamp_ns > stamp
            stamp = group.stamp_ns
            wanted = [(f.partition, f.body) for f in draft_of(group.producer, group.sequence).frames]
            assert [(f.partition, f.body) for f in group.frames] == wanted
            for frame in group.frames:
                assert frame.offset == offsets[frame.partition]
                offsets[frame.partition] += 1


def test_the_log_and_a_plain_list_agree() -> None:
    run_state_machine_as_test(LogModel, settings=CI)


CONTROL = settings(CI, max_examples=300, phases=(Phase.generate,), report_multiple_bugs=False)
"""Seeing that it fails is enough: no shrinking."""


def _fails() -> bool:
    try:
        run_state_machine_as_test(LogModel, settings=CONTROL)
    except (AssertionError, HoldfastError, OSError, ExceptionGroup):
        return True
    return False


@pytest.mark.parametrize("what", ["datasync", "sync", "sync_directory", "wait", "cut first"])
def test_a_planted_bug_is_found(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Positive controls: a sync left out in each place, an answer before it, a trim before its cursor."""

    def nothing(self: Any, *args: Any) -> None:
        """Promises without doing."""

    if what == "datasync":
        monkeypatch.setattr(MemoryFile, "datasync", nothing)
    elif what == "sync":
        monkeypatch.setattr(MemoryFile, "sync", nothing)
    elif what == "sync_directory":
        monkeypatch.setattr(MemoryDisk, "sync_directory", nothing)
    elif what == "wait":
        monkeypatch.setattr("runtime.log.recovery.split_tail", lambda spans, evidence: (spans, []))
    else:
        monkeypatch.setattr(Log, "verified_by", lambda self, names: self.end_position)
    assert _fails()
