"""The actor with real sockets: it serves, it stops, and a taken port names who has it."""

from __future__ import annotations

import os
import socket

import httpx
import pytest
import structlog
import trio

from actors.health.health import Health
from actors.health.listen import open_listener, url_of
from runtime.actor import ActorContext, Seams, offload_to_thread
from runtime.board import Board
from runtime.clock import SystemClock
from runtime.entropy import SeededEntropy
from runtime.errors import ConfigError


async def _no_backfill(request) -> str:
    raise AssertionError(request)


@pytest.fixture
def listener():
    with open_listener("127.0.0.1:0") as listener:
        yield listener


def make(listener: socket.socket) -> Health:
    return Health(
        listener=listener,
        listen="127.0.0.1:0",
        service="holdfast",
        version="1",
        kinds=("quotes",),
        submit=_no_backfill,
        cancel=_no_backfill,
    )


def context(board: Board, on_ready=lambda: None) -> ActorContext:
    seams = Seams(clock=SystemClock(), entropy=SeededEntropy(1), offload=offload_to_thread, board=board)
    return ActorContext(name="health", incarnation=1, seams=seams, log=structlog.stdlib.get_logger(), on_ready=on_ready)


async def test_it_serves_until_drained_and_another_incarnation_takes_the_same_port(listener):
    for _ in range(2):
        board, is_ready = Board(), trio.Event()
        ctx = context(board, is_ready.set)
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(make(listener).run, ctx)
                await is_ready.wait()
                assert board.endpoints == {"health": url_of(listener)}
                async with httpx.AsyncClient() as http:
                    assert (await http.get(url_of(listener) + "/livez")).status_code == 200
                    foreign = await http.get(url_of(listener) + "/livez", headers={"host": "evil.example"})
                    assert foreign.status_code == 421
                ctx.drain_requested.set()


async def test_it_stops_in_time_although_a_client_holds_its_connection(listener):
    board, is_ready = Board(), trio.Event()
    ctx = context(board, is_ready.set)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(make(listener).run, ctx)
            await is_ready.wait()
            stream = await trio.open_tcp_stream("127.0.0.1", listener.getsockname()[1])
            async with stream:
                await stream.send_all(b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n")
                ctx.drain_requested.set()
                await trio.sleep(0.05)


def test_a_port_that_is_taken_names_who_has_it(listener):
    port = listener.getsockname()[1]
    with pytest.raises(
        ConfigError, match=rf"^port {port} is in use by process {os.getpid()} \(.+\): set health.listen or stop it$"
    ):
        open_listener(f"127.0.0.1:{port}")


@pytest.mark.parametrize("listen", ["203.0.113.1:8800", "no-such-host.invalid:8800"])
def test_an_address_that_is_not_ours_is_a_matter_for_a_person(listen):
    with pytest.raises(ConfigError, match=r"^health\.listen"):
        open_listener(listen)


def test_addresses_are_shown_as_a_browser_takes_them():
    with open_listener("0.0.0.0:0") as everywhere:
        assert url_of(everywhere) == f"http://127.0.0.1:{everywhere.getsockname()[1]}"
