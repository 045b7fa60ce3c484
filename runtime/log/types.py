"""What goes into the log and what comes out: drafts, groups, frames.

The log knows nothing of markets or Arrow: a body is bytes, a kind is a name, a schema is a message that whoever
decodes the body needs in front of it.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs

Interval = tuple[int, int]
"""[from, to) in ns UTC."""

GROUP_BYTES_MAX = 16 * 1024 * 1024
BODY_BYTES_MAX = 900_000
POSITION_BYTES_MAX = 1024


@attrs.frozen(kw_only=True)
class FrameDraft:
    """One frame as a producer hands it over: everything but what the writer assigns."""

    partition: int
    kind: str
    body: bytes
    """Arrow IPC messages (dictionaries and one record batch), without the schema message; <= BODY_BYTES_MAX."""
    rows: int
    event_time_ns_min: int
    event_time_ns_max: int


@attrs.frozen(kw_only=True)
class GroupDraft:
    """One append: all frames or none become durable, together with the producer's position."""

    producer: str
    sequence: int
    """Last accepted sequence of this producer + 1; a repeated one is answered with `duplicate=True`."""
    producer_position: bytes
    """What the producer wants to be told after a restart; <= POSITION_BYTES_MAX."""
    frames: tuple[FrameDraft, ...]


@attrs.frozen(kw_only=True)
class SliceDraft(GroupDraft):
    """A group that replaces [from_ns, to_ns) of a feed; the writer decides what it comes after (docs/live.md)."""

    feed: str
    """Whose rows: a `LiveDraft` of the same name holds rows of the same kind and symbol."""
    live_partition: int
    """Where the live rows of the feed lie."""
    from_ns: int
    to_ns: int
    stamped: Callable[[int], tuple[FrameDraft, ...]]
    """The frames again, saying that they come after this offset of the live partition. In a worker thread."""


@attrs.frozen(kw_only=True)
class LiveCut:
    """What a `LiveDraft` becomes without the rows that came too late."""

    frames: tuple[FrameDraft, ...]
    """At least one."""
    refused: tuple[Interval, ...] = ()
    """Whole minutes that held refused rows, ascending, disjoint."""


@attrs.frozen(kw_only=True)
class LiveDraft:
    """Rows of a live feed that the writer cuts and encodes: only it knows what was replaced by then (docs/live.md)."""

    producer: str
    sequence: int
    producer_position: bytes
    feed: str
    first_ns: int
    """The first live instant ever of the feed."""
    seam_ns: int
    """Rows before it belong to history."""
    bytes: int
    """About what it will take in the log."""
    cut: Callable[[tuple[Interval, ...]], LiveCut]
    """The frames without the rows in these intervals. In a worker thread."""

    def group(self, keep_out: tuple[Interval, ...]) -> tuple[GroupDraft, tuple[Interval, ...]]:
        """What is appended, and the minutes of the rows that are not. CPU-bound."""
        cut = self.cut(keep_out)
        draft = GroupDraft(
            producer=self.producer,
            sequence=self.sequence,
            producer_position=self.producer_position,
            frames=cut.frames,
        )
        return draft, cut.refused


@attrs.frozen(kw_only=True)
class Frame:
    """One durable frame."""

    partition: int
    offset: int
    """Dense per partition, counts frames."""
    prev_offset: int
    """Offset of the previous frame of the same kind in this partition, -1 if none."""
    kind: str
    schema: bytes
    """The Arrow schema message that belongs in front of `body`."""
    body: bytes
    rows: int
    event_time_ns_min: int
    event_time_ns_max: int
    group_index: int


@attrs.frozen(kw_only=True)
class Group:
    """One durable group, as every consumer sees it: whole, or (filtered) the frames of chosen partitions."""

    log_id: str
    position: int
    """Physical position of its first frame: bytes since the log began."""
    end_position: int
    stamp_ns: int
    """appended_at_ns: strictly monotone over the whole log, close to the wall clock."""
    producer: str
    sequence: int
    producer_position: bytes
    frames: tuple[Frame, ...]


@attrs.frozen(kw_only=True)
class ProducerState:
    """Where a producer stood, from the log itself."""

    sequence: int = 0
    """Last accepted sequence; 0 if the producer is new."""
    position: bytes = b""


@attrs.frozen(kw_only=True)
class Appended:
    """The answer to one append, given only after the sync returned."""

    position: int
    end_position: int
    stamp_ns: int
    duplicate: bool
    """True: this sequence was already durable; nothing was written (positions and stamp are then -1)."""
    refused: tuple[Interval, ...] = ()
    """Of a `LiveDraft`: minutes of rows that came too late and are not in it; to be fetched as slices."""
