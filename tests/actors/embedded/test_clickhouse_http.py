"""The façade's decisions about one request, without a socket or an engine."""

import base64
import gzip
import zlib

import pytest

from actors.embedded import clickhouse_access as facade


def basic(text):
    return {"Authorization": "Basic " + base64.b64encode(text.encode()).decode()}


@pytest.mark.parametrize(
    ("headers", "query", "wanted"),
    [
        ({}, {}, ("default", "")),
        (basic("default:"), {}, ("default", "")),
        (basic("holdfast:a:b"), {}, ("holdfast", "a:b")),
        ({"X-ClickHouse-User": "u", "X-ClickHouse-Key": "k"}, {}, ("u", "k")),
        ({}, {"user": "u", "password": "p"}, ("u", "p")),
    ],
)
def test_credentials_come_from_every_place_that_clickhouse_takes_them_from(headers, query, wanted):
    assert facade.credentials_of(headers, query) == wanted


def test_only_the_pipelines_password_writes_and_a_wrong_one_is_refused():
    assert facade.may_write("holdfast", "s", secret="s")
    assert not facade.may_write("default", "", secret="s")
    for user, password, secret in [
        ("holdfast", "t", "s"),
        ("holdfast", "", "s"),
        ("default", "s", "s"),
        ("holdfast", "", ""),
    ]:
        with pytest.raises(facade.Refusal) as no:
            facade.may_write(user, password, secret=secret)
        assert (no.value.status, no.value.code) == (403, 516)


@pytest.mark.parametrize("headers", [{"Host": "127.0.0.1:1"}, {"Host": "localhost"}, {"Host": "[::1]:1"}, {}])
def test_programs_and_a_typed_address_pass(headers):
    facade.refuse_browsers(headers)
    facade.refuse_browsers(headers | {"Sec-Fetch-Site": "none"})


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "127.0.0.1:1", "Origin": "http://evil.example"},
        {"Host": "127.0.0.1:1", "Origin": "null"},
        {"Host": "127.0.0.1:1", "Sec-Fetch-Site": "cross-site"},
        {"Host": "127.0.0.1:1", "Sec-Fetch-Site": "same-site"},
        {"Host": "evil.example:1"},  # DNS rebinding
        {"Host": "127.0.0.1.evil.example"},
    ],
)
def test_web_pages_are_refused(headers):
    with pytest.raises(facade.Refusal):
        facade.refuse_browsers(headers)


def test_transport_parameters_are_no_settings_and_a_stranger_sets_only_what_is_harmless():
    query = {
        "query": "SELECT 1",
        "session_id": "x",
        "param_x": "1",
        "readonly": "0",
        "async_insert": "0",
        "dialect": "prql",
        "output_format_schema": "/tmp/x",
        "output_format_arrow_string_as_string": "1",
    }
    assert facade.settings_of(query, stranger=True) == {"output_format_arrow_string_as_string": "1"}
    assert facade.settings_of(query, stranger=False).keys() == query.keys() - {
        "query",
        "session_id",
        "param_x",
        "readonly",
    }


def test_bodies_are_unpacked_within_their_bound_or_refused():
    rows = b"rows" * 1000
    assert facade.decoded(gzip.compress(rows), "gzip", bytes_max=4000) == rows
    assert facade.decoded(zlib.compress(rows), "deflate", bytes_max=4000) == rows
    assert facade.decoded(rows, "", bytes_max=1) == rows
    for body, encoding, bytes_max in [
        (b"x", "gzip", 10),
        (b"x", "lz4", 10),
        (gzip.compress(rows), "gzip", 3999),
        (gzip.compress(rows)[:-9], "gzip", 4000),
        (gzip.compress(rows) * 2, "gzip", 9000),  # the second member would be dropped in silence
    ]:
        with pytest.raises(facade.Refusal):
            facade.decoded(body, encoding, bytes_max=bytes_max)
