"""What the stream was given, row by row in runs of one fate: the oracle of the stream.

Outcomes: `sent`; `gap:N`, `silence:N`, `late:N` = not sent when due, because of firing N; `late-sent:N`, `replay:N` =
sent later, or again; `lost:N` = held back by N until nobody wanted it any more. A row is offered to the stream only
while somebody is subscribed to its symbol.
"""

from __future__ import annotations

from collections import Counter, deque

import attrs

from actors.embedded.simulator.feed import Instants

RUNS_MAX = 20_000


@attrs.define(kw_only=True)
class Run:
    """Adjacent rows of one part of one symbol with one fate; times of the first and last in ns."""

    first_ns: int
    last_ns: int
    rows: int
    outcome: str


@attrs.define(kw_only=True)
class SymbolLedger:
    """Totals by kind of outcome, and the newest RUNS_MAX runs."""

    totals: Counter[str] = attrs.field(factory=Counter)
    runs: deque[Run] = attrs.field(factory=lambda: deque(maxlen=RUNS_MAX))
    runs_total: int = 0
    _next: tuple[int, int] | None = None
    """The row with which the newest run may grow: nothing lies between. By its part's first time and its number."""

    def note(self, ts_ns: Instants, start: int, stop: int, outcome: str) -> None:
        """Rows start … stop - 1 of the part whose times are `ts_ns`."""
        rows, part = stop - start, int(ts_ns[0])
        self.totals[outcome.partition(":")[0]] += rows
        last_ns = int(ts_ns[stop - 1])
        if self._next == (part, start) and self.runs[-1].outcome == outcome:
            self.runs[-1].last_ns = last_ns
            self.runs[-1].rows += rows
        else:
            self.runs.append(Run(first_ns=int(ts_ns[start]), last_ns=last_ns, rows=rows, outcome=outcome))
            self.runs_total += 1
        self._next = (part, stop)

    def report(self) -> dict[str, object]:
        """As JSON."""
        return {
            "totals": dict(sorted(self.totals.items())),
            "runs_forgotten": self.runs_total - len(self.runs),
            "runs": [attrs.asdict(run) for run in self.runs],
        }


@attrs.define(kw_only=True)
class StreamCounts:
    """Totals of one asset's stream."""

    opened: int = 0
    refused: int = 0
    """During an outage."""
    authenticated: int = 0
    auth_failed: int = 0
    auth_timeout: int = 0
    evicted: int = 0
    """By a newer connection with the same key."""
    too_slow: int = 0
    events: int = 0
    """Handed to connections, so a row that goes to two counts twice."""
    bytes: int = 0
    """Of their JSON."""
