"""`make live-proof`: days of a recording played live with disturbances equal a history run of the same days.

Three variants, one after the other: ten disconnects of random length; the same with 1 % of the ticks up to 30 minutes
late; the same with the last 1,000 events again after each reconnect. After the last confirmation both views must hold
what the history run and the files hold, every bar final; what revised a bar is counted by its cause.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

import attrs
import polars as pl

from tests.support import replayed
from tests.support.pipeline import Pipeline
from tests.support.replayed import Days

VARIANTS: dict[str, tuple[dict[str, object], ...]] = {
    "disconnects": (),
    "late": ({"fault": "late", "p": 0.01, "delay_s": 1800, "for_s": 100_000},),
    "replay": ({"fault": "replay", "n": 1000},),
}
VERSIONS_SQL = (
    "SELECT timeframe, basis, toUnixTimestamp64Milli(ts) * 1000000 AS ts_ns, open, high, low, close, ticks, final, "
    f"revision FROM market.candles FINAL WHERE symbol = '{replayed.SYMBOL}' ORDER BY timeframe, basis, ts, revision"
)


@attrs.frozen(kw_only=True)
class Plan:
    """How a run is played."""

    days: Days
    speed: float
    disconnects: int
    seed: int
    faults: tuple[dict[str, object], ...] = ()

    @property
    def plays_s(self) -> float:
        """Real seconds that the span lasts."""
        return (self.days.to_ns - self.days.from_ns) / 1e9 / self.speed

    def all_faults(self) -> list[dict[str, object]]:
        """With the disconnects: spread over the run, each up to a third of its share long, drawn by seed."""
        rng = random.Random(self.seed)
        share = self.plays_s / (self.disconnects + 1)
        return [
            *self.faults,
            *(
                {
                    "fault": "disconnect",
                    "when": {"after_s": round((n + rng.uniform(0.7, 1.3)) * share, 2)},
                    "for_s": round(rng.uniform(0, share / 3), 2),
                }
                for n in range(self.disconnects)
            ),
        ]


def prove(work: Path, plan: Plan, quiet: tuple[pl.DataFrame, pl.DataFrame]) -> list[str]:
    """Play it, wait for the last confirmation, compare; problems in words. Prints figures."""
    work.mkdir()
    pipeline = replayed.live(work / "data", plan.days, plan.speed)
    pipeline.start()
    try:
        market = pipeline.wait_endpoint("market")
        for fault in plan.all_faults():
            replayed.disturb(market, **fault)
        took_s = replayed.wait_until_confirmed(pipeline, plan.days, plan.plays_s + 300)
        fired = replayed.ask(f"{market}/oracle/faults")
        print(
            f"  confirmed after {took_s:.0f} s; faults {fired['by_kind']}; stream {stream_totals(market)}", flush=True
        )
        found = replayed.stored(pipeline, plan.days)
        print(told(revisions(pipeline, plan.days)), flush=True)
    finally:
        code = pipeline.stop()
    problems = [] if code == 0 else [f"the ordered stop: exit {code}"]
    wanted = {str(fault["fault"]) for fault in plan.all_faults()}
    if missing := wanted - fired["by_kind"].keys():
        problems.append(f"faults that never came: {missing}")
    if (count := fired["by_kind"].get("disconnect", 0)) != plan.disconnects:
        problems.append(f"{count} disconnects instead of {plan.disconnects}")
    print(f"  v_quotes {len(found[0])} rows, candles_latest {len(found[1])} rows", flush=True)
    problems += replayed.against_the_file(plan.days, *found) + replayed.against_history(plan.days, quiet, found)
    return problems + verified(pipeline, plan.days)


def verified(pipeline: Pipeline, days: Days) -> list[str]:
    """`pipeline verify` says yes, to the ledger and to the span."""
    done = pipeline.call("verify", "--from", days.start, "--to", days.end, timeout_s=300)
    return (
        [] if done.returncode == 0 else [f"verify: exit {done.returncode}: {done.stdout[-1500:]}{done.stderr[-500:]}"]
    )


def stream_totals(market: str) -> dict[str, int]:
    """Rows by what became of them on the stream."""
    totals: dict[str, int] = replayed.ask(f"{market}/oracle/stream/{replayed.SYMBOL}")["totals"]
    return totals


def revisions(pipeline: Pipeline, days: Days) -> pl.DataFrame:
    """Every version of every bar by what caused it: timeframe, nth (0 = first), cause, what (changed), versions.

    The revision of a bar is the stamp of the group that caused it, so a slice is found by its coverage record.
    """
    versions = days.ended(pipeline.sql("clickhouse", VERSIONS_SQL)).with_columns(pl.col("final").cast(pl.Boolean))
    slices = pipeline.sql("timescale", replayed.SLICES_SQL).select("revision", "status").unique("revision")
    key, content = ["timeframe", "basis", "ts_ns"], ["open", "high", "low", "close", "ticks"]
    cause = (
        pl.when(pl.col("status").is_null()).then(pl.lit("live rows or watermark"))
        .when(pl.col("status") == "live").then(pl.lit("slice of a gap (provisional)"))
        .otherwise(pl.lit("confirmation (final slice)"))
    )  # fmt: skip
    changed = pl.any_horizontal(pl.col(c) != pl.col(c).shift(1).over(key) for c in content)
    became_final = pl.col("final") & ~pl.col("final").shift(1).over(key)
    what = (
        pl.when(changed.is_null()).then(pl.lit("first version"))
        .when(changed).then(pl.lit("other content"))
        .when(became_final).then(pl.lit("only final"))
        .otherwise(pl.lit("nothing new"))
    )  # fmt: skip
    joined = versions.join(slices, on="revision", how="left", maintain_order="left")
    counted = joined.with_columns(cause.alias("cause"), what.alias("what")).group_by("timeframe", "cause", "what")
    return counted.agg(pl.len().alias("versions")).sort("what", "cause", "timeframe")


def told(found: pl.DataFrame) -> str:
    """One line per cause, timeframes side by side."""
    lines = []
    for (cause, what), part in found.group_by("cause", "what", maintain_order=True):
        counts = ", ".join(f"{row['timeframe']} {row['versions']}" for row in part.iter_rows(named=True))
        lines.append(f"  {what} by {cause}: {part['versions'].sum()} ({counts})")
    return "\n".join(sorted(lines))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=4)
    parser.add_argument("--speed", type=float, default=500)
    parser.add_argument("--days", default="20140506,20140507,20140508", help="adjacent days of the recording")
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--disconnects", type=int, default=10)
    args = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="holdfast-live-"))
    days = replayed.link_days(work, args.days.split(","))
    if days is None:
        print("NOT COVERED: days played live, no recorded data beside this checkout")
        return 0
    code = 0
    try:
        print(f"seed {args.seed}, {days.start} to {days.end} at {args.speed:g}x, {len(days.ticks())} ticks", flush=True)
        quiet = replayed.history_run(work / "quiet", days)
        print(f"history run: {len(quiet[0])} quotes, {len(quiet[1])} bars", flush=True)
        for name in args.variants.split(","):
            began_s = time.monotonic()
            print(f"{name}:", flush=True)
            plan = Plan(
                days=days, speed=args.speed, disconnects=args.disconnects, seed=args.seed, faults=VARIANTS[name]
            )
            problems = prove(work / name, plan, quiet)
            for problem in problems:
                print(f"  FAILED {problem}", flush=True)
            print(f"  {'FAILED' if problems else 'identical'} in {time.monotonic() - began_s:.0f} s", flush=True)
            code = code or bool(problems)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(f"seed {args.seed}: exit {int(code)}", flush=True)
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
