"""Every way a person can get it wrong (exit codes 2 and 78 of the contract): one line, no traceback, nothing damaged."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from actors.market.schema import KINDS, schema_message
from runtime.clock import SystemClock
from runtime.disk import RealDisk
from runtime.entropy import SystemEntropy
from runtime.log.log import Log, LogSettings
from runtime.log.tools import open_files

SMALL = "log.segment_bytes=17825792"


@pytest.fixture
def free_listen() -> str:
    return "health.listen=127.0.0.1:0"


def open_log(data_dir: Path, partitions: int = 4) -> Log:
    return Log.open(
        RealDisk(),
        data_dir / "log",
        settings=LogSettings(partitions=partitions, segment_bytes=17825792),
        schemas={kind: schema_message(kind) for kind in KINDS},
        wall_ns=SystemClock().wall_ns,
        entropy=SystemEntropy(),
    )


def expect_one_line(said, *words: str) -> None:
    assert said.code == 78, said
    assert said.out == ""
    assert len(said.err.splitlines()) == 1, said.err
    assert said.err.startswith("pipeline: ")
    assert "Traceback" not in said.err
    for word in words:
        assert word in said.err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[log]\npartitons = 4\n", ["config.toml:2: log.partitons", "did you mean partitions?", "Valid keys of [log]"]),
        ("[log]\npartitions = 'x'\n", ["config.toml:2", "expected a whole number from 1 to 64"]),
        ("[log]\npartitions = 100\n", ["config.toml:2", "expected a whole number from 1 to 64"]),
        ("[log\n", ["config.toml:1:5: not valid TOML"]),
        ("[downloader]\nkinds = ['candles']\n", ["config.toml:2", '"candles" is not available in this version']),
        ("[routes.kafka]\nbootstrap_servers = 'x'\n", ["config.toml:1", "not available in this version"]),
        ("[vendors.polygon]\napi_key = 'k'\n", ["config.toml:2", "a secret does not belong here"]),
    ],
)
@pytest.mark.parametrize("command", ["run", "check", "tree", "status", "verify"])
def test_a_wrong_configuration_stops_every_command(pipeline, tmp_path, command, text, words):
    (tmp_path / "config.toml").write_text(text)
    expect_one_line(pipeline(command), *words)
    assert [path.name for path in tmp_path.iterdir()] == ["config.toml"]


def test_a_configuration_file_that_is_not_there(pipeline):
    expect_one_line(pipeline("run", "--config", "nowhere.toml"), "nowhere.toml: no such file")


def test_a_wrong_override(pipeline):
    expect_one_line(pipeline("run", "--set", "log.partitions"), "expected table.key=value")


def test_a_wrong_environment_variable(pipeline, monkeypatch):
    monkeypatch.setenv("HOLDFAST__LOG__PARTITION", "4")
    expect_one_line(pipeline("run"), "HOLDFAST__LOG__PARTITION", "did you mean partitions?")


def test_a_port_that_is_taken(pipeline, taken_port, tmp_path):
    said = pipeline("run", "--set", f"health.listen=127.0.0.1:{taken_port}", "--set", SMALL)
    expect_one_line(said, f"port {taken_port} is in use by process {os.getpid()}", "set health.listen or stop it")
    open_log(tmp_path / "data").close()  # the log is whole and free


def test_a_second_instance_says_so_before_it_touches_the_port(pipeline, taken_port, tmp_path):
    first = open_log(tmp_path / "data")
    try:
        said = pipeline("run", "--set", f"health.listen=127.0.0.1:{taken_port}")
        expect_one_line(said, f"is in use by process {os.getpid()}", "stop it, or use another data_dir")
        assert str(taken_port) not in said.err
    finally:
        first.close()


def test_changed_partitions(pipeline, tmp_path, free_listen):
    open_log(tmp_path / "data", partitions=2).close()
    before = open_files(RealDisk(), tmp_path / "data" / "log").log_id
    said = pipeline("run", "--set", free_listen, "--set", "log.partitions=8")
    expect_one_line(said, "log.partitions = 8", "made with 2", "set log.partitions = 2, or use a new data_dir")
    assert open_files(RealDisk(), tmp_path / "data" / "log").log_id == before


def test_a_data_directory_that_is_a_file(pipeline, tmp_path, free_listen):
    (tmp_path / "data").write_text("precious")
    expect_one_line(pipeline("run", "--set", free_listen), "data directory", str(tmp_path / "data"))
    assert (tmp_path / "data").read_text() == "precious"
    expect_one_line_after_output(pipeline("check"), "is not a directory that we may write to")


@pytest.mark.skipif(
    os.geteuid() == 0, reason="NOT COVERED: a directory that is not writable, root may write everywhere"
)
def test_a_data_directory_that_is_not_writable(pipeline, tmp_path, free_listen):
    (tmp_path / "locked").mkdir(mode=0o500)
    said = pipeline("run", "--set", free_listen, "--set", "pipeline.data_dir=locked/data")
    expect_one_line(said, "Permission denied", "locked/data")


def expect_one_line_after_output(said, *words: str) -> None:
    """`check` prints what it found before it stops."""
    assert said.code == 78
    assert len(said.err.splitlines()) == 1, said.err
    for word in words:
        assert word in said.err


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("embedded.market=false", "no API key for https://api.polygon.io: set POLYGON_API_KEY"),
        ("vendors.polygon.rest_url=http://127.0.0.1:1", "no API key for http://127.0.0.1:1"),
        ("embedded.recording=nowhere", "nowhere"),
        ("downloader.history_to=2999-01-01", "history ends in the future"),
        ("downloader.history_from=0001-01-01", "1970 to 2199"),
        ("downloader.history_from=1969-12-31", "1970 to 2199"),
    ],
)
def test_what_a_run_lacks_is_told_by_check(pipeline, override, words):
    expect_one_line_after_output(pipeline("check", "--set", override), words)


def test_a_backfill_without_a_key_leaves_no_job_behind(pipeline, tmp_path):
    said = pipeline("backfill", "C:EURUSD", "--from", "-2h", "--to", "-1h", "--set", "embedded.market=false")
    expect_one_line(said, "no API key")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["C:EUR-USD", "--from", "-2h", "--to", "-1h"], "did you mean 'C:EURUSD'?"),
        (["AAPL", "--from", "-2h", "--to", "-1h"], "only currency pairs and crypto"),
        (["C:EURUSD", "--kind", "trades", "--from", "-2h", "--to", "-1h"], "none of C:EURUSD has trades"),
        (["C:EURUSD", "--from", "soon", "--to", "-1h"], "'soon' is none of"),
        (["C:EURUSD", "--from", "-1h", "--to", "-2h"], "history is empty"),
        (["C:EURUSD", "--from", "-1h", "--to", "2999-01-01"], "choose an earlier --to, like -1m"),
        (["C:EURUSD", "--from", "0001-01-01", "--to", "-1h"], "1970 to 2199"),
        (["C:EURUSD", "--from", "1969-12-30", "--to", "1969-12-31"], "1970 to 2199"),
        (
            ["C:EURUSD", "--from", "-2h", "--to", "-1h", "--kind", "candles"],
            "--kind candles: not one of downloader.kinds",
        ),
    ],
)
def test_a_backfill_that_cannot_be_meant(pipeline, argv, words):
    expect_one_line(pipeline("backfill", *argv), words)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["verify", "--from", "2014-05-01"], "--from and --to belong together"),
        (["verify", "--from", "2014-05-02", "--to", "2014-05-01"], "is not before"),
        (["verify", "--from", "x", "--to", "y"], "'x' is none of"),
        (["verify"], "holds no data yet: `pipeline run` makes it"),
        (["sql", "timescale", "select 1"], "holds no data yet"),
        (["dead-letters", "list"], "holds no data yet"),
    ],
)
def test_questions_that_cannot_be_answered(pipeline, tmp_path, argv, words):
    expect_one_line(pipeline(*argv), words)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_sink_is_a_syntax_mistake(pipeline):
    said = pipeline("sql", "oracle", "select 1")
    assert (said.code, said.err) == (2, "pipeline sql: unknown sink 'oracle'; choose from timescale, clickhouse\n")


def test_status_without_a_process_is_a_no(pipeline):
    said = pipeline("status", "--json", "--set", "health.listen=127.0.0.1:1")
    assert said.code == 1
    assert said.err.startswith("pipeline: not running on ")
    assert said.out == ""


def test_check_of_the_default_prints_values_limits_and_dependencies(pipeline, free_listen):
    said = pipeline("check", "--set", free_listen, "--set", "log.partitions=8")
    assert said.code == 0, said
    for word in (
        "log.partitions = 8 partitions  (--set)",
        "limits that are fixed",
        "sinks.timescale: UP",
        "vendors.polygon: UP",
    ):
        assert word in said.out


def test_check_says_which_dependency_is_down(pipeline, free_listen):
    sets = [
        free_listen,
        "sinks.timescale.dsn=postgresql://u@127.0.0.1:1/d",
        "sinks.clickhouse.dsn=clickhouse://127.0.0.1:1",
    ]
    said = pipeline("check", *[part for text in sets for part in ("--set", text)])
    assert said.code == 1
    assert "sinks.timescale: DOWN, postgresql://u@127.0.0.1:1/d: " in said.out
    assert "sinks.clickhouse: DOWN, clickhouse://127.0.0.1:1: " in said.out
    assert "vendors.polygon: UP" in said.out


def test_tree_prints_without_touching_anything(pipeline, tmp_path):
    said = pipeline("tree")
    assert said.code == 0
    assert said.out.startswith("pipeline ")
    assert list(tmp_path.iterdir()) == []


def test_half_an_endpoints_file_is_no_endpoint(pipeline, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "endpoints.json").write_text(json.dumps({"health": "http://127.0.0.1:1/"})[:-4])
    assert pipeline("status", "--set", "health.listen=127.0.0.1:1").code == 1


def test_a_simulator_says_whether_host_or_port_is_wrong(pipeline, taken_port):
    expect_one_line(pipeline("simulator", "--port", str(taken_port)), "choose another --port")
    said = pipeline("simulator", "--host", "192.0.2.1", "--port", "0")
    expect_one_line(said, "cannot listen on 192.0.2.1:0: Cannot assign", "set --host to an address of this machine")
