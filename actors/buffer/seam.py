"""Where live rows meet slices: decided here, because only the log's one writer knows the order (DESIGN 2). Pure.

A slice over live rows says after which of them it comes; a live row that comes after the slice of its minute is
refused. What is remembered fits on a page: per feed its first live instant, and which intervals slices replaced.
Nothing of it is stored: the producers' positions in the log say the same (docs/architecture.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import attrs
import msgspec

from actors.market.coverage import IntervalSet
from runtime.log.types import GroupDraft, Interval, LiveDraft, ProducerState, SliceDraft

LIVE = "live/"
HISTORY = "history/"
"""Producers are named `live/FEED` and `history/FEED`; a feed is `SYMBOL/KIND`."""
_BEGIN_NS = -(2**63)


class _LivePosition(msgspec.Struct):
    first: int = 0


class _HistoryPosition(msgspec.Struct):
    covered: list[tuple[int, int]] = []
    confirmed: list[tuple[int, int]] | bool = []
    """True: all that is covered."""


@attrs.define
class _Feed:
    """One (symbol, kind)."""

    first_ns: int | None = None
    """The first live instant ever; None: it never was live."""
    replaced: IntervalSet = attrs.field(factory=IntervalSet)
    """By slices in the log."""


@attrs.frozen(kw_only=True)
class Ordered:
    """A draft as it goes into the log, and the minutes of live rows that were left out."""

    draft: GroupDraft
    refused: tuple[Interval, ...] = ()


@attrs.define(eq=False)
class SeamKeeper:
    """The state of one incarnation of the buffer; used by one thread at a time."""

    end_offset: Callable[[int], int]
    """The next offset of a partition, as far as it is durable."""
    last_sequence: Callable[[str], int]
    """Of a producer, durable; 0 = new."""
    _feeds: dict[str, _Feed] = attrs.field(factory=dict)

    @classmethod
    def rebuilt(
        cls,
        producers: Mapping[str, ProducerState],
        end_offset: Callable[[int], int],
        last_sequence: Callable[[str], int],
    ) -> SeamKeeper:
        """As the log remembers. A past session's stretch may be among what is covered: nobody appends there anyway."""
        keeper = cls(end_offset, last_sequence)
        for name, state in producers.items():
            if not state.position:
                continue
            if name.startswith(LIVE):
                found = msgspec.json.decode(state.position, type=_LivePosition)
                keeper._feed(name.removeprefix(LIVE)).first_ns = found.first
            elif name.startswith(HISTORY):
                slices = msgspec.json.decode(state.position, type=_HistoryPosition)
                confirmed = [] if isinstance(slices.confirmed, bool) else slices.confirmed
                replaced = IntervalSet([*slices.covered, *confirmed])
                keeper._feed(name.removeprefix(HISTORY)).replaced = replaced
        return keeper

    def order(self, drafts: Sequence[GroupDraft | LiveDraft]) -> list[Ordered]:
        """One commit batch in its order. Encodes: in a worker thread.

        A draft whose sequence is durable already, or appears twice, changes nothing here; the log answers it.
        """
        ordered: list[Ordered] = []
        ahead: dict[int, int] = {}  # partition -> frames of this batch
        last: dict[str, int] = {}
        for draft in drafts:
            known = last.get(draft.producer)
            known = self.last_sequence(draft.producer) if known is None else known
            duplicate = draft.sequence <= known
            last[draft.producer] = max(known, draft.sequence)
            done = self._one(draft, ahead, duplicate=duplicate)
            if not duplicate:
                for frame in done.draft.frames:
                    ahead[frame.partition] = ahead.get(frame.partition, 0) + 1
            ordered.append(done)
        return ordered

    def _one(self, draft: GroupDraft | LiveDraft, ahead: Mapping[int, int], *, duplicate: bool) -> Ordered:
        if isinstance(draft, LiveDraft):
            feed = self._feed(draft.feed)
            if not duplicate:
                feed.first_ns = draft.first_ns if feed.first_ns is None else min(feed.first_ns, draft.first_ns)
            group, refused = draft.group(((_BEGIN_NS, draft.seam_ns), *feed.replaced))
            return Ordered(draft=group, refused=refused)
        if isinstance(draft, SliceDraft) and not duplicate:
            feed = self._feed(draft.feed)
            feed.replaced = feed.replaced.add(draft.from_ns, draft.to_ns)
            last = self.end_offset(draft.live_partition) + ahead.get(draft.live_partition, 0) - 1
            if feed.first_ns is not None and draft.to_ns > feed.first_ns and last >= 0:
                return Ordered(draft=msgspec.structs.replace(draft, frames=draft.stamped(last)))
        return Ordered(draft=draft)

    def _feed(self, name: str) -> _Feed:
        return self._feeds.setdefault(name, _Feed())
