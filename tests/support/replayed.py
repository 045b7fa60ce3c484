"""Some days of a recording, played live by the real command: what to start, disturb, wait for and compare with."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import polars as pl

from tests.support import lean
from tests.support.pipeline import CANDLES_SQL, QUOTES_ALL_SQL, Pipeline

SYMBOL = "C:EURUSD"
HOUR_NS = 3600 * 10**9
_NS = "(extract(epoch FROM {0}) * 1000000000)::int8"
FINAL_SQL = (
    "SELECT coalesce(sum(least(to_ns, {to_ns}) - greatest(from_ns, {from_ns})), 0)::int8 AS covered FROM "
    f"(SELECT {_NS.format('from_ts')} AS from_ns, {_NS.format('to_ts')} AS to_ns FROM market.coverage_latest "
    "WHERE symbol = '{symbol}' AND status IN ({status})) c WHERE to_ns > {from_ns} AND from_ns < {to_ns}"
)
REVISIONS_SQL = (
    "SELECT timeframe, count() AS written, uniqExact(basis, ts) AS bars, countIf(final) AS final_written "
    "FROM market.candles FINAL GROUP BY timeframe ORDER BY timeframe"
)
SLICES_SQL = (
    "SELECT from_ns, to_ns, revision, rows, status, reason FROM market.coverage WHERE session IS NULL "
    "AND status IN ('final', 'empty', 'live') ORDER BY revision"
)


@attrs.frozen(kw_only=True)
class Days:
    """A recording of its own that holds some days of another one, and the span that is compared."""

    folder: Path
    from_ns: int
    to_ns: int

    @property
    def start(self) -> str:
        """For `downloader.history_from`."""
        return _instant(self.from_ns)

    @property
    def end(self) -> str:
        """For `downloader.history_to`."""
        return _instant(self.to_ns)

    def ticks(self) -> pl.DataFrame:
        """ts_ns, bid, ask of the span, by a reader that shares no code with the product."""
        return self.within(lean.ticks(self.folder, "oanda"))

    def minutes(self) -> pl.DataFrame:
        """The vendor's own minute bars of the span."""
        return self.within(lean.minute_bars(self.folder, "oanda"))

    def bars(self) -> pl.DataFrame:
        """bid, ask, mid bars of every timeframe from the ticks, by polars; those that end inside the span."""
        ticks = self.ticks()
        frames = [
            lean.bars_from_ticks(ticks, name).with_columns(pl.lit(name).alias("timeframe")) for name in lean.STEPS_NS
        ]
        return self.ended(pl.concat(frames))

    def within(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Rows whose time is in the span."""
        return frame.filter((pl.col("ts_ns") >= self.from_ns) & (pl.col("ts_ns") < self.to_ns))

    def ended(self, bars: pl.DataFrame) -> pl.DataFrame:
        """Bars that end inside the span: what a history run up to there writes."""
        steps = {name: s * 10**9 for name, s in lean.STEPS_NS.items()}
        step = pl.col("timeframe").replace_strict(steps, return_dtype=pl.Int64)
        return self.within(bars).filter(pl.col("ts_ns") + step <= self.to_ns)


def _instant(ns: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime(ns // 10**9))


def link_days(parent: Path, names: Sequence[str], *, hours: int | None = None) -> Days | None:
    """A folder `parent/oanda` with links to the files of these days (YYYYMMDD, adjacent); None: no data beside us."""
    source = lean.feed("oanda")
    if source is None:
        return None
    folder = parent / "oanda"
    for kind in ("tick", "minute"):
        (folder / kind / "eurusd").mkdir(parents=True)
        for name in names:
            file = f"{name}_quote.zip"
            (folder / kind / "eurusd" / file).symlink_to((source / kind / "eurusd" / file).absolute())
    day = pl.Series([names[0]]).str.to_date("%Y%m%d")[0]
    from_ns = (day.toordinal() - 719163) * 24 * HOUR_NS
    return Days(folder=folder, from_ns=from_ns, to_ns=from_ns + (hours or 24 * len(names)) * HOUR_NS)


def live(data_dir: Path, days: Days, speed: float, *settings: str) -> Pipeline:
    """Plays `days` live; not started yet."""
    return Pipeline(
        data_dir,
        f"embedded.recording={days.folder}",
        f"embedded.replay_speed={speed:g}",
        f'pipeline.symbols=["{SYMBOL}"]',
        f"downloader.history_from={days.start}",
        *settings,
    )


def history_run(parent: Path, days: Days, timeout_s: float = 600) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Quotes and candles of an undisturbed history run of the same days, in a data directory of its own."""
    parent.mkdir()
    pipeline = Pipeline(
        parent / "data",
        f"embedded.recording={days.folder}",
        f'pipeline.symbols=["{SYMBOL}"]',
        f"downloader.history_from={days.start}",
        f"downloader.history_to={days.end}",
    )
    pipeline.start("--until-idle")
    code = pipeline.wait(timeout_s)
    assert code == 0, f"the undisturbed run: exit {code}\n{pipeline.log_text()[-4000:]}"
    return stored(pipeline, days)


def stored(pipeline: Pipeline, days: Days) -> tuple[pl.DataFrame, pl.DataFrame]:
    """What both views hold of the span, without accepted_at, seq, revision and log columns."""
    quotes, candles = pipeline.sql("timescale", QUOTES_ALL_SQL), pipeline.sql("clickhouse", CANDLES_SQL)
    return days.within(quotes), days.ended(candles)


def ask(url: str, timeout_s: float = 10) -> Any:
    """JSON of a GET."""
    with urllib.request.urlopen(url, timeout=timeout_s) as answer:
        return json.load(answer)


def disturb(market: str, **fault: object) -> int:
    """Arm one fault of the simulator's stream; its number."""
    request = urllib.request.Request(f"{market}/oracle/faults", data=json.dumps(fault).encode(), method="POST")
    with urllib.request.urlopen(request, timeout=10) as answer:
        return int(json.load(answer)["armed"][0])


def wait_until_confirmed(
    pipeline: Pipeline, days: Days, timeout_s: float, *, status: Sequence[str] = ("final", "empty")
) -> float:
    """Until coverage of the whole span has such a status in PostgreSQL, and its bars are final; seconds it took.

    Raises: AssertionError when the pipeline ended, or after `timeout_s` (bars that never become final are left to the
    comparison, which names them).
    """
    began_s = time.monotonic()
    sql = FINAL_SQL.format(
        symbol=SYMBOL, from_ns=days.from_ns, to_ns=days.to_ns, status=", ".join(f"'{one}'" for one in status)
    )
    covered = -1
    while covered < days.to_ns - days.from_ns:
        assert time.monotonic() - began_s < timeout_s, (
            f"only {covered / HOUR_NS:.2f} h confirmed after {timeout_s:g} s; {pipeline.log_text()[-3000:]}"
        )
        time.sleep(2)
        covered = _asked(pipeline, "timescale", sql, "covered", default=covered)
    _wait_for_bars(pipeline, days)
    return time.monotonic() - began_s


def _wait_for_bars(pipeline: Pipeline, days: Days, timeout_s: float = 60) -> None:
    """Both deliveries and the aggregator have had their time: every bar that ended is there and final."""
    expected, deadline = len(days.bars()), time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            bars = days.ended(pipeline.sql("clickhouse", CANDLES_SQL))
        except AssertionError:
            bars = None
        if bars is not None and len(bars) == expected and bool(bars["final"].cast(pl.Boolean).all()):
            return
        time.sleep(1)


def _asked(pipeline: Pipeline, sink: str, sql: str, column: str, *, default: int) -> int:
    assert pipeline.process is not None
    assert pipeline.process.poll() is None, f"exit {pipeline.process.returncode}: {pipeline.log_text()[-4000:]}"
    try:
        return int(pipeline.sql(sink, sql)[column][0])
    except AssertionError:
        return default  # the server or its tables are not there now


def differences(name: str, expected: pl.DataFrame, found: pl.DataFrame) -> list[str]:
    """What of two sorted frames is not the same, in words; nothing = identical."""
    if expected.equals(found):
        return []
    columns = expected.columns
    lost = expected.join(found, on=columns, how="anti", nulls_equal=True)
    extra = found.join(expected, on=columns, how="anti", nulls_equal=True)
    return [
        f"{name}: {len(found)} rows instead of {len(expected)}; {len(lost)} missing, {len(extra)} beyond\n"
        f"missing: {lost.head(5)}\nbeyond: {extra.head(5)}"
    ]


def against_the_file(days: Days, quotes: pl.DataFrame, candles: pl.DataFrame) -> list[str]:
    """Differences of what was stored from the recording: ticks, the vendor's 1m bars, all bars by polars, final."""
    key = ["ts_ns", "bid", "ask"]
    found = differences("ticks of the file", days.ticks().sort(key), quotes.select(key).sort(key))
    order = ["timeframe", "ts_ns", "basis"]
    columns = [*order, "open", "high", "low", "close", "ticks"]
    own = candles.select(columns).sort(order)
    found += differences("bars of the file's ticks", days.bars().select(columns).sort(order), own)
    prices = ["ts_ns", "basis", "open", "high", "low", "close"]
    minutes = own.filter((pl.col("timeframe") == "1m") & pl.col("basis").is_in(["bid", "ask"])).select(prices)
    found += differences(
        "the vendor's own 1m bars", days.minutes().select(prices).sort(prices[:2]), minutes.sort(prices[:2])
    )
    open_bars = candles.filter(~pl.col("final").cast(pl.Boolean))
    return found + ([f"{len(open_bars)} bars are not final: {open_bars.head(5)}"] if len(open_bars) else [])


def against_history(
    days: Days, quiet: tuple[pl.DataFrame, pl.DataFrame], found: tuple[pl.DataFrame, pl.DataFrame]
) -> list[str]:
    """Differences of both views from those of the undisturbed history run."""
    return differences("v_quotes", quiet[0], found[0]) + differences("candles_latest", quiet[1], found[1])
