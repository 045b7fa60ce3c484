"""Configuration: every mistake of a person gives one line that says what, where and what to do."""

from __future__ import annotations

import contextlib
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.config import Loaded, check_runnable, load
from runtime.config_text import key_lines
from runtime.errors import ConfigError
from runtime.settings import LATER, Secret, Settings

NOW_NS = 1_700_000_000_000_000_000


@pytest.fixture
def configure(tmp_path: Path):
    def _load(text: str | None = None, *sets: str, env: dict[str, str] | None = None) -> Loaded:
        if text is not None:
            (tmp_path / "config.toml").write_text(text)
        return load(overrides=sets, environ=env or {}, cwd=tmp_path)

    return _load


@pytest.fixture
def complaint(configure):
    def _complaint(text: str | None = None, *sets: str, env: dict[str, str] | None = None) -> str:
        with pytest.raises(ConfigError) as caught:
            configure(text, *sets, env=env)
        return str(caught.value)

    return _complaint


def test_no_file_gives_the_documented_default(configure, tmp_path):
    loaded = configure()
    assert loaded.file is None
    expected = Settings()
    assert loaded.settings.pipeline.data_dir == tmp_path / "data"
    assert attrs.evolve(loaded.settings, pipeline=expected.pipeline) == expected


def test_set_beats_environment_beats_file_beats_default(configure):
    text = "[log]\npartitions = 2\nsync_linger_ms = 7\n"
    env = {"HOLDFAST__LOG__PARTITIONS": "3"}
    assert configure(text).settings.log.partitions == 2
    assert configure(text, env=env).settings.log.partitions == 3
    loaded = configure(text, "log.partitions=5", env=env)
    assert (loaded.settings.log.partitions, loaded.settings.log.sync_linger_ms) == (5, 7)
    assert loaded.origins == {"log.partitions": "--set", "log.sync_linger_ms": "config.toml:3"}


def test_a_file_named_explicitly_is_read_instead_of_the_default_one(tmp_path):
    (tmp_path / "config.toml").write_text("[log]\npartitions = 2\n")
    (tmp_path / "other.toml").write_text("[log]\npartitions = 9\n")
    assert load(Path("other.toml"), cwd=tmp_path).settings.log.partitions == 9


@pytest.mark.parametrize(
    "written", ["2014-05-01", '"2014-05-01"', "'2014-05-01'", "-90m", "2014-05-01T05:00:00Z", "2014-05-01T05:00Z"]
)
def test_instants_need_no_quotes_on_the_command_line(configure, written):
    settings = configure(None, f"downloader.history_from={written}").settings
    assert settings.downloader.history_from == written.strip("'\"")


def test_a_bare_toml_date_is_an_instant(configure):
    settings = configure("[downloader]\nhistory_from = 2014-05-01\nhistory_to = 2014-05-16T00:00:00Z\n").settings
    assert settings.downloader.history_from == "2014-05-01"
    assert settings.downloader.history_to == "2014-05-16T00:00:00+00:00"


def test_lists_by_environment_and_set(configure):
    env = {"HOLDFAST__PIPELINE__SYMBOLS": '["C:EURUSD", "C:USDJPY"]'}
    assert configure(env=env).settings.pipeline.symbols == ("C:EURUSD", "C:USDJPY")
    assert configure(None, "pipeline.symbols = ['C:GBPUSD']").settings.pipeline.symbols == ("C:GBPUSD",)


def test_a_further_sink_gets_what_its_kind_stores(configure):
    sinks = configure(None, "sinks.backup.kind=timescale", "sinks.backup.dsn=postgresql://u@h/db").settings.sinks
    assert list(sinks) == ["timescale", "clickhouse", "backup"]
    assert sinks["backup"].stores == ("quotes", "trades", "coverage")


