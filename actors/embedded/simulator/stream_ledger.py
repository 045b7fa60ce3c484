"""What the stream was given, row by row in runs of one fate: the oracle of the stream.

Outcomes: `sent`; `gap:N`, `silence:N`, `late:N` = not sent when due, because of firing N; `late-sent:N`, `replay:N` =
sent later, or again. A row is offered to the stream only while somebody is subscribed to its symbol.
"""

from __future__ import annotations

from collections import Counter, deque

import attrs

RUNS_MAX = 20_000


@attrs.define(kw_only=True)
class Run:
    """Consecutive rows of one symbol with one fate; times of the first and last in ns."""

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
    joined: bool = False
    """Whether the newest run may grow: nobody came or went since."""

    def note(self, times: tuple[int, int], rows: int, outcome: str) -> None:
        """Rows in time order from times[0] to times[1]."""
        self.totals[outcome.partition(":")[0]] += rows
        newest = self.runs[-1] if self.runs and self.joined else None
        if newest is not None and newest.outcome == outcome and times[0] >= newest.last_ns:
            newest.last_ns, newest.rows = times[1], newest.rows + rows
            return
        self.runs.append(Run(first_ns=times[0], last_ns=times[1], rows=rows, outcome=outcome))
        self.runs_total += 1
        self.joined = True

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
