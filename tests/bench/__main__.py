"""`make bench`: figures as ratios to an anchor measured in the same run; a table, and build/bench.json."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.bench import history_run, live_delivery, live_run, log_backlog, log_reading, log_writer, supervision
from tests.bench.figure import Figure

ROOT = Path(__file__).resolve().parents[2]
BENCHES: dict[str, Callable[[], Iterator[Figure]]] = {
    "history_run": history_run.figures,
    "live_delivery": live_delivery.figures,
    "live_run": live_run.figures,
    "supervision": supervision.figures,
    "log_writer": log_writer.figures,
    "log_reading": log_reading.figures,
    "log_backlog": log_backlog.figures,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*BENCHES, []], help="which (default: all)")
    args = parser.parse_args()
    figures: list[Figure] = []
    for name in args.names or BENCHES:
        for figure in BENCHES[name]():
            figures.append(figure)
            print(figure.line(), flush=True)
    out = ROOT / "build" / "bench.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps([figure.as_json() for figure in figures], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