def test_a_table_sets_only_what_it_names(configure):
    sinks = configure("[sinks.timescale]\ndsn = 'postgresql://u@h:1/db'\n").settings.sinks
    assert sinks["timescale"].kind == "timescale"
    assert sinks["timescale"].stores == ("quotes", "trades", "coverage")
    assert sinks["clickhouse"] == Settings().sinks["clickhouse"]


def test_paths_are_relative_to_the_working_directory(configure, tmp_path):
    settings = configure("[pipeline]\ndata_dir = 'd'\n[embedded]\nrecording = '../r'\n").settings
    assert settings.pipeline.data_dir == tmp_path / "d"
    assert settings.embedded.recording == f"{tmp_path}/../r"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "[log]\npartitons = 4\n",
            [
                "config.toml:2: log.partitons: unknown key; did you mean partitions?",
                "Valid keys of [log]: partitions, retention_bytes, retention_s",
            ],
        ),
        (
            "[log]\n\n# x\npartitions = 'four'\n",
            ['config.toml:4: log.partitions = "four": expected a whole number from 1 to 64'],
        ),
        ("[log]\npartitions = 0\n", ["config.toml:2: log.partitions = 0: expected a whole number from 1 to 64"]),
        ("[log]\npartitions = true\n", ["log.partitions = true: expected a whole number"]),
        ("[log]\npartitions = 4.0\n", ["log.partitions = 4.0: expected a whole number"]),
        ("[embedded]\nmarket = 1\n", ["embedded.market = 1: expected true or false"]),
        (
            "[lag]\npartitions = 4\n",
            ["config.toml:1: lag: unknown table; did you mean log?", "Valid tables: aggregator, bridge"],
        ),
        ("[xyzzy]\n", ["config.toml:1: xyzzy: unknown table. Valid tables: aggregator"]),
        ("log = 5\n", ["config.toml:1: log is a table: set one of its keys: partitions"]),
        ("[log]\npartitions.x = 5\n", ["config.toml:2: log.partitions", "expected a whole number"]),
        ("[vendors.polygn]\nrest_url = 'x'\n", ["config.toml:1: vendors.polygn", "did you mean polygon?"]),
        ("x = = 3\n", ["config.toml:1:5: not valid TOML"]),
        ("[log]\npartitions = 4\n[log]\n", ["config.toml:3:", "not valid TOML"]),
        ("[log]\npartitions = [1,\n", ["config.toml:3:1: not valid TOML"]),
        ("[pipeline]\nsymbols = []\n", ["pipeline.symbols = []: expected a list of pairs"]),
        ("[pipeline]\nsymbols = ['EURUSD']\n", ['pipeline.symbols = ["EURUSD"]', '"C:EURUSD"']),
        ("[pipeline]\nsymbols = ['C:EURUSD', 'C:EURUSD']\n", ["none twice"]),
        ("[pipeline]\nsymbols = 'C:EURUSD'\n", ["expected a list of pairs"]),
        ("[pipeline]\nsymbols = [1]\n", ["pipeline.symbols = [1]: expected a list of pairs"]),
        ("[pipeline]\ndata_dir = ''\n", ['pipeline.data_dir = "": expected a path']),
        (
            "[downloader]\nhistory_from = 'yesterday'\n",
            ['downloader.history_from = "yesterday": expected a distance like "-2h"'],
        ),
        ("[downloader]\nhistory_from = ''\n", ['downloader.history_from = ""']),
        ("[downloader]\nhistory_from = '2014-13-01'\n", ['downloader.history_from = "2014-13-01"']),
        ("[aggregator]\ntimeframes = ['5m']\n", ['with "1m" among them']),
        ("[aggregator]\ntimeframes = ['1m', '7m']\n", ["aggregator.timeframes"]),
        ("[health]\nlisten = '8800'\n", ['health.listen = "8800": expected an address and port like "127.0.0.1:8800"']),
        ("[health]\nlisten = '127.0.0.1:99999'\n", ["health.listen"]),
        ("[sinks.timescale]\ndsn = 'nowhere'\n", ['sinks.timescale.dsn = "nowhere": expected "embedded"']),
        (
            "[sinks.timescale]\ndsn = 'clickhouse://h:1/db'\n",
            ["not an address of a timescale sink (postgresql, postgres://…)"],
        ),
        ("[sinks.timescale]\nkind = 'clickhouse'\n", ['this sink is always "timescale"']),
        ("[sinks.timescale]\nstores = ['candles', 'coverage']\n", ["a timescale sink cannot store candles"]),
        (
            "[sinks.backup]\ndsn = 'postgresql://u@h/d'\n",
            ['sinks.backup: kind is missing: set it to "timescale" or "clickhouse"'],
        ),
        ("[sinks.backup]\nkind = 'timescale'\n", ['only sinks.timescale and sinks.clickhouse can be "embedded"']),
        (
            "[embedded]\npostgres = false\n",
            ['config.toml:2: sinks.timescale.dsn is "embedded" but embedded.postgres is false'],
        ),
        ("[embedded]\nmarket = false\nrecording = 'x'\n", ["embedded.market is false: nothing would serve it"]),
        ("[vendors.polygon]\nrest_url = 'ftp://x'\n", ["vendors.polygon.rest_url", "expected a URL"]),
    ],
)
def test_a_mistake_names_place_value_and_remedy(complaint, text, words):
    said = complaint(text)
    assert len(said.splitlines()) == 1, said
    for word in words:
        assert word in said


