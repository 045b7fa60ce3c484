"""One asset class of the stream: its clients, and what is given to whom."""

from __future__ import annotations

import attrs

from actors.embedded.simulator.disturb import Disturber, Span
from actors.embedded.simulator.events import UNKNOWN_EVENT
from actors.embedded.simulator.fault_book import Fired
from actors.embedded.simulator.feed import InParts
from actors.embedded.simulator.outbox import Outbox
from actors.embedded.simulator.pages import PartCache
from actors.embedded.simulator.stream_ledger import StreamCounts
from actors.embedded.simulator.stream_session import MAX_CONNECTIONS, Session, status_event
from actors.embedded.simulator.topics import Asset
from actors.embedded.simulator.wire import Wire

STUCK_S = 30.0
"""A connection that is in one send for so long is dead or far too slow."""
KEYS_MAX = 10_000
CLOSE_POLICY = 1008


@attrs.define(kw_only=True, eq=False)
class Connection:
    """One client of the stream."""

    session: Session
    outbox: Outbox
    wire: Wire | None
    """None where there is no socket (an application called in memory)."""
    sending_since_s: float | None = None
    quirk_due: bool = True
    """Whether the unknown event is still to come."""
    leaving: bool = False
    """It is being closed: no data any more."""
    aborted: bool = False

    def finish(self, code: int, status: bytes | None = None) -> None:
        """Send what is held, the status last, then close."""
        if status is not None:
            self.outbox.put(status)
        self.outbox.close(code)
        self.leaving = True

    def abort(self, *, reset: bool = False) -> None:
        """End it without a word."""
        self.leaving = self.aborted = True
        self.outbox.close(1011)
        if self.wire is not None:
            self.wire.abort(reset=reset)


@attrs.define(kw_only=True, eq=False)
class Lane:
    """The stream of one asset class."""

    asset: Asset
    feed: InParts
    cache: PartCache
    disturber: Disturber
    position_ns: int = 0
    """Everything up to here, inclusive, was given to the stream."""
    counts: StreamCounts = attrs.field(factory=StreamCounts)
    connections: list[Connection] = attrs.field(factory=list)
    seen_keys: set[str] = attrs.field(factory=set)
    refuse: list[Fired] = attrs.field(factory=list)
    """Outages that run: new connections are refused."""
    muted: list[tuple[Fired, list[Connection]]] = attrs.field(factory=list)
    coming: set[tuple[str, int]] = attrs.field(factory=set)
    """Parts that are being made in advance."""
    broken: set[tuple[str, int]] = attrs.field(factory=set)
    """Parts that cannot be read."""

    def admit(self, connection: Connection, *, refuse_new: bool) -> bool:
        """A key was found good. One connection per class and key: evict the older, or (variant) refuse the newer.

        Returns whether the connection comes back: its key was here before.
        """
        key = connection.session.key
        rivals = [
            one for one in self.connections if one is not connection and one.session.key == key and not one.leaving
        ]
        for loser in [connection] if rivals and refuse_new else rivals:
            self.counts.evicted += 1
            loser.finish(CLOSE_POLICY, status_event(*MAX_CONNECTIONS))
        came_back = key in self.seen_keys
        if len(self.seen_keys) < KEYS_MAX:
            self.seen_keys.add(key)
        return came_back

    def wanted(self) -> list[str]:
        """Symbols that somebody is subscribed to."""
        there = [one.session for one in self.connections if not one.leaving]
        return [symbol for symbol in self.feed.symbols if any(session.wants(symbol) for session in there)]

    def deliver(self, span: Span) -> None:
        """To everybody who wants it."""
        receivers = [
            one for one in self.connections
            if not one.leaving and one.session.wants(span.symbol) and not (one.wire is not None and one.wire.muted)
        ]  # fmt: skip
        if not receivers:
            return
        texts = span.texts()
        for one in receivers:
            self.give(one, span, texts)

    def give(self, one: Connection, span: Span, texts: list[memoryview]) -> None:
        """To one of them."""
        if one.quirk_due:
            one.outbox.put(UNKNOWN_EVENT)
            one.quirk_due = False
        for text in texts:
            one.outbox.put(text)
            self.counts.bytes += len(text)
        self.counts.events += span.count

    def kill_slow(self, now_s: float) -> None:
        """The vendor's rule for slow readers: more is waiting than the buffer may hold, or one send takes for ever."""
        for one in self.connections:
            since = one.sending_since_s
            stuck = since is not None and now_s - since > STUCK_S
            muted = one.wire is not None and one.wire.muted
            if (stuck or one.outbox.overfull) and not muted and not one.aborted:
                self.counts.too_slow += 1
                one.abort()
