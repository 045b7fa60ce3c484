"""Faults as data: what a script line or `POST /oracle/faults` may say (docs/live.md, notes UPSTREAM 1.14). Pure.

    {"fault": "disconnect", "when": {"after_s": 20, "every_s": 45, "times": 10}, "for_s": [0, 10]}

| fault | does | parameters |
|---|---|---|
| disconnect | closes every connection, refuses new ones for a while | code (1006: no closing handshake), rest |
| abort | cuts the TCP connections in the middle of what is being sent | bytes (none: by seed), reset |
| silence | events due are never sent; pings go on | |
| silence-no-ping | nothing passes in either direction, then the connections die; new ones are fine | |
| gap | rows are never sent, without a sign; the pages have them | rows (at most), symbol |
| late | a fraction of the rows comes up to `delay_s` of market time later | p, delay_s, symbol |
| replay | after each reconnect the last n events come again | n |
| burst | events are held back, then come all at once | |

Durations are `for_s` (real seconds) or `for_market_s`; a pair [low, high] is drawn by seed. Without a `when` a fault
fires at once. `rest`: the pages answer 503 meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs
import msgspec

from actors.embedded.simulator.hashing import combine, draws, unit
from runtime.clock import parse_instant_ns
from runtime.errors import HoldfastError

KINDS = ("disconnect", "abort", "silence", "silence-no-ping", "gap", "late", "replay", "burst")
CODES = (1000, 1001, 1006, 1008, 1011, 1012, 1013)
REPLAY_MAX = 100_000
SCRIPT_MAX = 10_000
DEFAULT_FOR_S = {"silence": 10.0, "silence-no-ping": 30.0, "burst": 2.0, "gap": 1.0}
"""Where neither `for_s`, `for_market_s` nor (gap) `rows` is given; late and replay then stay for ever."""

Span = float | tuple[float, float]
_ALLOWED: dict[str, frozenset[str]] = {
    "disconnect": frozenset({"code", "rest", "for_s", "for_market_s"}),
    "abort": frozenset({"bytes", "reset"}),
    "silence": frozenset({"for_s", "for_market_s"}),
    "silence-no-ping": frozenset({"for_s", "for_market_s"}),
    "gap": frozenset({"rows", "symbol", "for_s", "for_market_s"}),
    "late": frozenset({"p", "delay_s", "symbol", "for_s", "for_market_s"}),
    "replay": frozenset({"n", "for_s", "for_market_s"}),
    "burst": frozenset({"for_s", "for_market_s"}),
}
_ALWAYS = frozenset({"fault", "when", "asset"})


class BadFault(HoldfastError):
    """A fault that cannot be: the message says why."""


class When(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """The trigger: the first condition given; counted from when the fault was armed and market time runs."""

    after_s: float | None = None
    at: str | None = None
    """An instant of market time."""
    after_market_s: float | None = None
    events: int | None = None
    """After so many events of its assets' streams."""
    every_s: float | None = None
    """Again after so many real seconds, `times` times in all."""
    times: int = 1