def test_every_mistake_is_told_at_once(complaint):
    assert len(complaint("[log]\na = 1\nb = 2\npartitions = 0\n").splitlines()) == 3


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("log.partitions", "--set 'log.partitions': expected table.key=value"),
        ("partitions=3", "expected table.key=value"),
        ("=3", "expected table.key=value"),
        ("log.=3", "expected table.key=value"),
        ("log.partitions=", '--set: log.partitions = "": expected a whole number'),
        ("log.partitions=1\nsync_linger_ms=2", "expected a whole number"),
        ("pipeline.symbols=[C:EURUSD]", "in a shell write --set 'pipeline.symbols=[\"…\"]'"),
        ("nope.x=1", "--set: nope.x: unknown table"),
        ("log.prtitions=1", "did you mean partitions?"),
        ("vendors.polygon.stream_url=http://h/", 'expected a URL like "wss://socket.polygon.io"'),
        ("embedded.replay_speed=500", "there is no embedded.recording to be played"),
        ('downloader.kinds=["quotes","candles"]', '"candles" is not available in this version; choose from "quotes"'),
        ('downloader.vendors=["polygon","dukascopy"]', '"dukascopy" is not available in this version'),
        ('bridge.routes=["nats"]', '"nats" is not available in this version'),
        ("embedded.nats=true", "NATS is not available in this version"),
        ("sinks.cache.kind=recent", 'sinks.cache.kind = "recent": expected one of "timescale", "clickhouse"'),
        ('aggregator.bases=["open"]', 'expected a list of "bid", "ask", "mid", "last", none twice'),
    ],
)
def test_a_wrong_override_says_so(complaint, override, words):
    assert words in complaint(None, override)


@pytest.mark.parametrize("key", sorted(LATER))
def test_a_key_of_a_later_version_is_refused_not_ignored(complaint, key):
    dotted = key if "." in key else f"{key}.anything"
    said = complaint(None, f"{dotted}=1")
    assert f"--set: {dotted}: {LATER[key]} is not available in this version" in said


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        (
            "HOLDFAST__LOG__PARTITION",
            "3",
            "HOLDFAST__LOG__PARTITION: log.partition: unknown key; did you mean partitions?",
        ),
        ("HOLDFAST__LOG__PARTITIONS", "x", 'HOLDFAST__LOG__PARTITIONS: log.partitions = "x": expected a whole number'),
        ("HOLDFAST__LOG", "3", "HOLDFAST__LOG: log is a table"),
        ("HOLDFAST__", "3", "unknown table"),
    ],
)
def test_a_wrong_environment_variable_names_itself(complaint, name, value, words):
    assert words in complaint(env={name: value})


