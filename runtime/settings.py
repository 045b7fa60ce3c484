"""What an operator may set: one frozen class per table of config.toml, each key with default, unit and consequence.

A key that belongs to a later version is not here but in LATER, so that setting it is refused instead of ignored.
Values are checked by `runtime.config`, which knows file and line; the rules stand in each key's metadata.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs

from runtime.clock import NS_PER_DAY, NS_PER_HOUR, NS_PER_MINUTE, NS_PER_S, format_ns, parse_instant_ns
from runtime.errors import ConfigError
from runtime.settings_rules import (
    Rule,
    dsn,
    each_of,
    host_port,
    http_url,
    instant,
    matches,
    one_of,
    only_now,
    split_host_port,
    whole,
    ws_url,
)

POLYGON_URL = "https://api.polygon.io"
POLYGON_STREAM = "wss://socket.polygon.io"
STORED = ("quotes", "trades", "candles", "coverage")
STORES_OF_KIND: Mapping[str, tuple[str, ...]] = {
    "timescale": ("quotes", "trades", "coverage"),
    "clickhouse": ("candles", "coverage"),
}
"""What a sink of each kind has tables for."""

LATER: Mapping[str, str] = {
    "vendors.dukascopy": "the vendor dukascopy",
    "vendors.binance": "the vendor binance",
    "vendors.replay": "the vendor replay",
    "routes": "delivery over NATS or Kafka",
    "registry": "the service registry",
}
"""Keys, or whole tables, of the contract whose feature does not exist yet -> that feature."""


class Secret:
    """A value that never shows itself: neither in `repr` nor in a formatted string."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other.reveal() == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def reveal(self) -> str:
        """The value itself, for the one line that sends it."""
        return self._value


def redact_dsn(text: str) -> str:
    """`text` with the passwords of every URL in it replaced by `***`."""
    text = re.sub(r"(?<=://)([^/@:\s]*):[^/\s\"']*@", r"\1:***@", text)
    return re.sub(r"(?i)\b((?:password|passwd|api_?key)=)[^&\s\"']+", r"\1***", text)


def _key(default: Any, unit: str, rule: Rule | None = None, *, shown: bool | Callable[[Any], str] = True) -> Any:
    """A key: `unit` as config.toml and `pipeline check` print it ("" = none), `rule` beyond the type."""
    return attrs.field(default=default, metadata={"unit": unit, "rule": rule}, repr=shown)


@attrs.frozen(kw_only=True)
class PipelineSettings:
    """What this pipeline is and what it is about."""

    name: str = _key("holdfast", "", matches(r"[A-Za-z0-9_-]{1,64}", "1 to 64 letters, digits, - or _"))
    """Shown on the status page and in every answer of /healthz; change it freely."""
    log_format: str = _key("auto", "", one_of("auto", "text", "json"))
    """What the program says of itself on stderr: lines for people on a terminal, JSON lines elsewhere ("auto")."""
    log_level: str = _key("info", "", one_of("debug", "info", "warning", "error"))
    """Records below it are not written; "debug" can be thousands a second."""
    data_dir: Path = _key(Path("data"), "directory")  # noqa: RUF009
    """Holds the log and the embedded databases: everything that was accepted. Delete it and all is downloaded anew."""
    symbols: tuple[str, ...] = _key(
        ("C:EURUSD", "X:BTCUSD"),
        "",
        matches(
            r"C:[A-Z]{6}|X:[A-Z0-9]{4,20}",
            'a list of pairs in Polygon\'s spelling like "C:EURUSD" (currencies) or "X:BTCUSD" (crypto), none twice',
        ),
    )
    """Each costs history requests and disk space; this version knows foreign exchange and crypto."""


@attrs.frozen(kw_only=True)
class LogSettings:
    """The durable log, on the disk of data_dir."""

    partitions: int = _key(4, "partitions", whole(1, 64))
    """Fixed when the log is made: a running data directory refuses to start with another number."""
    segment_bytes: int = _key(67_108_864, "bytes", whole(17_825_792, 1 << 34))
    """Size of one file of the log; the space that is freed at once when the log is trimmed. At least one group."""
    retention_s: int = _key(604_800, "s", whole(0, 10 * 365 * 86_400))
    """How long what all sinks have verified is kept, for one that loses what it had. A filling disk cuts it to 6 h."""
    retention_bytes: int = _key(21_474_836_480, "bytes", whole(1 << 27, 1 << 44))
    """The same by size: whichever ends first. What is not verified is kept beyond both, until the disk is full."""
    sync_linger_ms: int = _key(5, "ms", whole(0, 1000))
    """Longest wait for more groups before one sync: higher is fewer syncs and later acceptance."""


