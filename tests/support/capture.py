"""An independent reader of captured Binance streams: the oracle of real trades. Shares no code with the product."""

from __future__ import annotations

import gzip
import json
from fractions import Fraction
from pathlib import Path

import polars as pl

from tests.support import lean

MINUTE_NS = 60 * 10**9
STEPS_NS = {name: seconds * 10**9 for name, seconds in lean.STEPS_NS.items()}


def folder() -> Path | None:
    """Where the captures are, or None when this checkout has none beside it."""
    data = lean.shared_data()
    found = None if data is None else data / "hftbacktest"
    return found if found is not None and found.is_dir() else None


def trades(path: Path) -> pl.DataFrame:
    """ts_ns, trade_id, price, size (both as text) of every line of a `@trade` stream, by (time, id)."""
    rows = []
    with gzip.open(path, "rt") as lines:
        for line in lines:
            message = json.loads(line.split(" ", 1)[1])
            if str(message.get("stream", "")).endswith("@trade"):
                one = message["data"]
                rows.append((one["T"] * 1_000_000, one["t"], one["p"], one["q"]))
    schema = {"ts_ns": pl.Int64, "trade_id": pl.Int64, "price": pl.String, "size": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row").sort("ts_ns", "trade_id")


def bars(frame: pl.DataFrame, timeframe: str) -> pl.DataFrame:
    """Bars of trades: prices by polars; volume and vwap as fractions, rounded to a float once at the end."""
    step = STEPS_NS[timeframe]
    grouped = (
        frame.with_columns((pl.col("ts_ns") // step * step).alias("bar"), pl.col("price").cast(pl.Float64).alias("p"))
        .group_by("bar", maintain_order=True)
        .agg(
            pl.col("p").first().alias("open"), pl.col("p").max().alias("high"), pl.col("p").min().alias("low"),
            pl.col("p").last().alias("close"), pl.col("price"), pl.col("size"), pl.len().cast(pl.Int64).alias("ticks"),
        )
    )  # fmt: skip
    volume = [sum((Fraction(q) for q in sizes), Fraction(0)) for sizes in grouped["size"]]
    money = [
        sum((Fraction(p) * Fraction(q) for p, q in zip(prices, sizes, strict=True)), Fraction(0))
        for prices, sizes in zip(grouped["price"], grouped["size"], strict=True)
    ]
    return grouped.select(
        pl.lit(timeframe).alias("timeframe"), pl.col("bar").alias("ts_ns"), "open", "high", "low", "close",
        pl.Series("volume", [float(v) for v in volume]),
        pl.Series("vwap", [float(m / v) for m, v in zip(money, volume, strict=True)]),
        "ticks",
    )  # fmt: skip