def test_other_environment_variables_are_none_of_our_business(configure):
    assert configure(env={"HOLDFAST_SHARED_DATA": "x", "holdfast__log__partitions": "x"}).origins == {}


# -- secrets


def test_the_api_key_comes_from_the_environment(configure):
    assert configure(env={"POLYGON_API_KEY": " k1\n"}).settings.vendors.polygon.api_key == Secret("k1")
    env = {"POLYGON_API_KEY": "k1", "HOLDFAST__VENDORS__POLYGON__API_KEY": "k2"}
    assert configure(env=env).settings.vendors.polygon.api_key == Secret("k2")
    assert configure(env={"POLYGON_API_KEY": " "}).settings.vendors.polygon.api_key is None


def test_the_api_key_comes_from_a_file(configure, tmp_path):
    (tmp_path / "key").write_text("k3\n")
    text = "[vendors.polygon]\napi_key_file = 'key'\n"
    assert configure(text).settings.vendors.polygon.api_key == Secret("k3")
    assert configure(text, env={"POLYGON_API_KEY": "k1"}).settings.vendors.polygon.api_key == Secret("k1")


@pytest.mark.parametrize("content", [None, "", "a\nb\n"])
def test_a_secret_file_that_is_not_one_is_named(complaint, tmp_path, content):
    if content is not None:
        (tmp_path / "key").write_text(content)
    assert 'vendors.polygon.api_key_file = "key"' in complaint("[vendors.polygon]\napi_key_file = 'key'\n")


@pytest.mark.parametrize("where", ["file", "set"])
@pytest.mark.parametrize(
    ("key", "value"), [("vendors.polygon.api_key", "hunter2"), ("sinks.timescale.dsn", "postgresql://u:hunter2@h/d")]
)
def test_a_secret_in_a_file_or_on_the_command_line_is_refused_unseen(complaint, where, key, value):
    table, _, name = key.rpartition(".")
    said = complaint(f"[{table}]\n{name} = '{value}'\n") if where == "file" else complaint(None, f"{key}={value}")
    assert "a secret does not belong here" in said
    assert "HOLDFAST__" + key.upper().replace(".", "__") in said
    assert "hunter2" not in said


def test_no_secret_is_ever_shown(configure, tmp_path):
    (tmp_path / "pw").write_text("p@ss/word\n")
    env = {"POLYGON_API_KEY": "hunter2", "HOLDFAST__SINKS__CLICKHOUSE__DSN": "clickhouse://u:hunter2@h:1/m"}
    text = "[sinks.timescale]\ndsn = 'postgresql://u@h1:1,h2:2/d'\npassword_file = 'pw'\n"
    loaded = configure(text, env=env)
    assert loaded.settings.sinks["timescale"].dsn == "postgresql://u:p%40ss%2Fword@h1:1,h2:2/d"
    assert loaded.settings.vendors.polygon.api_key.reveal() == "hunter2"
    shown = f"{loaded} {loaded!r} {loaded.settings.vendors.polygon.api_key}"
    assert "hunter2" not in shown
    assert "p%40ss" not in shown


def test_a_wrong_dsn_with_a_password_is_shown_without_it(complaint):
    said = complaint(env={"HOLDFAST__SINKS__TIMESCALE__DSN": "mysql://u:hunter2@h/d"})
    assert "mysql://u:***@h/d" in said
    assert "hunter2" not in said


# -- files


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"^other\.toml: no such file$"):
        load(Path("other.toml"), cwd=tmp_path)


