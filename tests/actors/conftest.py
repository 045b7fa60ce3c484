"""Shared fixtures of the rooms: real recordings, where they are."""

import datetime
import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
from hypothesis import settings

from actors.market.rules import validate_quotes

# No deadlines: on a busy machine they measure the machine (seen: 446 ms on an empty example).
settings.register_profile("dev", max_examples=25, deadline=None)
settings.register_profile("ci", max_examples=300, deadline=None, derandomize=True, print_blob=True)
settings.register_profile("soak", max_examples=20_000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))

NS_PER_DAY = 86_400 * 10**9
FIXED_UTC_OFFSET_HOURS = {"oanda": 0, "fxcm": -5}  # clock of each feed's files: DATA 1 and 2
TICK_DAYS = [f"201405{day:02d}" for day in (1, 2, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15)]


class LeanForex:
    """One feed of Lean's EURUSD files: ticks as accepted rows, the vendor's minutes as text."""

    def __init__(self, folder: Path, feed: str) -> None:
        self.folder, self.feed = folder / feed, feed

    def ticks(self, day: str) -> pa.RecordBatch:
        table = self._table("tick", day, 3, pa.float64())
        ts_ns = self._starts(day, table)
        got = validate_quotes(
            "C:EURUSD",
            self.feed,
            ts_ns,
            table.column("f1").to_numpy(),
            table.column("f2").to_numpy(),
            now_ns=int(ts_ns[-1]) + NS_PER_DAY,
            raw=lambda rows: [""] * len(rows),
        )
        assert got.rejected.num_rows == 0
        return got.rows

    def minutes(self, day: str) -> dict[tuple[str, int], tuple[str, ...]]:
        """(basis, start ns) -> open high low close as written."""
        table = self._table("minute", day, 11, pa.string())
        starts = self._starts(day, table)
        columns = [table.column(f"f{i}").to_pylist() for i in range(11)]
        bid, ask = zip(*columns[1:5], strict=True), zip(*columns[6:10], strict=True)
        rows = {("bid", int(t)): prices for t, prices in zip(starts, bid, strict=True)}
        return rows | {("ask", int(t)): prices for t, prices in zip(starts, ask, strict=True)}

    def _starts(self, day: str, table: pa.Table) -> np.ndarray:
        date = datetime.date(int(day[:4]), int(day[4:6]), int(day[6:]))
        base_ns = (date - datetime.date(1970, 1, 1)).days * NS_PER_DAY
        return base_ns - FIXED_UTC_OFFSET_HOURS[self.feed] * 3600 * 10**9 + self._ms(table) * 1_000_000

    def _ms(self, table: pa.Table) -> np.ndarray:
        return table.column("f0").cast(pa.int64()).to_numpy()

    def _table(self, what: str, day: str, columns: int, kind: pa.DataType) -> pa.Table:
        with zipfile.ZipFile(self.folder / what / "eurusd" / f"{day}_quote.zip") as archive:
            (name,) = archive.namelist()
            text = archive.read(name)
        types = {"f0": pa.int64()} | {f"f{i}": kind for i in range(1, columns)}
        return pyarrow.csv.read_csv(
            io.BytesIO(text),
            read_options=pyarrow.csv.ReadOptions(autogenerate_column_names=True),
            convert_options=pyarrow.csv.ConvertOptions(column_types=types),
        )


@pytest.fixture(scope="session")
def lean_forex():
    """feed name -> LeanForex; skips, saying what is not covered, when the recordings are not there."""
    default = Path(__file__).resolve().parents[3] / "shared" / "data"
    folder = Path(os.environ.get("HOLDFAST_SHARED_DATA", default)) / "lean" / "Data" / "forex"
    if not folder.is_dir():
        pytest.skip("NOT COVERED: candles against the vendors' own minutes, the recordings are not on this machine")
    return lambda feed: LeanForex(folder, feed)


@pytest.fixture(scope="session")
def tick_days():
    """The days of both feeds that have ticks."""
    return TICK_DAYS
