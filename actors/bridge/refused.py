"""The rows of one sink that are dead letters: left out of every write, counted wherever it is looked at. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs
import pyarrow as pa

from actors.market.schema import SCHEMAS, content_checksum, decode, encode, schema_message
from runtime.clock import format_ns
from runtime.log.dead_letters import STORED, Entry, Letter
from runtime.log.types import Frame, Group

REASON = "refused"
"""`Letter.reason` of rows that a sink refuses."""
NOTHING: frozenset[int] = frozenset()

Without = Mapping[tuple[int, int], frozenset[int]]
"""(partition, offset) -> numbers of the rows in that frame that are left out."""
_Slot = tuple[str, str, int]
"""kind, symbol, stamp of the group."""


@attrs.frozen
class Refused:
    """An immutable set; `plus` makes a larger one."""

    _frames: Mapping[tuple[str, int, int], frozenset[int]] = attrs.field(factory=dict)
    """(log_id, partition, offset) -> row numbers."""
    _rows: Mapping[_Slot, tuple[tuple[int, int], ...]] = attrs.field(factory=dict)
    """(ts_ns, checksum) each."""

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> Refused:
        """Of a sink's letters. Those that were sent again and taken are no more."""
        return cls().plus([entry.letter for entry in entries if entry.state != STORED])

    def __bool__(self) -> bool:
        return bool(self._frames)

    def plus(self, letters: Iterable[Letter]) -> Refused:
        """These too. A letter that is there already changes nothing."""
        frames, rows = dict(self._frames), dict(self._rows)
        for letter in letters:
            place = (letter.log_id, letter.partition, letter.offset)
            known = frames.get(place, NOTHING)
            if letter.row in known:
                continue
            frames[place] = known | {letter.row}
            content = json.loads(letter.content)
            slot = (letter.kind, content["symbol"], content["stamp_ns"])
            rows[slot] = (*rows.get(slot, ()), (content["ts_ns"], content["checksum"]))
        return Refused(frames, rows)

    def without(self, groups: Iterable[Group]) -> Without:
        """What of these groups must not be written; frames of which all may be are not in the answer."""
        if not self._frames:
            return {}
        return {
            (frame.partition, frame.offset): rows
            for group in groups
            for frame in group.frames
            if (rows := self._frames.get((group.log_id, frame.partition, frame.offset)))
        }

    def of_slice(self, kind: str, symbol: str, from_ns: int, to_ns: int, revision: int) -> tuple[int, int]:
        """(rows, sum of their checksums) of the slice whose group was stamped `revision`.

        Rows of older groups are none of it: the slice replaced their interval.
        """
        inside = [own for ts_ns, own in self._rows.get((kind, symbol, revision), ()) if from_ns <= ts_ns < to_ns]
        return len(inside), sum(inside)


@attrs.frozen
class RefusedRow:
    """One row that the sink refuses by itself, and its word for why."""

    group: Group
    frame: Frame
    number: int
    error: str


def letters_of(sink: str, rows: Sequence[RefusedRow], *, now_ns: int, version: str) -> list[Letter]:
    """What is kept of them. CPU-bound."""
    batches: dict[tuple[int, int], pa.RecordBatch] = {}
    made = []
    for row in rows:
        place = (row.frame.partition, row.frame.offset)
        if place not in batches:
            batches[place] = decode(row.frame.schema, row.frame.body)
        one = batches[place].slice(row.number, 1)
        values: dict[str, Any] = one.to_pylist()[0]
        content = {
            "symbol": values["symbol"],
            "ts_ns": values["ts_ns"],
            "stamp_ns": row.group.stamp_ns,
            "checksum": content_checksum(row.frame.kind, one),
            "row": values,
        }
        made.append(
            Letter(
                sink=sink,
                log_id=row.group.log_id,
                partition=row.frame.partition,
                offset=row.frame.offset,
                row=row.number,
                kind=row.frame.kind,
                reason=REASON,
                error=f"{values['symbol']} at {format_ns(values['ts_ns'])}: {row.error}",
                content=json.dumps(content),
                first_ns=now_ns,
                last_ns=now_ns,
                version=version,
            )
        )
    return made


def group_of(letter: Letter) -> Group:
    """The row as a group of its own, under its old identity: to be sent again to a sink with keys. CPU-bound."""
    content = json.loads(letter.content)
    schema = SCHEMAS[letter.kind]
    (body,) = encode(letter.kind, pa.RecordBatch.from_pylist([content["row"]], schema=schema))
    frame = Frame(
        partition=letter.partition,
        offset=letter.offset,
        prev_offset=-1,
        kind=letter.kind,
        schema=schema_message(letter.kind),
        body=body.body,
        rows=1,
        event_time_ns_min=body.event_time_ns_min,
        event_time_ns_max=body.event_time_ns_max,
        group_index=0,
    )
    return Group(
        log_id=letter.log_id,
        position=-1,
        end_position=-1,
        stamp_ns=content["stamp_ns"],
        producer="",
        sequence=0,
        producer_position=b"",
        frames=(frame,),
    )