@attrs.frozen(kw_only=True)
class BufferSettings:
    """The log's only writer."""

    mailbox_groups: int = _key(64, "groups", whole(1, 4096))
    """Slices that may wait for the disk; when as many wait, the downloader stops reading. Bounds memory."""
    linger_ms: int = _key(100, "ms", whole(1, 10_000))
    """The longest that a live tick waits for company before it is appended: lower is sooner and costs disk space."""
    frame_rows_max: int = _key(1000, "rows", whole(1, 65_536))
    """Live ticks of one symbol that are appended at once, without waiting."""


@attrs.frozen(kw_only=True)
class DownloaderSettings:
    """What is fetched, from where, from when."""

    vendors: tuple[str, ...] = _key(("polygon",), "", each_of("polygon", later=("dukascopy", "binance", "replay")))
    """Order of preference."""
    live: bool = _key(True, "")
    """False: history only."""
    confirm: bool = _key(True, "")
    """Fetch every hour again when it has settled, so that gaps without a sign and late ticks are found. False: for
    plans without history requests; then what came live is final."""
    settle_s: int = _key(1200, "s", whole(0, 86_400))
    """How long after its end an hour is expected to change; candles are final only afterwards."""
    history_from: str = _key("-2h", "time", instant())
    """Start of the history, inclusive, rounded down to the minute. Earlier = more requests at the first start."""
    history_to: str = _key("", "time", instant(empty="where the live stream begins; without one, now"))
    """End of the history, exclusive, rounded down to the minute."""
    kinds: tuple[str, ...] = _key(("quotes", "trades"), "", each_of("quotes", "trades", later=("candles",)))
    """Kinds of rows that are asked for, where a symbol has them: currencies have quotes, crypto has trades. Candles
    are made from them by the aggregator."""


@attrs.frozen(kw_only=True)
class PolygonSettings:
    """The vendor Polygon (now Massive), or the embedded simulator that speaks its API."""

    rest_url: str = _key("", "URL", http_url(empty=f"{POLYGON_URL}, or the simulator while there is no API key"))
    """A setting because the vendor has renamed its hosts (api.massive.com) and for proxies."""
    stream_url: str = _key("", "URL", ws_url(empty=f"{POLYGON_STREAM}, or the simulator while there is no API key"))
    """The live stream, without the asset class (wss://delayed.polygon.io for a delayed plan)."""
    api_key: Secret | None = _key(None, "secret")  # noqa: RUF009
    """By environment only: POLYGON_API_KEY. With it the real vendor is used, unless embedded.recording is set."""
    api_key_file: str = _key("", "file")
    """A file that holds the API key, read at the start; the environment wins."""
    requests_per_minute: int = _key(0, "requests per minute (0: no limit of ours)", whole(0, 1_000_000))
    """Set it to your plan's limit: a plan that is exceeded answers 429 and costs waiting time."""
    request_timeout_s: int = _key(30, "s", whole(1, 600))
    """A page that takes longer counts as lost and is asked for again."""


@attrs.frozen(kw_only=True)
class VendorsSettings:
    """One table per vendor."""

    polygon: PolygonSettings = attrs.field(factory=PolygonSettings)


@attrs.frozen(kw_only=True)
class BridgeSettings:
    """How rows reach the sinks."""

    routes: tuple[str, ...] = _key(("log",), "", each_of("log", later=("nats", "kafka")))
    """Where deliveries read from, in order of preference."""


@attrs.frozen(kw_only=True)
class SinkSettings:
    """One database that is kept complete. [sinks.NAME] with another name is a further copy."""

    kind: str = _key("", "", one_of("timescale", "clickhouse"))
    """Only for a further sink: what speaks at the other end."""
    dsn: str = _key("embedded", "address", dsn(), shown=lambda value: repr(redact_dsn(value)))
    """"embedded" = we bring the server along; anything else must be reachable, or this sink lags until it is."""
    password_file: str = _key("", "file")
    """A file that holds the password of the DSN; a password in the DSN itself may come by environment only."""
    stores: tuple[str, ...] = _key((), "", each_of(*STORED, always="coverage"))
    """Kinds of rows this sink holds; it counts as complete only when all of them are there."""


