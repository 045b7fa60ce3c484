"""clickhouse-connect against the façade, as the bridge and as a reader use it; kill -9 of both ends."""

import itertools
import os
import random
import subprocess
import threading
import time
import urllib.parse
import urllib.request

import clickhouse_connect
import numpy as np
import pyarrow as pa
import pytest
from clickhouse_connect.driver.exceptions import ClickHouseError, DatabaseError

from tests.support.embedded import Parent, alive, end

pytest.importorskip("chdb", reason="NOT COVERED: the embedded ClickHouse, chdb is not installed")
pytestmark = pytest.mark.stack

ROWS = 50_000
TABLE = (
    "CREATE TABLE {} (symbol String, ts DateTime64(3, 'UTC'), price Float64) "
    "ENGINE = ReplacingMergeTree ORDER BY (symbol, ts) SETTINGS fsync_after_insert = 1, fsync_part_directory = 1"
)


def batch(first=0, rows=ROWS):
    ts = pa.array(np.arange(first, first + rows), pa.timestamp("ms", "UTC"))
    return pa.table({"symbol": pa.array(["C:EURUSD"] * rows), "ts": ts, "price": np.arange(rows) / 8})


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    parent = Parent(tmp_path_factory.mktemp("clickhouse"), "clickhouse")
    print(f"first start {parent.start_and_wait():.2f} s")
    yield parent
    parent.clean_up()


def port_of(parent):
    return urllib.parse.urlsplit(parent.endpoints()["clickhouse"]).port


@pytest.fixture
def pipeline(parent):
    client = clickhouse_connect.get_client(
        host="127.0.0.1",
        port=port_of(parent),
        username="holdfast",
        password=parent.secret("clickhouse"),
        database="market",
        compress=False,
    )
    yield client
    client.close()


@pytest.fixture
def reader(parent):
    client = clickhouse_connect.get_client(host="127.0.0.1", port=port_of(parent))
    yield client
    client.close()


@pytest.fixture
def table(pipeline):
    name = f"t{time.monotonic_ns()}"
    pipeline.command(TABLE.format(name))
    yield name
    pipeline.command(f"DROP TABLE {name}")


def code_of(call):
    with pytest.raises(DatabaseError) as error:
        call()
    return error.value.code


def http(parent, query="", *, path="/", headers=None, data=None):
    address = f"http://127.0.0.1:{port_of(parent)}{path}"
    if query:
        address += "?" + urllib.parse.urlencode({"query": query})
    request = urllib.request.Request(address, data=data, headers=headers or {})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_rows_come_back_by_every_way_of_writing_and_reading(pipeline, table):
    pipeline.insert(table, [["a", 0, 1.5], ["a", 1000, 2.5]], column_names=["symbol", "ts", "price"])
    assert pipeline.insert_arrow(table, batch()).written_rows == ROWS
    assert pipeline.command(f"SELECT count() FROM {table}") == ROWS + 2
    assert pipeline.query(f"SELECT symbol, price FROM {table} WHERE symbol = 'a' ORDER BY ts").result_rows == [
        ("a", 1.5),
        ("a", 2.5),
    ]
    back = pipeline.query_arrow(f"SELECT * FROM {table} WHERE symbol = 'C:EURUSD' ORDER BY ts")
    assert back.column("price").to_numpy().tolist() == batch().column("price").to_numpy().tolist()
    assert back.schema.field("ts").type == pa.timestamp("ms", "UTC")
    named = pipeline.query(f"SELECT count() FROM {table} WHERE symbol = {{s:String}}", parameters={"s": "a"})
    assert named.result_rows == [(2,)]
    assert pipeline.query(f"SELECT * FROM {table} LIMIT 0").column_names == ("symbol", "ts", "price")


def test_settings_of_an_insert_reach_the_engine(pipeline):
    name = f"t{time.monotonic_ns()}"
    pipeline.command(
        f"CREATE TABLE {name} (a Int64) ENGINE = MergeTree ORDER BY a "
        "SETTINGS non_replicated_deduplication_window = 100"
    )
    rows = pa.table({"a": np.arange(10)})
    for first, token in [(0, "one"), (1, "one"), (0, "two")]:
        settings = {"insert_deduplication_token": token, "async_insert": "0", "deduplicate_insert": "enable"}
        pipeline.insert_arrow(name, pa.table({"a": rows.column("a").to_numpy() + first}), settings=settings)
    assert pipeline.command(f"SELECT count() FROM {name}") == 20
    pipeline.command(f"DROP TABLE {name}")


