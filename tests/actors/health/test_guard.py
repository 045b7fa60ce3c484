"""Who may ask: names that mean this server, and pages that come from it."""

from __future__ import annotations

import pytest

from actors.health.guard import is_own_host, is_own_origin


@pytest.mark.parametrize(
    ("authority", "listen_host", "fine"),
    [
        ("127.0.0.1:8800", "127.0.0.1", True),
        ("localhost:8800", "127.0.0.1", True),
        ("LOCALHOST", "127.0.0.1", True),
        ("localhost.:8800", "127.0.0.1", True),
        ("[::1]:8800", "127.0.0.1", True),
        ("evil.example", "127.0.0.1", False),
        ("evil.example:8800", "127.0.0.1", False),
        ("127.0.0.1.evil.example", "127.0.0.1", False),
        ("localhost@evil.example", "127.0.0.1", False),
        ("evil.example#@localhost", "127.0.0.1", False),
        ("", "127.0.0.1", False),
        ("[::1", "127.0.0.1", False),
        ("192.168.1.5:8800", "127.0.0.1", False),
        ("192.168.1.5:8800", "192.168.1.5", True),
        ("Host.Local:8800", "host.local", True),
        ("192.168.1.5:8800", "0.0.0.0", True),
        ("[fe80::1]:8800", "::", True),
        ("evil.example", "0.0.0.0", False),
    ],
)
def test_only_names_that_mean_this_server_are_answered(authority, listen_host, fine):
    assert is_own_host(authority, listen_host) is fine


@pytest.mark.parametrize(
    ("origin", "fine"),
    [
        (None, True),
        ("http://127.0.0.1:8800", True),
        ("http://127.0.0.1:9999", False),
        ("http://evil.example", False),
        ("null", False),
        ("http://[", False),
        ("", False),
    ],
)
def test_only_our_own_page_may_change_something(origin, fine):
    assert is_own_origin(origin, "127.0.0.1:8800") is fine
