"""Random lives that end in rot: flipped bits anywhere, files cut, a power cut on top. No loss goes unnamed.

After every start: each acknowledged group is served or inside a range that is named; nothing is invented, no offset is
given out twice, writing goes on, the next start sees the same, and a consumer meets no hole that was not named to it.
Excused is only what nobody can know: the newest segment cut by somebody, beyond all that was known to be synced.
`HOLDFAST_LOG_SEEDS` = how many seeds.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import attrs
import pytest

from runtime.disk_memory import MemoryDisk, SimulatedCrash
from runtime.errors import ConfigError
from runtime.log.build import Carried
from runtime.log.cursor import Cursor
from runtime.log.log import Log
from runtime.log.losses import LOST
from runtime.log.reader import Reader
from tests.runtime.log.conftest import Rig, make_draft, read_all

SEEDS = int(os.environ.get("HOLDFAST_LOG_SEEDS", "120"))
Key = tuple[str, int]


@attrs.define
class RottenLife:
    seed: int
    random: random.Random = attrs.field(init=False)
    rig: Rig = attrs.field(init=False)
    acked: dict[Key, int] = attrs.field(factory=dict)
    """(producer, sequence) -> position."""
    newest_cut: bool = False
    seen: Counter[str] = attrs.field(factory=Counter)

    def __attrs_post_init__(self) -> None:
        self.random = random.Random(self.seed)
        size = self.random.choice((8 << 10, 20 << 10))
        background = self.random.random() < 0.5
        self.rig = Rig(MemoryDisk(seed=self.seed), Path("/data/log"), segment_bytes=size, background=background)

    @property
    def disk(self) -> MemoryDisk:
        assert isinstance(self.rig.disk, MemoryDisk)
        return self.rig.disk

    async def run(self) -> Counter[str]:
        self._live()
        self._rot()
        self.disk.locks.clear()
        try:
            log = self.rig.open()
        except ConfigError as error:
            if "no segment's header can replace it" not in str(error):
                raise
            self.seen["nothing says which log it is"] += 1
            return self.seen
        served = [(g.producer, g.sequence) for g in read_all(log)]
        self._check_named(log, set(served))
        for damage in log.damage:
            log.lost_of(damage)
        state = log.producer("z")
        log.commit([make_draft("z", state.sequence + 1)])
        log.close()
        log = self.rig.open()
        assert [(g.producer, g.sequence) for g in read_all(log)] == [*served, ("z", state.sequence + 1)]
        await self._consume(log)
        return self.seen

    def _live(self) -> None:
        log = self.rig.open()
        last: Counter[str] = Counter()
        for _ in range(self.random.randrange(3, 25)):
            name = self.random.choice("ab")
            last[name] += 1
            sizes = tuple(self.random.choice((0, 30, 700, 2500)) for _ in range(self.random.randrange(1, 4)))
            [answer], _ = log.commit([make_draft(name, last[name], sizes=sizes, partition=self.random.randrange(4))])
            self.acked[name, last[name]] = answer.position
            if self.random.random() < 0.3:
                cursor = log.cursor("sink")
                cursor.load()
                cursor.store(Cursor(position=log.end_position))
            if self.rig.background and self.random.random() < 0.4:
                log.upkeep()
        self._end(log)

    def _end(self, log: Log) -> None:
        if self.random.random() < 0.4:
            self.disk.crash_after(self.random.randrange(3))
            try:
                log.commit([make_draft("c", 1, sizes=(2500, 2500))])
            except SimulatedCrash:
                self.seen["power cut"] += 1
            self.disk.crash(keep=self.random.choice((0.0, 0.3, 0.7, 1.0)))
        elif self.random.random() < 0.5:
            log.close()
        else:
            self.disk.kill()

    def _rot(self) -> None:
        segments = [n for n in self.disk.names(self.rig.path) if n.endswith(".seg")]
        for _ in range(self.random.randrange(0, 5)):
            name = self.random.choice([*segments, "META", "positions", "LOCK"])
            if name in self.disk.names(self.rig.path) and (size := len(self.disk.read_bytes(self.rig.path / name))):
                self.rig.flip(self.rig.path / name, self.random.randrange(min(size, 30_000) * 8))
                self.seen["flipped"] += 1
        if self.random.random() < 0.2:
            name = self.random.choice(segments)
            file = self.disk.open(self.rig.path / name, write=True)
            file.truncate(self.random.randrange(max(1, file.size())))
            file.sync()
            self.newest_cut = name == segments[-1]
            self.seen["cut"] += 1

    def _check_named(self, log: Log, served: set[Key]) -> None:
        named = [(d.position, d.end_position) for d in (*log.damage, *log.torn)]
        for key, position in self.acked.items():
            lost = key not in served
            is_named = any(low <= position < high for low, high in named)
            self.seen["lost and named"] += lost and is_named
            assert not lost or is_named or self.newest_cut, f"seed {self.seed}: {key} at {position} is gone: {named}"
        assert {key for key in served if key[0] != "c"} <= set(self.acked), f"seed {self.seed}: invented"

    async def _consume(self, log: Log) -> None:
        consumer, expected = log.consumer("x"), [0] * 4
        while consumer.read_nowait_available():
            for group in await consumer.read(wait=False):
                for frame in group.frames:
                    first = frame.prev_offset + 1 if frame.kind == LOST else frame.offset
                    known = expected[frame.partition]
                    assert first <= known, f"seed {self.seed}: a hole in partition {frame.partition} at {known}"
                    assert frame.kind == LOST or frame.offset == known, f"seed {self.seed}: {frame.offset} again"
                    expected[frame.partition] = max(known, frame.offset + 1)


@pytest.mark.parametrize("seed", [132, 192, 208, 214, 239, 331, 451, 467, 560])
async def test_rotten_lives_that_once_went_wrong(seed: int) -> None:
    """132, 192, 214: a killed process, rot before its last group: that group was carried into a segment whose header
    called its offsets lost, and no sink ever got it. 208, 331, 451: beside a lost segment header, consumers met an unnamed hole, for ever. 239, 467, 560: a log whose
    newest segment was cut inside a group broke an invariant in every reader. (The latter: of this test's first form.)"""
    await RottenLife(seed).run()


async def test_random_rot_is_never_an_unnamed_loss() -> None:
    seen: Counter[str] = Counter()
    for seed in range(SEEDS):
        seen += await RottenLife(seed).run()
    for name in ("power cut", "flipped", "cut", "lost and named"):
        assert seen[name] >= SEEDS // 12, f"{name} was reached only {seen[name]} times: {dict(seen)}"


async def test_without_telling_losses_a_consumer_would_meet_holes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Positive control: readers that step over rot in silence."""
    monkeypatch.setattr(Reader, "_tell", lambda self, segment, gap, end, partitions: [])
    assert await fails(range(60))


async def test_believing_the_guess_behind_a_loss_would_hide_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Positive control: a carried group whose offsets its own segment's header calls lost."""
    monkeypatch.setattr(Carried, "first_offsets", lambda self: {})
    assert await fails((132, 192, 214))


async def fails(seeds: Iterable[int]) -> bool:
    for seed in seeds:
        try:
            await RottenLife(seed).run()
        except AssertionError:
            return True
    return False
