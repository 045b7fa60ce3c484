"""`check`: what it says of the address, and that one mistake does not hide the rest."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from actors.health.listen import open_listener, url_of
from runtime.config import load
from runtime.disk import RealDisk
from runtime.errors import NotConnected
from runtime.log.meta import LOCK, Meta, store_meta
from runtime.settings import Settings
from supervisors.cli import check, check_vendor


def settings_for(tmp_path: Path, listen: str) -> Settings:
    overrides = [f"pipeline.data_dir={tmp_path}", f'health.listen="{listen}"']
    return load(None, overrides=overrides, environ={}).settings


@pytest.fixture
def running(tmp_path: Path, monkeypatch):
    """A pipeline that works on the data directory and listens on an address of its own."""
    monkeypatch.setattr("supervisors.cli.instance.is_running", lambda settings: True)
    listener = open_listener("127.0.0.1:0")
    (tmp_path / "endpoints.json").write_text(json.dumps({"health": url_of(listener)}))
    yield listener
    listener.close()


def test_the_address_of_the_running_pipeline_is_its_status_page(running: socket.socket, tmp_path: Path) -> None:
    port = running.getsockname()[1]
    for host in ("127.0.0.1", "localhost"):
        assert check.address(settings_for(tmp_path, f"{host}:{port}")) == (
            "the status page of the running pipeline",
            None,
        )


def test_an_address_where_the_running_pipeline_does_not_listen_is_not_its_page(running, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    elsewhere = f"the running pipeline listens on {url_of(running)}, not here"
    assert check.address(settings_for(tmp_path, f"127.0.0.1:{port}")) == (f"free; {elsewhere}", None)


def test_an_address_that_another_program_has_is_not_its_page_either(running, tmp_path: Path, taken_port: int) -> None:
    text, wrong = check.address(settings_for(tmp_path, f"127.0.0.1:{taken_port}"))
    assert text.startswith("cannot be used; the running pipeline listens on ")
    assert f"port {taken_port} is in use by" in str(wrong)


def test_a_port_in_use_does_not_hide_the_dependencies(pipeline, taken_port: int) -> None:
    said = pipeline("check", "--set", f"health.listen=127.0.0.1:{taken_port}")
    assert said.code == 78
    assert "sinks.timescale: UP" in said.out
    assert "vendors.polygon: UP" in said.out
    assert len(said.err.splitlines()) == 1
    assert f"port {taken_port} is in use by" in said.err


def made_with(data_dir: Path, partitions: int) -> None:
    """A log as its first start leaves it."""
    (data_dir / "log").mkdir(parents=True)
    (data_dir / "log" / LOCK).write_bytes(b"")
    store_meta(RealDisk(), data_dir / "log", Meta(log_id="l", version=1, partitions=partitions, created_ns=0))


def test_another_number_of_partitions_than_the_log_was_made_with_is_refused_as_run_does(pipeline, tmp_path: Path):
    made_with(tmp_path / "d", 4)
    sets = ("--set", f"pipeline.data_dir={tmp_path}/d", "--set", "health.listen=127.0.0.1:0")
    assert pipeline("check", *sets).code == 0  # the control
    said = pipeline("check", *sets, "--set", "log.partitions=8")
    assert said.code == 78
    assert said.err.startswith(f"pipeline: log.partitions = 8, but the log in {tmp_path}/d/log was made with 4")
    assert "vendors.polygon: UP" in said.out  # the rest is told all the same


def streaming(url: str) -> Settings:
    overrides = ['vendors.polygon.rest_url="http://127.0.0.1:1"', f'vendors.polygon.stream_url="{url}"']
    return load(None, overrides=overrides, environ={"POLYGON_API_KEY": "none"}).settings


def test_a_stream_that_takes_connections_is_up(taken_port: int):
    assert check_vendor.stream(streaming(f"ws://127.0.0.1:{taken_port}")).endswith("takes connections")


@pytest.mark.parametrize("url", ["ws://127.0.0.1:1", "wss://127.0.0.1:1"])
def test_a_stream_that_cannot_be_reached_is_down_and_named(url: str):
    with pytest.raises(NotConnected, match=url):
        check_vendor.stream(streaming(url))


def test_a_stream_that_hangs_or_speaks_no_tls_is_down(taken_port: int, monkeypatch):
    monkeypatch.setattr(check_vendor, "PROBE_S_MAX", 0.2)
    with pytest.raises(NotConnected, match=r"no connection within 0\.2 s"):
        check_vendor.stream(streaming(f"wss://127.0.0.1:{taken_port}"))


def test_the_stream_is_a_dependency_only_while_live_is_on():
    settings = streaming("ws://127.0.0.1:1")
    assert "vendors.polygon.stream_url" in dict(check.probes(settings))
    overrides = ['vendors.polygon.rest_url="http://127.0.0.1:1"', "downloader.live=false"]
    quiet = load(None, overrides=overrides, environ={"POLYGON_API_KEY": "none"}).settings
    assert "vendors.polygon.stream_url" not in dict(check.probes(quiet))
