"""What a batch becomes in ClickHouse: one Arrow table per kind, and what a read-back must find. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa

from actors.bridge.port import NOBODY, Mismatch, SinkBatch
from actors.bridge.refused import Refused
from actors.bridge.rows import Rows, is_passing, parts_of, rows_of, single_array
from actors.market.schema import repeat_name
from runtime.errors import InvariantViolation
from runtime.log.types import Group

Offsets = dict[tuple[int, int], int]
"""(partition, offset) -> rows."""


def tables_of(batch: SinkBatch, kinds: frozenset[str]) -> dict[str, pa.Table]:
    """Kind -> all its rows of the batch, in one chunk, so that one insert is one block. CPU-bound."""
    parts = list(parts_of(batch.groups, batch.without))
    made = {}
    for kind, make in (("candles", _candles), ("coverage", _coverage)):
        rows = rows_of(parts, kind) if kind in kinds else None
        if rows is not None:
            made[kind] = make(rows).combine_chunks()
    return made


def _candles(rows: Rows) -> pa.Table:
    ts_ns = single_array(rows.table, "ts_ns").to_numpy()
    if (ts_ns % 1_000_000).any():
        raise InvariantViolation("a candle that does not begin on a millisecond")
    columns = {name: rows.table.column(name) for name in rows.table.column_names if name != "ts_ns"}
    columns["ts"] = pa.array(ts_ns // 1_000_000).cast(pa.timestamp("ms", "UTC"))
    columns["revision"] = _revision(rows)
    return pa.table(columns | _identity(rows))


def _revision(rows: Rows) -> pa.Array:
    """The row's own, or the stamp of its group where the maker could not know that (vendor bars say 0)."""
    own = single_array(rows.table, "revision").to_numpy()
    return pa.array(np.where(own > 0, own, rows.accepted_at))


def _coverage(rows: Rows) -> pa.Table:
    columns = {name: rows.table.column(name) for name in rows.table.column_names if name not in ("from_ns", "to_ns")}
    for name, source in (("from_ts", "from_ns"), ("to_ts", "to_ns")):
        columns[name] = single_array(rows.table, source).cast(pa.timestamp("ns", "UTC"))
    columns["revision"] = pa.array(rows.accepted_at)
    return pa.table(columns | _identity(rows))


def _identity(rows: Rows) -> dict[str, pa.Array]:
    return {
        "log_id": repeat_name(rows.log_id, len(rows)),
        "log_partition": pa.array(rows.partition),
        "log_offset": pa.array(rows.offset),
    }


def expected(groups: Sequence[Group], kind: str, refused: Refused = NOBODY) -> Offsets:
    """Rows per frame of `kind` that must be there; frames of none left out."""
    without = refused.without(groups)
    return {
        (frame.partition, frame.offset): frame.rows - len(without.get((frame.partition, frame.offset), ()))
        for group in groups
        for frame in group.frames
        if frame.kind == kind and frame.rows and not is_passing(frame)
    }


def next_offsets(groups: Iterable[Group]) -> dict[int, int]:
    """Per partition the offset behind its last frame, whatever its kind."""
    found: dict[int, int] = {}
    for group in groups:
        for frame in group.frames:
            found[frame.partition] = max(found.get(frame.partition, 0), frame.offset + 1)
    return found


def ranges(offsets: Iterable[tuple[int, int]]) -> dict[int, tuple[int, int]]:
    """The smallest [low, high) per partition that holds all of them."""
    found: dict[int, tuple[int, int]] = {}
    for partition, offset in offsets:
        low, high = found.get(partition, (offset, offset + 1))
        found[partition] = (min(low, offset), max(high, offset + 1))
    return found


def compare(kind: str, wanted: Mapping[tuple[int, int], int], found: Sequence[Sequence[int]]) -> list[Mismatch]:
    """`found`: (partition, offset, rows) as read back; frames beyond the wanted ones are of no interest."""
    counted = {(int(partition), int(offset)): int(rows) for partition, offset, rows in found}
    return [
        Mismatch(
            partition=partition,
            offset=offset,
            what=f"{kind}: rows of a frame",
            rows_expected=rows,
            rows_found=counted.get((partition, offset), 0),
        )
        for (partition, offset), rows in sorted(wanted.items())
        if counted.get((partition, offset), 0) != rows
    ]
