"""The history run, servers up, from the first request to the last verified row, beside one raw binary COPY."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import httpx
import psutil

from tests.bench.figure import Figure
from tests.support import lean
from tests.support.pipeline import Pipeline

ROUNDS = 3


def figures() -> Iterator[Figure]:
    folder = lean.feed("oanda")
    if folder is None:
        print("NOT COVERED: history_run, no recorded data beside this checkout")
        return
    ours, raw = [], []
    for n in range(ROUNDS):
        work = Path(tempfile.mkdtemp(prefix="holdfast-bench-"))
        try:
            rate, copy_rate, cpu = one_round(work, folder)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        ours.append(rate)
        raw.append(copy_rate)
        print(f"  round {n + 1}: {rate:,.0f} ticks/s, raw COPY {copy_rate:,.0f} rows/s, CPU s {cpu}", flush=True)
    yield Figure(
        name="history_run",
        value=sorted(ours)[ROUNDS // 2],
        unit="ticks/s",
        anchor="one binary COPY of the same rows",
        anchor_value=sorted(raw)[ROUNDS // 2],
    )


def one_round(work: Path, folder: Path) -> tuple[float, float, dict[str, float]]:
    """Ticks/s of the run, rows/s of the COPY, CPU seconds per process."""
    pipeline = Pipeline(
        work / "data",
        f"embedded.recording={folder}",
        'pipeline.symbols=["C:EURUSD"]',
        "downloader.history_from=2014-05-01",
        "downloader.history_to=2014-05-01T00:01",
    )
    pipeline.start()
    try:
        for name in ("timescale", "clickhouse", "market"):
            pipeline.wait_endpoint(name)
        health = pipeline.wait_endpoint("health")
        wait_for(health, lambda status: status_idle(status))
        before = cpu_seconds(pipeline)
        start = time.perf_counter()
        job = {
            "symbols": ["C:EURUSD"],
            "kinds": ["quotes"],
            "from": "2014-05-01T00:01",
            "to": "2014-05-16",
            "refetch": False,
        }
        httpx.post(f"{health}/api/backfill", json=job, timeout=10).raise_for_status()
        wait_for(health, lambda status: status_idle(status, rows_min=500_000))
        seconds = time.perf_counter() - start
        after = cpu_seconds(pipeline)
        cpu = {name: round(after[name] - before.get(name, 0.0), 2) for name in after}
        rows = asyncio.run(count(pipeline.endpoints()["timescale"]))
        copy_rate = asyncio.run(raw_copy(pipeline.endpoints()["timescale"]))
    finally:
        pipeline.stop()
    return rows / seconds, copy_rate, cpu


def status_idle(status: dict[str, object], rows_min: int = 0) -> bool:
    """Nothing left: the same condition as --until-idle."""
    return bool(status["idle"]) and int(str(status["records_accepted"])) >= rows_min


def wait_for(health: str, condition: object, timeout_s: float = 120) -> None:
    assert callable(condition)
    deadline = time.monotonic() + timeout_s
    with httpx.Client() as client:
        while time.monotonic() < deadline:
            if condition(client.get(f"{health}/api/status", timeout=10).json()):
                return
            time.sleep(0.05)
    raise TimeoutError(json.dumps(httpx.get(f"{health}/api/status").json(), indent=1))


def cpu_seconds(pipeline: Pipeline, names: tuple[str, ...] = ("postgres", "clickhouse", "market")) -> dict[str, float]:
    assert pipeline.process is not None
    pids = {"pipeline": pipeline.process.pid}
    pids |= {name: pipeline.embedded_pid(name) for name in names}
    out = {}
    for name, pid in pids.items():
        process = psutil.Process(pid)
        members = [process, *process.children(recursive=True)] if name == "postgres" else [process]
        times = [p.cpu_times() for p in members]
        out[name] = sum(t.user + t.system for t in times)
    return out


async def count(dsn: str) -> int:
    connection = await asyncpg.connect(dsn)
    try:
        return int(await connection.fetchval("SELECT count(*) FROM market.v_quotes"))
    finally:
        await connection.close()


async def raw_copy(dsn: str) -> float:
    """The anchor: the stored rows as one binary COPY into an equal, indexed, empty table. Rows/s."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("CREATE TABLE market.bench_copy (LIKE market.quotes INCLUDING ALL)")
        await connection.execute("CREATE INDEX IF NOT EXISTS bench_copy_ix ON market.bench_copy (symbol_id, ts)")
        with tempfile.TemporaryFile() as file:
            await connection.copy_from_query("SELECT * FROM market.quotes ORDER BY ts", output=file, format="binary")
            file.seek(0)
            start = time.perf_counter()
            status = await connection.copy_to_table("bench_copy", schema_name="market", source=file, format="binary")
            seconds = time.perf_counter() - start
        await connection.execute("DROP TABLE market.bench_copy")
        return int(status.split()[1]) / seconds
    finally:
        await connection.close()
