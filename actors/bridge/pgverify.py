"""Reading back from PostgreSQL: which slices to audit, and what stored columns say against coverage. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import attrs
import pyarrow as pa

from actors.bridge.pgcopy import read_array
from actors.bridge.pgschema import CHECKED_COLUMNS
from actors.bridge.port import NOBODY, Mismatch, Unaudited, VerifyResult
from actors.bridge.refused import Refused
from actors.bridge.rows import coverage_of
from actors.market.coverage import IntervalSet
from actors.market.schema import add_checksums, content_checksum
from runtime.clock import format_ns
from runtime.log.types import Group

_SLICES_PER_QUERY = 64
_ROWS_PER_QUERY = 400_000
"""Bounds one answer at about 15 MB."""


@attrs.frozen(kw_only=True)
class Wanted:
    """A slice that is to be looked at."""

    kind: str
    symbol: str
    from_ns: int
    to_ns: int
    partition: int = -1
    offset: int = -1
    rows: int = 0
    """A guess, to bound the answer."""


def below_marks(groups: Iterable[Group], marks: Mapping[int, int]) -> tuple[Mismatch, ...]:
    """Frames that the database's own marks say it does not have."""
    return tuple(
        Mismatch(
            partition=frame.partition,
            offset=frame.offset,
            what=f"the mark stands at {marks.get(frame.partition, 0)}",
            rows_expected=frame.rows,
            rows_found=0,
        )
        for group in groups
        for frame in group.frames
        if frame.offset >= marks.get(frame.partition, 0)
    )


def slices_of(groups: Iterable[Group], kinds: frozenset[str]) -> list[Wanted]:
    """The slices of `kinds` in these groups; of several for exactly one interval the last. CPU-bound."""
    found: dict[tuple[str, str, int, int], Wanted] = {}
    for group in groups:
        for row in coverage_of(group):
            r = row.record
            if r.is_slice and r.kind in kinds:
                found[(r.kind, r.symbol, r.from_ns, r.to_ns)] = Wanted(
                    kind=r.kind, symbol=r.symbol, from_ns=r.from_ns, to_ns=r.to_ns,
                    partition=row.partition, offset=row.offset, rows=r.rows,
                )  # fmt: skip
    return list(found.values())


def portions(wanted: Iterable[Wanted]) -> Iterator[list[Wanted]]:
    """Slices of one kind, as many as one query may answer."""
    portion: list[Wanted] = []
    for item in sorted(wanted, key=lambda w: (w.kind, w.symbol, w.from_ns)):
        full = len(portion) >= _SLICES_PER_QUERY or sum(w.rows for w in portion) + item.rows > _ROWS_PER_QUERY
        if portion and (full or portion[0].kind != item.kind):
            yield portion
            portion = []
        portion.append(item)
    if portion:
        yield portion


def arguments(portion: Sequence[Wanted]) -> tuple[list[int], list[str], list[int], list[int]]:
    """For `pgschema.audit_slices`."""
    return (
        list(range(len(portion))),
        [w.symbol for w in portion],
        [w.from_ns for w in portion],
        [w.to_ns for w in portion],
    )


def compare(
    portion: Sequence[Wanted], found: Sequence[Mapping[str, object]], refused: Refused = NOBODY
) -> VerifyResult:
    """Count and checksum of each slice's stored rows, and its dead letters, against its newest record. CPU-bound."""
    mismatches = []
    checked = 0
    for row in found:
        wanted = portion[int(str(row["i"]))]
        if is_whole(wanted, row):
            checked += int(str(row["n"]))
        problem = _compare_one(wanted, row, refused)
        if problem is not None:
            mismatches.append(problem)
    return VerifyResult(rows_checked=checked, mismatches=tuple(mismatches))