class Fault(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """One line."""

    fault: str
    when: When = msgspec.field(default_factory=When)
    asset: str = ""
    """`forex` or `crypto`; empty: both."""
    for_s: Span | None = None
    for_market_s: Span | None = None
    code: int = 1006
    rest: bool = False
    """The pages answer 503 meanwhile too."""
    bytes: int | None = None
    reset: bool = False
    rows: int | None = None
    symbol: str = ""
    p: float = 0.01
    delay_s: float = 1_800.0
    n: int = 1_000

    def duration(self, seed: int) -> tuple[float | None, float | None]:
        """(real seconds, market seconds) it lasts, drawn by seed where a range was given; None: not bounded by it."""
        real, market = (_draw(span, seed) for span in (self.for_s, self.for_market_s))
        if real is None and market is None and self.rows is None:
            real = DEFAULT_FOR_S.get(self.fault)
        return real, market


def _draw(span: Span | None, seed: int) -> float | None:
    if isinstance(span, tuple):
        low, high = span
        return low + (high - low) * unit(combine(seed, 77))
    return span


def parse_fault(text: str | bytes) -> Fault:
    """One JSON object. Raises: BadFault."""
    try:
        raw: dict[str, Any] = msgspec.json.decode(text, type=dict[str, Any])
        fault = msgspec.convert(raw, Fault)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise BadFault(str(error)) from error
    if fault.fault not in KINDS:
        raise BadFault(f"fault '{fault.fault}': must be one of {', '.join(KINDS)}")
    if strange := sorted(raw.keys() - _ALWAYS - _ALLOWED[fault.fault]):
        allowed = ", ".join(sorted(_ALLOWED[fault.fault] | _ALWAYS))
        raise BadFault(f"'{strange[0]}' means nothing for {fault.fault}, which has {allowed}")
    _check(fault)
    return fault


def _check(fault: Fault) -> None:
    spans = [part for span in (fault.for_s, fault.for_market_s) if span is not None for part in _pair(span)]
    when = fault.when
    times = (when.after_s, when.after_market_s, when.every_s)
    wrong = [
        (fault.asset not in ("", "forex", "crypto"), "asset must be forex or crypto"),
        (any(not 0 <= part <= 1e7 for part in spans), "durations must be 0 to 1e7 s"),
        (fault.code not in CODES, f"code must be one of {', '.join(map(str, CODES))}"),
        (fault.bytes is not None and not 0 <= fault.bytes <= 2**30, "bytes must be 0 to 2^30"),
        (fault.rows is not None and fault.rows < 1, "rows must be at least 1"),
        (not 0 <= fault.p <= 1, "p must be 0 to 1"),
        (not 0 < fault.delay_s <= 1e6, "delay_s must be above 0, at most 1e6"),
        (not 0 <= fault.n <= REPLAY_MAX, f"n must be 0 to {REPLAY_MAX}"),
        (any(one is not None and not 0 <= one <= 1e7 for one in times), "times of `when` must be 0 to 1e7 s"),
        (when.times < 1 or (when.times > 1 and when.every_s is None), "`times` needs `every_s`, and at least 1"),
    ]
    for is_wrong, text in wrong:
        if is_wrong:
            raise BadFault(text)
    if when.at is not None:
        at_ns(when)


def _pair(span: Span) -> tuple[float, float]:
    return span if isinstance(span, tuple) else (span, span)


def at_ns(when: When) -> int:
    """The instant of `at`. Raises: BadFault."""
    try:
        return parse_instant_ns(when.at or "")
    except ValueError as error:
        raise BadFault(f"when.at '{when.at}': not an instant like 2014-05-01T10:00Z") from error


def parse_script(text: str) -> list[Fault]:
    """JSON lines; empty lines and lines that begin with # are passed over. Raises: BadFault naming the line."""
    faults: list[Fault] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            faults.append(parse_fault(line))
        except BadFault as error:
            raise BadFault(f"line {number}: {error}") from error
        if len(faults) > SCRIPT_MAX:
            raise BadFault(f"more than {SCRIPT_MAX} faults")
    return faults


@attrs.frozen(kw_only=True)
class RandomFaults:
    """Faults by seed: about one every `every_s` real seconds."""

    seed: int
    every_s: float
    kinds: tuple[str, ...] = KINDS
    count: int = 1_000

    def faults(self) -> Iterator[Fault]:
        """All of them: pure."""
        root = combine(self.seed, 101)
        chance, which = draws(root, 1, self.count), draws(root, 2, self.count)
        at_s = 0.0
        for index in range(self.count):
            at_s += self.every_s * (0.1 + 1.8 * float(chance[index]))
            kind = self.kinds[int(which[index] * len(self.kinds))]
            yield _random_fault(kind, at_s, min(20.0, self.every_s), combine(root, 3, index))


def _random_fault(kind: str, at_s: float, longest_s: float, key: int) -> Fault:
    """Mostly over before the next one comes, so that not all is silence."""
    u, v = unit(combine(key, 1)), unit(combine(key, 2))
    fault = Fault(fault=kind, when=When(after_s=round(at_s, 3)))
    match kind:
        case "disconnect":
            fault.code, fault.for_s = CODES[int(u * len(CODES))], round(v * v * longest_s, 3)
        case "abort":
            fault.reset = u < 0.5
        case "gap":
            fault.rows = 1 + int(u * u * 200)
        case "late":
            fault.p, fault.delay_s, fault.for_s = round(0.05 * u, 4), round(1 + 60 * v, 3), longest_s
        case "replay":
            fault.n, fault.for_s = 1 + int(u * 1_000), 3 * longest_s
        case _:
            fault.for_s = round(u * longest_s, 3)
    return fault
