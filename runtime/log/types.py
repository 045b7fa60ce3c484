"""What goes into the log and what comes out: drafts, groups, frames.

The log knows nothing of markets or Arrow: a body is bytes, a kind is a name, a schema is a message that whoever
decodes the body needs in front of it.

What every commit makes and carries are msgspec structs: made five times as fast as attrs classes, which counts where
a commit takes 200 us.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
import msgspec

from runtime.errors import InvariantViolation
from runtime.log.frame import (
    BODY_BYTES_MAX,
    FIXED_BYTES,
    FRAMES_MAX,
    GROUP_BYTES_MAX,
    POSITION_BYTES_MAX,
    PRODUCER_BYTES_MAX,
    body_checksum,
    header_size,
    padded,
)

Interval = tuple[int, int]
"""[from, to) in ns UTC."""

_PLAIN_BYTES = padded(FIXED_BYTES)
"""Header of every frame but a group's last."""
_set = msgspec.structs.force_setattr


class FrameDraft(msgspec.Struct, frozen=True, kw_only=True):
    """One frame as a producer hands it over: everything but what the writer assigns.

    The body's checksum is made here, where the body is: from now on nothing can change it unnoticed.
    """

    partition: int
    kind: str
    body: bytes
    """Arrow IPC messages (dictionaries and one record batch), without the schema message; <= BODY_BYTES_MAX."""
    rows: int
    event_time_ns_min: int
    event_time_ns_max: int
    body_crc: int = -1
    """CRC32C of body and padding; made with the draft."""

    def __post_init__(self) -> None:
        _set(self, "body_crc", body_checksum(self.body))


class GroupDraft(msgspec.Struct, frozen=True, kw_only=True):
    """One append: all frames or none become durable, together with the producer's position.

    Raises InvariantViolation for a draft that breaks a limit: the producer's bug, found before anything is queued.
    """

    producer: str
    sequence: int
    """Last accepted sequence of this producer + 1; a repeated one is answered with `duplicate=True`."""
    producer_position: bytes
    """What the producer wants to be told after a restart; <= POSITION_BYTES_MAX."""
    frames: tuple[FrameDraft, ...]
    wire_bytes: int = -1
    """What the group takes in a segment; made with the draft."""

    def __post_init__(self) -> None:
        name, position, frames = self.producer.encode(), self.producer_position, self.frames
        bodies = wire = 0
        for frame in frames:
            size = len(frame.body)
            bodies += size
            wire += (size + 7) & ~7
            if size > BODY_BYTES_MAX or frame.partition < 0:
                raise self._broken(f"partition {frame.partition}, a body of {size} bytes, max {BODY_BYTES_MAX}")
        if not 0 < len(name) <= PRODUCER_BYTES_MAX:
            raise self._broken(f"its name must have 1 to {PRODUCER_BYTES_MAX} bytes")
        if len(position) > POSITION_BYTES_MAX:
            raise self._broken(f"position of {len(position)} bytes, max {POSITION_BYTES_MAX}")
        if not 0 < len(frames) <= FRAMES_MAX:
            raise self._broken(f"{len(frames)} frames, allowed are 1 to {FRAMES_MAX}")
        if bodies > GROUP_BYTES_MAX:
            raise self._broken(f"{bodies} bytes in one group, max {GROUP_BYTES_MAX}")
        _set(self, "wire_bytes", wire + (len(frames) - 1) * _PLAIN_BYTES + header_size(name, position))

    def _broken(self, what: str) -> InvariantViolation:
        return InvariantViolation(f"producer {self.producer}, sequence {self.sequence}: {what}")


class SliceDraft(GroupDraft, frozen=True, kw_only=True):
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


class Frame(msgspec.Struct, frozen=True, kw_only=True):
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


class Group(msgspec.Struct, frozen=True, kw_only=True):
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


class ProducerState(msgspec.Struct, frozen=True, kw_only=True):
    """Where a producer stood, from the log itself."""

    sequence: int = 0
    """Last accepted sequence; 0 if the producer is new."""
    position: bytes = b""


class Appended(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to one append, given only after the sync returned."""

    position: int
    end_position: int
    stamp_ns: int
    duplicate: bool
    """True: this sequence was already durable; nothing was written (positions and stamp are then -1)."""
    refused: tuple[Interval, ...] = ()
    """Of a `LiveDraft`: minutes of rows that came too late and are not in it; to be fetched as slices."""
