"""What a delivery does about rows that its sink refuses: find them, put exactly them aside, deliver the rest.

Order: the letters are durable, then the write without them moves the sink's mark. A crash in between costs nothing: the
letters are read at the next start, and what is a letter is never written. docs/decisions/0007-refused-rows.md
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial

import attrs
import msgspec
import numpy as np

from actors.bridge.bisection import Allowance, Bisection, PoisonLimits
from actors.bridge.port import NOBODY, Sink, SinkBatch, WriteResult
from actors.bridge.refused import NOTHING, REASON, Refused, RefusedRow, group_of, letters_of
from runtime.actor import ActorContext
from runtime.errors import ConfigError, LogFull, PermanentSinkError, RetryableSinkError
from runtime.log.dead_letters import REPLAY, STORED, DeadLetters, Entry, Letter
from runtime.log.types import Frame, Group

LETTERS_BYTES_MAX = 512 << 20
"""Of the whole dead-letter log; rows that our own rules refuse stop at half of it (actors/downloader/rejected.py)."""
ROUNDS_MAX = 3
"""Writes of one batch: what is only found in the company of others is not found by asking once more."""
SENT_AGAIN_KINDS = frozenset({"candles"})
"""Rows with keys: a letter is replayed by sending it again. Ticks are fetched again as slices (cli/dead_letters.py)."""


@attrs.define(kw_only=True)
class Isolation:
    """One incarnation of a delivery, over all its connections."""

    ctx: ActorContext
    sink_name: str
    stores: frozenset[str]
    letters: DeadLetters | None
    """None: a refused row stops the sink."""
    version: str
    limits: PoisonLimits
    refused: Refused = NOBODY
    allowance: Allowance = attrs.field(init=False)
    _replays: list[Letter] = attrs.field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.allowance = Allowance(self.limits)

    # --- what is there already

    async def load(self) -> None:
        """Read this sink's letters. A damaged dead-letter log is said, and no reason not to deliver."""
        entries = await self._entries()
        self.refused = Refused.of(entries)
        self._replays = [e.letter for e in entries if e.state == REPLAY and e.letter.kind in SENT_AGAIN_KINDS]
        since_ns = self.ctx.clock.wall_ns() - int(self.limits.window_s * 1e9)
        recent = sum(1 for entry in entries if entry.letter.first_ns > since_ns)
        self.allowance.note(self.ctx.clock.monotonic_s(), put_aside=recent)

    async def _entries(self) -> list[Entry]:
        if self.letters is None:
            return []
        try:
            entries, damage = await self.ctx.offload(partial(self.letters.of_sink, self.sink_name))
        except ConfigError as exc:
            self.ctx.log.warning("dead_letters_unreadable", sink=self.sink_name, reason=str(exc))
            return []
        if damage:  # a row whose letter is gone is refused again, and is a letter again
            self.ctx.log.warning("dead_letters_damaged", sink=self.sink_name, ranges=len(damage))
        return entries

    async def replay(self, sink: Sink) -> None:
        """Send again what somebody ordered, before anything else. Raises: RetryableSinkError."""
        replays, self._replays = self._replays, []
        for letter in replays:
            group = await self.ctx.offload(partial(group_of, letter))
            try:
                await sink.write(SinkBatch(groups=(group,), marks={}))
            except PermanentSinkError as exc:
                last = {"error": str(exc), "last_ns": self.ctx.clock.wall_ns(), "version": self.version}
                await self._add([msgspec.structs.replace(letter, **last)])
            else:
                await self._decide(letter)
            self.ctx.progress()
        if replays:
            self.refused = Refused.of(await self._entries())

    # --- writing

    async def write(self, sink: Sink, batch: SinkBatch) -> tuple[SinkBatch, WriteResult]:
        """Write what may be written of it. Returns what was. Raises as `Sink.write`."""
        for _ in range(ROUNDS_MAX - 1):
            batch = self.applied(batch)
            try:
                return batch, self._wrote(batch, await sink.write(batch))
            except PermanentSinkError as exc:
                if self.letters is None:
                    raise
                await self._put_aside(sink, batch, exc)
        batch = self.applied(batch)
        return batch, self._wrote(batch, await sink.write(batch))

    def applied(self, batch: SinkBatch) -> SinkBatch:
        """The batch without the rows that are letters."""
        without = self.refused.without(batch.groups)
        return attrs.evolve(batch, without=without) if without != batch.without else batch

    def _wrote(self, batch: SinkBatch, result: WriteResult) -> WriteResult:
        self.allowance.note(self.ctx.clock.monotonic_s(), delivered=result.rows_stored)
        return result

    async def _put_aside(self, sink: Sink, batch: SinkBatch, refusal: PermanentSinkError) -> None:
        """Raises: PermanentSinkError when it is not a matter of a few rows, RetryableSinkError."""
        rows = CandidateRows.of(batch, self.stores)
        room = self.allowance.room(self.ctx.clock.monotonic_s(), rows.total)
        if not room:
            raise PermanentSinkError(f"{refusal}; {self._too_many(0)}")
        asked = Bisection(rows.total, room, self.limits.questions_max)
        while (span := asked.next) is not None:
            asked.answer(await self._ask(sink, rows.only(*span)))
        found = [row for number, error in sorted(asked.found.items()) for row in rows.at(number, error)]
        self._judge(asked, found, rows, room, refusal)
        now_ns = self.ctx.clock.wall_ns()
        make = partial(letters_of, self.sink_name, found, now_ns=now_ns, version=self.version)
        await self._add(await self.ctx.offload(make))
        self._tell(found)

    async def _ask(self, sink: Sink, batch: SinkBatch) -> str:
        try:
            await sink.probe(batch)
        except PermanentSinkError as exc:
            return str(exc) or "refused"
        finally:
            self.ctx.progress()
        return ""

    def _judge(
        self, asked: Bisection, found: list[RefusedRow], rows: CandidateRows, room: int, refusal: PermanentSinkError
    ) -> None:
        """Raises: PermanentSinkError for what is not poison."""
        if asked.gave_up:
            raise PermanentSinkError(f"{refusal}; {self._too_many(room)}")
        if not found:
            raise PermanentSinkError(f"{refusal}; no single row of data is to blame, so none can be put aside")
        for kind, count in Counter(row.frame.kind for row in found).items():
            if self.limits.all_of <= count == rows.of_kind(kind):
                raise PermanentSinkError(f"{refusal}; it refuses all {count} rows of {kind} in a batch")

    def _too_many(self, room: int) -> str:
        limits = self.limits
        return (
            f"more rows than may be put aside now ({room}; {limits.share:.0%} of an hour's rows and at least "
            f"{limits.rows_free}, {limits.batch_rows_max} of a batch): a changed table or setting, not a few bad rows"
        )

    def _tell(self, found: list[RefusedRow]) -> None:
        first = found[0]
        text = f"{self.sink_name} refused {len(found)} rows, now dead letters: {first.error}"
        self.ctx.log.error("rows_dead_lettered", sink=self.sink_name, rows=len(found), reason=first.error)
        self.ctx.board.events.append((self.ctx.clock.wall_ns(), text))
        self.ctx.metrics.dead_lettered(sink=self.sink_name, reason=REASON, rows=len(found))
        self.allowance.note(self.ctx.clock.monotonic_s(), put_aside=len(found))

    # --- the dead-letter log

    async def _add(self, letters: list[Letter]) -> None:
        """Durable, and from now on left out. Raises: RetryableSinkError (no room), LogSyncFailed."""
        box = self.letters
        if box is None:
            return
        if box.bytes > LETTERS_BYTES_MAX:
            raise RetryableSinkError(f"{self.sink_name}: refuses rows, and the dead-letter log is full")
        await self._locked(partial(box.add, letters))
        self.refused = self.refused.plus(letters)

    async def _decide(self, letter: Letter) -> None:
        if self.letters is not None:
            await self._locked(partial(self.letters.decide, [letter.key], STORED))

    async def _locked(self, work: partial[None]) -> None:
        box = self.letters
        try:
            await self.ctx.offload(work, limiter=box.one_at_a_time if box is not None else None)
        except (LogFull, ConfigError) as exc:
            raise RetryableSinkError(f"{self.sink_name}: refuses rows, and they cannot be put aside: {exc}") from exc