def test_codes_of_errors_are_the_engines(pipeline, parent, table):
    assert code_of(lambda: pipeline.command("SELECT * FROM nope")) == 60
    assert code_of(lambda: pipeline.insert_arrow("nope", batch(rows=1))) == 60
    assert code_of(lambda: pipeline.command("SELEC 1")) == 62
    assert code_of(lambda: pipeline.command("SELECT 1 FROM nowhere.x")) == 81
    assert code_of(lambda: pipeline.command("SELECT nope()")) == 46
    assert code_of(lambda: pipeline.insert_arrow(table, batch(rows=1).rename_columns(["symbol", "ts", "x"]))) == 16
    poison = batch(rows=2).set_column(2, "price", pa.array(["1.5", "not a number"]))
    assert code_of(lambda: pipeline.insert_arrow(table, poison)) in (6, 27, 53, 72)
    assert pipeline.command(f"SELECT count() FROM {table}") == 0
    other = {"X-ClickHouse-User": "holdfast", "X-ClickHouse-Key": "wrong"}
    status, text = http(parent, "SELECT 1", headers=other)
    assert (status, text[:10]) == (403, b"Code: 516.")
    with pytest.raises(ClickHouseError, match="516"):
        clickhouse_connect.get_client(host="127.0.0.1", port=port_of(parent), username="holdfast", password="no")


def test_the_endpoint_speaks_to_curl(parent):
    assert http(parent, path="/ping") == (200, b"Ok.\n")
    assert http(parent, "SELECT 1, 'x'") == (200, b"1\tx\n")
    assert http(parent, data=b"SELECT 2") == (200, b"2\n")
    assert http(parent, "SELECT", data=b"3 FORMAT JSONCompactColumns")[1].split() == b"[ [3] ]".split()
    assert http(parent, path="/nowhere")[0] == 404


def test_an_insert_in_chunks_of_lines_like_curl_sends_it(parent, pipeline, table):
    argv = ["curl", "-sS", "-u", f"holdfast:{parent.secret('clickhouse')}", "-H", "Transfer-Encoding: chunked"]
    address = f"http://127.0.0.1:{port_of(parent)}/?database=market"
    body = f"INSERT INTO {table} FORMAT CSV\nx,2024-01-01 00:00:00,1\ny,2024-01-01 00:00:00,2\n"
    done = subprocess.run([*argv, address, "--data-binary", "@-"], input=body.encode(), capture_output=True)
    assert (done.returncode, done.stdout) == (0, b"")
    assert pipeline.query(f"SELECT symbol, price FROM {table} ORDER BY 1").result_rows == [("x", 1.0), ("y", 2.0)]


def test_a_reader_without_credentials_reads_and_cannot_write(parent, pipeline, reader, table):
    pipeline.insert_arrow(table, batch())
    assert reader.query(f"SELECT count() FROM market.{table}").result_rows == [(ROWS,)]
    assert reader.query_arrow(f"SELECT * FROM market.{table} FINAL").num_rows == ROWS
    assert reader.command("SHOW TABLES FROM market") is not None
    for sql in (
        f"DROP TABLE market.{table}",
        f"INSERT INTO market.{table} VALUES ('x', 0, 1)",
        "CREATE TABLE market.x (a Int8) ENGINE = Memory",
        f"ALTER TABLE market.{table} DELETE WHERE 1",
        "SET readonly = 0",
        "SYSTEM FLUSH LOGS",
        "SELECT * FROM file('/etc/passwd', 'LineAsString')",
        "SELECT file('/etc/passwd')",
        "DESCRIBE url('http://127.0.0.1:1/')",
        "SELECT 1 SETTINGS readonly = 0",
    ):
        assert code_of(lambda sql=sql: reader.command(sql)) == 164
    assert code_of(lambda: reader.insert_arrow(f"market.{table}", batch())) == 164
    assert code_of(lambda: reader.command("SELECT 1", settings={"readonly": "0", "max_threads": "x"})) != 0
    assert http(parent, f"DROP TABLE market.{table}", headers={"X-ClickHouse-User": "holdfast"})[0] == 403
    assert pipeline.command(f"SELECT count() FROM {table}") == ROWS