@attrs.frozen(kw_only=True)
class AggregatorSettings:
    """Ticks to candles."""

    timeframes: tuple[str, ...] = _key(
        ("1m", "5m", "15m", "1h", "4h", "1d"), "", each_of("1m", "5m", "15m", "1h", "4h", "1d", always="1m")
    )
    """Lengths of candles. All others are made of 1m."""
    bases: tuple[str, ...] = _key(("bid", "ask", "mid", "last"), "", each_of("bid", "ask", "mid", "last"))
    """Prices candles are made of: of quotes bid, ask and mid, of trades last; each basis costs its own rows."""
    lateness_s: int = _key(2, "s", whole(0, 3600))
    """How long a live candle waits for late ticks after its end; what comes later gives it a revision."""


@attrs.frozen(kw_only=True)
class HealthSettings:
    """The HTTP server: probes, metrics, status page."""

    listen: str = _key("127.0.0.1:8800", "host:port", host_port())
    """Anyone who reaches it can read the status and order history: keep it on loopback or behind a proxy."""
    stalled_after_s: int = _key(30, "s", whole(5, 3600))
    """An actor with work to do and no progress for so long makes /healthz degraded and names itself."""

    @property
    def host(self) -> str:
        """The address part of `listen`."""
        return split_host_port(self.listen)[0]

    @property
    def port(self) -> int:
        """The port part of `listen`."""
        return split_host_port(self.listen)[1]


@attrs.frozen(kw_only=True)
class EmbeddedSettings:
    """Servers that we bring along, each an OS process of its own."""

    market: bool = _key(True, "")
    """The market simulator, used while there is no API key and no rest_url. False: an API key is needed."""
    postgres: bool = _key(True, "")
    """PostgreSQL for a sink whose dsn is "embedded"."""
    clickhouse: bool = _key(True, "")
    """ClickHouse (chDB behind HTTP) for a sink whose dsn is "embedded"; about 300 MB in its own process."""
    nats: bool = _key(False, "", only_now(False, "NATS"))
    """False: there is no publisher yet."""
    recording: str = _key("", "directory")
    """A folder with one feed (…/lean/Data/forex/oanda) that the simulator serves; "" = a synthetic market."""
    seed: int = _key(0, "", whole(0, 2**63 - 1))
    """The synthetic market is a function of this number: the same seed gives the same ticks."""
    replay_speed: int = _key(0, "times as fast as real time", whole(0, 100_000))
    """The recording is played live at this pace, from its start on; 0: all of it has happened already."""
    latency_ms: int = _key(0, "ms", whole(0, 60_000))
    """The simulator waits so long before each answer: to watch a run, or to interrupt one."""
    requests_per_minute: int = _key(0, "requests per minute (0: no limit)", whole(0, 1_000_000))
    """The simulator answers 429 beyond it, as a vendor's plan does."""


def _default_sinks() -> dict[str, SinkSettings]:
    return {
        "timescale": SinkSettings(kind="timescale", stores=STORES_OF_KIND["timescale"]),
        "clickhouse": SinkSettings(kind="clickhouse", stores=STORES_OF_KIND["clickhouse"]),
    }