@attrs.frozen
class CandidateRows:
    """The data rows of a batch, numbered through: those of which the sink may refuse some. Coverage is none of them:
    a slice without its record would be there twice after the next one."""

    _parts: tuple[tuple[Group, Frame, np.ndarray], ...]
    """The numbers of a frame's rows that are to be written."""
    _ends: tuple[int, ...]

    @classmethod
    def of(cls, batch: SinkBatch, stores: frozenset[str]) -> CandidateRows:
        """All that `batch` would write."""
        parts = []
        for group in batch.groups:
            for frame in group.frames:
                if frame.rows and frame.kind in stores - {"coverage"}:
                    left_out = batch.without.get((frame.partition, frame.offset), NOTHING)
                    numbers = np.setdiff1d(np.arange(frame.rows), list(left_out))
                    if len(numbers):
                        parts.append((group, frame, numbers))
        return cls(tuple(parts), tuple(np.cumsum([len(numbers) for _, _, numbers in parts]).tolist()))

    @property
    def total(self) -> int:
        """How many."""
        return self._ends[-1] if self._ends else 0

    def of_kind(self, kind: str) -> int:
        """How many of a kind."""
        return sum(len(numbers) for _, frame, numbers in self._parts if frame.kind == kind)

    def only(self, low: int, high: int) -> SinkBatch:
        """Rows [low, high) as a batch without marks."""
        groups, without = [], {}
        for group, frame, numbers, start in self._with_starts():
            chosen = numbers[max(0, low - start) : max(0, high - start)]
            if len(chosen):
                groups.append(msgspec.structs.replace(group, frames=(frame,)))
                rest = np.setdiff1d(np.arange(frame.rows), chosen, assume_unique=True)
                without[frame.partition, frame.offset] = frozenset(rest.tolist())
        return SinkBatch(groups=tuple(groups), marks={}, without=without)

    def at(self, number: int, error: str) -> Iterator[RefusedRow]:
        """The one row, as refused."""
        for group, frame, numbers, start in self._with_starts():
            if start <= number < start + len(numbers):
                yield RefusedRow(group, frame, int(numbers[number - start]), error)

    def _with_starts(self) -> Iterator[tuple[Group, Frame, np.ndarray, int]]:
        for (group, frame, numbers), end in zip(self._parts, self._ends, strict=True):
            yield group, frame, numbers, end - len(numbers)
