"""`python -m tests.crashes.small_batches small|usual MUTANT|none run …`: the real `pipeline`, with small batches or its own.

In production live rows are a backlog, behind which the history lane may overtake them, from 20,000 rows on
(`actors.bridge.lanes.LIVE_ROWS_MAX`). Here every second group is: some seconds of a played recording are enough.
"""

from __future__ import annotations

import sys
from functools import partial

import actors.bridge.lanes as lanes
from actors.bridge.delivery import Delivery
from actors.bridge.plan import Coalescing
from supervisors import tree
from tests.crashes.mutants import MUTANTS

LIVE_ROWS_MAX = 1
"""A batch is one group: some 20 rows."""
ROWS_MIN = 20
"""History's tenth comes up after nine times as many live rows."""


def plant() -> None:
    """In this process, for good."""
    lanes.LIVE_ROWS_MAX = LIVE_ROWS_MAX
    tree.Delivery = partial(Delivery, coalescing=Coalescing(rows_min=ROWS_MIN))  # type: ignore[misc,assignment]


if __name__ == "__main__":
    size, mutant, *arguments = sys.argv[1:]
    if size == "small":
        plant()
    if mutant != "none":
        MUTANTS[mutant]()
    from supervisors.cli.main import main

    sys.exit(main(arguments))
