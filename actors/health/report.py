"""Everything the process knows of itself as one JSON object: /api/status, `pipeline status`, the page. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import attrs

from actors.health.probes import Probes
from runtime.board import Board, ChildState, LiveState
from runtime.clock import Clock, format_ns
from runtime.mailbox import Mailbox
from runtime.settings import redact_dsn

EVENTS_MAX = 50


@attrs.frozen(kw_only=True)
class About:
    """What does not change while the process runs."""

    version: str
    started_ns: int
    listen: str
    pid: int = 0


DeadLetters = Mapping[tuple[str, str], int]
"""(sink, reason) -> rows kept aside."""


def report(
    probes: Probes, about: About, board: Board, clock: Clock, *, dead_letters: DeadLetters = MappingProxyType({})
) -> dict[str, Any]:
    """JSON-ready; addresses without passwords. `dead_letters`: since the process began."""
    now_s = clock.monotonic_s()
    return {
        **probes.judge(board, now_s).to_json(),
        "version": about.version,
        "now": format_ns(clock.wall_ns() // 1_000_000 * 1_000_000),
        "started": format_ns(about.started_ns // 1_000_000_000 * 1_000_000_000),
        "listen": about.listen,
        "pid": about.pid,
        "log": attrs.asdict(board.log) if board.log is not None else None,
        "live": {name: _live(state, now_s) for name, state in sorted(board.live.items())},
        "market_clock": attrs.asdict(board.market_clock) if board.market_clock is not None else None,
        "stream_dropped": dict(board.stream_dropped()),
        "jobs_idle": board.jobs_idle,
        "idle": board.is_idle,
        "records_accepted": board.log.records_accepted if board.log is not None else 0,
        "jobs": {name: _job(attrs.asdict(job)) for name, job in board.jobs.items()},
        "consumers": {name: attrs.asdict(consumer) for name, consumer in board.consumers.items()},
        "dead_letters": [{"sink": s, "reason": r, "rows": rows} for (s, r), rows in sorted(dead_letters.items())],
        "dependency_details": {
            name: {"state": d.state.value, "reason": redact_dsn(d.reason), "since": format_ns(d.since_ns)}
            for name, d in board.dependencies.items()
        },
        "tree": [
            {**attrs.asdict(child), "progress_age_s": board.progress_age_s(child.path.rpartition("/")[2], now_s)}
            for child in _in_tree_order(board.children)
        ],
        "mailboxes": [_mailbox(inbox) for inbox in probes.inboxes.values()],
        "endpoints": {name: redact_dsn(url) for name, url in board.endpoints.items()},
        "facts": dict(board.facts),
        "events": [_event(*event) for event in list(board.events)[-EVENTS_MAX:]],
    }


def _in_tree_order(children: Mapping[str, ChildState]) -> list[ChildState]:
    """Parents before their children, which reported first, and siblings in the order in which they did."""
    seen: dict[str, int] = {}
    keys: dict[str, tuple[int, ...]] = {}
    for path in children:
        names = path.split("/")
        prefixes = ["/".join(names[: n + 1]) for n in range(len(names))]
        keys[path] = tuple(seen.setdefault(prefix, len(seen)) for prefix in prefixes)
    return sorted(children.values(), key=lambda child: keys[child.path])


def _event(at_ns: int, text: str) -> str:
    at = f"{format_ns(at_ns // 1_000_000_000 * 1_000_000_000)} " if at_ns else ""
    return at + redact_dsn(text)


def _job(fields: dict[str, Any]) -> dict[str, Any]:
    span_ns = max(1, fields["to_ns"] - fields["from_ns"])
    done_ns = span_ns if fields["finished"] else min(max(0, fields["done_to_ns"] - fields["from_ns"]), span_ns)
    return {**fields, "from": format_ns(fields["from_ns"]), "to": format_ns(fields["to_ns"]), "done": done_ns / span_ns}


def _live(state: LiveState, now_s: float) -> dict[str, Any]:
    prices = [price if math.isfinite(price) else None for price in state.prices]
    age_s = max(0.0, now_s - state.heard_s)
    return {
        "symbol": state.symbol,
        "kind": state.kind,
        "prices": prices,
        "ts": format_ns(state.ts_ns),
        "age_s": round(age_s, 1),
        "ticks_per_s": round(state.ticks_per_s, 2),
    }


def _mailbox(inbox: Mailbox[Any]) -> Mapping[str, object]:
    return attrs.asdict(inbox.statistics())
