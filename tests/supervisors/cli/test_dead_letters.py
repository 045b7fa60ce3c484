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
from runtime.log.segment import HEADER_BYTES
from runtime.log.tools import open_files
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


def damaged_letters(folder: Path, *, which: int) -> tuple[int, int]:
    """Three letters, a group each; a bit of one flips. Returns its range."""
    box = opened(RealDisk(), folder)
    for n in (1, 2, 3):
        box.add([letter(n)])
    box.close()
    group = list(open_files(RealDisk(), folder).groups())[which]
    path = folder / "00000000000000000000.seg"
    data = bytearray(path.read_bytes())
    data[HEADER_BYTES + group.end_position - 20] ^= 1
    path.write_bytes(data)
    return group.position, group.end_position


@pytest.mark.parametrize("which", [0, 1, 2])
def test_rot_costs_the_letters_it_hit_and_no_others(tmp_path: Path, capsys: Any, which: int) -> None:
    def run(*words: str) -> tuple[int, str, str]:
        code = main(["dead-letters", *words, "--set", f"pipeline.data_dir={tmp_path}"])
        said = capsys.readouterr()
        return code, said.out, said.err

    folder = tmp_path / "dead-letters"
    low, high = damaged_letters(folder, which=which)
    lost, *left = sorted((letter(n).key for n in (1, 2, 3)), key=lambda key: key != letter(which + 1).key)
    named = f"pipeline dead-letters: left out 00000000000000000000.seg [{low}, {high}): "
    for what in ("list", "show"):
        code, out, err = run(what, "--json")
        assert (code, [json.loads(line)["key"] for line in out.splitlines()]) == (1, left)
        assert (err.startswith(named), err.count("\n")) == (True, 1)
    assert run("show", lost)[0] == 78
    code, out, err = run("replay", left[0])
    assert (code, out.split()[0], err.startswith(named)) == (0, "1", True)
    code, out, err = run("drop", left[1])
    assert (code, out, err.startswith(named)) == (0, "1 dropped\n", True)
    assert [json.loads(line)["state"] for line in run("list", "--json")[1].splitlines()] == ["replay", "dropped"]
    box = opened(RealDisk(), folder)  # the pipeline goes on writing, and names what was lost
    box.add([letter(which + 1), letter(4, sink="x")])
    entries, damage = box.of_sink("x")
    box.close()
    assert [(one.position, one.end_position) for one in damage] == [(low, high)]
    assert [entry.letter.row for entry in entries] == [4]
    assert len(run("list", "--json")[1].splitlines()) == 4


def test_letters_beside_a_file_that_is_gone_are_shown(tmp_path: Path, capsys: Any) -> None:
    box = opened(RealDisk(), tmp_path / "dead-letters")
    for n in range(1, 8):
        box.add([letter(n, content=json.dumps({"x": "y" * 300_000}))])
    box.close()
    names = sorted(path.name for path in (tmp_path / "dead-letters").glob("*.seg"))
    (tmp_path / "dead-letters" / names[1]).unlink()
    code = main(["dead-letters", "list", "--json", "--set", f"pipeline.data_dir={tmp_path}"])
    said = capsys.readouterr()
    assert code == 1
    assert {json.loads(line)["key"] for line in said.out.splitlines()} == {letter(n).key for n in (1, 2, 3, 7)}
    assert f"left out {names[1]} " in said.err
    assert "the file is missing" in said.err


def test_letters_whose_schema_is_lost_are_shown(tmp_path: Path) -> None:
    box = opened(RealDisk(), tmp_path)
    box.add([letter(1)])
    box.close()
    for path in (tmp_path / "schemas").iterdir():
        path.unlink()
    assert list(read_letters(RealDisk(), tmp_path)) == [letter(1).key]


def test_one_line_each_whatever_a_sink_says(tmp_path: Path, capsys: Any) -> None:
    box = opened(RealDisk(), tmp_path / "dead-letters")
    box.add([letter(1, error="bad row\nDETAIL:  no\r\x1b[31m text"), letter(2)])
    box.close()
    assert main(["dead-letters", "list", "--set", f"pipeline.data_dir={tmp_path}"]) == 0
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 3
    assert "crossed: bad row DETAIL:  no  [31m text" in out


def test_a_letter_under_replay_is_decided_about_again_when_it_is_named(tmp_path: Path, capsys: Any) -> None:
    def run(*words: str) -> str:
        assert main(["dead-letters", *words, "--set", f"pipeline.data_dir={tmp_path}"]) == 0
        return capsys.readouterr().out

    box = opened(RealDisk(), tmp_path / "dead-letters")
    box.add([letter(1), letter(2)])
    box.close()
    assert run("replay").startswith("2 marked")
    assert run("drop", "--reason", "crossed") == "0 dropped\n"
    assert run("replay", letter(1).key).startswith("1 marked")
    assert run("drop", letter(1).key) == "1 dropped\n"
    assert [json.loads(line)["state"] for line in run("list", "--json").splitlines()] == ["dropped", "replay"]


def test_what_the_help_says_of_keys_is_so_and_debug_is_known(tmp_path: Path, capsys: Any) -> None:
    for what, said in (("drop", "needed, unless --reason"), ("replay", "all that are open"), ("list", "default: all")):
        assert main(["dead-letters", what, "--help"]) == 0
        assert said in " ".join(capsys.readouterr().out.split())
    assert main(["dead-letters", "list", "--debug", "--set", f"pipeline.data_dir={tmp_path}"]) == 0


@pytest.mark.parametrize("what", ["list", "show", "replay", "drop"])
def test_a_file_in_the_place_of_the_data_directory_is_said_so(tmp_path: Path, capsys: Any, what: str) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"")
    assert main(["dead-letters", what, "--set", f"pipeline.data_dir={file}"]) == 78
    assert capsys.readouterr().err.startswith(f"pipeline: pipeline.data_dir = {file} is no directory: set it to ")
