"""How results are written, and how PostgreSQL's text becomes columns."""

from __future__ import annotations

import csv
import datetime
import io
import json
from types import SimpleNamespace

import asyncpg
import httpx
import polars as pl
import pyarrow as pa
import pytest

from supervisors.cli import query_clickhouse
from supervisors.cli.query import QueryRefused, table_lines, write
from supervisors.cli.query_timescale import _from_csv, _told

TABLE = pa.table(
    {
        "symbol": ["C:EURUSD", None, 'a "b",c'],
        "ts_ns": pa.array([2**62 + 1, None, -5], pa.int64()),
        "bid": pa.array([1.1, float("nan"), None], pa.float64()),
        "ts": pa.array([0, 1_500_000, None], pa.timestamp("us", "UTC")),
    }
)


def written(format_: str, table: pa.Table = TABLE) -> bytes:
    out = io.BytesIO()
    write(table, format_, out)
    return out.getvalue()


def test_parquet_is_the_table():
    assert pl.read_parquet(io.BytesIO(written("parquet"))).to_arrow().column("ts_ns").to_pylist() == [
        2**62 + 1,
        None,
        -5,
    ]


def test_csv_reads_back():
    rows = list(csv.reader(io.StringIO(written("csv").decode())))
    assert rows[0] == ["symbol", "ts_ns", "bid", "ts"]
    assert rows[3][:2] == ['a "b",c', "-5"]


def test_json_is_one_array_with_exact_integers_and_no_nan():
    rows = json.loads(written("json"))
    assert rows[0] == {"symbol": "C:EURUSD", "ts_ns": 2**62 + 1, "bid": 1.1, "ts": "1970-01-01T00:00:00+00:00"}
    assert rows[1] == {"symbol": None, "ts_ns": None, "bid": None, "ts": "1970-01-01T00:00:01.500000+00:00"}
    assert json.loads(written("json", TABLE.slice(0, 0))) == []


def test_a_table_is_aligned_numbers_to_the_right():
    lines = list(table_lines(TABLE.select(["symbol", "ts_ns"])))
    assert lines == [
        "symbol   |               ts_ns",
        "---------+--------------------",
        "C:EURUSD | 4611686018427387905",
        "         |",
        'a "b",c  |                  -5',
        "(3 rows)",
    ]


def test_a_long_table_is_cut_and_says_so():
    lines = list(table_lines(pa.table({"n": range(2500)})))
    assert len(lines) == 1003
    assert lines[-1] == "(the first 1,000 of 2,500 rows; --format csv gives all)"


def test_control_characters_do_not_reach_the_terminal():
    assert list(table_lines(pa.table({"x": ["\x1b[2J\nboo"]})))[2] == " [2J boo"


def attribute(name: str, kind: str) -> SimpleNamespace:
    return SimpleNamespace(name=name, type=SimpleNamespace(name=kind))


def decoded(text: str, **kinds: str) -> pa.Table:
    found = io.BytesIO()
    found.write(text.encode())
    return _from_csv([attribute(name, kind) for name, kind in kinds.items()], found)


def test_types_of_postgresql_become_types_of_arrow():
    table = decoded(
        '9223372036854775807,1.1,2014-05-01 00:00:00.123456+00,t,"x",7,2014-05-01,0.1\n'
        ',,,,"",,,\n'
        '-1,1e-300,2014-05-01 00:00:00+00,f,"a\nb",8,2014-05-02,12345678901234567890.5\n',
        i="int8", f="float8", ts="timestamptz", b="bool", s="text", n="numeric", d="date", m="numeric",
    )  # fmt: skip
    assert table.column("i").to_pylist() == [2**63 - 1, None, -1]
    assert table.column("f").to_pylist() == [1.1, None, 1e-300]
    assert table.column("ts").to_pylist()[0] == datetime.datetime(2014, 5, 1, 0, 0, 0, 123456, tzinfo=datetime.UTC)
    assert table.column("b").to_pylist() == [True, None, False]
    assert table.column("s").to_pylist() == ["x", "", "a\nb"]
    assert table.column("n").to_pylist() == [7, None, 8]
    assert pa.types.is_integer(table.schema.field("n").type)
    assert pa.types.is_decimal(table.schema.field("m").type)
    assert table.column("d").to_pylist()[2] == datetime.date(2014, 5, 2)


def test_a_single_null_column_keeps_its_rows():
    assert decoded("1\n\n3\n", n="int4").column("n").to_pylist() == [1, None, 3]


def test_no_rows_keep_their_columns():
    table = decoded("", a="int8", b="text")
    assert (table.num_rows, table.column_names) == (0, ["a", "b"])
    assert pa.types.is_int64(table.schema.field("a").type)


def test_a_value_without_a_place_in_arrow_stays_text():
    assert decoded("infinity\n2014-05-01 00:00:00+00\n", ts="timestamptz").column("ts").to_pylist()[0] == "infinity"


def test_equal_column_names_are_kept_apart():
    assert decoded("1,2\n", x="int8", y="int8").to_pydict() == {"x": [1], "y": [2]}
    found = io.BytesIO()
    found.write(b"1,2\n")
    table = _from_csv([attribute("x", "int8"), attribute("x", "int8")], found)
    assert [column.to_pylist() for column in table.columns] == [[1], [2]]


@pytest.mark.parametrize("value", [0.1, 1.09755, 1e22, 5e-324, 1.7976931348623157e308, 123456789.123456789])
def test_floats_come_through_exactly(value):
    assert decoded(f"{value!r}\n", f="float8").column("f").to_pylist() == [value]


def clickhouse_says(monkeypatch, *answers: tuple[int, str]) -> list[str]:
    """The server's answers in turn; what it was asked is in the list."""
    asked: list[str] = []

    def ask(dsn: str, sql: str) -> tuple[httpx.Response, bytes]:
        asked.append(sql)
        status, text = answers[len(asked) - 1]
        return httpx.Response(status), text.encode()

    monkeypatch.setattr(query_clickhouse, "_ask", ask)
    return asked


READONLY = (403, "Code: 164. X is not a reading statement. Without the password of user u, only … (READONLY)")


def test_a_typing_mistake_in_a_query_gets_the_syntax_error_and_no_hint_at_a_password(monkeypatch):
    syntax = (400, "Code: 62. Syntax error: failed at position 7: In scope SELECT formatQuery('…'). (SYNTAX_ERROR)")
    asked = clickhouse_says(monkeypatch, READONLY, syntax)
    with pytest.raises(QueryRefused, match=r"^Code: 62\. Syntax error: failed at position 7$"):
        query_clickhouse.query("http://127.0.0.1:1", "selec 'a\\'")
    assert asked[1] == "SELECT formatQuery('selec \\'a\\\\\\'')"


def test_a_statement_that_writes_is_still_refused_as_one(monkeypatch):
    clickhouse_says(monkeypatch, READONLY, (200, "DROP TABLE x"))
    with pytest.raises(QueryRefused, match=r"X is not a reading statement\. `pipeline sql` only reads$"):
        query_clickhouse.query("http://127.0.0.1:1", "drop table x")


def test_two_statements_are_told_apart_from_a_wrong_one():
    two = asyncpg.PostgresSyntaxError("cannot insert multiple commands into a prepared statement")
    assert _told(two) == "one query at a time"
    assert _told(asyncpg.PostgresSyntaxError('syntax error at or near "x"')) == 'syntax error at or near "x"'
