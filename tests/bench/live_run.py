"""The whole product live: a simulator process offers N ticks/s on one stream, `pipeline run` stores them, 60 s are looked at.

`python -m tests.bench.live_run RATE… [--without timescale,clickhouse] [--seconds 60]`
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import attrs
import httpx

from tests.bench.figure import Figure
from tests.bench.history_run import cpu_seconds
from tests.support.pipeline import ROOT, Pipeline, free_port

SYMBOLS = tuple(
    f"C:{pair}"
    for pair in ["EURUSD", "GBPUSD", "USDJPY", "USDCHF", "AUDUSD", "USDCAD", "NZDUSD", "EURJPY", "EURGBP", "GBPJPY"]
)
"""A minute of one symbol must fit into one slice, so a high rate is spread."""
LEAD_S = 20.0
"""Between the start of the processes and the minute in which the market begins: at least."""
WARM_S = 5.0
PROMISED_S = 1.0


@attrs.frozen(kw_only=True)
class Outcome:
    """One rate, looked at for a minute."""

    rate: int
    p50_s: float
    p99_s: float
    offered: int
    """Rows that the vendor sent in the minute."""
    stored: int
    """Of them, in the end; -1 when the sink for ticks is off."""
    cpu: dict[str, float]
    """Cores used, by process."""


class KeyedPipeline(Pipeline):
    """A pipeline whose vendor is another process."""

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "POLYGON_API_KEY": "bench"}


def figures() -> Iterator[Figure]:
    """100,000 ticks/s, which is promised."""
    found = one_rate(100_000, seconds=60)
    yield Figure(
        name="live_run_100000_p99", value=1000 * found.p99_s, unit="ms", anchor="promised, ms", anchor_value=1000.0
    )
    yield Figure(
        name="live_run_100000_stored", value=found.stored, unit="rows", anchor="sent in that minute",
        anchor_value=found.offered,
    )  # fmt: skip


def one_rate(rate: int, *, seconds: int, without: tuple[str, ...] = ()) -> Outcome:
    """Start everything, let the market begin at a whole minute, look, stop."""
    work = Path(tempfile.mkdtemp(prefix="holdfast-bench-"))
    begin_s = -(-int(time.time() + LEAD_S) // 60) * 60
    symbols = SYMBOLS[: max(1, min(len(SYMBOLS), rate // 1_000))]
    port = free_port()
    sim = simulator(port, rate // len(symbols), symbols, begin_s)
    pipeline = KeyedPipeline(
        work / "data",
        "embedded.market=false",
        f'vendors.polygon.rest_url="http://127.0.0.1:{port}"',
        f'vendors.polygon.stream_url="ws://127.0.0.1:{port}"',
        "pipeline.symbols=[" + ",".join(f'"{symbol}"' for symbol in symbols) + "]",
        f"downloader.history_from={instant(begin_s - 180)}",
        *(f'sinks.{name}.stores=["coverage"]' for name in without),
    )
    try:
        pipeline.start()
        health = pipeline.wait_endpoint("health")
        time.sleep(max(0.0, begin_s + WARM_S - time.time()))
        found = look(pipeline, health, rate, begin_s, seconds, without)
    finally:
        sim.terminate()
        sim.wait(30)
        if pipeline.process is not None:
            pipeline.stop()
        shutil.rmtree(work, ignore_errors=True)
    return found


def look(pipeline: Pipeline, health: str, rate: int, begin_s: int, seconds: int, without: tuple[str, ...]) -> Outcome:
    sink = "clickhouse" if "timescale" in without else "timescale"
    names = ("postgres", "clickhouse")
    before, cpu_before, at = latencies(health, sink), cpu_seconds(pipeline, names), time.monotonic()
    for second in range(seconds):
        time.sleep(max(0.0, at + second + 1 - time.monotonic()))
        if second % 10 == 9:
            status = httpx.get(f"{health}/api/status", timeout=30).json()
            lag = {name: one["lag_records"] for name, one in status["consumers"].items()}
            print(f"  {second + 1} s: {status['records_accepted']:,} rows accepted, rows behind {lag}", flush=True)
    took_s = time.monotonic() - at
    after, cpu_after = latencies(health, sink), cpu_seconds(pipeline, names)
    since = {edge: after[edge] - before.get(edge, 0.0) for edge in after}
    until_s = begin_s + int(WARM_S) + seconds
    time.sleep(5)
    return Outcome(
        rate=rate,
        p50_s=quantile(since, 0.50),
        p99_s=quantile(since, 0.99),
        offered=(until_s - begin_s) * rate,
        stored=-1 if "timescale" in without else stored_in_the_end(pipeline, begin_s, until_s, rate),
        cpu={name: round((cpu_after[name] - cpu_before[name]) / took_s, 2) for name in cpu_after},
    )


def simulator(port: int, rate: int, symbols: tuple[str, ...], begin_s: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [
            sys.executable, "-m", "supervisors.cli.main", "simulator", "--port", str(port), "--rate", str(rate),
            "--symbols", ",".join(symbols), "--market-from", instant(begin_s),
        ],
        cwd=ROOT, stdout=subprocess.DEVNULL,
    )  # fmt: skip


def instant(at_s: int) -> str:
    return datetime.datetime.fromtimestamp(at_s, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def latencies(health: str, sink: str) -> dict[float, float]:
    """Upper edge in seconds -> groups of the live lane delivered within it."""
    text = httpx.get(f"{health}/metrics", timeout=30).text
    found = re.findall(
        r'holdfast_delivery_latency_seconds_bucket\{lane="live",le="([^"]+)",sink="' + sink + r'"\} ([0-9.e+]+)', text
    )
    return {float(edge): float(count) for edge, count in found}


def quantile(cumulative: dict[float, float], share: float) -> float:
    """Upper bound: linear inside of a bucket, as Prometheus' histogram_quantile does."""
    edges = sorted(cumulative)
    total = cumulative[edges[-1]] if edges else 0.0
    if not total:
        return float("nan")
    low, under = 0.0, 0.0
    for edge in edges:
        if (count := cumulative[edge]) >= share * total:
            inside = (share * total - under) / max(1.0, count - under)
            return low if edge == float("inf") else low + inside * (edge - low)
        low, under = edge, count
    return low


