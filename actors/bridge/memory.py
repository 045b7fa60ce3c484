"""Both kinds of sink in memory: with marks of its own and transactions, or keyed and without. Passes the contract.

`memory_db.MemoryDatabase` is what survives a connection; `MemorySink` is one connection.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import NoReturn

import attrs
import pyarrow.compute as pc
import trio

from actors.bridge.chrows import compare, expected, next_offsets
from actors.bridge.memory_db import (
    MemoryDatabase,
    State,
    add_rows,
    checksum,
    delete_slices,
    frame_counts,
    newest_slice,
    rows_between,
    table_of,
)
from actors.bridge.pgverify import below_marks, slices_of
from actors.bridge.port import (
    NOBODY,
    KindTotals,
    Mismatch,
    Sink,
    SinkBatch,
    SinkTotals,
    Unaudited,
    VerifyResult,
    WriteResult,
)
from actors.bridge.refused import Refused
from actors.bridge.rows import TICK_KINDS, Step, coverage_of, parts_of, steps
from actors.market.coverage import IntervalSet
from actors.market.schema import add_checksums
from runtime.actor import Seams
from runtime.errors import ConfigError, PermanentSinkError, RetryableSinkError
from runtime.log.types import Group

_TICKS = frozenset(TICK_KINDS)


@attrs.frozen(kw_only=True)
class Memory:
    """Makes one `MemorySink` per connection attempt."""

    database: MemoryDatabase
    sink_name: str = "memory"
    stores: frozenset[str] = frozenset({"quotes", "trades", "coverage"})
    adopt: bool = False

    def __call__(self, seams: Seams) -> AbstractAsyncContextManager[Sink]:
        """An unopened sink."""
        del seams
        return self._connector()

    @asynccontextmanager
    async def _connector(self) -> AsyncIterator[Sink]:
        yield MemorySink(self)


class MemorySink:
    """One connection."""

    def __init__(self, settings: Memory) -> None:
        self.name = settings.sink_name
        self.stores = settings.stores
        self._adopt = settings.adopt
        self._db = settings.database
        self._broken = False
        self._log_id = ""

    def __repr__(self) -> str:
        return f"<MemorySink {self.name}{' broken' if self._broken else ''}>"

    async def open(self, log_id: str) -> dict[int, int] | None:
        """As the port says, for a database with marks or without."""
        await self._arrive()
        self._log_id = log_id
        known = self._db.log_ids
        if known and log_id not in known and not self._adopt:
            raise ConfigError(
                f"sink {self.name}: the database holds the data of another log ({known[-1]}), ours is {log_id}. "
                "A new data directory makes a new log. To take the database over: pipeline run --adopt"
            )
        met = log_id in known
        if not self._db.keeps_marks:
            return None if met else {}
        if not met:
            known.append(log_id)
        return self._marks

    async def reached(self) -> dict[int, int]:
        """By looking at every row."""
        await self._arrive()
        found: dict[int, int] = {}
        rows = [*frame_counts(self._db.state.candles), *((r.partition, r.offset) for r in self._db.state.coverage)]
        for partition, offset in rows:
            found[partition] = max(offset + 1, found.get(partition, 0))
        return found

    async def confirmed(self, verified: dict[int, int]) -> dict[int, int]:
        """What stands beside the rows."""
        await self._arrive()
        if self._log_id not in self._db.state.confirmed:
            self._confirm(verified)
        known = self._db.state.confirmed[self._log_id]
        return {partition: min(offset, known.get(partition, 0)) for partition, offset in verified.items()}

    async def prepare(self, batch: SinkBatch) -> None:
        """Nothing to do ahead."""
        await trio.lowlevel.checkpoint()

    async def write(self, batch: SinkBatch) -> WriteResult:
        """Build the next state, then put it in place at once; a keyed database takes kind after kind."""
        await self._arrive()
        self._refuse_poison(batch)
        result = await (self._write_transaction(batch) if self._db.keeps_marks else self._write_keyed(batch))
        if self._db.faults.times_answer_lost > 0:
            self._db.faults.times_answer_lost -= 1
            self._break("the answer was lost")
        return result

    async def probe(self, batch: SinkBatch) -> None:
        """Only look at them."""
        await self._arrive()
        self._refuse_poison(batch)

    async def verify(self, groups: tuple[Group, ...], refused: Refused = NOBODY) -> VerifyResult:
        """Marks and content of slices, or counts per frame."""
        await self._arrive()
        if not self._db.keeps_marks:
            found = self._verify_keyed(groups, refused)
            if not found.mismatches:
                self._confirm(next_offsets(groups))
            return found
        lost = below_marks(groups, self._marks)
        wanted = slices_of(groups, self.stores & _TICKS)
        found_ = (self._audit_slice(w.kind, w.symbol, w.from_ns, w.to_ns, refused) for w in wanted)
        wrong = [m for m in found_ if m is not None]
        return VerifyResult(rows_checked=sum(w.rows for w in wanted), mismatches=(*lost, *wrong))

    async def totals(self, log_id: str, marks: dict[int, int]) -> SinkTotals:
        """Counts by looking at every row."""
        await self._arrive()
        state = self._db.state
        below = self._marks if self._db.keeps_marks else marks
        kinds = {}
        for kind in sorted(self.stores & _TICKS):
            rows = self._db.ticks(kind)
            unique = rows.group_by(["accepted_at", "seq"]).aggregate([]).num_rows
            kinds[kind] = KindTotals(
                stored=rows.num_rows, replaced=state.replaced.get(kind, 0), duplicated=rows.num_rows - unique
            )
        if "candles" in self.stores:
            counts = frame_counts(state.candles)
            kinds["candles"] = KindTotals(stored=sum(n for (p, o), n in counts.items() if o < below.get(p, 0)))
        if "coverage" in self.stores:
            own = (row for row in self._db.coverage() if row.log_id == log_id)
            stored = sum(1 for row in own if row.offset < below.get(row.partition, 0))
            kinds["coverage"] = KindTotals(stored=stored)
        return SinkTotals(marks=below, kinds=kinds)

    async def audit(self, from_ns: int, to_ns: int, refused: Refused = NOBODY) -> VerifyResult:
        """All slices that overlap [from_ns, to_ns)."""
        await self._arrive()
        spans = {
            (r.kind, r.symbol, r.from_ns, r.to_ns)
            for row in self._db.state.coverage
            if (r := row.record).is_slice and r.kind in self.stores & _TICKS
            if r.from_ns < to_ns and r.to_ns > from_ns
        }
        found = [m for span in sorted(spans) if (m := self._audit_slice(*span, refused)) is not None]
        whole = [span for span in sorted(spans) if self._is_whole(*span)]
        return VerifyResult(
            rows_checked=len(whole), mismatches=tuple(found), unaudited=self._unaudited(whole, from_ns, to_ns)
        )

    async def close(self) -> None:
        """Nothing to release."""
        await trio.lowlevel.checkpoint()

    # --- writing

    @property
    def _marks(self) -> dict[int, int]:
        return dict(self._db.state.marks.get(self._log_id, {}))

    async def _write_transaction(self, batch: SinkBatch) -> WriteResult:
        state = self._move_marks(self._db.state, batch)
        stored = replaced = 0
        for step in steps(batch.groups, self.stores & _TICKS, batch.without):
            state, deleted = self._delete(state, step)
            state, added = add_rows(state, step, self.stores)
            stored += added
            replaced += deleted
        await trio.lowlevel.checkpoint()  # readers look meanwhile: still the old state
        self._perhaps_crash("rolled back")
        self._db.state = state
        return WriteResult(rows_stored=stored, rows_replaced=replaced)

    def _move_marks(self, state: State, batch: SinkBatch) -> State:
        own = self._marks
        for partition, (low, _) in batch.marks.items():
            if own.get(partition, 0) != low:
                raise RetryableSinkError(f"{self.name}: somebody else moved the mark of partition {partition}")
        moved = own | {partition: high for partition, (_, high) in batch.marks.items()}
        return attrs.evolve(state, marks=state.marks | {self._log_id: moved})

    def _delete(self, state: State, step: Step) -> tuple[State, int]:
        return delete_slices(state, step)

    async def _write_keyed(self, batch: SinkBatch) -> WriteResult:
        if self._log_id not in self._db.log_ids:
            self._db.log_ids.append(self._log_id)
            self._confirm({})
        stored = 0
        if "candles" in self.stores:
            candles = table_of(parts_of(batch.groups, batch.without), "candles")
            self._db.state = attrs.evolve(self._db.state, candles=(*self._db.state.candles, candles))
            stored += candles.num_rows
        await trio.lowlevel.checkpoint()
        self._perhaps_crash("candles are in, coverage is not")
        if "coverage" in self.stores:
            coverage = [row for group in batch.groups for row in coverage_of(group)]
            self._db.state = attrs.evolve(self._db.state, coverage=(*self._db.state.coverage, *coverage))
            stored += len(coverage)
        return WriteResult(rows_stored=stored, rows_replaced=0)

    def _confirm(self, offsets: dict[int, int]) -> None:
        confirmed = self._db.state.confirmed
        moved = confirmed | {self._log_id: confirmed.get(self._log_id, {}) | offsets}
        self._db.state = attrs.evolve(self._db.state, confirmed=moved)

    # --- reading back

    def _verify_keyed(self, groups: tuple[Group, ...], refused: Refused) -> VerifyResult:
        wrong: list[Mismatch] = []
        found = {
            "candles": frame_counts(self._db.state.candles),
            "coverage": Counter((row.partition, row.offset) for row in self._db.coverage()),
        }
        for kind in sorted(self.stores & found.keys()):
            counted = [(p, o, n) for (p, o), n in found[kind].items()]
            wrong += compare(kind, expected(groups, kind, refused), counted)
        return VerifyResult(rows_checked=sum(f.rows for g in groups for f in g.frames), mismatches=tuple(wrong))

    def _audit_slice(self, kind: str, symbol: str, from_ns: int, to_ns: int, refused: Refused) -> Mismatch | None:
        """Stored rows of the interval against the newest record for it, as PostgreSQL's read-back does."""
        row = newest_slice(self._db.state.coverage, kind, symbol, from_ns, to_ns)
        newest = row.record if row is not None else None
        if newest is not None and (newest.from_ns, newest.to_ns) != (from_ns, to_ns):
            return None
        rows = rows_between(self._db.state, kind, symbol, from_ns, to_ns)
        if row is not None:  # later ones are live rows that came after it
            rows = rows.filter(pc.less_equal(rows["accepted_at"], row.stamp_ns))
        aside = refused.of_slice(kind, symbol, from_ns, to_ns, row.stamp_ns if row is not None else 0)
        found = (rows.num_rows + aside[0], add_checksums(checksum(kind, rows), aside[1]))
        if newest is not None and found == (newest.rows, newest.checksum):
            return None
        what = f"{symbol} {kind} [{from_ns}, {to_ns}): rows or content differ from coverage"
        expects = newest.rows if newest is not None else 0
        return Mismatch(partition=-1, offset=-1, what=what, rows_expected=expects, rows_found=rows.num_rows)

    def _is_whole(self, kind: str, symbol: str, from_ns: int, to_ns: int) -> bool:
        row = newest_slice(self._db.state.coverage, kind, symbol, from_ns, to_ns)
        return row is not None and (row.record.from_ns, row.record.to_ns) == (from_ns, to_ns)

    def _unaudited(self, whole: list[tuple[str, str, int, int]], from_ns: int, to_ns: int) -> tuple[Unaudited, ...]:
        """Rows outside the slices that were compared, gap by gap."""
        found = []
        for kind in sorted(self.stores & _TICKS):
            for symbol in sorted(set(self._db.ticks(kind)["symbol"].to_pylist())):
                known = IntervalSet([(low, high) for k, s, low, high in whole if (k, s) == (kind, symbol)])
                for gap in known.missing(from_ns, to_ns):
                    times = rows_between(self._db.state, kind, symbol, *gap)["ts_ns"].to_pylist()
                    if times:
                        found.append(
                            Unaudited(
                                kind=kind, symbol=symbol, from_ns=min(times), to_ns=max(times) + 1, rows=len(times)
                            )
                        )
        return tuple(found)

    # --- faults

    async def _arrive(self) -> None:
        await trio.lowlevel.checkpoint()
        if self._broken or self._db.faults.down:
            self._break("down")

    def _perhaps_crash(self, leaves: str) -> None:
        if self._db.faults.times_crash_in_write > 0:
            self._db.faults.times_crash_in_write -= 1
            self._break(f"crashed in mid-write: {leaves}")

    def _refuse_poison(self, batch: SinkBatch) -> None:
        symbol, times = self._db.faults.poison_symbol, self._db.faults.poison_times
        for kind in sorted(self.stores - {"coverage"}) if symbol or times else ():
            rows = table_of(parts_of(batch.groups, batch.without), kind)
            if (symbol and symbol in rows["symbol"].to_pylist()) or times & set(rows["ts_ns"].to_pylist()):
                raise PermanentSinkError(f"{self.name}: refuses {symbol or 'a row of that time'}")

    def _break(self, why: str) -> NoReturn:
        self._broken = True
        raise RetryableSinkError(f"{self.name}: {why}")
