"""What the vendor, or the disk that a recording lies on, refuses for good: the run ends, says it, and says it once."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from tests.support.pipeline import Pipeline

pytestmark = [pytest.mark.stack, pytest.mark.slow]

MISSING_SQL = "SELECT symbol, kind, from_ns, to_ns, reason FROM market.coverage WHERE status = 'missing' ORDER BY 1, 3"
DAY = 86_400 * 10**9


def write_day(folder: Path, day: str, symbol: str = "eurusd") -> Path:
    target = folder / "tick" / symbol / f"{day}_quote.zip"
    target.parent.mkdir(parents=True, exist_ok=True)
    rows = "\n".join(f"{i * 1000},1.{38000 + i * 7919 % 10000},1.49" for i in range(2000))
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("ticks.csv", rows)
    return target


def run_of(tmp_path: Path) -> Pipeline:
    return Pipeline(
        tmp_path / "data",
        f"embedded.recording={tmp_path / 'oanda'}",
        'pipeline.symbols=["C:EURUSD", "C:GBPUSD"]',
        "downloader.history_from=2014-05-01",
        "downloader.history_to=2014-05-04",
    )


def test_a_day_whose_damage_shows_when_it_is_read_and_a_symbol_that_is_unknown(tmp_path: Path) -> None:
    paths = [write_day(tmp_path / "oanda", day) for day in ("20140501", "20140502", "20140503")]
    body = paths[1].read_bytes()
    at = len(body) // 2  # the beginning and the directory stay whole
    paths[1].write_bytes(body[:at] + bytes(b ^ 0x5A for b in body[at : at + 40]) + body[at + 40 :])

    pipeline = run_of(tmp_path)
    pipeline.start("--until-idle")
    assert pipeline.wait(120) == 1, pipeline.log_text()[-3000:]
    said = pipeline.log_text()
    assert f"recording file {paths[1]} cannot be used" in said
    assert "unknown symbol" in said
    assert "Traceback" not in said

    missing = pipeline.sql("timescale", MISSING_SQL)
    spans = [(row["symbol"], row["from_ns"] // DAY, (row["to_ns"] - 1) // DAY) for row in missing.to_dicts()]
    first = int(missing["from_ns"].min()) // DAY
    assert spans == [
        *(("C:EURUSD", first + day, first + day) for day in (1, 2)),
        *(("C:GBPUSD", first + day, first + day) for day in (0, 1, 2)),
    ]
    assert missing["reason"].str.contains("cannot be used|unknown symbol").all()
    assert pipeline.sql("timescale", "SELECT count(*) AS n FROM market.v_quotes")["n"].item() == 2000

    pipeline.start("--until-idle")
    assert pipeline.wait(120) == 1
    assert pipeline.sql("timescale", MISSING_SQL).equals(missing), "said once more at the second start"

    write_day(tmp_path / "oanda", "20140502")
    pipeline.start("--until-idle")
    assert pipeline.wait(120) == 1, "C:GBPUSD is unknown still"
    assert pipeline.sql("timescale", "SELECT count(*) AS n FROM market.v_quotes")["n"].item() == 6000
