"""Restart history: per child what ended it, when, and what was decided; bounded; survives the process (4.6).

It listens to the engine's events and is read by people (`pipeline status`). Kept as JSON lines, so that a restart by
systemd does not hide a crash loop. Pure: who owns it saves `dump(entries())` and hands an old one to `load`.
"""

from __future__ import annotations

import hashlib
import traceback
from collections import deque
from collections.abc import Callable, Iterable
from typing import Annotated

import attrs
import msgspec

from runtime.clock import format_ns
from supervisors.engine.events import Event, EventKind, Report
from supervisors.engine.exits import LEAVES_TOLD_MAX, leaves, one_line

ENTRIES_PER_CHILD_MAX = 50
CHILDREN_MAX = 500
KEPT = frozenset(EventKind) - {EventKind.STARTED, EventKind.STOPPED, EventKind.TREE_STOPPING, EventKind.LOOP_HELD}


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of the history."""

    at_ns: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
    path: str
    what: str
    reason: str = ""
    trace: str = ""
    """The same for the same place of the same error: tells one bug that repeats from many."""
    attempt: int = 0
    delay_s: float | None = None
    budget_left: int | None = None
    decision: str = ""

    def line(self) -> str:
        """For people: when, who, what and why; behind the arrow what was decided, and what the budget still allows."""
        parts = [format_ns(self.at_ns // 10**6 * 10**6), self.path, self.what, self.reason]
        if self.trace:
            parts.append(f"<{self.trace}>")
        if self.delay_s is not None:
            parts.append(f"in {self.delay_s:.1f} s (attempt {self.attempt})")
        if self.decision:
            parts.append(f"-> {self.decision}")
        if self.budget_left is not None:
            parts.append(f"[{self.budget_left} restarts left]")
        return " ".join(part for part in parts if part)


@attrs.define
class History:
    """Use `record` as (part of) the tree's report."""

    wall_ns: Callable[[], int]
    changes: int = 0
    """Goes up with each entry: the owner knows whether there is something to save."""
    _entries: dict[str, deque[Entry]] = attrs.field(factory=dict)

    def record(self, event: Event) -> None:
        """Keep what is worth explaining later."""
        if event.kind not in KEPT:
            return
        error = event.reason.error if event.reason else None
        entry = Entry(
            at_ns=self.wall_ns(),
            path=event.path,
            what=event.kind.value,
            reason=one_line(str(event.reason) if event.reason else event.detail),
            trace=trace_hash(error) if error else "",
            attempt=event.attempt,
            delay_s=event.delay_s,
            budget_left=event.budget_left,
            decision=event.decision,
        )
        self._add(entry)
        self.changes += 1

    def note(self, path: str, what: str, reason: str) -> None:
        """A fact about the process itself, such as its start: what happened between two of them is told apart."""
        self._add(Entry(at_ns=self.wall_ns(), path=path, what=what, reason=one_line(reason)))
        self.changes += 1

    def recent(self, last: int = 10) -> list[str]:
        """The newest entries of the whole tree, oldest first."""
        return [entry.line() for entry in self._newest(last)]

    def repeated(self, last: int = 10) -> list[str]:
        """For each child among the newest entries: how often its last error was seen, when it was seen before."""
        lines = []
        for path in dict.fromkeys(entry.path for entry in self._newest(last)):
            traces = [entry.trace for entry in self._entries[path] if entry.trace]
            if traces and (times := traces.count(traces[-1])) > 1:
                lines.append(f"{path}: its last error <{traces[-1]}> was seen {times} times")
        return lines

    def _newest(self, last: int) -> list[Entry]:
        return sorted(self.entries(), key=lambda entry: entry.at_ns)[-last:]

    def entries(self) -> list[Entry]:
        """All of it as it is now, for `dump`; on the thread that records, which may go on while they are written."""
        return [entry for kept in self._entries.values() for entry in kept]

    def load(self, data: bytes) -> int:
        """Take over an earlier process's history; lines that do not parse are dropped. Returns how many were."""
        dropped = 0
        for line in data.splitlines():
            try:
                self._add(msgspec.json.decode(line, type=Entry))
            except (ValueError, RecursionError):  # not JSON, not UTF-8, not an entry; or nested absurdly
                dropped += 1
        return dropped

    def _add(self, entry: Entry) -> None:
        if entry.path not in self._entries and len(self._entries) >= CHILDREN_MAX:
            del self._entries[next(iter(self._entries))]
        self._entries.setdefault(entry.path, deque(maxlen=ENTRIES_PER_CHILD_MAX)).append(entry)


def both(*reports: Report) -> Report:
    """One report that tells several."""

    def report(event: Event) -> None:
        for each in reports:
            each(event)

    return report


def dump(entries: Iterable[Entry]) -> bytes:
    """Everything as JSON lines."""
    return b"".join(msgspec.json.encode(entry) + b"\n" for entry in entries)


def trace_hash(error: BaseException) -> str:
    """Eight hex digits of type and place (function names, no line numbers or values) of each error inside."""
    digest = hashlib.blake2b(digest_size=4)
    for leaf in leaves(error)[:LEAVES_TOLD_MAX]:
        digest.update(type(leaf).__qualname__.encode("utf-8", "backslashreplace"))
        for frame, _ in traceback.walk_tb(leaf.__traceback__):  # extract_tb would read the source files
            code = frame.f_code
            digest.update(f"{code.co_filename.rpartition('/')[2]}:{code.co_name}".encode("utf-8", "backslashreplace"))
    return digest.hexdigest()
