"""`pipeline log …` on a small log of real batches, whole and damaged."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from actors.market.schema import KINDS, encode, schema_message
from runtime.disk import RealDisk
from runtime.entropy import SeededEntropy
from runtime.log import tools
from runtime.log.cursor import Cursor
from runtime.log.log import Log, LogSettings
from runtime.log.reader import Reader
from runtime.log.segment import HEADER_BYTES
from runtime.log.types import FrameDraft, GroupDraft
from supervisors.cli.main import main
from tests.support.bridge import EUR, T0, quotes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four groups of ten quotes; a reader that stands behind the second."""
    log = open_log(tmp_path / "log")
    for n in range(1, 5):
        [piece] = encode("quotes", quotes(EUR, [T0 + n * 10**9 + i for i in range(10)]))
        body = piece.body
        frame = FrameDraft(
            partition=5, kind="quotes", body=body, rows=10, event_time_ns_min=T0, event_time_ns_max=T0 + 10**9
        )
        _, groups = log.commit([GroupDraft(producer="p", sequence=n, producer_position=b"", frames=(frame,))])
        if n == 2:
            log.cursor("bridge.x").store(Cursor(position=groups[0].end_position))
    log.close()
    return tmp_path / "log"


def open_log(path: Path) -> Log:
    return Log.open(
        RealDisk(),
        path,
        settings=LogSettings(segment_bytes=1 << 20),
        schemas={kind: schema_message(kind) for kind in KINDS},
        wall_ns=lambda: 1_700_000_000 * 10**9,
        entropy=SeededEntropy(1),
    )


