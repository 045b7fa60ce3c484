"""What Polygon's stream says about the account and the subscriptions (UPSTREAM 1.8). Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import attrs

from actors.downloader.polygon_events import Status, stream_key
from actors.market.symbols import parse_symbol
from runtime.errors import PermanentSourceError, RetryableSourceError, SourceError

MAX_CONNECTIONS_S = 60.0
"""At least so long: two processes with one key would throw each other out for ever."""


def account_error(status: Status) -> SourceError | None:
    """The error that a status is, if it ends the connection."""
    said = status.message.strip() or status.status
    match status.status:
        case "auth_failed":
            return PermanentSourceError(f"the stream does not know the API key ({said}): check POLYGON_API_KEY")
        case "auth_timeout":
            return RetryableSourceError(f"the stream got our authentication too late ({said})")
        case "max_connections":
            return RetryableSourceError(
                f"another connection uses this API key ({said}): let one process own the key",
                retry_after_s=MAX_CONNECTIONS_S,
            )
        case _:
            return None


@attrs.define
class Topics:
    """The subscriptions of one connection and what became of them."""

    payloads: dict[str, str]
    """The stream's spelling of the pair -> our symbol."""
    parameter: str
    """Of the subscribe message."""
    open: dict[str, str]
    """Topic (stream_key) -> symbol, not answered yet."""
    confirmed: set[str] = attrs.field(factory=set)
    refused: dict[str, str] = attrs.field(factory=dict)

    @classmethod
    def of(cls, symbols: Sequence[str]) -> Topics:
        """The ticks of these symbols."""
        parsed = [parse_symbol(symbol) for symbol in symbols]
        return cls(
            payloads={symbol.stream_payload: str(symbol) for symbol in parsed},
            parameter=",".join(symbol.stream for symbol in parsed),
            open={stream_key(symbol.stream): str(symbol) for symbol in parsed},
        )

    def take(self, statuses: Iterable[Status], with_data: Iterable[str]) -> None:
        """Answers, and symbols whose data came: a topic that is held already gets no answer."""
        for status in statuses:
            named = [topic for topic in self.open if topic in _topics_in(status.message)]
            if status.status == "success":
                for topic in named:
                    self.confirmed.add(self.open.pop(topic))
            elif status.status == "error":
                for topic in named or list(self.open):
                    self.refused[self.open.pop(topic)] = status.message.strip() or "refused without a reason"
        flowing = set(with_data)
        for topic in [topic for topic, symbol in self.open.items() if symbol in flowing]:
            self.confirmed.add(self.open.pop(topic))

    def refuse_open(self, why: str) -> None:
        """The rest was not answered."""
        self.refused.update((symbol, why) for symbol in self.open.values())
        self.open.clear()

    def lost(self, status: Status) -> RetryableSourceError | None:
        """The error that a status is once all is answered: a topic of ours taken away, by an error or unasked."""
        said = status.message.strip()
        if status.status != "error" and not said.startswith("unsubscribed"):
            return None
        named = _topics_in(said)
        if any(stream_key(parse_symbol(symbol).stream) in named for symbol in self.confirmed):
            return RetryableSourceError(f"the stream took a subscription away ({said})")
        return None


def _topics_in(message: str) -> set[str]:
    """Every word of it that could be a topic."""
    return {stream_key(word.strip(".:;'\"")) for word in message.replace(",", " ").split()}
