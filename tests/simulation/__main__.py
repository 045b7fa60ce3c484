"""`make simulate [FIRST=] [SEEDS=]`, and the ways to look closer.

python -m tests.simulation run [--first 0] [--seeds 200]      a campaign
python -m tests.simulation show SEED [--without CLASS …]      one seed, every event
python -m tests.simulation diff SEED                          two runs of one seed, the first event that differs
python -m tests.simulation shrink SEED                        which classes of faults the failure needs
python -m tests.simulation mutants [--write]                  each must die; --write puts the table into docs/simulation.md
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run")
    run.add_argument("--first", type=int, default=0)
    run.add_argument("--seeds", type=int, default=200)
    run.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    run.add_argument("--twice", type=int, default=-1, help="seeds to run again under another hash seed (a tenth)")
    worker = commands.add_parser("worker")
    worker.add_argument("--mutant", default="")
    show = commands.add_parser("show")
    show.add_argument("seed", type=int)
    show.add_argument("--without", nargs="*", default=[])
    show.add_argument("--mutant", default="")
    for name in ("diff", "shrink"):
        commands.add_parser(name).add_argument("seed", type=int)
    mutants = commands.add_parser("mutants")
    mutants.add_argument("--write", action="store_true")
    mutants.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    mutants.add_argument("names", nargs="*")
    args = parser.parse_args()
    return globals()[f"_{args.command}"](args)


def _run(args: argparse.Namespace) -> int:
    from tests.simulation.campaign import Campaign

    twice = args.twice if args.twice >= 0 else max(2, args.seeds // 10)
    return 0 if Campaign(first=args.first, seeds=args.seeds, jobs=args.jobs, checked_twice=twice).run() else 1


def _worker(args: argparse.Namespace) -> int:
    from tests.simulation.campaign import worker

    worker(sys.stdin, mutant=args.mutant)
    return 0


def _show(args: argparse.Namespace) -> int:
    from tests.simulation.campaign import run_seed

    result = run_seed(args.seed, keep=True, without=frozenset(args.without), mutant=args.mutant)
    print(result.trace)
    print(f"SEED={args.seed} {result.failure or 'fine'}; trace {result.digest}")
    return 1 if result.failure else 0


def _diff(args: argparse.Namespace) -> int:
    traces = [
        subprocess.run(
            [sys.executable, "-m", "tests.simulation", "show", str(args.seed)],
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=False,
        ).stdout.splitlines()
        for hash_seed in ("0", "4711")
    ]
    for number, (one, two) in enumerate(zip(*traces, strict=False)):
        if one != two:
            print(f"event {number}:\n  {one}\n  {two}")
            return 1
    print(f"the same {len(traces[0])} lines")
    return 0


def _shrink(args: argparse.Namespace) -> int:
    """Leave out one class of faults after the other, as long as it still fails."""
    from tests.simulation.campaign import run_seed
    from tests.simulation.draw import CLASSES, LIVE_CLASSES

    gone: frozenset[str] = frozenset()
    result = run_seed(args.seed)
    if not result.failure:
        print(f"SEED={args.seed} is fine")
        return 0
    for name in (*CLASSES, *LIVE_CLASSES, "clock_wrong"):
        fewer = run_seed(args.seed, without=gone | {name})
        if fewer.failure:
            gone, result = gone | {name}, fewer
    print(result.trace)
    print(
        f"SEED={args.seed} {result.failure}\nstill with: {', '.join(sorted((CLASSES.keys() | LIVE_CLASSES.keys()) - gone))}"
    )
    print(f"python -m tests.simulation show {args.seed} --without {' '.join(sorted(gone))}")
    return 1


def _mutants(args: argparse.Namespace) -> int:
    from tests.simulation.hunt import hunt

    return hunt(args.names, jobs=args.jobs, write=args.write)


if __name__ == "__main__":
    sys.exit(main())
