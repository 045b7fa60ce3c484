"""What was asked of the server: the proof, for tests, that a second run downloads nothing."""

from __future__ import annotations

from collections import Counter, deque

import attrs

RECENT_MAX = 1_000
PATHS_MAX = 1_000
OTHER_PATHS = "(others)"
"""Where requests are counted once PATHS_MAX (path, status) are known: paths come from outside."""


@attrs.frozen(kw_only=True)
class Asked:
    """One request to the vendor's API and its answer."""

    at_ns: int
    path: str
    query: str
    """Without the key."""
    status: int
    rows: int
    request_id: str


@attrs.define
class Ledger:
    """Totals since the start of the process, and the newest requests."""

    requests: int = 0
    rows: int = 0
    by: Counter[tuple[str, int]] = attrs.field(factory=Counter)
    """Requests by (path, status)."""
    recent: deque[Asked] = attrs.field(factory=lambda: deque(maxlen=RECENT_MAX))

    def note(self, asked: Asked) -> None:
        """Count one."""
        self.requests += 1
        self.rows += asked.rows
        known = (asked.path, asked.status) in self.by or len(self.by) < PATHS_MAX
        self.by[asked.path if known else OTHER_PATHS, asked.status] += 1
        self.recent.append(asked)

    def report(self) -> dict[str, object]:
        """As JSON."""
        return {
            "requests": self.requests,
            "rows": self.rows,
            "by": [{"path": p, "status": s, "requests": n} for (p, s), n in sorted(self.by.items())],
            "recent": [attrs.asdict(one) for one in self.recent],
        }
