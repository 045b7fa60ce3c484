"""`pipeline dead-letters` on the letters of a real run: rows that our rules refused, mended by the vendor, fetched again."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from tests.support.pipeline import Pipeline

pytestmark = pytest.mark.stack


def write_day(folder: Path, *, without_price: tuple[int, ...]) -> None:
    """3,000 quotes, one a second; the bid of some is 0."""
    target = folder / "tick" / "eurusd" / "20140501_quote.zip"
    target.parent.mkdir(parents=True, exist_ok=True)
    bids = [0.0 if i in without_price else 1.38 + i * 7919 % 1000 / 100_000 for i in range(3000)]
    rows = "\n".join(f"{i * 1000},{bid:.5f},1.49" for i, bid in enumerate(bids))
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("ticks.csv", rows)


def letters(pipeline: Pipeline) -> list[dict]:
    done = pipeline.call("dead-letters", "list", "--json")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def run(pipeline: Pipeline) -> None:
    pipeline.start("--until-idle")
    assert pipeline.wait(120) == 0, pipeline.log_text()[-3000:]


def stored(pipeline: Pipeline) -> int:
    verified = pipeline.call("verify", "--json")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    return int(pipeline.sql("timescale", "SELECT count(*) AS n FROM market.v_quotes")["n"].item())


def test_letters_are_listed_replayed_and_dropped(tmp_path: Path) -> None:
    recording = tmp_path / "oanda"
    write_day(recording, without_price=(500, 501, 2200))
    pipeline = Pipeline(
        tmp_path / "data",
        f"embedded.recording={recording}",
        'pipeline.symbols=["C:EURUSD"]',
        "downloader.history_from=2014-05-01",
        "downloader.history_to=2014-05-02",
    )
    run(pipeline)
    found = letters(pipeline)
    assert [(x["state"], x["reason"], x["row"]["raw"]["bid_price"]) for x in found] == [
        ("open", "price-not-positive", 0.0)
    ] * 3
    assert stored(pipeline) == 2997
    shown = pipeline.call("dead-letters", "show", found[0]["key"])
    assert shown.returncode == 0
    assert "2014-05-01T00:08:20Z" in shown.stdout

    write_day(recording, without_price=(2200,))
    run(pipeline)
    assert stored(pipeline) == 2997, "nobody asked for these minutes again"
    assert "3 marked for replay" in pipeline.call("dead-letters", "replay").stdout
    run(pipeline)
    assert stored(pipeline) == 2999
    assert [x["state"] for x in letters(pipeline)] == ["replay", "replay", "open"], "the third was refused again"

    assert pipeline.call("dead-letters", "drop", found[2]["key"]).returncode == 0
    assert [x["state"] for x in letters(pipeline)] == ["replay", "replay", "dropped"]
    assert pipeline.call("dead-letters", "show", "nothing").returncode == 78
