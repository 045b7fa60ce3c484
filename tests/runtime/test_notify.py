"""What is said to systemd, heard by a stand-in socket."""

from __future__ import annotations

import socket
import time

import pytest
import trio

from runtime.errors import ConfigError
from runtime.notify import Notifier, feed_watchdog


@pytest.fixture
def manager(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.setblocking(False)
        yield sock, Notifier(str(tmp_path / "notify"), watchdog_s=10.0)


def heard(sock: socket.socket) -> list[str]:
    messages = []
    while True:
        try:
            messages.append(sock.recv(4096).decode())
        except BlockingIOError:
            return messages


def test_each_message_is_one_datagram(manager) -> None:
    sock, notifier = manager
    assert notifier.ready("3 sinks up\nsecond line")
    assert notifier.stopping()
    assert notifier.watchdog()
    assert notifier.extend(1.5)
    assert heard(sock) == [
        "STATUS=3 sinks up second line\nREADY=1",
        "STOPPING=1",
        "WATCHDOG=1",
        "EXTEND_TIMEOUT_USEC=1500000",
    ]


def test_reloading_carries_the_kernels_monotonic_time_in_the_same_datagram(manager) -> None:
    sock, notifier = manager
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier.reloading()
    (message,) = heard(sock)
    first, second = message.split("\n")
    assert first == "RELOADING=1"
    assert before <= int(second.removeprefix("MONOTONIC_USEC=")) <= before + 10**6


def test_an_abstract_socket_works() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0holdfast-test-notify")
        assert Notifier("@holdfast-test-notify").ready()
        assert sock.recv(100) == b"READY=1"


def test_nobody_listening_is_no_error(tmp_path) -> None:
    assert not Notifier().ready()
    assert not Notifier(str(tmp_path / "gone")).ready()


def test_a_full_socket_blocks_nothing(manager) -> None:
    _, notifier = manager
    assert not all(notifier.watchdog() for _ in range(5000))


def test_the_environment_is_read_and_checked() -> None:
    environment = {"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}
    assert Notifier.from_environment(environment, pid=7) == Notifier("/run/x", 30.0)
    assert Notifier.from_environment(environment, pid=8) == Notifier("/run/x", None)
    assert Notifier.from_environment({}) == Notifier()
    with pytest.raises(ConfigError, match=r"NOTIFY_SOCKET.*'run/x'"):
        Notifier.from_environment({"NOTIFY_SOCKET": "run/x"})
    with pytest.raises(ConfigError, match=r"WATCHDOG_USEC.*'soon'"):
        Notifier.from_environment({"WATCHDOG_USEC": "soon"})


async def test_the_watchdog_is_fed_only_while_all_move_and_the_root_answers(autojump_clock, manager) -> None:
    sock, notifier = manager
    late: list[str] = []
    hangs = False

    async def ping() -> None:
        if hangs:
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: feed_watchdog(notifier, late=lambda: tuple(late), ping=ping))
        await trio.sleep(12)
        assert heard(sock) == ["WATCHDOG=1"] * 3
        late.append("bridge.clickhouse")
        await trio.sleep(20)
        assert heard(sock) == ["STATUS=late: bridge.clickhouse"]
        late.clear()
        await trio.sleep(5)
        assert heard(sock) == ["WATCHDOG=1", "STATUS=running"]
        hangs = True
        await trio.sleep(30)
        assert heard(sock)[-1] == "STATUS=the root supervisor does not answer"
        assert "WATCHDOG=1" not in heard(sock)
        nursery.cancel_scope.cancel()
