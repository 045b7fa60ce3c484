"""Polygon's stream: one frame in, statuses and columns out (UPSTREAM 1.8). Pure.

A frame is a JSON array; statuses and data may share it. It is decoded in one go; only when an element does not fit is
each one looked at alone, so that one unknown event does not drop the rest. The vendor's milliseconds become ns here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Annotated, TypeVar

import attrs
import msgspec
import numpy as np
import numpy.typing as npt

from actors.downloader.port import Ticks
from actors.market.rules import RawText
from runtime.errors import RetryableSourceError

NAN = float("nan")
NS_PER_MS = 1_000_000
MS_MAX = 2**63 // NS_PER_MS - 1
Millis = Annotated[int, msgspec.Meta(ge=-MS_MAX, le=MS_MAX)]


class Status(msgspec.Struct, tag_field="ev", tag="status"):
    """What the server says about the connection."""

    status: str = ""
    message: str = ""


class FxQuote(msgspec.Struct, tag_field="ev", tag="C", gc=False):
    """A quote of a currency pair; exchange and unknown fields are ignored."""

    p: str
    t: Millis = 0
    a: float = NAN
    b: float = NAN


class CryptoTrade(msgspec.Struct, tag_field="ev", tag="XT", gc=False):
    """A trade of a coin."""

    pair: str
    t: Millis = 0
    p: float = NAN
    s: float = NAN
    i: int | str | None = None
    c: list[int] | None = None


Element = Status | FxQuote | CryptoTrade
T = TypeVar("T")
BROKEN = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What is not JSON as anybody sends it; the last: nested deeper than can be read."""
_decode_frame = msgspec.json.Decoder(list[Element]).decode
_decode_raw = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_one: Callable[[msgspec.Raw], Element] = msgspec.json.Decoder(Element).decode


class _Event(msgspec.Struct):
    ev: str = ""


_decode_event = msgspec.json.Decoder(_Event).decode
_KNOWN = frozenset({"status", "C", "XT"})


@attrs.frozen(kw_only=True)
class Decoded:
    """One frame."""

    statuses: Sequence[Status] = ()
    ticks: Sequence[Ticks] = ()


def decode(frame: bytes | str, symbols: Mapping[str, str], dropped: Counter[str]) -> Decoded:
    """`symbols`: the stream's spelling -> ours. What is dropped is counted by reason.

    Raises: RetryableSourceError when the frame is not an array of objects: nothing of it can be believed.
    """
    try:
        elements: Sequence[Element | None] = _decode_frame(frame)
    except msgspec.ValidationError:
        elements = _one_by_one(frame, dropped)
    except BROKEN as exc:
        raise RetryableSourceError(f"a frame that is not whole JSON ({exc}): {frame[:80]!r}") from exc
    statuses: list[Status] = []
    by_name: dict[tuple[type[Element], str], list[int]] = {}
    for index, element in enumerate(elements):
        if type(element) is FxQuote:
            by_name.setdefault((FxQuote, element.p), []).append(index)
        elif type(element) is CryptoTrade:
            by_name.setdefault((CryptoTrade, element.pair), []).append(index)
        elif isinstance(element, Status):
            statuses.append(element)
    ticks = []
    for (kind, name), indexes in by_name.items():
        symbol = symbols.get(name.replace("-", "/"))
        if symbol is None:
            dropped["unknown-symbol"] += len(indexes)
            continue
        rows = elements if len(indexes) == len(elements) else [elements[i] for i in indexes]
        columns = _quotes if kind is FxQuote else _trades
        ticks.append(columns(symbol, rows, indexes, frame))
    return Decoded(statuses=statuses, ticks=ticks)


def stream_key(payload: str) -> str:
    """How `decode` looks a symbol up: the stream writes EUR/USD, its newer documents EUR-USD."""
    return payload.replace("-", "/")


def _one_by_one(frame: bytes | str, dropped: Counter[str]) -> list[Element | None]:
    try:
        parts = _decode_raw(frame)
    except BROKEN as exc:
        raise RetryableSourceError(f"a frame that is not an array ({exc}): {frame[:80]!r}") from exc
    return [_one(part, dropped) for part in parts]


def _one(part: msgspec.Raw, dropped: Counter[str]) -> Element | None:
    try:
        return _decode_one(part)
    except BROKEN:
        pass
    try:
        event = _decode_event(part).ev
    except BROKEN:
        dropped["not-an-event"] += 1
        return None
    dropped["wrong-type" if event in _KNOWN else "unknown-event"] += 1
    return None


def _quotes(symbol: str, rows: Sequence[Element | None], indexes: list[int], frame: bytes | str) -> Ticks:
    return Ticks(
        symbol=symbol,
        kind="quotes",
        ts_ns=_times(rows),
        numbers=(_numbers(rows, "b"), _numbers(rows, "a")),
        texts=(),
        raw=_raw(frame, indexes),
    )


def _trades(symbol: str, rows: Sequence[Element | None], indexes: list[int], frame: bytes | str) -> Ticks:
    return Ticks(
        symbol=symbol,
        kind="trades",
        ts_ns=_times(rows),
        numbers=(_numbers(rows, "p"), _numbers(rows, "s")),
        texts=(
            [None if i is None else str(i) for i in map(attrgetter("i"), rows)],
            [conditions_text(c) for c in map(attrgetter("c"), rows)],
        ),
        raw=_raw(frame, indexes),
    )


def conditions_text(codes: Sequence[int] | None) -> str | None:
    """`[2, 7]` as `2,7`; absent or none: null. The same for REST and stream."""
    return ",".join(map(str, codes)) if codes else None


def _times(rows: Sequence[Element | None]) -> npt.NDArray[np.int64]:
    return np.fromiter(map(attrgetter("t"), rows), np.int64, len(rows)) * NS_PER_MS


def _numbers(rows: Sequence[Element | None], name: str) -> npt.NDArray[np.float64]:
    return np.fromiter(map(attrgetter(name), rows), np.float64, len(rows))


def _raw(frame: bytes | str, indexes: list[int]) -> RawText:
    """Decodes once more, only when something was refused."""

    def texts(which: npt.NDArray[np.intp]) -> list[str]:
        parts = _decode_raw(frame)
        return [bytes(parts[indexes[i]]).decode("utf-8", "replace") for i in which]

    return texts
