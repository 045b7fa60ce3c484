"""What the log has to hold: every group that was ever durable, in order, from the drafts that producers handed in.

The log is read back from its files after every commit and at every start, and compared with the drafts: S1 (what was
acknowledged is there, dense, in order, content = f(id)), and nothing is there that nobody handed in.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import attrs

from runtime.log.log import Log
from runtime.log.types import Appended, Group, GroupDraft
from tests.simulation.facts import Facts, is_passing
from tests.simulation.trace import SimulationFailed

if TYPE_CHECKING:
    from tests.simulation.fences import SimDisk
    from tests.simulation.world import World

Key = tuple[str, int]


@attrs.frozen
class Entry:
    """One durable group."""

    key: Key
    digest: str
    end_position: int
    stamp_ns: int


@attrs.define(eq=False)
class Ledger:
    """The oracle of the log; outlives processes."""

    partitions_total: int
    disk: SimDisk
    entries: list[Entry] = attrs.field(factory=list)
    under_way: list[tuple[Key, str]] = attrs.field(factory=list)
    """Handed to the commit that runs, in order."""
    acknowledged: set[Key] = attrs.field(factory=set)
    known: dict[Key, int] = attrs.field(factory=dict)
    """Key -> index of its entry."""
    rows: list[dict[str, list[int]]] = attrs.field(init=False)
    """partition -> kind -> rows below each offset (a running sum, one more than there are frames)."""
    groups: list[Group] = attrs.field(factory=list)
    facts: Facts = attrs.field(factory=Facts)
    inputs_computed: int = -1
    start: int = 0
    """Below it the log was cut."""
    _judged: int = 0

    def __attrs_post_init__(self) -> None:
        self.rows = [{} for _ in range(self.partitions_total)]

    @property
    def end(self) -> int:
        return self.entries[-1].end_position if self.entries else 0

    def below(self, kind: str, marks: dict[int, int]) -> int:
        """Rows of `kind` that the log holds below these marks."""
        return sum(self._sum(partition, kind, mark) for partition, mark in marks.items())

    def frames(self, partition: int) -> int:
        """How many there are."""
        return max((len(sums) - 1 for sums in self.rows[partition].values()), default=0)

    def check_all(self, log: Log) -> int:
        """After a start: everything from the beginning. Returns how many groups were kept that nobody had confirmed."""
        start = log.start_position
        self.start = max(self.start, start)
        groups = self._read(log, start)
        kept = [entry for entry in self.entries if entry.end_position > start]
        _demand(len(groups) >= len(kept), f"S1: the log has {len(groups)} groups, durable were {len(kept)}")
        for entry, group in zip(kept, groups, strict=False):
            same = (entry.key, entry.digest, entry.end_position, entry.stamp_ns) == _facts(group)
            _demand(same, f"S1: {entry.key} at {entry.end_position} became {group.producer} {group.sequence}")
        _demand(not log.damage, f"S1: called damaged: {log.damage}")
        unconfirmed = self._adopt(groups[len(kept) :])
        self.under_way = []
        last = {entry.key[0]: entry.key[1] for entry in self.entries}
        _demand({n: p.sequence for n, p in log.producers().items()} == last, "S1: producers stand elsewhere")
        return unconfirmed

    def take_trimmed(self) -> list[Group]:
        """Groups that were cut off since the last call."""
        gone = [group for group in self.groups if self._judged < group.end_position <= self.start]
        self._judged = max(self._judged, self.start)
        return gone

    def check_new(self, log: Log) -> int:
        """After a commit: what it added, from the files."""
        self.start = max(self.start, log.start_position)
        return self._adopt(self._read(log, self.end)) if log.end_position > self.end else 0

    def acknowledge(self, draft: GroupDraft) -> None:
        """The producer was told that it is durable."""
        key = (draft.producer, draft.sequence)
        _demand(key in self.known, f"S1: {key} was acknowledged and is not in the log")
        self.acknowledged.add(key)

    def _read(self, log: Log, start: int) -> list[Group]:
        with self.disk.watched():
            return read_groups(log, start)

    def _adopt(self, groups: Sequence[Group]) -> int:
        for group in groups:
            key, digest, end, stamp_ns = _facts(group)
            known = [k for k, _ in self.under_way]
            _demand(key in known, f"S1: {key} is in the log, and nobody was appending it")
            _demand(digest == self.under_way[known.index(key)][1], f"S1: the content of {key} was altered")
            del self.under_way[: known.index(key) + 1]
            _demand(not self.entries or stamp_ns > self.entries[-1].stamp_ns, "S1: stamps do not rise")
            self._count(group)
            self._one_output_per_input(group)
            self.facts.learn(group)
            self.known[key] = len(self.entries)
            self.entries.append(Entry(key, digest, end, stamp_ns))
            self.groups.append(group)
        return len(groups)

    def _count(self, group: Group) -> None:
        for frame in group.frames:
            kinds = self.rows[frame.partition]
            expected = self.frames(frame.partition)
            _demand(frame.offset == expected, f"S1: offset {frame.offset} of {frame.partition} instead of {expected}")
            own = "passing" if is_passing(frame) else frame.kind
            for kind in {*kinds, own}:
                sums = kinds.setdefault(kind, [0] * (frame.offset + 1))
                sums.append(sums[-1] + (frame.rows if kind == own else 0))

    def _sum(self, partition: int, kind: str, mark: int) -> int:
        frames = self.frames(partition)
        _demand(mark <= frames, f"S5: a mark at {mark}, the log ends at {frames}")
        return self.rows[partition][kind][mark] if kind in self.rows[partition] else 0

    def _one_output_per_input(self, group: Group) -> None:
        if group.producer == "aggregator":
            at = int(json.loads(group.producer_position)["input"])
            _demand(
                at > self.inputs_computed, f"one input group gave two output groups: {at} <= {self.inputs_computed}"
            )
            self.inputs_computed = at


@attrs.define(eq=False)
class RecordedLog:
    """`CommitLog` that tells the ledger."""

    log: Log
    world: World

    @property
    def ledger(self) -> Ledger:
        return self.world.ledger

    def __getattr__(self, name: str) -> Any:
        return getattr(self.log, name)

    def reopen(self) -> None:
        self.log.reopen()
        self.ledger.check_new(self.log)
        self.ledger.under_way = []

    def commit(self, drafts: Sequence[GroupDraft], **options: Any) -> tuple[list[Appended], list[Group]]:
        known = self.ledger.known
        fresh = [d for d in drafts if (d.producer, d.sequence) not in known]
        self.ledger.under_way = [((d.producer, d.sequence), digest_of(d)) for d in fresh]
        try:
            answers, groups = self.log.commit(drafts, **options)
        finally:  # of several writes, the first ones may be durable
            self.ledger.check_new(self.log)
        self.world.trimmed()
        missing = [key for key, _ in self.ledger.under_way]
        _demand(not missing, f"S1: committed, and not in the files: {missing}")
        return answers, groups


def read_groups(log: Log, start: int) -> list[Group]:
    """All durable groups from `start`, from the files."""
    reader = log.reader()
    found: list[Group] = []
    try:
        while start < log.end_position:
            groups, start = reader.read(start, log.end_position, bytes_max=1 << 30, partitions=None)
            found += groups
    finally:
        reader.close()
    return found


def digest_of(draft: GroupDraft | Group) -> str:
    """Of what a producer hands in."""
    digest = hashlib.blake2b(draft.producer_position, digest_size=8)
    for frame in draft.frames:
        digest.update(f"|{frame.partition}|{frame.kind}|{frame.rows}|".encode())
        digest.update(frame.body)
    return digest.hexdigest()


def kinds(groups: Sequence[Group]) -> Counter[str]:
    """Rows per kind."""
    found: Counter[str] = Counter()
    for group in groups:
        for frame in group.frames:
            found[frame.kind] += frame.rows
    return found


def _facts(group: Group) -> tuple[Key, str, int, int]:
    return (group.producer, group.sequence), digest_of(group), group.end_position, group.stamp_ns


def _demand(true: bool, what: str) -> None:
    if not true:
        raise SimulationFailed(what)
