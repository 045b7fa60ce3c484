"""What faults do to rows on their way to the stream: dropped, held back, late, sent again. No I/O, no clock of its own.

Rows travel as `Span`s, pieces of a rendered part, so that nothing here costs per row but what a fault singles out.
"""

from __future__ import annotations

import heapq
import zlib
from collections import deque
from collections.abc import Collection

import attrs
import numpy as np

from actors.embedded.simulator.fault_book import Fired, Moment
from actors.embedded.simulator.hashing import Floats, combine, draws, unit
from actors.embedded.simulator.pages import Rows
from actors.embedded.simulator.stream_ledger import SymbolLedger
from runtime.clock import NS_PER_S

PIECE_ROWS = 1_000
RECENT_ROWS = 1_000
DRAWN_MAX = 32
HELD_ROWS_MAX = 2_000_000
"""Of bursts and late rows: beyond it a burst ends early and no further row is made late."""


@attrs.frozen(kw_only=True, eq=False)
class Span:
    """Rows start … stop - 1 of one rendered part of one symbol."""

    symbol: str
    rows: Rows
    start: int
    stop: int

    @property
    def count(self) -> int:
        """How many."""
        return self.stop - self.start

    def cut(self, start: int, stop: int) -> Span:
        """Part of it, by the part's row numbers."""
        return attrs.evolve(self, start=start, stop=stop)

    def texts(self) -> list[memoryview]:
        """As JSON, at most PIECE_ROWS rows a piece."""
        starts = range(self.start, self.stop, PIECE_ROWS)
        return [self.rows.text(at, min(at + PIECE_ROWS, self.stop), descending=False) for at in starts]


