import pytest

from actors.embedded.clickhouse_sql import format_of, split_insert, verb_of, why_refused

TABLE_FUNCTIONS = frozenset({"url", "s3", "file", "remote", "executable"})


def refused(sql, **params):
    return why_refused(sql.encode(), params=params, table_functions=TABLE_FUNCTIONS)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1",
        "  -- a note that says it's fine: file('x')\n select 1 /* INTO OUTFILE */ ;",
        "WITH 1 AS x SELECT x",
        "(SELECT 1) UNION ALL (SELECT 2)",
        "SHOW TABLES FROM market",
        "DESCRIBE TABLE market.candles",
        "EXISTS TABLE market.candles",
        "EXPLAIN SELECT 1",
        "SELECT 'INTO OUTFILE file(''x'') ; drop', `odd ``name`, \"another\" FROM t",
        "SELECT url, profile FROM t WHERE s = '\\' file('",
        "SELECT 'grüße # $ \N{LEFT DOUBLE QUOTATION MARK}' FORMAT Native",
        "SELECT airport FROM t WHERE files > 3",
    ],
)
def test_a_stranger_may_read(sql):
    assert refused(sql) is None


@pytest.mark.parametrize(
    ("sql", "because"),
    [
        ("", "empty"),
        ("INSERT INTO t VALUES (1)", "INSERT"),
        ("DROP TABLE t", "DROP"),
        ("KILL QUERY WHERE 1", "KILL"),
        ("SET readonly = 0", "SET"),
        ("SYSTEM SHUTDOWN", "SYSTEM"),
        ("SELECT 1; DROP TABLE t", "more than one"),
        ("SELECT 1 INTO OUTFILE '/x'", "outfile"),
        ("SELECT 1 into -- x\n outFile '/x'", "outfile"),
        ("SELECT file('/etc/passwd')", "file"),
        ("SELECT `file`('/etc/passwd')", "file"),
        ("SELECT \"file\"('/etc/passwd')", "file"),
        ("SELECT `fi\\x6ce`('/etc/passwd')", "escaped"),
        ("SELECT * APPLY file FROM (SELECT '/etc/passwd')", "file"),
        ("SELECT arrayMap(file, ['/etc/passwd'])", "file"),
        ("DESCRIBE url /* x */ ('http://127.0.0.1/')", "url"),
        ("DESCRIBE `url`('http://127.0.0.1/')", "url"),
        ("SELECT * FROM eval('SELECT 1')", "eval"),
        ("SELECT aiGenerate('x')", "aigenerate"),
        ("SELECT 1 # '\n, file('/x') # '", "sign"),
        ("SELECT $a$ ' $a$, file('/x'), $a$ ' $a$", "sign"),
        ("SELECT \N{LEFT SINGLE QUOTATION MARK} ' '", "sign"),
        ("SELECT 'open", "sign"),
        ("SELECT 1 // '\n, file('/x') // '", "sign"),
    ],
)
def test_a_stranger_may_not(sql, because):
    reason = refused(sql)
    assert reason is not None
    assert because in reason


def test_a_parameter_cannot_smuggle_a_function_in():
    sql = "SELECT arrayMap({f:Identifier}, ['/etc/passwd'])"
    assert refused(sql, f="file") is not None
    assert refused(sql, f="`file`") is not None
    assert refused("SELECT {x:String}", x="a file of mine") is None


def test_an_inserts_data_begins_behind_the_formats_line():
    got = split_insert(b"INSERT INTO t (a, `format`) SETTINGS async_insert=0 FORMAT Native\n\x00\nFORMAT\xff", b"")
    assert got.statement == b"INSERT INTO t (a, `format`) SETTINGS async_insert=0 "
    assert got.format == "Native"
    assert got.data == b"\x00\nFORMAT\xff"


def test_an_inserts_statement_may_come_in_the_address():
    got = split_insert(b"insert into t format ArrowStream", b"\nrows")
    assert (got.statement, got.format, got.data) == (b"insert into t ", "ArrowStream", b"\nrows")


@pytest.mark.parametrize(
    "sql",
    [
        b"SELECT 1 FORMAT Native",
        b"INSERT INTO t VALUES (1, 'FORMAT x')",
        b"INSERT INTO t SELECT * FROM u FORMAT Native",
        b"INSERT INTO t",
        b"",
    ],
)
def test_what_is_no_insert_of_bytes_is_left_whole(sql):
    assert split_insert(sql, b"") is None


def test_first_word_and_last_format():
    assert verb_of(b" /* x */ Select 1") == "select"
    assert verb_of(b"(select 1)") == "("
    assert verb_of(b"-- only a note") == ""
    assert format_of(b"SELECT 1 FORMAT Arrow ;\n") == "Arrow"
    assert format_of(b"SELECT 'FORMAT Arrow'") == ""


@pytest.mark.parametrize(
    ("sql", "told"),
    [
        (b"INSERT INTO t FORMAT Arrow\nx", b"INSERT INTO t  FROM INFILE '/f'  FORMAT Arrow"),
        (
            b"INSERT INTO t (a, `settings`) SETTINGS async_insert=0 FORMAT Native\n",
            b"INSERT INTO t (a, `settings`)  FROM INFILE '/f' SETTINGS async_insert=0  FORMAT Native",
        ),
    ],
)
def test_an_insert_takes_its_rows_from_a_file(sql, told):
    insert = split_insert(sql, b"")
    assert insert is not None
    assert insert.from_file("/f") == told
