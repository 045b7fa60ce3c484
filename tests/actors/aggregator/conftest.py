"""Recordings of trades, where they are."""

import gzip
import json
import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def binance_trades():
    """pair -> [(exchange's time of the trade in ns, price, size)] as written, in order of arrival (DATA 4)."""
    default = Path(__file__).resolve().parents[4] / "shared" / "data"
    folder = Path(os.environ.get("HOLDFAST_SHARED_DATA", default)) / "hftbacktest" / "examples" / "spot"
    if not folder.is_dir():
        pytest.skip("NOT COVERED: candles of captured trades, the recordings are not on this machine")

    def read(pair: str) -> list[tuple[int, str, str]]:
        with gzip.open(folder / f"{pair}_20240808.gz", "rt") as lines:
            events = [json.loads(line.split(" ", 1)[1]) for line in lines]
        trades = [event["data"] for event in events if event.get("stream") == f"{pair}@trade"]
        return [(trade["T"] * 1_000_000, trade["p"], trade["q"]) for trade in trades]

    return read
