"""Dead letters are kept by key, over restarts and crashes, listed, marked for replay and dropped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import msgspec
import pytest

from actors.downloader.jobs import BackfillJob
from runtime.disk import MemoryDisk, RealDisk
from runtime.entropy import SeededEntropy
from runtime.log.dead_letters import DeadLetters, Entry, Letter, read_letters
from supervisors.cli.dead_letters import refetches, sent_again
from supervisors.cli.main import main

HOUR = 3_600_000_000_000
ROW = {"symbol": "C:EURUSD", "ts_ns": 400_000 * HOUR + 5, "raw": {"bid": 2.0, "ask": 1.0}}


def letter(row: int, **changes: Any) -> Letter:
    made = Letter(
        sink="rules", log_id="ab" * 16, partition=0, offset=-1, row=row, kind="quotes", reason="crossed",
        error="bid above ask", content=json.dumps(ROW), first_ns=10, last_ns=10, version="0.1.0",
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


def opened(disk: Any, folder: Path) -> DeadLetters:
    return DeadLetters(disk=disk, directory=folder, wall_ns=lambda: 5, entropy=SeededEntropy(1))


def test_a_row_that_comes_again_is_the_same_letter_with_a_later_last_attempt() -> None:
    disk, folder = MemoryDisk(), Path("/d")
    letters = opened(disk, folder)
    letters.add([letter(1), letter(2)])
    letters.decide([letter(1).key], "dropped")
    letters.add([letter(1, first_ns=20, last_ns=20)])
    disk.crash(keep=0.0)
    found = read_letters(disk, folder)
    assert [(e.letter.row, e.letter.first_ns, e.letter.last_ns, e.state) for e in found.values()] == [
        (1, 10, 20, "open"),
        (2, 10, 10, "open"),
    ]


def test_many_letters_are_one_group() -> None:
    disk = MemoryDisk()
    opened(disk, Path("/d")).add([letter(n, content=json.dumps("x" * 1000)) for n in range(3000)])
    assert len(read_letters(disk, Path("/d"))) == 3000


def test_the_commands(tmp_path: Path, capsys: Any) -> None:
    def run(*words: str) -> tuple[int, str, str]:
        code = main(["dead-letters", *words, "--set", f"pipeline.data_dir={tmp_path}"])
        said = capsys.readouterr()
        return code, said.out, said.err

    assert run("list") == (0, "0 dead letters\n", "")
    letters = opened(RealDisk(), tmp_path / "dead-letters")
    letters.add([letter(1), letter(2), letter(3, reason="late")])
    code, out, _ = run("list")  # also while somebody writes
    assert (code, out.splitlines()[-1]) == (0, "3 dead letters")
    code, _, err = run("replay")
    assert (code, "in use" in err) == (78, True)
    letters.close()
    assert json.loads(run("list", "--json", "--reason", "late")[1])["row"] == ROW
    assert json.loads(run("show", letter(2).key)[1])["error"] == "bid above ask"
    assert run("drop")[0] == 78
    assert run("drop", letter(2).key)[1] == "1 dropped\n"
    assert run("replay")[1].startswith("2 marked for replay")
    jobs = [BackfillJob.from_json(path.read_bytes()) for path in (tmp_path / "jobs").glob("*.json")]
    asked = {(job.symbols, job.kinds, job.refetch, job.from_ns, job.to_ns) for job in jobs}  # both in the same hour
    assert asked == {(("C:EURUSD",), ("quotes",), True, 400_000 * HOUR, 400_001 * HOUR)}
    assert [json.loads(x)["state"] for x in run("list", "--json")[1].splitlines()] == ["replay", "dropped", "replay"]
    assert run("show", "nonsense")[0] == 78
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        read_letters(RealDisk(), tmp_path / "dead-letters")[letter(1).key].state = "x"  # type: ignore[misc]


def test_replay_asks_for_whole_hours_once_and_for_nothing_that_no_vendor_has() -> None:
    def entry(row: int, hour: int, symbol: str = "C:EURUSD", **changes: Any) -> Entry:
        content = json.dumps({"symbol": symbol, "ts_ns": hour * HOUR + row, "raw": {}})
        return Entry(letter(row, content=content, **changes), "open")

    entries = {
        "a": entry(1, 10),
        "b": entry(2, 11),
        "c": entry(3, 11),
        "d": entry(4, 20),
        "e": entry(5, 11, "C:GBPUSD"),
        "of a sink": entry(6, 10, sink="timescale"),
        "a candle": entry(8, 10, sink="clickhouse", kind="candles"),
        "no time": Entry(letter(7, content=json.dumps({"symbol": "C:EURUSD", "ts_ns": 0})), "open"),
    }
    first, later = ("C:EURUSD", "quotes", 10 * HOUR, 12 * HOUR), ("C:EURUSD", "quotes", 20 * HOUR, 21 * HOUR)
    other = ("C:GBPUSD", "quotes", 11 * HOUR, 12 * HOUR)
    assert refetches(entries) == {"a": first, "b": first, "c": first, "d": later, "e": other, "of a sink": first}
    assert sent_again(entries) == ["a candle"]
