"""The real process: one line when it serves, a quiet end, one clear line when a person must mend something."""

from __future__ import annotations

import argparse
import re
import signal
import socket
import subprocess
import sys
import zipfile

import httpx
import pytest

from runtime.errors import ConfigError
from supervisors.cli import simulator as command

pytestmark = pytest.mark.stack
TIMEOUT_S = 20


@pytest.fixture
def start():
    """Start `python -m actors.embedded.simulator ARGS`, stop it at the end by its id."""
    running: list[subprocess.Popen[str]] = []

    def launch(*args):
        process = subprocess.Popen(
            [sys.executable, "-m", "actors.embedded.simulator", "--port", "0", *args],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        line = process.stdout.readline()
        match = re.search(r"http://127\.0\.0\.1:\d+", line)
        return process, match.group() if match else ""

    yield launch
    for process in running:
        process.kill()
        process.communicate(timeout=TIMEOUT_S)


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_the_last_two_hours_at_any_time_of_the_week_and_ends_quietly(start, stop):
    process, url = start("--seed", "4")
    with httpx.Client(base_url=url, headers={"Authorization": "Bearer k"}) as client:
        assert client.get("/healthz").json()["status"] == "healthy"
        answer = client.get("/v3/quotes/C:EUR-USD?limit=50000")
        assert answer.headers["content-encoding"] == "gzip"
        newest, oldest = (answer.json()["results"][i]["participant_timestamp"] for i in (0, -1))
        assert newest - oldest > 7_200 * 10**9
        assert client.get("/v1/marketstatus/now").status_code == 200
        connections = client._transport._pool.connections
        assert len(connections) == 1, "kept alive"
        process.send_signal(stop)  # with the connection still open
        out, err = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, out, err) == (0, "", "")


def test_it_ends_although_a_client_does_not_read(start):
    process, url = start()
    with socket.create_connection(("127.0.0.1", httpx.URL(url).port)) as stuck:
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        stuck.sendall(b"GET /v3/quotes/C:EUR-USD?limit=50000&apiKey=k HTTP/1.1\r\nHost: x\r\n\r\n")
        assert stuck.recv(16).startswith(b"HTTP/1.1 200")
        process.terminate()
        assert process.communicate(timeout=TIMEOUT_S) == ("", "")
    assert process.returncode == 0


def test_clients_that_vanish_leave_no_trace(start):
    process, url = start()
    for wait in (False, True):
        with socket.create_connection(("127.0.0.1", httpx.URL(url).port)) as client:
            client.sendall(b"GET /v3/quotes/C:EUR-USD?limit=50000&apiKey=k HTTP/1.1\r\nHost: x\r\n\r\n")
            if wait:
                client.recv(16)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # reset at close
    assert httpx.get(f"{url}/healthz").status_code == 200
    process.terminate()
    assert process.communicate(timeout=TIMEOUT_S) == ("", "")


def test_a_taken_port_is_one_line_and_78(start):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        process, _ = start("--port", port)
        _, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 78
    assert re.fullmatch(rf"simulator: cannot listen on 127\.0\.0\.1:{port}: .*\n", err)


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (["--recording", "no/such/folder"], "no/such/folder: does not exist"),
        (["--symbols", "C:ABCDEF"], "--symbols C:ABCDEF"),
        (["--page-rows-max", "0"], "--page-rows-max 0: must be 1 to 50000"),
        (["--port", "70000"], "--port 70000"),
        (["--rate", "-1"], "--rate -1"),
        (["--replay-speed", "500"], "need a --recording"),
        (["--fault-kinds", "gap,flood"], "--fault-kinds flood"),
        (["--host", "no.such.host.invalid"], "cannot listen on no.such.host.invalid"),
    ],
)
def test_a_mistake_is_one_line_and_78(start, args, named):
    process, _ = start(*args)
    _, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 78
    assert named in err
    assert len(err.splitlines()) == 1


def test_it_plays_a_recording(start, tmp_path):
    folder = tmp_path / "oanda" / "tick" / "eurusd"
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "20140501_quote.zip", "w") as archive:
        archive.writestr("20140501_eurusd_tick_quote.csv", "292,1.38676,1.38686")
    _, url = start("--recording", str(tmp_path / "oanda"), "--api-key", "mine", "--requests-per-minute", "2")
    with httpx.Client(base_url=url) as client:
        path = "/v3/quotes/C:EUR-USD?apiKey="
        assert client.get(path + "other").status_code == 401
        assert '"bid_price":1.38676' in client.get(path + "mine").text
        assert [client.get(path + "mine").status_code for _ in range(2)] == [200, 429]


def _parsed(*args):
    parser = argparse.ArgumentParser()
    command.register(parser.add_subparsers())
    return parser.parse_args(["simulator", *args])


def test_the_command_says_what_is_wrong_with_a_script(tmp_path):
    (tmp_path / "f.jsonl").write_text('{"fault": "earthquake"}')
    args = _parsed("--faults", str(tmp_path / "f.jsonl"))
    with pytest.raises(ConfigError, match=r"--faults .*f\.jsonl: line 1: fault 'earthquake'"):
        args.run(args)


def test_the_command_says_what_is_wrong_with_a_recording():
    args = _parsed("--recording", "no/such/folder")
    with pytest.raises(ConfigError, match=r"^recording no/such/folder: does not exist$"):
        args.run(args)
