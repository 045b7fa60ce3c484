"""The fake of the log for the buffer's tests: commits into a list, can be full, slow or die half way."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from runtime.errors import LogFull
from runtime.log.losses import Lost, LostFrame
from runtime.log.recovery import Damage
from runtime.log.types import Appended, Frame, Group, GroupDraft, ProducerState


@attrs.define(kw_only=True)
class MemoryCommitLog:
    """Keeps groups in memory; `full_for` commits fail with LogFull, then succeed."""

    log_id: str = "memory"
    groups: list[Group] = attrs.field(factory=list)
    commits: list[int] = attrs.field(factory=list)
    """Groups of each commit."""
    offered: list[Group] = attrs.field(factory=list)
    full_for: int = 0
    fails_with: Exception | None = None
    needs_reopen: bool = False
    states: dict[str, ProducerState] = attrs.field(factory=dict)
    offsets: dict[int, int] = attrs.field(factory=dict)
    """Partition -> its next offset."""
    _bytes: int = attrs.field(default=0, init=False)
    _rows: int = attrs.field(default=0, init=False)

    @property
    def end_position(self) -> int:
        """One unit a group: positions only need to rise."""
        return len(self.groups)

    @property
    def bytes(self) -> int:
        """Bodies kept."""
        return self._bytes

    @property
    def segments(self) -> int:
        """Always one."""
        return 1

    @property
    def records_accepted(self) -> int:
        """Rows kept."""
        return self._rows

    def reopen(self) -> None:
        """As after a recovery: what was committed is there."""
        self.needs_reopen = False

    def producer(self, name: str) -> ProducerState:
        """Last sequence and position of a producer."""
        return self.states.get(name, ProducerState())

    def producers(self) -> dict[str, ProducerState]:
        """Of all of them."""
        return dict(self.states)

    def log_end_offset(self, partition: int) -> int:
        """The next offset of a partition."""
        return self.offsets.get(partition, 0)

    start_position: int = 0
    room_bytes: int = 1 << 20
    upkeep_due: bool = False
    used_free: tuple[int, int] = (0, 1 << 40)
    runway_fails: bool = False
    upkeeps: list[tuple[int, bool]] = attrs.field(factory=list)
    """(verified, pressed) of each."""

    def upkeep(self, *, verified: int = 0, pressed: bool = False) -> None:
        """Remember it; no runway when told so."""
        self.upkeeps.append((verified, pressed))
        if self.runway_fails:
            raise LogFull("no space left on the fake disk")

    damage: list[Damage] = attrs.field(factory=list)

    def lost_of(self, damage: Damage) -> Lost:
        """One frame of quotes."""
        return Lost(frames=(LostFrame(partition=0, offset=damage.position, kind="quotes", rows=1),))

    def space(self) -> tuple[int, int]:
        """As set."""
        return self.used_free

    def commit(self, drafts: Sequence[GroupDraft], *, use_reserve: bool = False) -> tuple[list[Appended], list[Group]]:
        """All drafts or none."""
        if self.full_for > 0 and not use_reserve:
            self.full_for -= 1
            raise LogFull("no space left on the fake disk")
        if self.fails_with is not None:
            self.needs_reopen = True
            raise self.fails_with
        self.commits.append(len(drafts))
        answers: list[Appended] = []
        groups: list[Group] = []
        for draft in drafts:
            if draft.sequence <= self.producer(draft.producer).sequence:
                answers.append(Appended(position=-1, end_position=-1, stamp_ns=-1, duplicate=True))
                continue
            g = self._group(draft)
            groups.append(g)
            answers.append(
                Appended(position=g.position, end_position=g.end_position, stamp_ns=g.stamp_ns, duplicate=False)
            )
        return answers, groups

    def offer(self, groups: Sequence[Group]) -> None:
        """Remember what would have gone to consumers."""
        self.offered.extend(groups)

    def _group(self, draft: GroupDraft) -> Group:
        at = len(self.groups)
        group = Group(
            log_id=self.log_id,
            position=at,
            end_position=at + 1,
            stamp_ns=at + 1,
            producer=draft.producer,
            sequence=draft.sequence,
            producer_position=draft.producer_position,
            frames=tuple(
                Frame(
                    partition=f.partition,
                    offset=self._next_offset(f.partition),
                    prev_offset=-1,
                    kind=f.kind,
                    schema=b"",
                    body=f.body,
                    rows=f.rows,
                    event_time_ns_min=f.event_time_ns_min,
                    event_time_ns_max=f.event_time_ns_max,
                    group_index=i,
                )
                for i, f in enumerate(draft.frames)
            ),
        )
        self.groups.append(group)
        self._bytes += sum(len(f.body) for f in group.frames)
        self._rows += sum(f.rows for f in group.frames)
        self.states[draft.producer] = ProducerState(sequence=draft.sequence, position=draft.producer_position)
        return group

    def _next_offset(self, partition: int) -> int:
        offset = self.offsets.get(partition, 0)
        self.offsets[partition] = offset + 1
        return offset
