"""An independent reader of Lean forex folders: the oracle of the real-data tests. Shares no code with the product."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import polars as pl

ROOT = Path(__file__).resolve().parents[2]
OFFSET_NS = {"oanda": 0, "fxcm": 5 * 3600 * 10**9}  # FXCM files run on a fixed UTC-05 clock
TICK_DAYS = ("20140501", "20140515")


def shared_data() -> Path | None:
    """The folder with the recorded data, or None when this checkout has none beside it."""
    path = Path(os.environ.get("HOLDFAST_SHARED_DATA", ROOT.parent / "shared" / "data"))
    return path if (path / "lean").is_dir() else None


def feed(broker: str) -> Path | None:
    """The folder of one recorded feed."""
    data = shared_data()
    return None if data is None else data / "lean" / "Data" / "forex" / broker


def _read(path: Path, columns: list[str]) -> pl.DataFrame:
    with zipfile.ZipFile(path) as archive:
        raw = archive.read(archive.namelist()[0])
    frame = pl.read_csv(raw, has_header=False, new_columns=columns, schema_overrides=[pl.String] * len(columns))
    return frame.with_columns(pl.all().str.strip_chars())


def _files(folder: Path) -> list[Path]:
    return [p for p in sorted(folder.glob("*_quote.zip")) if TICK_DAYS[0] <= p.name[:8] <= TICK_DAYS[1]]


def _day_ns(path: Path, broker: str) -> int:
    day = pl.Series([path.name[:8]]).str.to_date("%Y%m%d")[0]
    return (day.toordinal() - 719163) * 86400 * 10**9 + OFFSET_NS[broker]


def ticks(folder: Path, broker: str) -> pl.DataFrame:
    """ts_ns, bid, ask of every recorded tick, in file order."""
    frames = []
    for path in _files(folder / "tick" / "eurusd"):
        frame = _read(path, ["ms", "bid", "ask"])
        start = _day_ns(path, broker)
        frames.append(
            frame.select(
                (pl.col("ms").cast(pl.Int64) * 1_000_000 + start).alias("ts_ns"),
                pl.col("bid").cast(pl.Float64),
                pl.col("ask").cast(pl.Float64),
            )
        )
    return pl.concat(frames)


def minute_bars(folder: Path, broker: str) -> pl.DataFrame:
    """The vendor's own minute bars: ts_ns, basis, open, high, low, close; two rows (bid, ask) per minute."""
    names = ["ms", "bo", "bh", "bl", "bc", "bs", "ao", "ah", "al", "ac", "as"]
    frames = []
    for path in _files(folder / "minute" / "eurusd"):
        frame = _read(path, names)
        start = _day_ns(path, broker)
        for basis in ("bid", "ask"):
            b = basis[0]
            frames.append(
                frame.select(
                    (pl.col("ms").cast(pl.Int64) * 1_000_000 + start).alias("ts_ns"),
                    pl.lit(basis).alias("basis"),
                    pl.col(f"{b}o").cast(pl.Float64).alias("open"),
                    pl.col(f"{b}h").cast(pl.Float64).alias("high"),
                    pl.col(f"{b}l").cast(pl.Float64).alias("low"),
                    pl.col(f"{b}c").cast(pl.Float64).alias("close"),
                )
            )
    return pl.concat(frames).sort("ts_ns", "basis")


STEPS_NS = {"1m": 60, "5m": 300, "15m": 900, "1h": 3600, "4h": 14400, "1d": 86400}


def bars_from_ticks(frame: pl.DataFrame, timeframe: str) -> pl.DataFrame:
    """bid, ask and mid candles of any timeframe from ticks, by polars: ts_ns, basis, open, high, low, close, ticks."""
    step = STEPS_NS[timeframe] * 10**9
    scaled = frame.with_columns(
        (pl.col("bid") * 1e5).round().cast(pl.Int64).alias("b"), (pl.col("ask") * 1e5).round().cast(pl.Int64).alias("a")
    ).with_columns(((pl.col("b") + pl.col("a")) * 5).alias("m"))
    out = []
    for basis, column, scale in (("bid", "b", 1e5), ("ask", "a", 1e5), ("mid", "m", 1e6)):
        grouped = (
            scaled.with_columns((pl.col("ts_ns") // step * step).alias("bar"))
            .group_by("bar", maintain_order=True)
            .agg(
                pl.col(column).first().alias("open"),
                pl.col(column).max().alias("high"),
                pl.col(column).min().alias("low"),
                pl.col(column).last().alias("close"),
                pl.len().cast(pl.Int64).alias("ticks"),
            )
        )
        # NumPy's division rounds correctly; polars multiplies by the reciprocal and is one unit off now and then.
        prices = [pl.Series(name, grouped[name].to_numpy() / scale) for name in ("open", "high", "low", "close")]
        out.append(grouped.rename({"bar": "ts_ns"}).with_columns(pl.lit(basis).alias("basis"), *prices))
    columns = ["ts_ns", "basis", "open", "high", "low", "close", "ticks"]
    return pl.concat([f.select(columns) for f in out]).sort("ts_ns", "basis")