@attrs.define(kw_only=True, eq=False)
class Disturber:
    """The faults that act on the rows of one asset's stream now, and the rows they hold."""

    asset: str
    seed: int = 0
    active: list[Fired] = attrs.field(factory=list)
    ledger: dict[str, SymbolLedger] = attrs.field(factory=dict)
    _late: list[tuple[int, int, Span, Fired]] = attrs.field(factory=list, init=False)
    """A heap by (due in market ns, number)."""
    _burst: list[tuple[Span, Fired]] = attrs.field(factory=list, init=False)
    _held_rows: int = attrs.field(default=0, init=False)
    _recent: deque[Span] = attrs.field(factory=deque, init=False)
    _recent_rows: int = attrs.field(default=0, init=False)
    _numbers: int = attrs.field(default=0, init=False)
    _drawn: dict[int, Floats] = attrs.field(factory=dict, init=False)

    def add(self, fired: Fired) -> None:
        """A fault that acts on rows has fired."""
        self.active.append(fired)

    def expire(self, now: Moment) -> None:
        """End those whose time is over."""
        for fired in self.active:
            fired.over = fired.over or fired.ends(now)
        self.active = [fired for fired in self.active if not fired.over]

    def book(self, symbol: str) -> SymbolLedger:
        """The ledger of one symbol."""
        return self.ledger.setdefault(symbol, SymbolLedger())

    def send(self, span: Span) -> list[Span]:
        """The rows that are due now: those of them that go out, in order. All go on record."""
        silence = self._first("silence", span.symbol)
        if silence is not None:
            self._drop(span, silence)
            return []
        kept = [span]
        for gap in self._all("gap", span.symbol):
            kept = [piece for one in kept for piece in self._without_gap(one, gap)]
        for late in self._all("late", span.symbol):
            kept = [piece for one in kept for piece in self._without_late(one, late)]
        burst = self._first("burst", span.symbol)
        if burst is not None and self._held_rows < HELD_ROWS_MAX:
            rows = sum(one.count for one in kept)
            burst.rows += rows
            self._held_rows += rows
            self._burst += [(one, burst) for one in kept]
            return []
        return [self._out(one, "sent") for one in kept]

    def release(self, now: Moment, wanted: Collection[str]) -> list[Span]:
        """Rows held back whose time has come: late ones by market time, a burst's when it is over.

        Those of symbols that nobody wants any more are lost to the stream.
        """
        out: list[Span] = []
        if self._burst and (self._held_rows >= HELD_ROWS_MAX or self._first("burst") is None):
            for span, fired in self._burst:
                out += self._release(span, wanted, "sent", fired)
            self._burst = []
        if self._first("silence") is not None:
            return out  # late rows wait: nothing comes
        while self._late and self._late[0][0] <= now.market_ns:
            _, _, span, fired = heapq.heappop(self._late)
            out += self._release(span, wanted, f"late-sent:{fired.number}", fired)
        return out

    def _release(self, span: Span, wanted: Collection[str], outcome: str, fired: Fired) -> list[Span]:
        self._held_rows -= span.count
        if span.symbol in wanted:
            return [self._out(span, outcome)]
        self._note(span, f"lost:{fired.number}")
        return []

    def again(self, symbols: list[str]) -> list[Span]:
        """The last events of `symbols`, for a client that has come back, as far as a fault `replay` says; in order."""
        replay = max(self._all("replay"), key=lambda fired: fired.fault.n, default=None)
        room = replay.fault.n if replay is not None else 0
        found: list[Span] = []
        for span in reversed(self._recent):
            if not room:
                break
            if span.symbol in symbols:
                piece = span.cut(max(span.start, span.stop - room), span.stop)
                room -= piece.count
                found.append(piece)
        found.reverse()
        for piece in found:
            assert replay is not None
            replay.rows += piece.count
            self._note(piece, f"replay:{replay.number}")
        return found

    def _note(self, span: Span, outcome: str) -> None:
        self.book(span.symbol).note(span.rows.ts_ns, span.start, span.stop, outcome)

    def _all(self, kind: str, symbol: str = "") -> list[Fired]:
        return [
            fired for fired in self.active
            if fired.fault.fault == kind and not fired.over and fired.fault.symbol in ("", symbol)
        ]  # fmt: skip

    def _first(self, kind: str, symbol: str = "") -> Fired | None:
        return next(iter(self._all(kind, symbol)), None)

    def _drop(self, span: Span, fired: Fired) -> None:
        fired.rows += span.count
        self._note(span, f"{fired.fault.fault}:{fired.number}")

    def _without_gap(self, span: Span, gap: Fired) -> list[Span]:
        limit = gap.fault.rows
        count = span.count if limit is None else min(span.count, limit - gap.rows)
        if count <= 0:
            return [span]
        self._drop(span.cut(span.start, span.start + count), gap)
        gap.over = limit is not None and gap.rows >= limit
        return [span.cut(span.start + count, span.stop)] if count < span.count else []

    def _without_late(self, span: Span, late: Fired) -> list[Span]:
        """Each row is late or not by seed, fault and its own place alone, whatever the steps were."""
        ts_ns = span.rows.ts_ns
        key = combine(self.seed, late.armed_number, zlib.crc32(span.symbol.encode()), int(ts_ns[0]))
        chance = self._chances(key, len(ts_ns))[span.start : span.stop]
        chosen = (np.flatnonzero(chance < late.fault.p) + span.start).tolist()
        kept: list[Span] = []
        at = span.start
        for row in chosen[: max(0, HELD_ROWS_MAX - self._held_rows)]:
            if row > at:
                kept.append(span.cut(at, row))
            delay_ns = unit(combine(key, 2, row)) * late.fault.delay_s * NS_PER_S
            self._hold(span.cut(row, row + 1), int(ts_ns[row]) + max(1, int(delay_ns)), late)
            at = row + 1
        if at < span.stop:
            kept.append(span.cut(at, span.stop))
        return kept

    def _chances(self, key: int, count: int) -> Floats:
        if key not in self._drawn:
            if len(self._drawn) >= DRAWN_MAX:
                self._drawn.clear()
            self._drawn[key] = draws(key, 1, count)
        return self._drawn[key]

    def _hold(self, row: Span, due_ns: int, late: Fired) -> None:
        self._numbers += 1
        self._held_rows += 1
        late.rows += 1
        heapq.heappush(self._late, (due_ns, self._numbers, row, late))
        self._note(row, f"late:{late.number}")

    def _out(self, span: Span, outcome: str) -> Span:
        self._note(span, outcome)
        self._recent.append(span)
        self._recent_rows += span.count
        wanted = max([RECENT_ROWS, *(fired.fault.n for fired in self._all("replay"))])
        while self._recent_rows - self._recent[0].count >= wanted:
            self._recent_rows -= self._recent.popleft().count
        return span
