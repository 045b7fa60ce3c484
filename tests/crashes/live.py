"""kill -9 of anything, in any combination, while a recording is played live, and one gap in the stream without a sign.

At the end, after the last confirmation: `pipeline verify` is clean, both views are those of an undisturbed history run
of the same days and what an independent reader makes of the files; two readers polled the views all the time and never
saw a double or a half slice.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
import urllib.error
from collections import Counter
from contextlib import suppress
from pathlib import Path

import attrs
import polars as pl

from tests.crashes.killing import combination, kill, summary
from tests.crashes.outage import writes_held_up
from tests.crashes.readers import Readers
from tests.crashes.watch import CandleWatch, QuoteWatch
from tests.support import replayed
from tests.support.pipeline import Pipeline
from tests.support.replayed import Days

DAYS = ("20140506", "20140507", "20140508", "20140509")
"""Tuesday to Friday: the market is open all the time up to Friday 21:00Z."""
ROUND_S = 9.0
"""A round lasts about so long: with it and the speed the recording is still being played in the last one."""
GAP_ROWS = 300
OUTAGE_EVERY = 3
"""Rounds: before the first of them PostgreSQL takes no row for OUTAGE_S, while the stream goes on."""
OUTAGE_S = 14.0
"""Two hours at the usual speed: both are confirmed while their live rows wait."""
TRIES_PER_ROUND = 3
"""A round that found all its victims down does not count."""
PATIENCE_S = 900.0
WRITTEN_SQL = (
    "SELECT timeframe, basis, toUnixTimestamp64Milli(ts) * 1000000 AS ts_ns, revision FROM market.candles FINAL "
    f"WHERE symbol = '{replayed.SYMBOL}'"
)


@attrs.define(kw_only=True)
class Run:
    """One live run that is being killed."""

    pipeline: Pipeline
    rng: random.Random
    victims: list[str]
    kills: Counter[str] = attrs.field(factory=Counter)
    gap_rows: int = 0
    outages: int = 0

    def rounds(self, count: int, gap_round: int) -> None:
        """Kill something `count` times, and start again what nobody else starts. Raises: SystemExit when it cannot."""
        self.pipeline.start()
        done = 0
        for _ in range(count * TRIES_PER_ROUND):
            if done // OUTAGE_EVERY >= self.outages:
                self.outages += self._outage(done + 1)
            if done >= gap_round and not self.gap_rows:
                self.gap_rows = self._silent_gap()
            done += self._round(done + 1)
            if done == count:
                break
        else:
            print(f"FAILED only {done} rounds found anything alive")
            raise SystemExit(1)
        while not self.gap_rows:
            self.still_runs(count)
            self.gap_rows = self._silent_gap()

    def _round(self, n: int) -> bool:
        """Kill some; False: all of them were down already."""
        whole = self.rng.random() < 0.5 and self._until_whole()
        wait_s = self.rng.uniform(0.3, 7.0)
        time.sleep(wait_s)
        self.still_runs(n)
        market = self.market_now()
        wanted = combination(self.rng, self.victims)
        hit = kill(self.pipeline, wanted, self.rng)
        self.kills.update(hit)
        down = " ".join(name for name in wanted if name not in hit)
        print(
            f"round {n}: {wait_s:.2f} s{' after all were up' if whole else ''}, market {market}: "
            f"kill -9 {' '.join(hit) or 'nothing'}{f' (was down: {down})' if down else ''}",
            flush=True,
        )
        if "pipeline" in hit:
            time.sleep(self.rng.choice((0.0, self.rng.uniform(0.0, 2.0))))
            self.pipeline.start()
        return bool(hit)

    def _outage(self, n: int) -> bool:
        """Live rows pile up before PostgreSQL, and slices over them; False: not everything was up."""
        if not self._until_whole():
            return False
        time.sleep(2)
        self.still_runs(n)
        with suppress(KeyError, ValueError):
            if writes_held_up(self.pipeline.endpoints()["timescale"], OUTAGE_S):
                print(f"PostgreSQL took no rows for {OUTAGE_S:g} s, up to market {self.market_now()}", flush=True)
                return True
        return False

    def _until_whole(self, timeout_s: float = 30) -> bool:
        """Wait until the market's stream has a client and both databases are listed; whether they came in time."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            with suppress(OSError, KeyError, ValueError):
                endpoints = self.pipeline.endpoints()
                lanes = replayed.ask(f"{endpoints['market']}/oracle/stream", 2)["lanes"]
                if {"timescale", "clickhouse"} <= endpoints.keys() and any(
                    one["connections"] for one in lanes.values()
                ):
                    return True
            time.sleep(0.3)
        return False

    def still_runs(self, n: int) -> None:
        """Raises: SystemExit when the pipeline ended by itself."""
        assert self.pipeline.process is not None
        if self.pipeline.process.poll() is not None:
            code = self.pipeline.process.returncode
            print(f"FAILED round {n}: the pipeline ended by itself, exit {code}\n{self.pipeline.log_text()[-5000:]}")
            raise SystemExit(1)

    def market_now(self) -> str:
        """For people."""
        try:
            return str(replayed.ask(f"{self.pipeline.endpoints()['market']}/oracle/stream", 2)["market_now"])[:19]
        except (OSError, KeyError, ValueError):
            return "down"

    def _silent_gap(self, timeout_s: float = 90) -> int:
        """Rows that the stream left out without a sign; 0 when the simulator was not there to do it."""
        try:
            market = self.pipeline.wait_endpoint("market")
            number = replayed.disturb(market, fault="gap", rows=GAP_ROWS, when={"after_s": 3})
            deadline = time.monotonic() + timeout_s
            while time.monotonic() < deadline:
                fired = [one for one in replayed.ask(f"{market}/oracle/faults")["fired"] if one["armed"] == number]
                if fired and fired[0]["over"]:
                    print(f"a gap without a sign: {fired[0]['rows']} rows at {fired[0]['market']}", flush=True)
                    return int(fired[0]["rows"])
                time.sleep(0.2)
        except (OSError, urllib.error.URLError, TimeoutError, ValueError) as error:
            print(f"no gap yet: {error}", flush=True)
        return 0


