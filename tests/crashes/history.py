"""kill -9 at random moments of a history run, then compare with a run that was left alone.

Each round starts the pipeline, waits a random while, and kills the pipeline, PostgreSQL, ClickHouse or the simulator (by
the recorded pid of what this run started). The last start runs to its end. Exit 0: the views hold the same, bit for bit,
but for accepted_at, seq, revision and log columns, and `pipeline verify` is clean.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from pathlib import Path

import polars as pl

from tests.crashes.killing import kill
from tests.support import lean
from tests.support.pipeline import CANDLES_SQL, QUOTES_ALL_SQL, Pipeline


def main(args: argparse.Namespace, work: Path) -> int:
    """Exit code."""
    folder = lean.feed("oanda")
    if folder is None:
        print("NOT COVERED: crashes over real ticks, no recorded data beside this checkout")
        return 0
    return compare(*run_both(work, folder, args))


def run_both(work: Path, folder: Path, args: argparse.Namespace) -> tuple[Pipeline, Pipeline]:
    settings = (
        f"embedded.recording={folder}",
        'pipeline.symbols=["C:EURUSD"]',
        "downloader.history_from=2014-05-01",
        f"downloader.history_to=2014-05-{1 + args.days:02d}",
    )
    (work / "quiet").mkdir()
    quiet = Pipeline(work / "quiet" / "data", *settings)
    quiet.start("--until-idle")
    if quiet.wait(600) != 0:
        raise SystemExit(f"the undisturbed run failed:\n{quiet.log_text()[-4000:]}")
    (work / "killed").mkdir()
    killed = Pipeline(work / "killed" / "data", *settings, f"embedded.latency_ms={args.latency_ms}")
    crash_rounds(killed, random.Random(args.seed), args.rounds, args.victims.split(","))
    return quiet, killed


def crash_rounds(pipeline: Pipeline, rng: random.Random, rounds: int, victims: list[str]) -> None:
    survived_to_end = 0
    for n in range(rounds):
        if pipeline.process is None or pipeline.process.poll() is not None:
            pipeline.start("--until-idle")
        wait_s = rng.uniform(0.3, 4.0)
        time.sleep(wait_s)
        assert pipeline.process is not None
        if pipeline.process.poll() is not None:
            survived_to_end += 1
            if pipeline.process.returncode != 0:
                raise SystemExit(f"round {n}: exit {pipeline.process.returncode}\n{pipeline.log_text()[-4000:]}")
            continue
        victim = rng.choice(victims)
        kill(pipeline, [victim], rng)
        print(f"round {n + 1}: after {wait_s:.2f} s kill -9 {victim}", flush=True)
    if pipeline.process is None or pipeline.process.poll() is not None:
        pipeline.start("--until-idle")
    code = pipeline.wait(900)
    if code != 0:
        raise SystemExit(f"the last run: exit {code}\n{pipeline.log_text()[-4000:]}")
    print(f"{rounds} rounds; {survived_to_end} of them found the run already over", flush=True)


def compare(quiet: Pipeline, killed: Pipeline) -> int:
    problems = []
    for sink, query in (("timescale", QUOTES_ALL_SQL), ("clickhouse", CANDLES_SQL)):
        expected, found = quiet.sql(sink, query), killed.sql(sink, query)
        if not expected.equals(found):
            problems.append(f"{sink}: {len(found)} rows instead of {len(expected)}, or other content")
            print(difference(expected, found))
        else:
            print(f"{sink}: {len(found)} rows, identical", flush=True)
    done = killed.call("verify", "--json")
    if done.returncode != 0 or any(
        s["unaccounted"] or s["duplicated"]
        for s in json.loads(done.stdout or '{"sinks": [{"unaccounted": 1}]}')["sinks"]
    ):
        problems.append(f"verify: exit {done.returncode}: {done.stdout[-1500:]}{done.stderr[-1500:]}")
    for problem in problems:
        print(f"FAILED {problem}", file=sys.stderr)
    return 1 if problems else 0


def difference(expected: pl.DataFrame, found: pl.DataFrame) -> str:
    keys = expected.columns
    lost = expected.join(found, on=keys, how="anti", nulls_equal=True)
    extra = found.join(expected, on=keys, how="anti", nulls_equal=True)
    return f"missing: {lost.head(5)}\nextra: {extra.head(5)}"
