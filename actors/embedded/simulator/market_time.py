"""What time it is in the market: the wall clock, or the time inside a recording that is played (docs/live.md).

A played recording stands at its start until the first client of the stream subscribes; then its time runs `speed` times
as fast as real time. With a clock file it goes on where it would be, also after the process was killed.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import attrs

from runtime.clock import NS_PER_S, Clock
from runtime.errors import ConfigError


@attrs.frozen(kw_only=True)
class ClockFile:
    """One small file: when, on the wall clock, the market that `market` describes stood at an instant of its own."""

    path: Path
    market: str
    """Another recording, start or speed is another market: what the file says of it is not believed."""

    def load(self) -> tuple[int, int] | None:
        """(wall ns, market ns) of the start; None when there was none."""
        try:
            held = json.loads(self.path.read_text())
            return (int(held["wall_ns"]), int(held["market_ns"])) if held["market"] == self.market else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def save(self, wall_ns: int, market_ns: int) -> None:
        """Whole or not at all. Raises: ConfigError when it cannot be written."""
        new = self.path.with_suffix(".new")
        try:
            new.write_text(json.dumps({"market": self.market, "wall_ns": wall_ns, "market_ns": market_ns}))
            os.replace(new, self.path)
        except OSError as error:
            raise ConfigError(f"--market-clock {self.path}: {error.strerror}") from error


@attrs.define(kw_only=True, eq=False)
class MarketTime:
    """The market's clock. `start_ns` None: the wall clock, always running."""

    clock: Clock
    start_ns: int | None = None
    speed: float = 1.0
    file: ClockFile | None = None
    lead_s: float | None = None
    """With a pump: how far, in real seconds, time may run ahead of what the stream was given; None: no pump yet."""
    _began: tuple[float, int] | None = attrs.field(default=None, init=False)
    """(monotonic s, market ns) from which time runs."""
    _given_ns: int | None = attrs.field(default=None, init=False)

    @property
    def is_replay(self) -> bool:
        """Whether time is that of a recording."""
        return self.start_ns is not None

    @property
    def running(self) -> bool:
        """Whether time passes."""
        return self.start_ns is None or self._began is not None

    def begin(self) -> None:
        """The first client subscribed (later calls do nothing)."""
        if self.start_ns is not None and self._began is None:
            self._began = (self.clock.monotonic_s(), self.start_ns)
            if self.file is not None:
                self.file.save(self.clock.wall_ns(), self.start_ns)

    def resume(self) -> None:
        """Go on where the clock file says, if it says anything."""
        held = self.file.load() if self.file is not None else None
        if held is not None and self.start_ns is not None:
            wall_ns, market_ns = held
            passed_ns = round(max(0, self.clock.wall_ns() - wall_ns) * self.speed)
            self._began = (self.clock.monotonic_s(), market_ns + passed_ns)

    def due_ns(self) -> int:
        """Where time stands by the clock alone: what the pump gives the stream next goes up to here."""
        if self.start_ns is None:
            return self.clock.wall_ns()
        if self._began is None:
            return self.start_ns
        began_s, began_ns = self._began
        return began_ns + round((self.clock.monotonic_s() - began_s) * self.speed * NS_PER_S)

    def given(self, market_ns: int) -> None:
        """The stream was given everything up to here."""
        self._given_ns = market_ns

    def now_ns(self) -> int:
        """What the vendor's clock shows. A played one waits for a pump that is held up: at 500x a tenth of a second
        is a minute, and a vendor whose clock is a minute ahead of his stream is none we want to imitate.
        """
        due_ns = self.due_ns()
        if self.start_ns is None or self.lead_s is None or self._given_ns is None:
            return due_ns
        return min(due_ns, self._given_ns + round(self.lead_s * self.speed * NS_PER_S))
