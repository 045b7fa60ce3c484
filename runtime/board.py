"""The board: where actors publish small frozen facts about themselves, read by health, the CLI and --until-idle.

Publishing never blocks and never fails; readers get the last word of each. Nothing flows back: an actor must not
depend on what another one wrote here for correctness, only for display, probes and idle detection.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from enum import StrEnum

import attrs


class DependencyState(StrEnum):
    """What is known of something outside."""

    UNKNOWN = "UNKNOWN"
    UP = "UP"
    DOWN = "DOWN"


@attrs.frozen(kw_only=True)
class Dependency:
    """One outside server as seen by who uses it."""

    state: DependencyState
    reason: str = ""
    since_ns: int = 0


@attrs.frozen(kw_only=True)
class ConsumerState:
    """A consumer of the log: physical positions up to which it is committed and verified (exclusive)."""

    committed_position: int
    verified_position: int
    lag_records: int = 0
    records_stored: int = 0
    caught_up: bool = False
    """Nothing was left to read at the last look."""


@attrs.frozen(kw_only=True)
class JobState:
    """One history job: a symbol, a kind, an interval."""

    symbol: str
    kind: str
    from_ns: int
    to_ns: int
    done_to_ns: int
    rows: int = 0
    rows_total_estimate: int = 0
    finished: bool = False
    error: str = ""
    asked: bool = True
    """Of the vendor; False: all of it was there already."""


@attrs.frozen(kw_only=True)
class OpenBar:
    """A candle that is not in the log yet: what it looks like now. Times in ns UTC, prices in quote currency."""

    timeframe: str
    basis: str
    ts_ns: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    vwap: float | None
    ticks: int
    source: str


@attrs.frozen(kw_only=True)
class OpenBars:
    """The open candles of one symbol, by timeframe from short to long, basis and start."""

    symbol: str
    watermark_ns: int | None
    """Candles that end at or before it are in the log; None before the first sign of life of the stream."""
    bars: tuple[OpenBar, ...]


@attrs.frozen(kw_only=True)
class LiveState:
    """The last tick that a live feed brought, as it came, and how many come."""

    symbol: str
    kind: str
    prices: tuple[float, ...]
    """quotes: bid, ask; trades: the price. NaN where the vendor gave none."""
    ts_ns: int
    """The vendor's time of it."""
    heard_s: float
    """Monotonic: when it came."""
    ticks_per_s: float


@attrs.frozen(kw_only=True)
class MarketClockState:
    """The vendor's clock against ours."""

    offset_s: float
    """Vendor minus wall clock."""
    rate: float
    """Vendor seconds per second."""
    error_s: float
    """Half the distance between the bounds, in vendor seconds."""


@attrs.frozen(kw_only=True)
class LogState:
    """The durable log, as its writer sees it."""

    log_id: str
    end_position: int
    bytes: int
    segments: int
    records_accepted: int
    seconds_until_loss: float | None = None
    """How long there is room at the present rate if nobody verifies and nobody frees space; None: nothing comes in."""
    error: str = ""
    """Why nothing is accepted."""
    warning: str = ""
    """What will become an error."""
    runway_bytes: int = 0
    """Space that is already ours."""
    shed_backfill: str = ""
    """Why history must not be fetched now: it can be downloaded again, what is live cannot. "" = go on."""


@attrs.frozen(kw_only=True)
class ChildState:
    """One node of the supervision tree."""

    path: str
    """Ids from the root, e.g. `pipeline/core/storage/buffer`."""
    state: str
    """STARTING RUNNING DRAINING BACKING_OFF STOPPED FAILED."""
    restarts: int = 0
    """Automatic restarts of this child since its supervisor came up."""
    last_exit: str = ""
    since_ns: int = 0
    """Wall time of the last change of state."""
    retry_in_s: float | None = None
    """BACKING_OFF: the wait decided at `since_ns`."""


@attrs.define
class Board:
    """All facts of one process. Owned by the tree, lent to everyone."""

    dependencies: dict[str, Dependency] = attrs.field(factory=dict)
    consumers: dict[str, ConsumerState] = attrs.field(factory=dict)
    jobs: dict[str, JobState] = attrs.field(factory=dict)
    children: dict[str, ChildState] = attrs.field(factory=dict)
    endpoints: dict[str, str] = attrs.field(factory=dict)
    facts: dict[str, str] = attrs.field(factory=dict)
    """Short named facts for people, e.g. `vendor` -> `polygon`."""
    open_candles: dict[str, OpenBars] = attrs.field(factory=dict)
    """By symbol; at most every 250 ms, by the aggregator."""
    live: dict[str, LiveState] = attrs.field(factory=dict)
    """By `symbol/kind`; every half second, by the live downloader."""
    market_clock: MarketClockState | None = None
    """By whoever asks the vendor; None while nobody did."""
    stream_dropped: Callable[[], Mapping[str, int]] = dict
    """Elements of the vendor's stream that nobody could use, by reason; by the live downloader."""
    log: LogState | None = None
    jobs_idle: bool = False
    """The history downloader has nothing left to do."""
    consumers_expected: frozenset[str] = frozenset()
    """Names that must be in `consumers` before anything can be called idle. Set by the tree."""
    events: deque[tuple[int, str]] = attrs.field(factory=lambda: deque(maxlen=200))
    """The last things that happened: wall time in ns UTC (0: not known), what."""
    _progress_s: dict[str, float] = attrs.field(factory=dict)
    waits: dict[str, str] = attrs.field(factory=dict)
    """Actors that hold nothing, and what they wait for."""

    @property
    def is_idle(self) -> bool:
        """No job is left, and everything accepted is computed, stored and verified: what --until-idle waits for."""
        log, consumers = self.log, self.consumers
        if log is None or log.error or not self.jobs_idle or not self.consumers_expected <= consumers.keys():
            return False
        return all(consumers[name].verified_position >= log.end_position for name in self.consumers_expected)

    def progress(self, actor: str, now_s: float) -> None:
        """Remember that `actor` did work at monotonic `now_s`."""
        self._progress_s[actor] = now_s

    def backlog_bytes(self) -> int:
        """How far the slowest reader of the log is behind its end, of those whose database is not down."""
        end = self.log.end_position if self.log is not None else 0
        return max((end - at.committed_position for who, at in self.consumers.items() if self._works(who)), default=0)

    def _works(self, consumer: str) -> bool:
        dependency = self.dependencies.get(consumer.removeprefix("bridge."))
        return dependency is None or dependency.state is not DependencyState.DOWN

    def progress_age_s(self, actor: str, now_s: float) -> float | None:
        """Seconds since `actor` last did work; None if it never did."""
        at = self._progress_s.get(actor)
        return None if at is None else now_s - at

    def wait_begins(self, actor: str, what: str) -> None:
        """`actor` holds nothing and waits for `what`."""
        self.waits[actor] = what

    def wait_ends(self, actor: str, now_s: float) -> None:
        """It goes on at monotonic `now_s`, from when progress is expected of it."""
        self.waits.pop(actor, None)
        self.progress(actor, now_s)

    def dependency(self, name: str, state: DependencyState, *, reason: str = "", now_ns: int = 0) -> None:
        """Publish the state of a dependency; `since_ns` changes only when the state does."""
        old = self.dependencies.get(name)
        since_ns = old.since_ns if old is not None and old.state == state else now_ns
        if old is None or old.state != state:
            self.events.append((now_ns, f"dependency_{state.lower()} {name}{f': {reason}' if reason else ''}"))
        self.dependencies[name] = Dependency(state=state, reason=reason, since_ns=since_ns)