def _compare_one(wanted: Wanted, row: Mapping[str, object], refused: Refused) -> Mismatch | None:
    stored = int(str(row["n"]))
    if row["from_ns"] is None:
        return _mismatch(wanted, "its coverage record is gone", wanted.rows, stored)
    if not is_whole(wanted, row):
        return (
            None  # a later slice with other borders holds a part, which is audited as itself; for the rest: `between`
        )
    span = (wanted.kind, wanted.symbol, wanted.from_ns, wanted.to_ns)
    aside, checksum_aside = refused.of_slice(*span, int(str(row["revision"])))
    if stored + aside != row["rows"]:
        return _mismatch(wanted, "rows are missing or double", int(str(row["rows"])) - aside, stored)
    if add_checksums(_checksum(wanted.kind, row), checksum_aside) != row["checksum"]:
        return _mismatch(wanted, "the content differs (checksum)", int(str(row["rows"])) - aside, stored)
    return None


def is_whole(wanted: Wanted, row: Mapping[str, object]) -> bool:
    """True when the slice's own record is the newest one there, so that its rows are compared with it."""
    return (row["from_ns"], row["to_ns"]) == (wanted.from_ns, wanted.to_ns)


def between(symbols: Iterable[str], audited: Iterable[Wanted], from_ns: int, to_ns: int) -> list[tuple[str, int, int]]:
    """(symbol, from_ns, to_ns): what is left of [from_ns, to_ns) outside the slices that were compared whole."""
    spans: dict[str, list[tuple[int, int]]] = {symbol: [] for symbol in symbols}
    for slice_ in audited:
        spans.setdefault(slice_.symbol, []).append((slice_.from_ns, slice_.to_ns))
    return [(symbol, *gap) for symbol, known in spans.items() for gap in IntervalSet(known).missing(from_ns, to_ns)]


def unaudited(kind: str, gaps: Sequence[tuple[str, int, int]], found: Sequence[Mapping[str, int]]) -> VerifyResult:
    """What `pgschema.rows_in` found in `gaps`."""
    rows = (
        Unaudited(kind=kind, symbol=gaps[row["i"]][0], from_ns=row["low"], to_ns=row["high"] + 1, rows=row["n"])
        for row in found
    )
    return VerifyResult(rows_checked=0, mismatches=(), unaudited=tuple(rows))


def _checksum(kind: str, row: Mapping[str, object]) -> int:
    a, b = CHECKED_COLUMNS[kind]
    columns = {"ts_ns": _array(row["ts_ns"], "i8"), a: _array(row["a"], "f8"), b: _array(row["b"], "f8")}
    return content_checksum(kind, pa.RecordBatch.from_pydict(columns))


def _array(raw: object, dtype: str) -> pa.Array:
    if raw is not None and not isinstance(raw, bytes):
        raise TypeError(f"expected bytes, not {type(raw)}")
    return pa.array(read_array(raw, dtype))


def _mismatch(wanted: Wanted, what: str, expected: int, stored: int) -> Mismatch:
    interval = f"{wanted.symbol} {wanted.kind} [{format_ns(wanted.from_ns)}, {format_ns(wanted.to_ns)})"
    return Mismatch(
        partition=wanted.partition,
        offset=wanted.offset,
        what=f"{interval}: {what}",
        rows_expected=expected,
        rows_found=stored,
    )


def doubled(kind: str, count: int) -> VerifyResult:
    """`count` rows of `kind` stand twice under one identity."""
    found = Mismatch(partition=-1, offset=-1, what=f"{kind}: rows stored twice", rows_expected=0, rows_found=count)
    return VerifyResult(rows_checked=0, mismatches=(found,) if count else ())


def joined(results: Iterable[VerifyResult]) -> VerifyResult:
    """All of them as one."""
    every = list(results)
    return VerifyResult(
        rows_checked=sum(r.rows_checked for r in every),
        mismatches=tuple(m for r in every for m in r.mismatches),
        unaudited=tuple(u for r in every for u in r.unaudited),
    )
