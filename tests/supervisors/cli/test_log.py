"""`pipeline log …` on a small log of real batches, whole and damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from actors.market.schema import KINDS, encode, schema_message
from runtime.disk import RealDisk
from runtime.entropy import SeededEntropy
from runtime.log.cursor import Cursor
from runtime.log.log import Log, LogSettings
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
