"""kill -9 of exactly the processes that a run recorded."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

from tests.support.pipeline import Pipeline

RECORD = {"postgres": "postgres", "clickhouse": "clickhouse", "simulator": "market", "market": "market"}
VICTIMS = ("pipeline", "postgres", "clickhouse", "simulator")


def started_at(pid: int) -> int:
    """Field 22 of /proc/PID/stat: with the pid it names one process."""
    stat = Path(f"/proc/{pid}/stat").read_bytes()
    return int(stat[stat.rindex(b")") + 2 :].split()[19])


def kill_server(pipeline: Pipeline, victim: str) -> bool:
    """kill -9 of one embedded server; False: it was down already."""
    try:
        record = json.loads((pipeline.data_dir / "embedded" / f"{RECORD[victim]}.json").read_text())
        if not record["pid"] or started_at(record["pid"]) != record["start_ticks"]:
            return False
        os.kill(record["pid"], signal.SIGKILL)
    except (OSError, ValueError, KeyError):
        return False
    return True


def kill(pipeline: Pipeline, victims: list[str], rng: random.Random) -> list[str]:
    """kill -9 of all of them, at once or up to 0.3 s apart; those that were alive."""
    hit = []
    for victim in victims:
        if victim == "pipeline":
            pipeline.kill()
            hit.append(victim)
        elif kill_server(pipeline, victim):
            hit.append(victim)
        time.sleep(rng.choice((0.0, rng.uniform(0.0, 0.3))))
    return hit


def combination(rng: random.Random, victims: list[str]) -> list[str]:
    """Some of them, one more often than all, in random order."""
    return rng.sample(victims, min(len(victims), rng.choice((1, 1, 1, 2, 2, 3, 4))))


def summary(kills: Counter[str]) -> str:
    """`pipeline 12, postgres 9`."""
    return ", ".join(f"{name} {count}" for name, count in sorted(kills.items())) or "none"
