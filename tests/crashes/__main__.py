"""`make crashes SEED= ROUNDS= VICTIMS=`: kill -9 at random moments; exit 0 when nothing came of it, 1 on any difference.

The default is the live run (live.py); `--history` is the history run alone (history.py).
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.crashes import history, live
from tests.crashes.killing import VICTIMS
from tests.crashes.mutants import MUTANTS


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--victims", default=",".join(VICTIMS), help="comma list of " + ",".join(VICTIMS))
    parser.add_argument("--speed", type=float, default=500, help="live: times as fast as real time")
    parser.add_argument("--mutant", default="", choices=("", *MUTANTS), help="live: a broken pipeline, must fail")
    parser.add_argument("--history", action="store_true", help="a history run instead of a live one")
    parser.add_argument("--days", type=int, default=15, help="history: days of the recording from 2014-05-01")
    parser.add_argument("--latency-ms", type=int, default=150, help="history: slows the simulator")
    parser.add_argument("--keep", action="store_true", help="leave the data directories")
    args = parser.parse_args()
    if unknown := set(args.victims.split(",")) - {*VICTIMS, "market"}:
        parser.error(f"--victims {','.join(unknown)}: must be of {', '.join(VICTIMS)}")
    work = Path(tempfile.mkdtemp(prefix="holdfast-crashes-"))
    kind = "history" if args.history else f"live {args.mutant}".strip()
    print(f"seed {args.seed}, {kind}, {args.rounds} rounds, victims {args.victims}, work {work.name}", flush=True)
    code = 1
    try:
        code = (history if args.history else live).main(args, work)
    except AssertionError as error:
        print(f"FAILED {error}", file=sys.stderr)
    finally:
        if not args.keep:
            shutil.rmtree(work, ignore_errors=True)
        print(f"seed {args.seed}: exit {code}", flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
