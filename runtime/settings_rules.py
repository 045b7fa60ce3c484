"""What a value of the configuration must fulfil beyond its type. Pure; the words are what the operator reads."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from urllib.parse import urlsplit

import attrs

from runtime.clock import parse_instant_ns


@attrs.frozen
class Rule:
    """A check with the words for what it expects."""

    expects: str
    """"a whole number from 1 to 64": follows "expected" in the error."""
    problem: Callable[[object], str]
    """"" = fine; "expected" = say what is expected; anything else is the reason itself."""


EXPECTED = "expected"


def _says(expects: str, fine: Callable[[object], bool]) -> Rule:
    return Rule(expects, lambda value: "" if fine(value) else EXPECTED)


def whole(low: int, high: int) -> Rule:
    """An integer in [low, high]."""
    return _says(f"a whole number from {low} to {high}", lambda v: isinstance(v, int) and low <= v <= high)


def matches(pattern: str, expects: str) -> Rule:
    """A string (or each string of a list, which must not be empty and not repeat) that matches `pattern` wholly."""
    compiled = re.compile(pattern)

    def problem(value: object) -> str:
        if _all_once(value, lambda text: compiled.fullmatch(text) is not None):
            return ""
        items = value if isinstance(value, tuple) else ()
        wrong = next((text for text in items if not compiled.fullmatch(text)), None)
        twice = next((text for text in items if items.count(text) > 1), None)
        if wrong is None and twice is None:
            return EXPECTED
        which = f"{_shown(wrong)} is none of them" if wrong is not None else f"{_shown(str(twice))} is there twice"
        return f"expected {expects}; {which}"

    return Rule(expects, problem)


def _shown(text: str) -> str:
    return '"' + text[:40].encode("unicode_escape").decode() + '"'


def _all_once(value: object, fine: Callable[[str], bool]) -> bool:
    texts = list(value) if isinstance(value, tuple) else [value]
    return bool(texts) and len(set(texts)) == len(texts) and all(isinstance(t, str) and fine(t) for t in texts)


def one_of(*choices: str) -> Rule:
    """One of these strings."""
    return _says("one of " + _quoted(choices), lambda v: v in choices)


def each_of(*choices: str, always: str = "", later: Collection[str] = ()) -> Rule:
    """A list, not empty, of these strings, none twice; `always` must be among them; `later` ones have no code yet."""
    expects = "a list of " + _quoted(choices) + (f', with "{always}" among them' if always else "") + ", none twice"

    def problem(value: object) -> str:
        items = value if isinstance(value, tuple) else ()
        for item in items:
            if item in later:
                return f'"{item}" is not available in this version; choose from {_quoted(choices)}'
        fine = _all_once(value, lambda text: text in choices) and (not always or always in items)
        return "" if fine else EXPECTED

    return Rule(expects, problem)


def only_now(value: object, feature: str) -> Rule:
    """The only value that is true in this version: everything else asks for a feature that does not exist yet."""
    shown = str(value).lower() if isinstance(value, bool) else str(value)
    text = f"{feature} is not available in this version; leave it at {shown}"
    return Rule(shown, lambda v: "" if v == value else text)


_RELATIVE = re.compile(r"-\d{1,6}(\.\d{1,3})?[smhdw]")


def instant(*, empty: str = "") -> Rule:
    """A distance back from now, a UTC date or an instant; `empty` says what "" means, where it means anything."""
    expects = 'a distance like "-2h" (s, m, h, d, w), a UTC date "2014-05-01" or an instant "2014-05-01T05:00Z"'

    def fine(value: object) -> bool:
        if not isinstance(value, str):
            return False
        if not value or _RELATIVE.fullmatch(value):
            return bool(value or empty)
        try:
            parse_instant_ns(value)
        except ValueError:
            return False
        return True

    return _says(expects + (f', or "" ({empty})' if empty else ""), fine)


def split_host_port(text: str) -> tuple[str, int]:
    """`127.0.0.1:8800` or `[::1]:8800` to host and port. Raises: ValueError when it is neither."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{text!r} is not host:port")
    return host, int(port)


def host_port() -> Rule:
    """An address to listen on."""

    def fine(value: object) -> bool:
        try:
            split_host_port(str(value))
        except ValueError:
            return False
        return True

    return _says('an address and port like "127.0.0.1:8800" (port 0: any free one)', fine)


def http_url(*, empty: str) -> Rule:
    """An http(s) URL, or ""."""
    return _url(("http", "https"), "https://api.polygon.io", empty)


def ws_url(*, empty: str) -> Rule:
    """A ws(s) URL, or ""."""
    return _url(("ws", "wss"), "wss://socket.polygon.io", empty)


def _url(schemes: Collection[str], example: str, empty: str) -> Rule:
    def fine(value: object) -> bool:
        if value == "":
            return True
        try:
            parts = urlsplit(str(value))
            return parts.scheme in schemes and bool(parts.hostname) and (parts.port is None or parts.port > 0)
        except ValueError:
            return False

    return _says(f'a URL like "{example}", or "" ({empty})', fine)


def dsn() -> Rule:
    """Where a sink is: "embedded" or the address of a server."""
    schemes = ("postgresql", "postgres", "clickhouse", "clickhouses", "http", "https")

    def fine(value: object) -> bool:
        if value == "embedded":
            return True
        try:
            parts = urlsplit(str(value))
        except ValueError:
            return False
        return parts.scheme in schemes and bool(parts.netloc or parts.query)

    return _says('"embedded", "postgresql://user@host:5432/db" or "clickhouse://user@host:8123/market"', fine)


def _quoted(choices: Collection[str]) -> str:
    return ", ".join(f'"{choice}"' for choice in choices)