def days_for(work: Path, rounds: int, speed: float) -> Days | None:
    """Whole hours of the recording, as many as the rounds need, from two to 84."""
    lasts_s = rounds * ROUND_S + (rounds // OUTAGE_EVERY + 1) * OUTAGE_S
    hours = min(max(2, round(lasts_s * speed / 3600) + 1), 84)
    return replayed.link_days(work, DAYS[: (hours + 23) // 24], hours=hours)


def main(args: argparse.Namespace, work: Path) -> int:
    """Exit code."""
    days = days_for(work, args.rounds, args.speed)
    if days is None:
        print("NOT COVERED: crashes of a live run over real ticks, no recorded data beside this checkout")
        return 0
    print(f"{days.start} to {days.end} at {args.speed:g}x, {len(days.ticks())} ticks", flush=True)
    quiet = replayed.history_run(work / "quiet", days)
    print(f"undisturbed history run: {len(quiet[0])} quotes, {len(quiet[1])} bars", flush=True)
    (work / "killed").mkdir()
    extra = ("downloader.confirm=false",) if args.mutant == "no-confirmation" else ()
    pipeline = replayed.live(work / "killed" / "data", days, args.speed, *extra)
    small = args.mutant == "no-after-mark" or args.seed % 2 == 0  # the usual ones must be crashed too
    pipeline.module = ("tests.crashes.small_batches", "small" if small else "usual", args.mutant or "none")
    rng = random.Random(args.seed)
    run = Run(pipeline=pipeline, rng=rng, victims=args.victims.split(","))
    readers = Readers(
        pipeline=pipeline, days=days, candles=CandleWatch(truth=days.bars()),
        quotes=QuoteWatch(truth=days.ticks(), from_ns=days.from_ns, to_ns=days.to_ns),
    )  # fmt: skip
    readers.start()
    try:
        began_s = time.monotonic()
        run.rounds(args.rounds, max(1, args.rounds // 2))
        print(f"{args.rounds} rounds in {time.monotonic() - began_s:.0f} s; killed: {summary(run.kills)}", flush=True)
        # After a double nothing more comes: the delivery reads it back too, and goes no further.
        problems = told(readers) or end(run, days, quiet, readers)
    finally:
        readers.stop()
        if pipeline.process is not None and pipeline.process.poll() is None:
            pipeline.stop()
        pipeline.stop_embedded()
    for problem in problems:
        print(f"FAILED {problem}", file=sys.stderr)
    print("FAILED" if problems else "all identical", flush=True)
    return 1 if problems else 0


def told(readers: Readers) -> list[str]:
    """What both readers have found so far."""
    both = (("v_quotes", readers.quotes), ("candles_latest", readers.candles))
    return [f"{name}: {text}" for name, watch in both for text in watch.problems.told]


def end(run: Run, days: Days, quiet: tuple[pl.DataFrame, pl.DataFrame], readers: Readers) -> list[str]:
    """Wait for the last confirmation, then compare everything."""
    pipeline, believed = run.pipeline, "downloader.confirm=false" in run.pipeline.settings
    took_s = replayed.wait_until_confirmed(
        pipeline, days, PATIENCE_S, status=("final", "empty", "live") if believed else ("final", "empty")
    )
    print(f"confirmed {took_s:.0f} s after the last round", flush=True)
    time.sleep(2)
    readers.stop()
    found = replayed.stored(pipeline, days)
    slices = pipeline.sql("timescale", replayed.SLICES_SQL)
    written = days.ended(pipeline.sql("clickhouse", WRITTEN_SQL))
    print(pipeline.sql("clickhouse", replayed.REVISIONS_SQL), flush=True)
    code = pipeline.stop()
    problems = [] if code == 0 else [f"the ordered stop: exit {code}"]
    problems += replayed.against_the_file(days, *found) + replayed.against_history(days, quiet, found)
    problems += verified(pipeline, days)
    print(f"v_quotes {len(found[0])} rows, candles_latest {len(found[1])} rows, {len(slices)} slices", flush=True)
    return problems + what_readers_saw(readers, days, slices, written)


def verified(pipeline: Pipeline, days: Days) -> list[str]:
    """What `pipeline verify` has to say, over the whole ledger and of the span's coverage."""
    done = pipeline.call("verify", "--json", "--from", days.start, "--to", days.end, timeout_s=300)
    try:
        ledgers = json.loads(done.stdout)["sinks"]
    except ValueError:
        ledgers = []
    clean = done.returncode == 0 and ledgers and not any(s["unaccounted"] or s["duplicated"] for s in ledgers)
    print(f"verify: exit {done.returncode}, {len(ledgers)} sinks", flush=True)
    return [] if clean else [f"verify: exit {done.returncode}: {done.stdout[-1500:]}{done.stderr[-1500:]}"]


def what_readers_saw(readers: Readers, days: Days, slices: pl.DataFrame, written: pl.DataFrame) -> list[str]:
    """Problems of both readers; a reader that saw next to nothing is one."""
    found = list(readers.broken)
    inside = slices.filter((pl.col("from_ns") >= days.from_ns) & (pl.col("to_ns") <= days.to_ns))
    sights = {"v_quotes": readers.quotes.finish(inside), "candles_latest": readers.candles.finish(written)}
    for name, watch in (("v_quotes", readers.quotes), ("candles_latest", readers.candles)):
        print(
            f"reader of {name}: {watch.snapshots} snapshots, {sights[name]} sights of a slice or group, "
            f"{watch.problems.total} problems",
            flush=True,
        )
        if watch.snapshots < 10 or not sights[name]:
            found.append(f"{name}: the reader saw too little: {watch.snapshots} snapshots, {readers.misses}")
    print(f"polls that found no server: {readers.misses}", flush=True)
    return found + told(readers)
