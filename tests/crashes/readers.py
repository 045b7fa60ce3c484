"""Two readers that poll the views for as long as a run lasts, as a trader's program would, and hand on what they see."""

from __future__ import annotations

import asyncio
import io
import random
import threading
from collections.abc import Callable
from contextlib import suppress

import asyncpg
import attrs
import httpx
import polars as pl

from tests.crashes.watch import CandleWatch, QuoteWatch
from tests.support import lean
from tests.support.pipeline import Pipeline
from tests.support.replayed import HOUR_NS, SYMBOL, Days

POLL_S = 0.2
"""Between two polls at most, drawn anew."""
NEWEST_SQL = f"SELECT max(ts_ns) FROM market.v_quotes WHERE symbol = '{SYMBOL}'"
ROWS_SQL = (
    "SELECT ts_ns, bid, ask, accepted_at, seq FROM market.v_quotes "
    f"WHERE symbol = '{SYMBOL}' AND ts >= to_timestamp($1::int8) AND ts < to_timestamp($2::int8)"
)
BARS_SQL = (
    "SELECT timeframe, basis, toUnixTimestamp64Milli(ts) * 1000000 AS ts_ns, open, high, low, close, ticks, revision, "
    f"toUInt8(final) AS final FROM market.candles_latest WHERE symbol = '{SYMBOL}' "
    "AND ts >= toDateTime64({0}, 3, 'UTC') AND ts < toDateTime64({1}, 3, 'UTC') FORMAT TabSeparated"
)
BAR_COLUMNS = {
    "timeframe": pl.String, "basis": pl.String, "ts_ns": pl.Int64, "open": pl.Float64, "high": pl.Float64,
    "low": pl.Float64, "close": pl.Float64, "ticks": pl.Int64, "revision": pl.Int64, "final": pl.Int64,
}  # fmt: skip
WEATHER = (
    OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, httpx.HTTPError, TimeoutError, asyncio.TimeoutError, KeyError,
)  # fmt: skip
"""A killed server: not seen, and that is all."""


def chosen_hours(rng: random.Random, days: Days, newest_ns: int, length: int) -> tuple[int, int]:
    """An interval of whole hours inside the span: mostly around the newest row, now and then an older one."""
    last = min(max(newest_ns, days.from_ns), days.to_ns - 1) // HOUR_NS + 1
    if rng.random() < 0.3:
        last = rng.randint(min(days.from_ns // HOUR_NS + 1, last), last)
    return max(days.from_ns, (last - length) * HOUR_NS), last * HOUR_NS


@attrs.define(kw_only=True)
class Readers:
    """A thread per database, from `start` to `stop`. A problem in a thread itself is kept in `broken`."""

    pipeline: Pipeline
    days: Days
    quotes: QuoteWatch
    candles: CandleWatch
    newest_ns: int = 0
    misses: dict[str, int] = attrs.field(factory=lambda: {"timescale": 0, "clickhouse": 0})
    broken: list[str] = attrs.field(factory=list)
    _stop: threading.Event = attrs.field(factory=threading.Event, init=False)
    _threads: list[threading.Thread] = attrs.field(factory=list, init=False)

    def start(self) -> None:
        """Begin to poll."""
        self._threads = [
            threading.Thread(target=self._guarded, args=(one,), daemon=True)
            for one in (lambda: asyncio.run(self._poll_quotes()), self._poll_candles)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End both."""
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - a reader that died has seen nothing: told at the end
            self.broken.append(f"{type(error).__name__}: {error}")

    def _url(self, name: str) -> str:
        with suppress(ValueError):  # being written
            return self.pipeline.endpoints()[name]
        raise KeyError(name)

    async def _poll_quotes(self) -> None:
        rng = random.Random(1)
        while not self._stop.is_set():
            connection = None
            try:
                async with asyncio.timeout(10):
                    connection = await asyncpg.connect(self._url("timescale"), timeout=5)
                while not self._stop.wait(rng.uniform(0, POLL_S)):
                    async with asyncio.timeout(30):
                        await self._look_at_quotes(connection, rng)
            except WEATHER:
                self.misses["timescale"] += 1
                await asyncio.sleep(POLL_S)
            finally:
                if connection is not None:
                    connection.terminate()

    async def _look_at_quotes(self, connection: asyncpg.Connection, rng: random.Random) -> None:
        newest = await connection.fetchval(NEWEST_SQL)
        if newest is None:
            return
        self.newest_ns = newest
        from_ns, to_ns = chosen_hours(rng, self.days, newest, 3)
        rows = await connection.fetch(ROWS_SQL, from_ns // 10**9, to_ns // 10**9)
        columns = {"ts_ns": pl.Int64, "bid": pl.Float64, "ask": pl.Float64, "accepted_at": pl.Int64, "seq": pl.Int64}
        self.quotes.see(from_ns, to_ns, pl.DataFrame([tuple(row) for row in rows], schema=columns, orient="row"))

    def _poll_candles(self) -> None:
        rng = random.Random(2)
        with httpx.Client(timeout=30) as client:
            while not self._stop.wait(rng.uniform(0, POLL_S)):
                from_ns, to_ns = chosen_hours(rng, self.days, self.newest_ns, 4)
                sql = BARS_SQL.format(from_ns // 10**9, to_ns // 10**9)
                try:
                    answer = client.post(self._url("clickhouse"), content=sql).raise_for_status()
                except WEATHER:
                    self.misses["clickhouse"] += 1
                    continue
                if "\tException" in answer.text or "DB::Exception" in answer.text:
                    self.misses["clickhouse"] += 1
                    continue
                self.candles.see(from_ns, to_ns, self.days.ended(_bars(answer.text)))


def _bars(text: str) -> pl.DataFrame:
    if not text:
        frame = pl.DataFrame(schema=BAR_COLUMNS)
    else:
        frame = pl.read_csv(
            io.StringIO(text),
            has_header=False,
            separator="\t",
            new_columns=list(BAR_COLUMNS),
            schema_overrides=list(BAR_COLUMNS.values()),
        )
    return frame.with_columns(pl.col("final").cast(pl.Boolean)).filter(pl.col("timeframe").is_in(list(lean.STEPS_NS)))
