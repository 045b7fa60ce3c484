"""Bits that flip in a real log: `log verify` names exactly the group, its slice is fetched again, the rest is served."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import attrs
import httpx
import polars as pl
import pytest

from runtime.disk import RealDisk
from runtime.log.segment import HEADER_BYTES
from runtime.log.tools import open_files
from runtime.log.types import Group
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
    assert pipeline.call("log", "export", str(out)).returncode == 1, "not all of it"
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


CANDLES_SQL = "select timeframe, basis, ts, open, high, low, close, ticks from candles_latest order by all"


@attrs.frozen
class Before:
    """A log that no sink was served from, and what sinks show that are."""

    data: Path
    groups: tuple[Group, ...]
    quotes: int
    candles: pl.DataFrame

    def of(self, room: str) -> list[Group]:
        return [group for group in self.groups if group.producer.startswith(room)]


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Before:
    folder = tmp_path_factory.mktemp("rot")
    pipeline = Pipeline(folder / "data", *SETTINGS)
    pipeline.start(extra=NO_SINK)
    try:
        wait(pipeline, "jobs_idle")
        deadline = time.monotonic() + 60
        while status(pipeline)["consumers"]["aggregator"]["caught_up"] is not True:
            assert time.monotonic() < deadline
            time.sleep(0.2)
    finally:
        assert pipeline.stop() == 0
    groups = tuple(open_files(RealDisk(), folder / "data" / "log").groups())
    shutil.copytree(folder / "data", folder / "served")
    served = Pipeline(folder / "served", *SETTINGS)
    served.start()
    try:
        wait(served, "idle", 120)
        quotes, candles = served.sql("timescale", QUOTES_SQL).height, served.sql("clickhouse", CANDLES_SQL)
    finally:
        assert served.stop() == 0
        served.stop_embedded()
    assert quotes > 1000
    assert candles.height > 100
    return Before(folder / "data", groups, quotes, candles)


def candles(b: Before, path: Path) -> None:
    flip(path, HEADER_BYTES + b.of("aggregator")[1].position + 400)


def headers_of_candles(b: Before, path: Path) -> None:
    flip(path, HEADER_BYTES + b.of("aggregator")[1].position + 60)


def first_header(b: Before, path: Path) -> None:
    """Where both sinks stand."""
    flip(path, HEADER_BYTES + b.of("history")[0].position + 60)


def all_ticks(b: Before, path: Path) -> None:
    for group in b.of("history"):
        flip(path, HEADER_BYTES + group.position + 400)


def zeros(b: Before, path: Path) -> None:
    start, end = (HEADER_BYTES + b.of("history")[n].position for n in (1, 2))
    with path.open("r+b") as file:
        file.seek(start)
        file.write(bytes(end - start))


def end_cut(b: Before, path: Path) -> None:
    """The state of the aggregator is of an end that the log has no more."""
    os.truncate(path, HEADER_BYTES + b.of("history")[-2].position)


def emptied(b: Before, path: Path) -> None:
    """What is advised for a file that is lost for good."""
    path.write_bytes(b"")


@pytest.mark.parametrize(
    "damage", [candles, headers_of_candles, first_header, all_ticks, zeros, end_cut, emptied], ids=lambda f: f.__name__
)
def test_whatever_rots_before_a_sink_has_it_the_sinks_end_up_the_same(
    tmp_path: Path, before: Before, damage: Callable[[Before, Path], None]
) -> None:
    """Ticks from the vendor again; candles, which the vendor does not have, by saying them again."""
    shutil.copytree(before.data, tmp_path / "data")
    [segment] = (tmp_path / "data" / "log").glob("*.seg")
    damage(before, segment)
    pipeline = Pipeline(tmp_path / "data", *SETTINGS)
    pipeline.start()
    try:
        wait(pipeline, "idle", 120)
        assert any("the log lost" in event for event in status(pipeline)["events"])
        assert pipeline.sql("timescale", QUOTES_SQL).height == before.quotes
        assert pipeline.sql("clickhouse", CANDLES_SQL).equals(before.candles)
        verified = pipeline.call("verify", "--json")
        assert verified.returncode == 0, verified.stdout + verified.stderr
        assert pipeline.call("log", "verify").returncode == 1
    finally:
        assert pipeline.stop() == 0
        pipeline.stop_embedded()
