"""Settings: the default is complete and consistent, instants mean what they say."""

from __future__ import annotations

import datetime
import inspect
import re

import attrs
import pytest

from runtime import settings as module
from runtime.errors import ConfigError
from runtime.settings import PolygonSettings, Settings, redact_dsn, resolve_instant, resolve_interval
from runtime.settings_rules import split_host_port

NOW_NS = 1_700_000_123_456_789_000


def _tables(table: type, seen: dict[str, type]) -> dict[str, type]:
    for field in attrs.fields(table):
        if isinstance(field.default, attrs.Factory) and attrs.has(field.default.factory):
            seen[field.name] = field.default.factory
            _tables(field.default.factory, seen)
    return seen


TABLES = {**_tables(Settings, {}), "sinks": module.SinkSettings}


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_every_key_tells_the_operator_its_consequence(table):
    source = inspect.getsource(table)
    for field in attrs.fields(table):
        if attrs.has(type(field.default)) or isinstance(field.default, attrs.Factory):
            continue
        assert re.search(rf'\n    {field.name}: .*?\n    """.+', source, re.DOTALL), f"{field.name} has no docstring"
        assert "unit" in field.metadata


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_every_default_passes_its_own_rule(table):
    for field in attrs.fields(table):
        rule = field.metadata.get("rule")
        if rule is not None and field.default not in ((), "") and field.name != "kind":
            assert rule.problem(field.default) == "", field.name


def test_the_default_names_only_what_exists():
    settings = Settings()
    assert settings.pipeline.symbols == ("C:EURUSD", "X:BTCUSD")
    assert settings.downloader.kinds == ("quotes", "trades")
    assert settings.streams
    assert {name: sink.stores for name, sink in settings.sinks.items()} == {
        "timescale": ("quotes", "trades", "coverage"),
        "clickhouse": ("candles", "coverage"),
    }


def _utc_ns(*parts: int) -> int:
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    return int((datetime.datetime(*parts, tzinfo=datetime.UTC) - epoch) / datetime.timedelta(microseconds=1)) * 1000


@pytest.mark.parametrize(
    ("text", "expected_ns"),
    [
        ("2014-05-01", _utc_ns(2014, 5, 1)),
        ("2014-05-01T05:00Z", _utc_ns(2014, 5, 1, 5)),
        ("2014-05-01T05:00:59+02:00", _utc_ns(2014, 5, 1, 3)),
        ("", _utc_ns(2023, 11, 14, 22, 15)),
        ("-2h", _utc_ns(2023, 11, 14, 20, 15)),
        ("-90s", _utc_ns(2023, 11, 14, 22, 13)),
        ("-1.5d", _utc_ns(2023, 11, 13, 10, 15)),
        ("-1w", _utc_ns(2023, 11, 7, 22, 15)),
    ],
)
def test_instants_are_whole_minutes_of_utc(text, expected_ns):
    assert resolve_instant(text, NOW_NS) == expected_ns


@pytest.mark.parametrize("text", ["5", "soon", "-h", "-2", "-xh", "-²h", "2h", "2014-13-01", "--2h", "-1.h.5h"])
def test_other_texts_are_no_instant(text):
    with pytest.raises(ValueError, match=re.escape(repr(text))):
        resolve_instant(text, NOW_NS)


def test_a_history_that_reaches_into_the_future_is_refused():
    with pytest.raises(ConfigError, match='in the future, 2023-11-14T22:16:00Z: set history_to to ""'):
        resolve_interval("-2h", "2023-11-14T22:16Z", NOW_NS)
    assert resolve_interval("-1m", "", NOW_NS) == (_utc_ns(2023, 11, 14, 22, 14), _utc_ns(2023, 11, 14, 22, 15))


@pytest.mark.parametrize(
    "text", ["0001-01-01", "1969-12-31T23:59Z", "-999999w", "0001-01-01T00:00+23:59", "2200-01-01"]
)
def test_a_history_outside_of_the_years_that_exist_is_refused(text):
    with pytest.raises(ConfigError, match=re.escape(f'"{text}" is not in the years 1970 to 2199')):
        resolve_interval(text, "", NOW_NS)
    assert resolve_interval("1970-01-01", "", NOW_NS)[0] == 0


def test_who_asks_for_the_future_is_told_what_to_do_in_his_words():
    with pytest.raises(ConfigError, match=r"in the future, 2023-11-15T00:00:00Z: go back$"):
        resolve_interval("-2h", "2023-11-15", NOW_NS, earlier="go back")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://u:p@h:1,h2/d?x=1", "postgresql://u:***@h:1,h2/d?x=1"),
        ("postgresql://u@h/d", "postgresql://u@h/d"),
        ("see http://a:b@c/ and postgresql://d:e@f/", "see http://a:***@c/ and postgresql://d:***@f/"),
        ("postgresql://h/d?user=u&password=p", "postgresql://h/d?user=u&password=***"),
        ("https://x/v3/quotes?apiKey=abc&limit=1", "https://x/v3/quotes?apiKey=***&limit=1"),
        ("postgresql://u:p@ss@h/d", "postgresql://u:***@h/d"),
        ("http://h:80/a@b", "http://h:80/a@b"),
    ],
)
def test_passwords_are_taken_out_of_addresses(text, shown):
    assert redact_dsn(text) == shown


def test_addresses_to_listen_on():
    assert split_host_port("127.0.0.1:8800") == ("127.0.0.1", 8800)
    assert split_host_port("[::1]:0") == ("::1", 0)
    for wrong in ("", ":", ":1", "h", "h:", "h:-1", "h:65536", "h:1x", "h:²"):
        with pytest.raises(ValueError, match="not host:port"):
            split_host_port(wrong)


def _with(**tables: dict[str, object]) -> Settings:
    settings = Settings()
    for name, keys in tables.items():
        settings = attrs.evolve(settings, **{name: attrs.evolve(getattr(settings, name), **keys)})
    return settings


def test_a_recording_streams_only_when_it_is_played():
    live = {"live": True}
    assert _with(downloader=live).streams
    assert not _with(downloader=live, embedded={"recording": "r"}).streams
    assert _with(downloader=live, embedded={"recording": "r", "replay_speed": 500}).streams
    assert not _with(downloader={"live": False}, embedded={"recording": "r", "replay_speed": 500}).streams


def test_the_stream_of_a_simulator_of_ones_own_is_where_its_rest_is():
    def stream_url(**polygon: object) -> str:
        return _with(vendors={"polygon": PolygonSettings(**polygon)}).stream_url

    assert stream_url() == ""
    assert stream_url(rest_url="http://127.0.0.1:9000") == "ws://127.0.0.1:9000"
    assert stream_url(rest_url="https://api.massive.com") == "wss://socket.polygon.io"
    assert stream_url(rest_url="http://h", stream_url="wss://delayed.polygon.io") == "wss://delayed.polygon.io"