def test_a_file_that_is_a_directory(tmp_path):
    (tmp_path / "config.toml").mkdir()
    with pytest.raises(ConfigError, match=r"^config\.toml: cannot be read: Is a directory$"):
        load(cwd=tmp_path)


def test_a_file_that_is_not_text(tmp_path):
    (tmp_path / "config.toml").write_bytes(b"[log]\npartitions = 4 # \xff\n")
    with pytest.raises(ConfigError, match=r"^config\.toml:2: not UTF-8 text$"):
        load(cwd=tmp_path)


def test_a_file_that_cannot_be_right_is_not_read(tmp_path):
    with (tmp_path / "config.toml").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(ConfigError, match="larger than"):
        load(cwd=tmp_path)


# -- what run needs


def test_without_a_key_the_simulator_is_the_vendor(configure):
    settings = configure().settings
    assert settings.uses_simulator
    assert settings.embedded_servers() == {"market", "postgres", "clickhouse"}
    check_runnable(settings, NOW_NS)


def test_with_a_key_the_vendor_is_the_vendor(configure):
    settings = configure(env={"POLYGON_API_KEY": "k"}).settings
    assert settings.rest_url == "https://api.polygon.io"
    assert settings.embedded_servers() == {"postgres", "clickhouse"}
    check_runnable(settings, NOW_NS)


def test_a_recording_wins_over_a_key_in_the_environment(configure, tmp_path):
    settings = configure(None, f"embedded.recording={tmp_path}", env={"POLYGON_API_KEY": "k"}).settings
    assert settings.uses_simulator
    check_runnable(settings, NOW_NS)


@pytest.mark.parametrize("override", ["embedded.market=false", "vendors.polygon.rest_url=http://127.0.0.1:9/"])
def test_no_api_key(configure, override):
    with pytest.raises(
        ConfigError, match=r"no API key for http.*set POLYGON_API_KEY or vendors\.polygon\.api_key_file"
    ):
        check_runnable(configure(None, override).settings, NOW_NS)


def test_a_recording_that_is_not_there(configure):
    with pytest.raises(ConfigError, match=r"embedded\.recording = .*nowhere.*: no such directory"):
        check_runnable(configure(None, "embedded.recording=nowhere").settings, NOW_NS)


def test_an_empty_history(configure):
    settings = configure(None, "downloader.history_from=2014-05-02", "downloader.history_to=2014-05-01").settings
    with pytest.raises(ConfigError, match="history is empty: from 2014-05-02T00:00:00Z to 2014-05-01T00:00:00Z"):
        check_runnable(settings, NOW_NS)


# -- the line finder, against a document with everything in it


def test_lines_of_keys_in_a_difficult_document():
    text = (
        "top = 1\n"
        "multi = '''\n[not.a.table]\nnot_a_key = 1\n'''\n"
        "[a.b] # comment = no key\n"
        "list = [\n  'x = 1', # y = [\n  \"]\",\n]\n"
        "'quoted key' = 2\n"
        "dotted . deep = { inline = 1 }\n"
        'esc = """a \\""" [\nfake = 3"""\n'
        "[[array]]\nlast = 3\n"
    )
    assert key_lines(text) == {
        ("top",): 1, ("multi",): 2, ("a",): 6, ("a", "b"): 6, ("a", "b", "list"): 7, ("a", "b", "quoted key"): 11,
        ("a", "b", "dotted"): 12, ("a", "b", "dotted", "deep"): 12, ("a", "b", "esc"): 13,
        ("array",): 15, ("array", "last"): 16,
    }  # fmt: skip


@given(text=st.text(alphabet=st.sampled_from("ab=.[]{}'\"#\\\n 1,"), max_size=60))
def test_any_text_gives_settings_or_one_kind_of_error(tmp_path_factory, text):
    directory = tmp_path_factory.mktemp("config")
    (directory / "config.toml").write_text(text)
    with contextlib.suppress(ConfigError):
        load(cwd=directory, overrides=[f"log.partitions={text}"])
