"""What a reader of the views may never see, judged from what it saw and from the recording alone. Pure.

Rows only come, and a slice is there whole or not at all: so in the quotes nothing is twice, nothing is invented, the
rows of a minute never get fewer, and where one row of a slice shows, its whole interval is as recorded and no older.
In the candles a key is there once, nothing vanishes or goes back, what is final is exact, and of the bars that one group
of the log wrote either all show (or newer ones) or none. (All of this holds where the vendor only ever adds rows.)
"""

from __future__ import annotations

import attrs
import numpy as np
import polars as pl

MINUTE_NS = 60 * 10**9
PROBLEMS_MAX = 20
KEY = ["timeframe", "basis", "ts_ns"]
PRICES = ["open", "high", "low", "close", "ticks"]


@attrs.define(kw_only=True)
class Problems:
    """What was wrong, the first few in words."""

    total: int = 0
    told: list[str] = attrs.field(factory=list)

    def add(self, text: str) -> None:
        """One more."""
        self.total += 1
        if len(self.told) < PROBLEMS_MAX:
            self.told.append(text)


@attrs.define(kw_only=True)
class QuoteWatch:
    """Snapshots of `v_quotes`: ts_ns, bid, ask, accepted_at, seq of an interval of whole hours."""

    truth: pl.DataFrame
    from_ns: int
    to_ns: int
    problems: Problems = attrs.field(factory=Problems)
    snapshots: int = 0
    _counts: pl.DataFrame = attrs.field(init=False)
    _most: np.ndarray = attrs.field(init=False)
    _seen: list[pl.DataFrame] = attrs.field(factory=list, init=False)

    def __attrs_post_init__(self) -> None:
        self._counts = self.truth.group_by("ts_ns", "bid", "ask").agg(pl.len().alias("recorded"))
        self._most = np.zeros((self.to_ns - self.from_ns) // MINUTE_NS, np.int64)

    def see(self, from_ns: int, to_ns: int, rows: pl.DataFrame) -> None:
        """One snapshot of [from_ns, to_ns), whole minutes of the span."""
        self.snapshots += 1
        doubles = len(rows) - rows.select("accepted_at", "seq").n_unique()
        if doubles:
            self.problems.add(f"snapshot {self.snapshots}: {doubles} identities are there twice")
        self._nothing_invented(rows)
        self._nothing_lost(from_ns, to_ns, rows)
        self._seen.append(
            rows.group_by((pl.col("ts_ns") // MINUTE_NS).alias("minute"), "accepted_at")
            .agg(pl.len().cast(pl.Int64).alias("n"))
            .with_columns(pl.lit(self.snapshots).alias("snapshot"))
        )

    def _nothing_invented(self, rows: pl.DataFrame) -> None:
        found = rows.group_by("ts_ns", "bid", "ask").agg(pl.len().alias("n"))
        wrong = found.join(self._counts, on=["ts_ns", "bid", "ask"], how="left").filter(
            pl.col("recorded").is_null() | (pl.col("n") > pl.col("recorded"))
        )
        if len(wrong):
            self.problems.add(
                f"snapshot {self.snapshots}: {len(wrong)} ticks more often than recorded: {wrong.rows()[:3]}"
            )

    def _nothing_lost(self, from_ns: int, to_ns: int, rows: pl.DataFrame) -> None:
        first, last = ((ns - self.from_ns) // MINUTE_NS for ns in (from_ns, to_ns))
        minutes = (rows["ts_ns"].to_numpy() - from_ns) // MINUTE_NS
        counts = np.bincount(minutes, minlength=last - first)
        fewer = np.flatnonzero(counts < self._most[first:last])
        if len(fewer):
            at = fewer[0]
            self.problems.add(
                f"snapshot {self.snapshots}: {len(fewer)} minutes have fewer rows than before, the first "
                f"{int(counts[at])} instead of {int(self._most[first + at])} at {from_ns + int(at) * MINUTE_NS}"
            )
        self._most[first:last] = np.maximum(counts, self._most[first:last])

    def finish(self, slices: pl.DataFrame) -> int:
        """Look for half slices, now that all are known (from_ns, to_ns, revision); how many sights of one there were."""
        seen = pl.concat(self._seen) if self._seen else pl.DataFrame()
        if seen.is_empty():
            return 0
        per_minute = self.truth.group_by((pl.col("ts_ns") // MINUTE_NS).alias("minute")).agg(pl.len().alias("n"))
        known = slices.select(
            (pl.col("from_ns") // MINUTE_NS).alias("first"), (pl.col("to_ns") // MINUTE_NS).alias("stop"),
            pl.col("revision").alias("accepted_at"),
        ).with_row_index("slice")  # fmt: skip
        inside = (pl.col("minute") >= pl.col("first")) & (pl.col("minute") < pl.col("stop"))
        wanted = (
            known.join(per_minute, how="cross")
            .filter(inside)
            .group_by("slice")
            .agg(pl.col("n").sum().alias("recorded"))
        )
        sights = seen.join(known, on="accepted_at").filter(inside).select("snapshot", "slice").unique()
        total = 0
        for part in sights.partition_by("snapshot"):
            total += len(part)
            self._whole(part.join(known, on="slice").join(wanted, on="slice"), seen)
        return total

    def _whole(self, sights: pl.DataFrame, seen: pl.DataFrame) -> None:
        number = int(sights["snapshot"][0])
        rows = seen.filter(pl.col("snapshot") == number)
        for one in sights.iter_rows(named=True):
            held = rows.filter((pl.col("minute") >= one["first"]) & (pl.col("minute") < one["stop"]))
            older = held.filter(pl.col("accepted_at") < one["accepted_at"])
            if held["n"].sum() != one["recorded"] or len(older):
                self.problems.add(
                    f"snapshot {number}: half a slice: {held['n'].sum()} of {one['recorded']} rows, {older['n'].sum()} of "
                    f"them older, in minutes {one['first']} to {one['stop']} of revision {one['accepted_at']}"
                )


@attrs.define(kw_only=True)
class CandleWatch:
    """Snapshots of `candles_latest`: KEY, PRICES, revision, final of an interval."""

    truth: pl.DataFrame
    problems: Problems = attrs.field(factory=Problems)
    snapshots: int = 0
    _newest: pl.DataFrame = attrs.field(init=False, default=None)
    _seen: list[tuple[int, int, pl.DataFrame]] = attrs.field(factory=list, init=False)

    def see(self, from_ns: int, to_ns: int, bars: pl.DataFrame) -> None:
        """One snapshot of the bars that begin in [from_ns, to_ns)."""
        self.snapshots += 1
        doubles = len(bars) - bars.select(KEY).n_unique()
        if doubles:
            self.problems.add(f"snapshot {self.snapshots}: {doubles} keys are there twice")
            return
        self._final_is_exact(bars)
        if self._newest is None:
            self._newest = bars
        else:
            self._nothing_goes_back(from_ns, to_ns, bars)
            self._newest = pl.concat([self._newest.join(bars, on=KEY, how="anti"), bars])
        self._seen.append((from_ns, to_ns, bars.select(*KEY, "revision")))

    def _final_is_exact(self, bars: pl.DataFrame) -> None:
        final = bars.filter(pl.col("final"))
        wrong = final.join(self.truth, on=[*KEY, *PRICES], how="anti")
        if len(wrong):
            self.problems.add(
                f"snapshot {self.snapshots}: {len(wrong)} final bars are not as recorded: {wrong.rows()[:2]}"
            )

    def _nothing_goes_back(self, from_ns: int, to_ns: int, bars: pl.DataFrame) -> None:
        before = self._newest.filter((pl.col("ts_ns") >= from_ns) & (pl.col("ts_ns") < to_ns))
        both = before.join(bars, on=KEY, how="left", suffix="_now")
        worse = both.filter(
            pl.col("revision_now").is_null()
            | (pl.col("revision_now") < pl.col("revision"))
            | (pl.col("ticks_now") < pl.col("ticks"))
            | (pl.col("final") & ~pl.col("final_now"))
        )
        if len(worse):
            self.problems.add(f"snapshot {self.snapshots}: {len(worse)} bars went back: {worse.rows()[:2]}")

    def finish(self, written: pl.DataFrame) -> int:
        """Look for half groups, now that all rows ever written are known (KEY, revision); sights of a group."""
        total = 0
        for number, (from_ns, to_ns, bars) in enumerate(self._seen, 1):
            shown = bars.select("revision").unique()
            inside = (pl.col("ts_ns") >= from_ns) & (pl.col("ts_ns") < to_ns)
            owed = written.filter(inside).join(shown, on="revision", how="semi")
            total += len(shown)
            late = owed.join(bars, on=KEY, how="left", suffix="_now").filter(
                pl.col("revision_now").is_null() | (pl.col("revision_now") < pl.col("revision"))
            )
            if len(late):
                self.problems.add(
                    f"snapshot {number}: half a group: {len(late)} bars of a revision that shows elsewhere: {late.rows()[:2]}"
                )
        return total
