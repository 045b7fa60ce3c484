"""One line per event, one hash over all of them, and counts of what was reached."""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Callable

LAST = 80


class SimulationFailed(BaseException):
    """An invariant does not hold. The supervisors catch everything, so the world hears of it when it is made."""

    heard: Callable[[str], None] = staticmethod(lambda why: None)

    def __init__(self, why: str) -> None:
        super().__init__(why)
        SimulationFailed.heard(why)


class Trace:
    """Lines say only what follows from the seed: no addresses, no pids, no real time."""

    def __init__(self, seed: int, *, keep: bool = False) -> None:
        self.seed = seed
        self.lines: deque[str] = deque(maxlen=None if keep else LAST)
        self.reached: Counter[str] = Counter()
        self.events = 0
        self.now: Callable[[], str] = lambda: ""
        self._hash = hashlib.blake2b(digest_size=12)

    def __call__(self, what: str, *, reached: str = "") -> None:
        """One event; `reached` counts for the campaign."""
        line = f"{self.now()} {what}"
        self.events += 1
        self.lines.append(line)
        self._hash.update(line.encode())
        if reached:
            self.reached[reached] += 1

    @property
    def digest(self) -> str:
        """Of all lines so far."""
        return self._hash.hexdigest()
