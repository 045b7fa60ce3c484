"""Runs every mutant until a seed kills it, and writes the table into docs/simulation.md."""

from __future__ import annotations

import time
from pathlib import Path

import tests.simulation.live_mutants  # noqa: F401 (they register themselves)
from tests.simulation.draw import draw
from tests.simulation.mutants import MUTANTS

LIVE_AREAS = frozenset({"seam", "live", "live aggregation"})
"""Their mutants change nothing in seeds without a stream, so those are not run."""
SEEDS = 400
"""Each must die within the first so many."""
PAGE = Path(__file__).parents[2] / "docs" / "simulation.md"
BEGIN, END = "<!-- mutants: begin (made by a command, see above) -->", "<!-- mutants: end -->"


def hunt(names: list[str], *, jobs: int, write: bool) -> int:
    """Run each until it dies; 1 when one survives."""
    from tests.simulation.campaign import run_seeds

    began_s = time.monotonic()
    lines, alive = [], []
    for one in [m for m in MUTANTS if not names or m.name in names]:
        live_only = one.area in LIVE_AREAS
        seeds = [s for s in range(SEEDS) if not live_only or draw(s).live is not None]
        results = run_seeds(seeds, jobs=jobs, mutant=one.name, stop_at_failure=True)
        killer = min((r for r in results if r.failure), key=lambda r: r.seed, default=None)
        if killer is None:
            alive.append(one.name)
            how = f"**survived {SEEDS} seeds**"
        else:
            how = f"seed {killer.seed} | {_short(killer.failure)}"
        print(f"{one.name:28} {how}", flush=True)
        lines.append(f"| {one.area} | {one.what} | {how} |")
    print(f"{len(lines) - len(alive)} of {len(lines)} mutants died; {time.monotonic() - began_s:.0f} s")
    if write and not names:
        table = "| area | mutant | first seed that kills it | by |\n|---|---|---|---|\n" + "\n".join(lines)
        before, _, rest = PAGE.read_text().partition(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n{table}\n{END}{rest.partition(END)[2]}")
    return 1 if alive else 0


def _short(failure: str) -> str:
    line = failure.strip().splitlines()[
        -1 if failure.startswith("Traceback") or failure.lstrip().startswith("+") else 0
    ]
    return line.replace("|", "/")[:110]
