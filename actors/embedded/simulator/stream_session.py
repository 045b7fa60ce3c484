"""The conversation of one stream connection (notes UPSTREAM 1.8): pure, from a message to the answers."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

import attrs
import msgspec

from actors.embedded.simulator.topics import EVERY, Asset, topic_symbol

CONNECTED = ("connected", "Connected Successfully")
AUTHENTICATED = ("auth_success", "authenticated")
AUTH_FAILED = ("auth_failed", "authentication failed")
AUTH_TIMEOUT = ("auth_timeout", "No authentication request received.")
MAX_CONNECTIONS = ("max_connections", "Maximum number of websocket connections exceeded. ")
TOPICS_MAX = 1_000
"""In one message."""


class _Message(msgspec.Struct):
    action: str
    params: str = ""


def status_event(status: str, message: str) -> bytes:
    """One status as JSON."""
    return msgspec.json.encode({"ev": "status", "status": status, "message": message})


class Outcome(Enum):
    """What a message changes beyond its answers."""

    NOTHING = "nothing"
    AUTHENTICATED = "the key is good"
    REFUSED = "the key is bad: say so and close"


@attrs.frozen(kw_only=True)
class Heard:
    """The answers to one message, in order, and its outcome."""

    answers: list[bytes] = attrs.field(factory=list)
    outcome: Outcome = Outcome.NOTHING
    added: list[str] = attrs.field(factory=list)
    """Symbols that are held now and were not before."""


@attrs.define(kw_only=True)
class Session:
    """One connection: its key and what it holds."""

    asset: Asset
    symbols: tuple[str, ...]
    """Of this class, offered here."""
    key_problem: Callable[[str], str]
    """What is wrong with a key; empty when nothing."""
    key: str = ""
    """Empty until authenticated."""
    held: set[str] = attrs.field(factory=set)
    """Symbols, or EVERY."""

    def wants(self, symbol: str) -> bool:
        """Whether events of `symbol` are for this connection."""
        return symbol in self.held or EVERY in self.held

    def hear(self, text: str) -> Heard:
        """Answer one message of the client."""
        try:
            message = msgspec.json.decode(text, type=_Message)
        except msgspec.DecodeError:
            return Heard(answers=[status_event("error", "invalid message")])
        if message.action == "auth":
            return self._authenticate(message.params)
        if message.action not in ("subscribe", "unsubscribe"):
            return Heard(answers=[status_event("error", f"unknown action: {message.action}")])
        if not self.key:
            return Heard(answers=[status_event("error", "not authenticated")])
        topics = [topic.strip() for topic in message.params.split(",")]
        if len(topics) > TOPICS_MAX:
            return Heard(answers=[status_event("error", f"more than {TOPICS_MAX} topics in one message")])
        return self._subscribe(topics) if message.action == "subscribe" else self._unsubscribe(topics)

    def _authenticate(self, key: str) -> Heard:
        if self.key:
            return Heard(answers=[status_event("error", "already authenticated")])
        if self.key_problem(key):
            return Heard(answers=[status_event(*AUTH_FAILED)], outcome=Outcome.REFUSED)
        self.key = key
        return Heard(answers=[status_event(*AUTHENTICATED)], outcome=Outcome.AUTHENTICATED)

    def _subscribe(self, topics: list[str]) -> Heard:
        """One answer per topic; none for one that is held already."""
        before = {symbol for symbol in self.symbols if self.wants(symbol)}
        answers: list[bytes] = []
        for topic in topics:
            symbol = topic_symbol(self.asset, topic, self.symbols)
            if symbol is None:
                answers.append(status_event("error", f"unknown topic: {topic}"))
            elif symbol not in self.held:
                self.held.add(symbol)
                answers.append(status_event("success", f"subscribed to: {topic}"))
        added = [symbol for symbol in self.symbols if self.wants(symbol) and symbol not in before]
        return Heard(answers=answers, added=added)

    def _unsubscribe(self, topics: list[str]) -> Heard:
        answers: list[bytes] = []
        for topic in topics:
            symbol = topic_symbol(self.asset, topic, self.symbols)
            if symbol is None:
                answers.append(status_event("error", f"unknown topic: {topic}"))
            elif symbol in self.held:
                self.held.discard(symbol)
                answers.append(status_event("success", f"unsubscribed to: {topic}"))
        return Heard(answers=answers)