def test_even_the_pipelines_get_only_reads(parent, pipeline, table):
    headers = {"X-ClickHouse-User": "holdfast", "X-ClickHouse-Key": parent.secret("clickhouse")}
    assert http(parent, f"DROP TABLE market.{table}", headers=headers)[0] == 403
    assert http(parent, f"SELECT count() FROM market.{table}", headers=headers) == (200, b"0\n")


def test_a_web_page_gets_nothing(parent):
    for headers in ({"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Host": "evil.example"}):
        assert http(parent, "SELECT 1", headers=headers)[0] == 403
        assert http(parent, headers=headers, data=b"SELECT 1")[0] == 403


NASTY = ("'", '"', "`", "--", "/*", "*/", "#", "//", "$a$", "$$", ";", " ", "x", "\\\\", "file", "INTO OUTFILE")
TYPOGRAPHIC = "\u2018\u2019\u201c\u201d\u00a0"


def nasty(dice, without=""):
    text = "".join(dice.choices((*NASTY, *TYPOGRAPHIC), k=dice.randint(0, 4)))
    return "".join(sign for sign in text if sign not in without)


def random_query(dice, call):
    """A SELECT of a few legal items, each full of what may confuse a lexer, and one that reads the canary."""

    def comment():
        return dice.choice(("'", "'", "`", nasty(dice)))  # one lonely quote is the best trap

    kinds = (
        lambda: "'" + nasty(dice, "'") + "'",
        lambda: f"1 AS `{nasty(dice, '`')}y`",
        lambda: f"1 --{comment()}\n",
        lambda: f"/*{nasty(dice, '*')}*/ 1",
        lambda: f"1 # {comment()}\n",
        lambda: f"1 //{comment()}\n",
        lambda: f"$a${nasty(dice, '$')}$a$",
        lambda: "concat('\\'', '" + nasty(dice, "'") + "')",
    )
    items = [dice.choice(kinds)() for _ in range(dice.randint(1, 4))]
    if dice.random() < 0.8:
        items.insert(dice.randint(0, len(items)), call)
    return "SELECT " + ", ".join(items)


def test_no_query_that_the_guard_lets_through_reads_a_file(parent, tmp_path):
    """Differential: whatever the façade's lexer makes of random quoting, the engine must not read the canary.

    Positive control: the same queries with the pipeline's password, which are not looked through, do read it.
    """
    canary = tmp_path / "canary"
    canary.write_text("CANARY")
    ours = {"X-ClickHouse-User": "holdfast", "X-ClickHouse-Key": parent.secret("clickhouse")}
    dice = random.Random(20241124)
    legal = leaks = 0
    for _ in range(400):
        call = dice.choice(["file('{}')", "`file`('{}')", "\"fi\\x6ce\"('{}')", "arrayMap(file, ['{}'])"])
        sql = random_query(dice, call.replace("{}", str(canary))).encode()
        status, answer = http(parent, data=sql)
        assert b"CANARY" not in answer, sql
        legal += status == 200
        leaks += b"CANARY" in http(parent, data=sql, headers=ours)[1]
    print(f"{legal} of 400 were let through, {leaks} would have read the file")
    assert leaks > 100
    assert legal > 10


def test_a_slow_reader_does_not_hold_up_an_insert(pipeline, reader, table):
    slow = threading.Thread(
        target=lambda: (
            reader.query("SELECT sleepEachRow(1) FROM numbers(3) SETTINGS max_block_size = 1")
            if False
            else reader.query("SELECT sleep(2)")
        )
    )
    slow.start()
    time.sleep(0.3)
    begin = time.monotonic()
    pipeline.insert_arrow(table, batch(rows=1000))
    took_s = time.monotonic() - begin
    assert slow.is_alive()
    slow.join()
    assert took_s < 1.0


def test_too_long_and_broken_bodies_are_refused(parent):
    status, _ = http(parent, headers={"Content-Length": str(10**12)}, data=b"x")
    assert status == 413
    assert http(parent, data=b"SELECT 1 --" + b"x" * 2_000_000)[0] == 403  # a stranger needs no such query
    ours = {"X-ClickHouse-User": "holdfast", "X-ClickHouse-Key": parent.secret("clickhouse")}
    assert http(parent, headers=ours, data=b"SELECT 1 --" + b"x" * 100_000) == (200, b"1\n")


@pytest.mark.bench
def test_rate_of_insert_arrow(pipeline, table):
    begin = time.monotonic()
    for n in range(10):
        pipeline.insert_arrow(table, batch(first=n * ROWS))
    print(f"insert_arrow {10 * ROWS / (time.monotonic() - begin) / 1e6:.2f} M rows/s in batches of {ROWS}, with fsync")


