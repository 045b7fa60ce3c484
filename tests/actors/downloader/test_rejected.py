"""Rows that our rules refuse are kept where a person can look at them, and cost nobody anything else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pyarrow as pa
import pytest

from actors.downloader.jobs import HistoryJob
from actors.downloader.memory import MemoryHistory
from actors.downloader.port import Page
from actors.downloader.rejected import LETTERS_MAX, RejectedRows
from actors.market.rules import REJECTED
from runtime.actor import Seams, offload_inline
from runtime.board import Board
from runtime.clock import NS_PER_DAY, NS_PER_HOUR, SystemClock
from runtime.disk import MemoryDisk
from runtime.entropy import SeededEntropy
from runtime.errors import LogSyncFailed
from runtime.log.dead_letters import DeadLetters, Entry, read_letters

FOLDER = Path("/d")


def page(rows: list[tuple[str, str, int]]) -> Page:
    refused = pa.RecordBatch.from_pylist([dict(zip(REJECTED.names, row, strict=True)) for row in rows], schema=REJECTED)
    empty = pa.RecordBatch.from_pylist([], schema=REJECTED)
    return Page(rows=empty, proven_to_ns=0, request_id="r", rejected=refused)


def made(disk: MemoryDisk) -> RejectedRows:
    seams = Seams(clock=SystemClock(), entropy=SeededEntropy(1), offload=offload_inline, board=Board())
    letters = DeadLetters(disk=disk, directory=FOLDER, wall_ns=seams.clock.wall_ns, entropy=seams.entropy)
    return RejectedRows(letters=letters, seams=seams, version="0")


def kept(disk: MemoryDisk) -> list[Entry]:
    return list(read_letters(disk, FOLDER).values())


async def test_a_refused_row_is_kept_as_received_with_its_reason() -> None:
    disk = MemoryDisk()
    keep = made(disk)
    await keep("C:EURUSD", "quotes", page([('{"p": -1}', "price-not-positive", 7), ("<html>", "time-magnitude", 0)]))
    first, second = kept(disk)
    assert (first.letter.sink, first.letter.reason, first.letter.kind) == ("rules", "price-not-positive", "quotes")
    assert json.loads(first.letter.content) == {"symbol": "C:EURUSD", "ts_ns": 7, "raw": {"p": -1}}
    assert json.loads(second.letter.content)["raw"] == "<html>"
    assert "unknown time" in second.letter.error


async def test_the_same_row_fetched_again_is_the_same_letter_and_another_symbols_is_not() -> None:
    disk = MemoryDisk()
    keep = made(disk)
    for symbol in ("C:EURUSD", "C:EURUSD", "C:GBPUSD"):
        await keep(symbol, "quotes", page([("{}", "price-missing", 7)]))
    assert len(kept(disk)) == 2


async def test_a_page_of_nonsense_is_kept_in_part() -> None:
    disk = MemoryDisk()
    await made(disk)("C:EURUSD", "quotes", page([(f"{n}", "time-magnitude", 0) for n in range(5000)]))
    assert len(kept(disk)) == LETTERS_MAX


async def test_a_full_disk_or_another_writer_costs_the_copy_and_nothing_else() -> None:
    disk = MemoryDisk(capacity_bytes=10_000)
    rows: Any = page([("{}", "price-missing", 7)])
    keep = made(disk)
    await keep("C:EURUSD", "quotes", rows)
    disk.capacity_bytes = None
    await keep("C:EURUSD", "quotes", rows)  # space is back
    assert len(kept(disk)) == 1
    await made(disk)("C:GBPUSD", "quotes", rows)  # the first one still holds the lock
    assert len(kept(disk)) == 1


async def test_a_failing_disk_is_not_hidden() -> None:
    """Positive control of the test before: this one must stop the process."""
    disk = MemoryDisk()
    keep = made(disk)
    await keep("C:EURUSD", "quotes", page([("1", "price-missing", 7)]))
    disk.fail("sync")
    with pytest.raises(LogSyncFailed):
        await keep("C:EURUSD", "quotes", page([("2", "price-missing", 7)]))


async def test_a_download_keeps_what_the_rules_refuse_and_goes_on(kit: Any, autojump_clock: Any) -> None:
    """The whole way: vendor's page, rules, letter; the rows beside it are accepted, coverage counts the refused one."""
    to_ns = kit.NOW - NS_PER_DAY
    from_ns = to_ns - NS_PER_HOUR
    ticks = kit.make_ticks(1, from_ns, to_ns, 500)
    bad = attrs.evolve(ticks, bid=np.where(np.arange(500) == 77, -1.0, ticks.bid))
    history = HistoryJob(symbol="C:EURUSD", kind="quotes", from_ns=from_ns, to_ns=to_ns)
    disk = MemoryDisk()

    class Keeping(kit.Rig):  # type: ignore[misc]
        def actor(self, inbox: Any) -> Any:
            return attrs.evolve(super().actor(inbox), rejected=made(disk))

    rig = Keeping(source=lambda: MemoryHistory(ticks={"C:EURUSD": bad}), history=(history,))
    await rig.run_idle()
    [entry] = kept(disk)
    assert (entry.letter.reason, json.loads(entry.letter.content)["ts_ns"]) == (
        "price-not-positive",
        int(ticks.ts_ns[77]),
    )
    assert sum(kit.stored(rig.log, "history/C:EURUSD/quotes").values()) == 499
