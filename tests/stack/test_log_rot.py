"""Bits that flip in a real log: `log verify` names exactly the group, its slice is fetched again, the rest is served."""

from __future__ import annotations

import json
import time
from pathlib import Path

import httpx
import polars as pl
import pytest

from runtime.disk import RealDisk
from runtime.log.segment import HEADER_BYTES
from runtime.log.tools import open_files
from tests.support.pipeline import QUOTES_SQL, Pipeline

pytestmark = pytest.mark.stack
SETTINGS = (
    'pipeline.symbols=["C:EURUSD"]',
    "downloader.live=false",  # else more rows come while they are counted
    "downloader.history_from=2024-03-05T10:00",
    "downloader.history_to=2024-03-05T13:00",
)
NO_SINK = (
    "sinks.timescale.dsn=postgresql://nobody@127.0.0.1:9/none",
    "sinks.clickhouse.dsn=clickhouse://nobody@127.0.0.1:9/none",
)


def status(pipeline: Pipeline) -> dict:
    return httpx.get(pipeline.endpoints()["health"] + "/api/status", timeout=30).json()


def wait(pipeline: Pipeline, key: str, seconds: float = 90) -> None:
    pipeline.wait_endpoint("health")
    deadline = time.monotonic() + seconds
    while not status(pipeline)[key]:
        assert time.monotonic() < deadline, json.dumps(status(pipeline), indent=1)
        time.sleep(0.2)


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 4]))


@pytest.mark.parametrize("where", [400, 60], ids=["body", "header"])
def test_a_flipped_bit_costs_one_slice_which_is_fetched_again(tmp_path: Path, where: int) -> None:
    pipeline = Pipeline(tmp_path / "data", *SETTINGS)
    folder = tmp_path / "data" / "log"
    pipeline.start(extra=NO_SINK)  # everything stays in the log: no sink is there
    try:
        wait(pipeline, "jobs_idle")
        live = pipeline.call("log", "stat", "--json")
        assert live.returncode == 0, live.stderr
        assert json.loads(live.stdout)["kinds"]["quotes"]["rows"] > 1000
        assert pipeline.call("log", "verify").returncode == 0
    finally:
        assert pipeline.stop() == 0
    log = open_files(RealDisk(), folder)
    victim = [g for g in log.groups() if any(f.kind == "quotes" and f.rows for f in g.frames)][1]
    [segment] = [s for s, end in log.extents() if s.base <= victim.position < end]
    at = HEADER_BYTES + victim.position - segment.base + where  # in the first frame
    flip(segment.path, at)

    said = pipeline.call("log", "verify", "--json")
    assert said.returncode == 1
    [damage] = json.loads(said.stdout)["damage"]
    assert (damage["position"], damage["end_position"]) == (victim.position, victim.end_position)
    out = tmp_path / "quotes.parquet"
    assert pipeline.call("log", "export", str(out)).returncode == 0
    left = pl.read_parquet(out)
    assert "left out" in pipeline.call("log", "cat", "--limit", "100000").stderr
    assert pipeline.call("log", "ls").stdout.count(".seg") == len(log.segments)

    pipeline.start()
    try:
        wait(pipeline, "idle", 120)
        assert any("the log lost" in event for event in status(pipeline)["events"])
        stored = pipeline.sql("timescale", QUOTES_SQL)
        assert stored.height == left.height + sum(f.rows for f in victim.frames if f.kind == "quotes")
        verified = pipeline.call("verify", "--json")
        assert verified.returncode == 0, verified.stdout + verified.stderr
    finally:
        assert pipeline.stop() == 0
        pipeline.stop_embedded()
    assert f"{victim.position:020d}.frame" in RealDisk().names(folder / "quarantine")


CANDLES_SQL = """select timeframe, basis, ts, open, high, low, close, ticks from candles_latest order by all"""


@pytest.mark.parametrize("where", [400, 60], ids=["body", "header"])
def test_candles_that_rot_before_a_sink_has_them_are_made_again(tmp_path: Path, where: int) -> None:
    """The ticks are there and the same as ever, so nothing but the loss makes the aggregator say its candles again."""
    undisturbed = Pipeline(tmp_path / "other", *SETTINGS)
    undisturbed.start()
    try:
        wait(undisturbed, "idle", 120)
        wanted = undisturbed.sql("clickhouse", CANDLES_SQL)
    finally:
        assert undisturbed.stop() == 0
        undisturbed.stop_embedded()
    assert wanted.height > 100

    pipeline = Pipeline(tmp_path / "data", *SETTINGS)
    pipeline.start(extra=NO_SINK)
    try:
        wait(pipeline, "jobs_idle")
        deadline = time.monotonic() + 60
        while status(pipeline)["consumers"]["aggregator"]["caught_up"] is not True:
            assert time.monotonic() < deadline
            time.sleep(0.2)
    finally:
        assert pipeline.stop() == 0
    log = open_files(RealDisk(), tmp_path / "data" / "log")
    made = [group for group in log.groups() if group.producer == "aggregator"]
    assert len(made) > 2
    victim = made[1]
    [segment] = [s for s, end in log.extents() if s.base <= victim.position < end]
    flip(segment.path, HEADER_BYTES + victim.position - segment.base + where)
    assert pipeline.call("log", "verify").returncode == 1

    pipeline.start()
    try:
        wait(pipeline, "idle", 120)
        assert any("the log lost" in event for event in status(pipeline)["events"])
        assert pipeline.sql("clickhouse", CANDLES_SQL).equals(wanted)
        verified = pipeline.call("verify", "--json")
        assert verified.returncode == 0, verified.stdout + verified.stderr
    finally:
        assert pipeline.stop() == 0
        pipeline.stop_embedded()
