"""Which faults wait for their moment, which have fired and what they touched: the proof that a fault was there."""

from __future__ import annotations

from collections import deque

import attrs
import msgspec

from actors.embedded.simulator.faults import Fault, at_ns
from actors.embedded.simulator.hashing import combine
from runtime.clock import NS_PER_S, format_ns

ARMED_MAX = 20_000
FIRED_MAX = 5_000
SHOWN_ARMED = 200


@attrs.frozen(kw_only=True)
class Moment:
    """Now, on both clocks, and how many events each asset's stream was given."""

    real_s: float
    market_ns: int
    events: dict[str, int]

    def events_of(self, asset: str) -> int:
        """Of one asset, or of all."""
        return self.events.get(asset, 0) if asset else sum(self.events.values())


@attrs.define(kw_only=True, eq=False)
class Fired:
    """One firing of a fault."""

    number: int
    """From 1, over all faults."""
    armed_number: int
    fault: Fault
    real_s: float
    market_ns: int
    until_real_s: float | None
    until_market_ns: int | None
    connections: int = 0
    """That were closed, cut or silenced."""
    rows: int = 0
    """That were dropped, held back or sent again."""
    over: bool = False

    def ends(self, now: Moment) -> bool:
        """Whether its time is over."""
        return (self.until_real_s is not None and now.real_s >= self.until_real_s) or (
            self.until_market_ns is not None and now.market_ns >= self.until_market_ns
        )

    def touches(self, asset: str, symbol: str = "") -> bool:
        """Whether it concerns this stream and this symbol."""
        return self.fault.asset in ("", asset) and self.fault.symbol in ("", symbol)


@attrs.define(kw_only=True, eq=False)
class _Armed:
    number: int
    fault: Fault
    since: Moment | None = None
    """Set when market time first ran."""
    fired: int = 0
    next_s: float = 0.0

    def due(self, now: Moment) -> bool:
        if self.since is None:
            self.since = now
        when = self.fault.when
        if self.fired:
            return now.real_s >= self.next_s
        if when.after_s is not None:
            return now.real_s >= self.since.real_s + when.after_s
        if when.after_market_s is not None:
            return now.market_ns >= self.since.market_ns + when.after_market_s * NS_PER_S
        if when.at is not None:
            return now.market_ns >= at_ns(when)
        if when.events is not None:
            asset = self.fault.asset
            return now.events_of(asset) - self.since.events_of(asset) >= when.events
        return True


@attrs.define(kw_only=True, eq=False)
class FaultBook:
    """The armed and the fired; `seed` draws what a fault leaves open."""

    seed: int = 0
    fired_total: int = 0
    by_kind: dict[str, int] = attrs.field(factory=dict)
    _armed: list[_Armed] = attrs.field(factory=list, init=False)
    _fired: deque[Fired] = attrs.field(factory=lambda: deque(maxlen=FIRED_MAX), init=False)
    _numbers: int = attrs.field(default=0, init=False)

    def arm(self, fault: Fault) -> int:
        """Wait for its moment; its number, or 0 when ARMED_MAX wait already."""
        if len(self._armed) >= ARMED_MAX:
            return 0
        self._numbers += 1
        self._armed.append(_Armed(number=self._numbers, fault=fault))
        return self._numbers

    def disarm(self) -> int:
        """Forget all that wait; how many."""
        count = len(self._armed)
        self._armed.clear()
        return count

    def due(self, now: Moment) -> list[Fired]:
        """Those whose moment has come, once each. Call it only while market time runs."""
        found = [self._fire(one, now) for one in self._armed if one.due(now)]
        if found:
            self._armed = [one for one in self._armed if one.fired < one.fault.when.times]
        return found

    def _fire(self, armed: _Armed, now: Moment) -> Fired:
        armed.fired += 1
        armed.next_s = now.real_s + (armed.fault.when.every_s or 0.0)
        self.fired_total += 1
        self.by_kind[armed.fault.fault] = self.by_kind.get(armed.fault.fault, 0) + 1
        real, market = armed.fault.duration(self.draw_key(self.fired_total))
        fired = Fired(
            number=self.fired_total,
            armed_number=armed.number,
            fault=armed.fault,
            real_s=now.real_s,
            market_ns=now.market_ns,
            until_real_s=None if real is None else now.real_s + real,
            until_market_ns=None if market is None else now.market_ns + round(market * NS_PER_S),
        )
        self._fired.append(fired)
        return fired

    def draw_key(self, number: int) -> int:
        """For what is drawn of firing `number`."""
        return combine(self.seed, 55, number)

    def report(self) -> dict[str, object]:
        """As JSON."""
        return {
            "fired_total": self.fired_total,
            "by_kind": dict(sorted(self.by_kind.items())),
            "armed_total": len(self._armed),
            "armed": [{"armed": one.number, **_plain(one.fault)} for one in self._armed[:SHOWN_ARMED]],
            "fired": [_fired_report(one) for one in self._fired],
        }


def _plain(fault: Fault) -> dict[str, object]:
    plain: dict[str, object] = msgspec.to_builtins(fault)
    return plain


def _fired_report(one: Fired) -> dict[str, object]:
    return {
        "fired": one.number,
        "armed": one.armed_number,
        **_plain(one.fault),
        "market_ns": one.market_ns,
        "market": format_ns(one.market_ns),
        "lasts_s": None if one.until_real_s is None else round(one.until_real_s - one.real_s, 3),
        "connections": one.connections,
        "rows": one.rows,
        "over": one.over,
    }
