"""The commands against real servers: a short run of the synthetic market, then questions with and without the process."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import subprocess

import asyncpg
import httpx
import pytest

from actors.embedded.record import load_record
from tests.support.pipeline import Pipeline

pytestmark = [pytest.mark.stack, pytest.mark.slow]
QUOTES = "SELECT ts_ns, bid, ask FROM v_quotes ORDER BY ts_ns, seq"


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Pipeline:
    """A data directory that one run filled with half an hour of the synthetic market; nothing runs."""
    pipeline = Pipeline(tmp_path_factory.mktemp("cli") / "data", "downloader.history_from=-30m")
    done = pipeline.call("run", "--until-idle", timeout_s=120)
    assert done.returncode == 0, done.stderr[-3000:]
    return pipeline


def processes(pipeline: Pipeline) -> list[int]:
    """Embedded servers that are said to run."""
    records = (load_record(path) for path in (pipeline.data_dir / "embedded").glob("*.json"))
    return [record.process.pid for record in records if record is not None and record.process is not None]


def test_every_format_says_the_same_while_the_pipeline_is_down(stored):
    frame = stored.sql("timescale", QUOTES)
    rows = json.loads(stored.call("sql", "timescale", QUOTES, "--format", "json").stdout)
    lines = list(csv.DictReader(io.StringIO(stored.call("sql", "timescale", QUOTES, "--format", "csv").stdout)))
    assert len(frame) > 100
    assert frame.rows() == [tuple(row.values()) for row in rows]
    assert [int(line["ts_ns"]) for line in lines] == frame["ts_ns"].to_list()
    assert [float(line["bid"]) for line in lines] == frame["bid"].to_list()
    assert "rows)" in stored.call("sql", "clickhouse", "SELECT * FROM candles_latest LIMIT 5").stdout
    assert processes(stored) == [], "the server was left running"


WRITES = [
    ("timescale", "DELETE FROM market.quotes"),
    ("timescale", "WITH gone AS (DELETE FROM market.quotes RETURNING 1) SELECT count(*) FROM gone"),
    ("timescale", "SELECT set_config('transaction_read_only', 'off', false); DROP TABLE market.quotes"),
    ("timescale", "SELECT 1) TO PROGRAM 'false' --"),
    ("timescale", "SELECT pg_read_file('/etc/passwd')"),
    ("timescale", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'holdfast'"),
    ("clickhouse", "ALTER TABLE candles DELETE WHERE 1"),
    ("clickhouse", "DROP TABLE candles"),
]


def refuses_to_write(stored: Pipeline) -> None:
    for sink, query in WRITES:
        done = stored.call("sql", sink, query)
        assert done.returncode == 1, query
        assert len(done.stderr.splitlines()) == 1, done.stderr


def test_a_reader_that_had_enough_is_no_error(stored):
    argv = stored.argv("sql", "timescale", "SELECT * FROM generate_series(1, 300000)", "--format", "csv")
    first = subprocess.run(
        ["sh", "-c", '"$@" | head -2', "sh", *argv], capture_output=True, text=True, env=stored.environment()
    )
    assert first.stdout == '"generate_series"\n1\n'
    assert first.stderr == ""


def change(pipeline: Pipeline, *statements: str) -> None:
    """Damage the database behind the pipeline's back."""

    async def run() -> None:
        connection = await asyncpg.connect(pipeline.wait_endpoint("timescale"))
        for statement in statements:
            await connection.execute(statement)
        await connection.close()

    asyncio.run(run())


def test_with_the_process_running(stored):
    stored.start()
    try:
        url = stored.wait_endpoint("health", timeout_s=30).rstrip("/")
        stored.wait_endpoint("clickhouse", timeout_s=30)
        assert httpx.get(f"{url}/livez").status_code == 200
        status = json.loads(stored.call("status", "--json").stdout)
        assert status["endpoints"]["timescale"].count("***") == 1
        assert "bridge.timescale" in stored.call("status").stdout
        assert len(stored.sql("timescale", QUOTES)) > 100
        assert stored.call("check").returncode == 0
        refuses_to_write(stored)

        second = stored.call("run")
        assert (second.returncode, len(second.stderr.splitlines())) == (78, 1)
        assert "is in use by process" in second.stderr

        done = stored.call("backfill", "C:EURUSD", "--from", "-3h", "--to", "-2h")
        assert done.returncode == 0, done.stderr
        assert stored.call("verify").returncode == 0
        refused = httpx.post(
            f"{url}/api/backfill", json={"symbols": ["C:EURUSD"]}, headers={"origin": "http://evil.example"}
        )
        assert refused.status_code == 403

        change(
            stored,
            "CREATE TABLE spare AS SELECT * FROM market.quotes LIMIT 3",
            "DELETE FROM market.quotes WHERE ts_ns IN (SELECT ts_ns FROM spare)",
        )
        lost = stored.call("verify", "--json")
        answer = json.loads(lost.stdout)
        assert lost.returncode == 1
        assert next(s for s in answer["sinks"] if s["sink"] == "timescale")["unaccounted"] >= 3
        assert "timescale: quotes: " in lost.stderr
        change(stored, "INSERT INTO market.quotes SELECT * FROM spare", "INSERT INTO market.quotes SELECT * FROM spare")
        doubled = stored.call("verify", "--json")
        assert doubled.returncode == 1
        assert next(s for s in json.loads(doubled.stdout)["sinks"] if s["sink"] == "timescale")["duplicated"] >= 1
        change(
            stored,
            "DELETE FROM market.quotes WHERE ts_ns IN (SELECT ts_ns FROM spare)",
            "INSERT INTO market.quotes SELECT * FROM spare",
            "DROP TABLE spare",
        )
        assert stored.call("verify").returncode == 0
    finally:
        assert stored.stop() == 0, stored.log_text()[-3000:]
    assert processes(stored) == []


def test_a_backfill_without_a_process_runs_here_and_goes_away(stored):
    done = stored.call("backfill", "C:EURUSD", "X:BTCUSD", "--from", "-5h", "--to", "-4h")
    assert done.returncode == 0, done.stderr
    assert list((stored.data_dir / "jobs").glob("*.json")) == []
    assert stored.call("verify", "--from", "-4.5h", "--to", "-4.2h").returncode == 0
    assert stored.call("verify", "--from", "-9h", "--to", "-8h").returncode == 1
    assert processes(stored) == []