def run(capsys: Any, *words: str) -> tuple[int, str, str]:
    code = main(["log", *words])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_ls_and_stat(folder: Path, capsys: Any) -> None:
    code, out, _ = run(capsys, "ls", "--dir", str(folder), "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [row["position"] for row in rows] == [0]
    assert rows[0]["epoch"] == 1
    code, out, _ = run(capsys, "stat", "--dir", str(folder), "--json")
    found = json.loads(out)
    assert code == 0
    assert found["kinds"]["quotes"]["rows"] == 40
    assert 0 < found["readers"]["bridge.x"] < found["end_position"]
    assert "40 rows in 4 frames" in run(capsys, "stat", "--dir", str(folder))[1]


def test_cat_and_export(folder: Path, capsys: Any, tmp_path: Path) -> None:
    code, out, _ = run(capsys, "cat", "--dir", str(folder), "--limit", "2")
    assert code == 0
    assert out.count("producer=p") == 2
    assert '"symbol": "C:EURUSD"' in out
    code, out, _ = run(capsys, "cat", "--dir", str(folder), "--json", "--limit", "1")
    assert len(json.loads(out)["frames"][0]["rows"]) == 10
    code, out, _ = run(capsys, "export", "--dir", str(folder), str(tmp_path / "q.parquet"))
    table = pq.read_table(tmp_path / "q.parquet")
    assert (code, table.num_rows, out.split()[0]) == (0, 40, "40")
    assert table.column("log_offset").to_pylist()[::10] == [0, 1, 2, 3]
    assert run(capsys, "export", "--dir", str(folder), "--kind", "nonsense", str(tmp_path / "x"))[0] == 78


def test_while_somebody_writes(folder: Path, capsys: Any) -> None:
    log = open_log(folder)
    assert run(capsys, "verify", "--dir", str(folder))[0] == 0
    log.close()


@pytest.mark.parametrize(
    ("file", "at", "what"),
    [
        ("00000000000000000000.seg", HEADER_BYTES + 50, "header does not check"),
        ("00000000000000000000.seg", HEADER_BYTES + 300, "body does not check"),
        ("00000000000000000000.seg", 100, "the segment's header is damaged"),
        ("cursors/bridge.x", 20, "a slot is damaged"),
        ("META", 4096 + 20, "a slot is damaged"),
        ("LOCK", 9, "does not check"),
    ],
)
def test_verify_names_every_flipped_bit_and_changes_nothing(
    folder: Path, capsys: Any, file: str, at: int, what: str
) -> None:
    assert run(capsys, "verify", "--dir", str(folder))[0] == 0
    data = bytearray((folder / file).read_bytes())
    data[at] ^= 1
    (folder / file).write_bytes(data)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    code, out, _ = run(capsys, "verify", "--dir", str(folder))
    assert code == 1
    assert what in out
    assert file.rpartition("/")[2] in out
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_no_log_is_one_line(tmp_path: Path, capsys: Any) -> None:
    code, _, err = run(capsys, "ls", "--dir", str(tmp_path))
    assert code == 78
    assert err.count("\n") == 1


def test_a_start_inside_a_group_names_the_groups_beside_it(folder: Path, capsys: Any) -> None:
    lines = run(capsys, "cat", "--dir", str(folder), "--json")[1].splitlines()
    first, second, *_ = [json.loads(line)["position"] for line in lines]
    words = f"--from {first + 16} is inside the group that begins at {first}; use {first} or {second}\n"
    for command in (["cat"], ["export", str(folder / "x.parquet")]):
        code, out, err = run(capsys, *command, "--dir", str(folder), "--from", str(first + 16))
        assert (code, out, err) == (78, "", f"pipeline: {words}")
    assert run(capsys, "cat", "--dir", str(folder), "--from", str(second))[1].count("producer=p") == 3
    end = json.loads(run(capsys, "stat", "--dir", str(folder), "--json")[1])["end_position"]
    assert run(capsys, "cat", "--dir", str(folder), "--from", str(end))[:2] == (0, "")
    last = json.loads(lines[-1])["position"]
    assert f"use {last} or {end}" in run(capsys, "cat", "--dir", str(folder), "--from", str(end - 8))[2]
    assert "behind the end of the log" in run(capsys, "cat", "--dir", str(folder), "--from", str(end + 8))[2]


def test_a_file_that_cannot_be_written_is_one_line_that_says_why(folder: Path, capsys: Any, tmp_path: Path) -> None:
    for file, why in (
        (tmp_path / "no" / "x", "no such directory"),
        (tmp_path, "it is a directory"),
        (Path("/proc/x"), ""),
        (Path("/dev/full"), "No space left on device"),
    ):
        code, out, err = run(capsys, "export", "--dir", str(folder), str(file))
        assert (code, out, err.count("\n")) == (78, "", 1), err
        assert err.startswith(f"pipeline: cannot write {file}: {why}")


def test_an_export_says_what_it_holds_and_cat_knows_the_kinds(folder: Path, capsys: Any, tmp_path: Path) -> None:
    out = run(capsys, "export", "--dir", str(folder), str(tmp_path / "q.parquet"))[1]
    assert out.startswith("40 rows of quotes in ")
    assert "also those that were replaced later" in out
    assert "replaced later included" in " ".join(run(capsys, "export", "--help")[1].split())
    code, _, err = run(capsys, "cat", "--dir", str(folder), "--kind", "foo")
    assert (code, err) == (78, "pipeline: --kind foo: one of candles, coverage, quotes, trades\n")


def test_the_help_of_stat_says_what_it_shows(capsys: Any) -> None:
    assert "the rows of each kind, and how far each reader has come" in " ".join(run(capsys, "--help")[1].split())


def flip_body(folder: Path, at: int) -> None:
    path = folder / "00000000000000000000.seg"
    data = bytearray(path.read_bytes())
    data[HEADER_BYTES + at] ^= 1
    path.write_bytes(data)


def test_what_is_left_out_is_named_and_no_success(folder: Path, capsys: Any, tmp_path: Path) -> None:
    second = json.loads(run(capsys, "cat", "--dir", str(folder), "--json")[1].splitlines()[1])["position"]
    flip_body(folder, second + 300)
    for words, seen in ((["export", str(tmp_path / "q.parquet")], "30 rows"), (["cat", "--limit", "9"], "producer=p")):
        code, out, err = run(capsys, *words, "--dir", str(folder))
        assert (code, err.count("\n")) == (1, 1)
        assert err.startswith(f"pipeline log: left out 00000000000000000000.seg [{second}, ")
        assert seen in out
    assert pq.read_table(tmp_path / "q.parquet").num_rows == 30
    assert "exit 1" in run(capsys, "export", "--help")[1]


def test_the_end_that_a_stop_knew_of_is_missed(folder: Path, capsys: Any) -> None:
    end = json.loads(run(capsys, "verify", "--dir", str(folder), "--json")[1])["end_position"]
    last = json.loads(run(capsys, "cat", "--dir", str(folder), "--json")[1].splitlines()[-1])["position"]
    os.truncate(folder / "00000000000000000000.seg", HEADER_BYTES + last)
    code, out, _ = run(capsys, "verify", "--dir", str(folder))
    assert (code, out.splitlines()[0]) == (
        1,
        f"00000000000000000000.seg [{last}, {end}): the end of the log is missing",
    )


def test_rows_are_shown_though_the_log_lost_their_schema(folder: Path, capsys: Any, tmp_path: Path) -> None:
    for path in (folder / "schemas").iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    assert run(capsys, "verify", "--dir", str(folder))[0] == 1
    assert run(capsys, "cat", "--dir", str(folder))[1].count("producer=p") == 4
    assert run(capsys, "export", "--dir", str(folder), str(tmp_path / "q.parquet"))[0] == 0


@pytest.mark.parametrize("words", [["--limit", "-1"], ["--limit", "x"], ["--from", "-5"], ["--from", "1.5"]])
def test_numbers_below_zero_are_refused(folder: Path, capsys: Any, words: list[str]) -> None:
    code, out, err = run(capsys, "cat", "--dir", str(folder), *words)
    assert (code, out) == (2, "")
    assert f"argument {words[0]}: '{words[1]}' is not a whole number from 0 on" in err


@pytest.mark.parametrize("what", ["ls", "stat", "verify", "cat", "export"])
def test_a_file_where_a_directory_should_be_is_one_line_that_says_what_to_do(
    tmp_path: Path, capsys: Any, what: str
) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"")
    more = [str(tmp_path / "x.parquet")] if what == "export" else []
    for words, said in (
        (["--dir", str(file)], f"{file} is no directory: name the directory of a log"),
        (["--set", f"pipeline.data_dir={file}"], f"pipeline.data_dir = {file} is no directory: set it to the one that"),
    ):
        code, out, err = run(capsys, what, *more, *words)
        assert (code, out, err.count("\n")) == (78, "", 1)
        assert err.startswith(f"pipeline: {said}")


def test_debug_may_stand_behind_the_last_word(tmp_path: Path, capsys: Any) -> None:
    code, _, err = run(capsys, "verify", "--dir", str(tmp_path), "--debug")
    assert (code, "Traceback" in err) == (78, True)
    assert "Traceback" not in run(capsys, "verify", "--dir", str(tmp_path))[2]


def test_a_file_that_is_trimmed_while_it_is_read_is_said_so(
    folder: Path, capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = RealDisk.open

    def trim(disk: RealDisk, path: Path, **how: bool) -> Any:
        if path.suffix == ".seg" and reading:
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return opened(disk, path, **how)

    def starts(*rest: Any, **named: Any) -> Any:
        reading.append(True)
        return made(*rest, **named)

    made = Reader
    for words in (["cat"], ["export", str(tmp_path / "q.parquet")]):
        reading: list[bool] = []
        monkeypatch.setattr(tools, "Reader", starts)
        monkeypatch.setattr(RealDisk, "open", trim)
        code, _, err = run(capsys, *words, "--dir", str(folder))
        assert (code, err.count("\n")) == (74, 1)
        assert "was trimmed while it was read" in err