@attrs.frozen(kw_only=True)
class Settings:
    """The whole configuration. `Settings()` is the documented default."""

    pipeline: PipelineSettings = attrs.field(factory=PipelineSettings)
    log: LogSettings = attrs.field(factory=LogSettings)
    buffer: BufferSettings = attrs.field(factory=BufferSettings)
    downloader: DownloaderSettings = attrs.field(factory=DownloaderSettings)
    vendors: VendorsSettings = attrs.field(factory=VendorsSettings)
    bridge: BridgeSettings = attrs.field(factory=BridgeSettings)
    sinks: Mapping[str, SinkSettings] = attrs.field(factory=_default_sinks)
    aggregator: AggregatorSettings = attrs.field(factory=AggregatorSettings)
    health: HealthSettings = attrs.field(factory=HealthSettings)
    embedded: EmbeddedSettings = attrs.field(factory=EmbeddedSettings)

    @property
    def uses_simulator(self) -> bool:
        """True: history comes from the embedded market simulator, not from a vendor.

        A recording wins over an API key that happens to be in the environment; an explicit rest_url wins over both.
        """
        polygon = self.vendors.polygon
        if not self.embedded.market or polygon.rest_url:
            return False
        return bool(self.embedded.recording) or polygon.api_key is None

    @property
    def rest_url(self) -> str:
        """Where the vendor is; "" while that is the simulator, whose address is known only when it runs."""
        return "" if self.uses_simulator else self.vendors.polygon.rest_url or POLYGON_URL

    @property
    def stream_url(self) -> str:
        """Where the vendor streams; "" while that is the simulator. Your own simulator has one address for both."""
        polygon = self.vendors.polygon
        if self.uses_simulator:
            return ""
        if polygon.stream_url:
            return polygon.stream_url
        plain = polygon.rest_url.startswith("http://")
        return polygon.rest_url.replace("http://", "ws://", 1) if plain else POLYGON_STREAM

    @property
    def streams(self) -> bool:
        """True: there is a live stream. A recording that is not played has none: all of it has happened already."""
        played_out = self.uses_simulator and bool(self.embedded.recording) and not self.embedded.replay_speed
        return self.downloader.live and not played_out

    def embedded_servers(self) -> frozenset[str]:
        """Which servers must be brought along: of market, postgres, clickhouse those that something uses."""
        kinds = {sink.kind for sink in self.sinks.values() if sink.dsn == "embedded"}
        wanted = {"market"} if self.uses_simulator else set()
        return frozenset(wanted | {"postgres" if kind == "timescale" else kind for kind in kinds})


_UNITS_NS = {"s": NS_PER_S, "m": NS_PER_MINUTE, "h": NS_PER_HOUR, "d": NS_PER_DAY, "w": 7 * NS_PER_DAY}


def resolve_instant(text: str, now_ns: int) -> int:
    """`-2h`, `2014-05-01`, `2014-05-01T05:00Z` or "" (now) to ns UTC, rounded down to a whole minute.

    Raises: ValueError when it is none of these.
    """
    if not text:
        at_ns = now_ns
    elif text.startswith("-") and text[-1] in _UNITS_NS:
        whole_part, _, fraction = text[1:-1].partition(".")
        if not (whole_part + fraction).isascii() or not (whole_part + fraction).isdigit():
            raise ValueError(f"{text!r} is no distance like -2h or -1.5d")
        scale = 10 ** len(fraction)
        at_ns = now_ns - int(whole_part + fraction) * _UNITS_NS[text[-1]] // scale
    else:
        try:
            at_ns = parse_instant_ns(text)
        except ValueError as exc:
            raise ValueError(f"{text!r} is none of -2h, 2014-05-01, 2014-05-01T05:00Z") from exc
    return at_ns - at_ns % NS_PER_MINUTE


EARLIEST_NS = 0
LATEST_NS = 7_258_118_400 * NS_PER_S
"""2200-01-01: everything in between is a whole number of ns that vendors and databases can hold."""


def resolve_interval(
    from_text: str, to_text: str, now_ns: int, *, earlier: str = 'set history_to to "" for "until now"'
) -> tuple[int, int]:
    """[from, to) in ns UTC, whole minutes; `earlier` says what to do about an end that lies in the future.

    Raises: ConfigError when it is empty, outside of 1970 to 2199, or reaches into the future: what has not happened
    yet would be recorded as "fetched, nothing there". ValueError when a text is no instant.
    """
    from_ns, to_ns = resolve_instant(from_text, now_ns), resolve_instant(to_text, now_ns)
    if to_ns > now_ns:
        raise ConfigError(f"history ends in the future, {format_ns(to_ns)}: {earlier}")
    for text, at_ns in ((from_text, from_ns), (to_text, to_ns)):
        if not EARLIEST_NS <= at_ns < LATEST_NS:
            raise ConfigError(f'"{text}" is not in the years 1970 to 2199 (UTC), where there is history: correct it')
    if from_ns >= to_ns:
        raise ConfigError(f"history is empty: from {format_ns(from_ns)} to {format_ns(to_ns)}; from must be earlier")
    return from_ns, to_ns