def stored_in_the_end(pipeline: Pipeline, begin_s: int, until_s: int, rate: int) -> int:
    """Rows of the looked-at time, once they are all there; after two minutes those that are."""
    dsn = pipeline.endpoints()["timescale"]
    deadline = time.monotonic() + 120
    rows = 0
    while rows < (until_s - begin_s) * rate and time.monotonic() < deadline:
        time.sleep(2)
        rows = asyncio.run(count(dsn, begin_s, until_s))
    return rows


async def count(dsn: str, begin_s: int, until_s: int) -> int:
    connection = await asyncpg.connect(dsn)
    try:
        query = "SELECT count(*) FROM market.v_quotes WHERE ts_ns >= $1 AND ts_ns < $2"
        return int(await connection.fetchval(query, begin_s * 10**9, until_s * 10**9, timeout=60))
    finally:
        await connection.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rates", nargs="+", type=int)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--without", default="", help="sinks that store coverage only, e.g. timescale,clickhouse")
    args = parser.parse_args()
    without = tuple(name for name in args.without.split(",") if name)
    for rate in args.rates:
        found = one_rate(rate, seconds=args.seconds, without=without)
        print(
            f"{rate:,} ticks/s without {args.without or 'nothing'}: p50 {1000 * found.p50_s:.0f} ms, p99 "
            f"{1000 * found.p99_s:.0f} ms, stored {found.stored:,} of {found.offered:,}, cores {found.cpu}",
            flush=True,
        )


if __name__ == "__main__":
    main()
