"""What one batch becomes in PostgreSQL: decoded rows, names that need an id, months that need a partition, COPY bytes.

Pure and CPU-bound: runs in a worker thread, touches no connection.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence

import attrs
import numpy as np
import pyarrow as pa

from actors.bridge import pgcopy, pgschema
from actors.bridge.port import SinkBatch
from actors.bridge.rows import TICK_KINDS, CoverageRow, Rows, Step, rows_of, single_array, steps

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def instant(ns: int) -> datetime.datetime:
    """Microsecond-precise UTC datetime, rounded down: what the column `ts` holds for `ns`."""
    return _EPOCH + datetime.timedelta(microseconds=ns // 1000)


@attrs.frozen(kw_only=True)
class DecodedStep:
    """One step with its rows as columns."""

    slices: Sequence[CoverageRow]
    coverage: Sequence[CoverageRow]
    ticks: Sequence[Rows]


@attrs.frozen(kw_only=True)
class Decoded:
    """A batch, decoded, and what must exist before its transaction begins."""

    steps: tuple[DecodedStep, ...]
    symbols: frozenset[str]
    sources: frozenset[str]
    months: frozenset[tuple[str, np.datetime64]]
    """(kind, datetime64[M])."""
    rows: dict[int, int]
    """Rows to be copied per partition, coverage included."""
    ticks: dict[tuple[str, int], int]
    """The same per (kind, partition), without coverage."""


def decode_batch(batch: SinkBatch, kinds: frozenset[str]) -> Decoded:
    """Decode the batch; `kinds` as the sink stores them."""
    ticks = kinds & frozenset(TICK_KINDS)
    found = tuple(_decode_step(step, ticks, "coverage" in kinds) for step in steps(batch.groups, ticks, batch.without))
    rows = [rows for step in found for rows in step.ticks]
    slices = [row for step in found for row in step.slices]
    copied = _count_ticks(found)
    return Decoded(
        steps=found,
        symbols=frozenset().union(*(_names(r, "symbol") for r in rows), {s.record.symbol for s in slices}),
        sources=frozenset().union(*(_names(r, "source") for r in rows)),
        months=frozenset((r.kind, month) for r in rows for month in pgschema.months_of(_ts_ns(r))),
        rows=_count(found, copied),
        ticks=copied,
    )


def _decode_step(step: Step, ticks: frozenset[str], keeps_coverage: bool) -> DecodedStep:
    found = [rows for kind in sorted(ticks) if (rows := rows_of(step.parts, kind)) is not None]
    return DecodedStep(slices=step.slices, coverage=step.coverage if keeps_coverage else [], ticks=found)


def _names(rows: Rows, column: str) -> set[str]:
    return set(single_array(rows.table, column).dictionary.to_pylist())


def _ts_ns(rows: Rows) -> np.ndarray:
    times: np.ndarray = single_array(rows.table, "ts_ns").to_numpy()
    return times


def _count_ticks(found: Sequence[DecodedStep]) -> dict[tuple[str, int], int]:
    total: dict[tuple[str, int], int] = {}
    for step in found:
        for rows in step.ticks:
            for partition, count in zip(*np.unique(rows.partition, return_counts=True), strict=True):
                key = (rows.kind, int(partition))
                total[key] = total.get(key, 0) + int(count)
    return total


def _count(found: Sequence[DecodedStep], ticks: Mapping[tuple[str, int], int]) -> dict[int, int]:
    total: dict[int, int] = {}
    for (_, partition), count in ticks.items():
        total[partition] = total.get(partition, 0) + count
    for step in found:
        for row in step.coverage:
            total[row.partition] = total.get(row.partition, 0) + 1
    return total


@attrs.frozen(kw_only=True)
class Copy:
    """One COPY."""

    table: str
    columns: tuple[str, ...]
    pieces: list[memoryview]
    rows: int

    @property
    def statement(self) -> str:
        """`copy market.quotes (…) from stdin (format binary)`."""
        return f"copy market.{self.table} ({', '.join(self.columns)}) from stdin (format binary)"


@attrs.frozen(kw_only=True)
class PlannedStep:
    """One step, ready to be sent."""

    slices: Sequence[CoverageRow]
    copies: tuple[Copy, ...]


def plan_steps(
    decoded: Decoded, symbol_ids: Mapping[str, int], source_ids: Mapping[str, int]
) -> tuple[PlannedStep, ...]:
    """Turn decoded rows into COPY streams with these ids."""
    return tuple(
        PlannedStep(
            slices=step.slices,
            copies=(
                *(_copy_ticks(rows, symbol_ids, source_ids) for rows in step.ticks),
                *((_copy_coverage(step.coverage),) if step.coverage else ()),
            ),
        )
        for step in decoded.steps
    )


def _copy_ticks(rows: Rows, symbol_ids: Mapping[str, int], source_ids: Mapping[str, int]) -> Copy:
    own = pgschema.TICK_COLUMNS[rows.kind]
    ts_ns = _ts_ns(rows)
    columns: list[pgcopy.Column] = [
        _ids(rows, "symbol", symbol_ids, np.int32),
        _ids(rows, "source", source_ids, np.int16),
        pgcopy.timestamptz(ts_ns),
        pgcopy.Fixed(values=ts_ns),
        *(_own_column(single_array(rows.table, name)) for name in own),
        pgcopy.nullable(single_array(rows.table, "flags")),
        pgcopy.Fixed(values=rows.accepted_at),
        pgcopy.Fixed(values=rows.seq),
    ]
    return Copy(
        table=rows.kind,
        columns=(*pgschema.COPY_HEAD, *own, *pgschema.COPY_TAIL),
        pieces=pgcopy.copy_payload(columns, len(rows)),
        rows=len(rows),
    )


def _own_column(array: pa.Array) -> pgcopy.Column:
    return pgcopy.text(array) if pa.types.is_string(array.type) else pgcopy.nullable(array)


def _ids(rows: Rows, name: str, ids: Mapping[str, int], dtype: type) -> pgcopy.Fixed:
    column = single_array(rows.table, name)
    table: np.ndarray = np.array([ids[value] for value in column.dictionary.to_pylist()], dtype)
    return pgcopy.Fixed(values=table[column.indices.to_numpy()])


def _copy_coverage(rows: Sequence[CoverageRow]) -> Copy:
    """A few rows at most, so Python objects are fine here."""
    identity: dict[str, Callable[[CoverageRow], int | str]] = {
        "revision": lambda row: row.stamp_ns,
        "log_id": lambda row: row.log_id,
        "log_partition": lambda row: row.partition,
        "log_offset": lambda row: row.offset,
    }
    columns: list[pgcopy.Column] = []
    for name in pgschema.COVERAGE_COLUMNS:
        of = identity.get(name)
        values = [_plain(of(row) if of else getattr(row.record, name)) for row in rows]
        columns.append(_coverage_column(name, values))
    pieces = pgcopy.copy_payload(columns, len(rows))
    return Copy(table="coverage_records", columns=pgschema.COVERAGE_COLUMNS, pieces=pieces, rows=len(rows))


def _plain(value: int | str | None) -> int | str | None:
    """PostgreSQL's text has no NUL; a vendor's request_id may."""
    return value.replace("\0", "\ufffd") if isinstance(value, str) else value


_TEXTS = frozenset({"symbol", "kind", "source", "status", "reason", "request_id", "session", "log_id"})


def _coverage_column(name: str, values: list[int | str | None]) -> pgcopy.Column:
    if name in _TEXTS:
        return pgcopy.text(pa.array(values, pa.string()))
    return pgcopy.nullable(pa.array(values, pa.int32() if name == "log_partition" else pa.int64()))