def test_killed_in_mid_insert_and_sent_again_is_one_copy(parent, pipeline):
    """At a dozen random moments: kill -9 of the server during an insert, the same rows again, each row once under FINAL."""
    pipeline.command(TABLE.format("crash"))
    dice = random.Random(7)
    uncertain = 0
    for round_number in range(12):
        rows = batch(first=round_number * ROWS)
        pid = parent.record("clickhouse")["pid"]
        killer = threading.Timer(dice.uniform(0.0, 0.08), end, (pid,))
        killer.start()
        try:
            pipeline.insert_arrow("crash", rows)
        except (ClickHouseError, OSError):
            uncertain += 1
        killer.join()
        parent.wait_for(lambda pid=pid: parent.record("clickhouse")["pid"] not in (0, pid))
        parent.wait_for(lambda: http_up(parent))
        for attempt in itertools.count():
            try:
                pipeline.insert_arrow("crash", rows)
                break
            except (ClickHouseError, OSError):
                assert attempt < 5
                time.sleep(0.2)
        found = pipeline.query(
            "SELECT count(), uniqExact(ts), sum(price) FROM crash FINAL WHERE ts >= "
            f"fromUnixTimestamp64Milli({round_number * ROWS}, 'UTC')"
        ).result_rows
        assert found == [(ROWS, ROWS, sum(rows.column("price").to_pylist()))]
    print(f"{uncertain} of 12 inserts were cut")
    assert pipeline.command("SELECT count() FROM crash FINAL") == 12 * ROWS


def http_up(parent):
    try:
        return http(parent, "SELECT 1") == (200, b"1\n")
    except (OSError, KeyError):  # nobody listens, or the address is not published
        return False


def test_the_next_life_adopts_the_server_and_an_ordered_stop_under_load_loses_nothing(parent, pipeline):
    pipeline.command(TABLE.format("load"))
    before = parent.record("clickhouse")
    parent.kill()
    assert alive(before["pid"])
    parent.forget_endpoints()
    print(f"adopted in {parent.start_and_wait():.2f} s")
    assert parent.record("clickhouse") == before
    done = []

    def load():
        for n in itertools.count():
            try:
                pipeline.insert_arrow("load", batch(first=n * 1000, rows=1000))
            except (ClickHouseError, OSError):
                return
            done.append(n)

    loader = threading.Thread(target=load)
    loader.start()
    time.sleep(0.5)
    begin = time.monotonic()
    assert parent.stop() == 0
    print(f"stopped under load in {time.monotonic() - begin:.2f} s after {len(done)} inserts")
    loader.join()
    assert not alive(before["pid"])
    parent.forget_endpoints()
    print(f"started again in {parent.start_and_wait():.2f} s")
    status, text = http(parent, "SELECT count() FROM market.load FINAL")
    assert status == 200
    assert len(done) > 0
    assert int(text) - 1000 * len(done) in (0, 1000)  # at most the one whose answer was cut is there as well


def test_a_server_whose_record_was_lost_is_not_started_twice(parent):
    pid = parent.record("clickhouse")["pid"]
    parent.kill()
    (parent.data_dir / "embedded" / "clickhouse.json").unlink()
    parent.forget_endpoints()
    parent.start_and_wait()
    assert not alive(pid)
    assert int(http(parent, "SELECT count() FROM market.load FINAL")[1]) > 0


def test_the_password_is_in_no_command_line(parent):
    pid = parent.record("clickhouse")["pid"]
    with open(f"/proc/{pid}/cmdline", "rb") as line:
        assert parent.secret("clickhouse").encode() not in line.read()
    assert os.stat(parent.data_dir / "embedded" / "clickhouse.secret").st_mode & 0o77 == 0


def test_an_insert_that_breaks_a_constraint_is_refused_and_changes_nothing(pipeline):
    pipeline.command("CREATE TABLE even (a UInt64, CONSTRAINT odd CHECK a % 2 = 0) ENGINE = MergeTree ORDER BY a")
    with pytest.raises(DatabaseError, match="469"):
        pipeline.insert_arrow("even", pa.table({"a": pa.array([2, 3], pa.uint64())}))
    done = pipeline.insert_arrow("even", pa.table({"a": pa.array([2, 4], pa.uint64())}))
    assert done.written_rows == 2
    assert pipeline.query("SELECT count() FROM even").result_rows == [(2,)]
