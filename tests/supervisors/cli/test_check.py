"""`check`: what it says of the address, and that one mistake does not hide the rest."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from actors.health.listen import open_listener, url_of
from runtime.config import load
from runtime.settings import Settings
from supervisors.cli import check


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
