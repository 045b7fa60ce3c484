"""Real trades of crypto, by history and played live, against an independent reading of the capture (issue 4, 3)."""

from __future__ import annotations

import time
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from tests.support import capture, replayed
from tests.support.pipeline import CANDLES_SQL, Pipeline

pytestmark = [pytest.mark.stack, pytest.mark.slow]

SYMBOL = "X:BTCUSDT"
FROM_NS = 1_723_161_240 * 10**9  # 2024-08-08T23:54Z
END_NS = FROM_NS + 7 * capture.MINUTE_NS  # the recorder's clock was behind: the last trades are after midnight
HISTORY = ("downloader.history_from=2024-08-08T23:54Z", "downloader.history_to=2024-08-09T00:01Z")
TRADES_SQL = (
    f"SELECT ts_ns, trade_id::int8 AS trade_id, price, size FROM market.v_trades WHERE symbol = '{SYMBOL}' "
    "ORDER BY ts_ns, trade_id::int8"
)
CONFIRMED_SQL = (
    "SELECT count(*) AS open FROM generate_series(1723161240, 1723161600, 60) minute WHERE NOT EXISTS (SELECT 1 FROM "
    f"market.coverage_latest WHERE symbol = '{SYMBOL}' AND status IN ('final', 'empty') "
    "AND from_ts <= to_timestamp(minute) AND to_ts >= to_timestamp(minute + 60))"
)
BARS = ["timeframe", "ts_ns", "open", "high", "low", "close", "volume", "vwap", "ticks"]


@pytest.fixture
def recording() -> Path:
    found = capture.folder()
    if found is None:
        pytest.skip("NOT COVERED: real trades, no captured data beside this checkout")
    return found


def equal_to_the_capture(pipeline: Pipeline, recording: Path) -> None:
    """Every trade once, and every 1m bar: prices, volume, vwap, count, final."""
    raw = capture.trades(next(recording.rglob("btcusdt_20240808.gz")))
    stored = pipeline.sql("timescale", TRADES_SQL)
    expected = raw.with_columns(pl.col("price", "size").cast(pl.Float64)).select(stored.columns)
    assert len(stored) == 9_757
    assert_frame_equal(stored, expected, check_exact=True)
    candles = pipeline.sql("clickhouse", CANDLES_SQL).filter(
        (pl.col("symbol") == SYMBOL) & (pl.col("timeframe") == "1m")
    )
    assert candles["basis"].unique().to_list() == ["last"]
    assert candles["final"].cast(pl.Boolean).all()
    own = candles.select(BARS).sort("ts_ns")
    oracle = capture.bars(raw, "1m").sort("ts_ns")
    assert len(own) == 7
    rounded = ["vwap"]  # a quotient: the last bit may differ
    assert_frame_equal(own.drop(rounded), oracle.drop(rounded), check_exact=True)
    assert_frame_equal(own.select(rounded), oracle.select(rounded), check_exact=False, rel_tol=1e-15, abs_tol=0)
    done = pipeline.call("verify", "--from", "2024-08-08T23:54Z", "--to", "2024-08-09T00:01Z")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_history_run_over_captured_trades_gives_their_bars(tmp_path: Path, recording: Path) -> None:
    pipeline = Pipeline(
        tmp_path / "data", f"embedded.recording={recording}", f'pipeline.symbols=["{SYMBOL}"]', *HISTORY
    )
    pipeline.start("--until-idle")
    assert pipeline.wait(120) == 0, pipeline.log_text()[-4000:]
    equal_to_the_capture(pipeline, recording)


def test_captured_trades_played_live_give_the_same_bars_after_confirmation(tmp_path: Path, recording: Path) -> None:
    pipeline = Pipeline(
        tmp_path / "data",
        f"embedded.recording={recording}",
        "embedded.replay_speed=60",
        f'pipeline.symbols=["{SYMBOL}"]',
        HISTORY[0],
        "downloader.settle_s=60",
    )
    pipeline.start()
    try:
        deadline = time.monotonic() + 180
        open_minutes = 7
        while open_minutes and time.monotonic() < deadline:
            time.sleep(2)
            try:
                open_minutes = int(pipeline.sql("timescale", CONFIRMED_SQL)["open"][0])
            except AssertionError:
                continue  # the tables are not there yet
        assert open_minutes == 0, pipeline.log_text()[-3000:]
        market = pipeline.wait_endpoint("market")
        sent = replayed.ask(f"{market}/oracle/stream/{SYMBOL}")["totals"]["sent"]
        assert sent > 5_000, "the stream was hardly there"
        live = pipeline.sql("timescale", "SELECT count(*) AS n FROM market.coverage WHERE session IS NOT NULL")
        assert int(live["n"][0]) >= 3
        time.sleep(3)
        equal_to_the_capture(pipeline, recording)
    finally:
        assert pipeline.stop() == 0
