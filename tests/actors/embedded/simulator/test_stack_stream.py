"""The real process under load, at speed and killed: the stream's rows are those of the pages."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import asynccontextmanager

import httpx
import psutil
import pytest
import trio
import trio_websocket

from actors.embedded.market import MarketSpec
from actors.embedded.spec import EmbeddedHome

pytestmark = pytest.mark.stack


@pytest.fixture
def start():
    """Start the simulator, stop it at the end by its id; gives (process, port)."""
    running = []

    def launch(*args):
        process = subprocess.Popen(
            [sys.executable, "-m", "actors.embedded.simulator", "--port", "0", *args], stdout=subprocess.PIPE, text=True
        )
        running.append(process)
        return process, int(re.search(r"http://127\.0\.0\.1:(\d+)", process.stdout.readline()).group(1))

    yield launch
    for process in running:
        process.kill()
        process.communicate(timeout=20)


@asynccontextmanager
async def closing(stream):
    """Also after the server closed, which trio_websocket leaves to the garbage collector."""
    try:
        yield
    finally:
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(stream)


async def listen_for(port, topics, seconds, *, asset="forex"):
    """Frames as text, and the delays in ms of each frame's last event against this machine's clock."""
    frames, delays = [], []
    url = f"ws://127.0.0.1:{port}/{asset}"
    async with trio_websocket.open_websocket_url(url, max_message_size=8 << 20) as socket, closing(socket._stream):
        await socket.send_message(json.dumps({"action": "auth", "params": "k"}))
        await socket.send_message(json.dumps({"action": "subscribe", "params": topics}))
        with trio.move_on_after(seconds):
            while True:
                frames.append(await socket.get_message())
                if found := frames[-1].rfind('"t":') + 1:
                    delays.append(time.time() * 1000 - int(frames[-1][found + 3 : found + 16]))
    return frames, sorted(delays)


def events_of(frames):
    return [event for frame in frames for event in json.loads(frame, parse_float=str) if event["ev"] in ("C", "XT")]


def oracle(port, path):
    text = httpx.get(f"http://127.0.0.1:{port}/oracle/{path}", timeout=60, verify=False).text
    return [json.loads(line) for line in text.splitlines()]


def test_a_hundred_thousand_ticks_a_second(start):
    process, port = start("--rate", "100000")
    frames, delays = trio.run(listen_for, port, "C.EUR/USD", 6)
    cpu_s = sum(psutil.Process(process.pid).cpu_times()[:2])
    count = sum(frame.count('"ev":"C"') for frame in frames)
    middle, worst = delays[len(delays) // 2], delays[int(len(delays) * 0.99)]
    print(f"\n{count} events, delay ms p50 {middle:.0f} p99 {worst:.0f}, {cpu_s:.1f} s CPU, {len(frames)} frames")
    assert count > 450_000
    assert middle < 200
    found = events_of(frames)
    first, last = found[0]["t"], found[-1]["t"]
    rows = oracle(port, f"quotes/C:EURUSD?from={(first + 1) * 10**6}&to={last * 10**6}")
    offered = Counter((row["ts_ns"] // 10**6, row["bid"], row["ask"]) for row in rows)
    assert offered == Counter((one["t"], one["b"], one["a"]) for one in found if first < one["t"] < last)


def test_a_recording_at_five_hundred_times_its_speed_keeps_up(start, lean_forex):
    args = ["--recording", str(lean_forex / "fxcm"), "--replay-speed", "2000", "--replay-from", "2014-05-01T11:59Z"]
    _, port = start(*args)
    before = httpx.get(f"http://127.0.0.1:{port}/v1/marketstatus/now?apiKey=k", verify=False).json()["serverTime"]
    assert before == "2014-05-01T07:59:00.000-04:00", "it stands until somebody subscribes"
    frames, _ = trio.run(listen_for, port, "C.*", 5)
    state = httpx.get(f"http://127.0.0.1:{port}/oracle/stream", verify=False).json()
    passed_s = (state["market_now_ns"] - 1_398_945_540 * 10**9) / 10**9
    assert passed_s > 8_000
    assert state["market_now_ns"] - state["lanes"]["forex"]["position_ns"] < 400 * 10**9, "0.2 s of real time"
    found = events_of(frames)
    first, last = 1_398_945_540_000, found[-1]["t"]
    rows = oracle(port, f"quotes/C:EURUSD?from={first * 10**6}&to={last * 10**6}")
    offered = [(row["ts_ns"] // 10**6, row["bid"], row["ask"]) for row in rows if row["ts_ns"] > first * 10**6]
    assert [(one["t"], one["b"], one["a"]) for one in found if one["t"] < last] == offered


def test_a_real_capture_gives_its_minutes(start, shared_data):
    """Open, high, low, close, volume and count of each minute, from the stream and from the file by another way."""
    import gzip
    from decimal import Decimal

    _, port = start("--recording", str(shared_data / "hftbacktest"), "--replay-speed", "150")
    frames, _ = trio.run(lambda: listen_for(port, "XT.BTC-USDT", 3.5, asset="crypto"))

    def bars(trades):
        made = {}
        for ms, price, size in trades:
            bar = made.setdefault(ms // 60_000, [price, price, price, price, Decimal(0), 0])
            made[ms // 60_000] = [
                *(bar[0], max(bar[1], price), min(bar[2], price), price, bar[4] + size, bar[5] + 1),
            ]
        return made

    streamed = bars((one["t"], Decimal(one["p"]), Decimal(one["s"])) for one in events_of(frames))
    path = shared_data / "hftbacktest" / "examples" / "spot" / "btcusdt_20240808.gz"
    with gzip.open(path, "rt") as file:
        lines = [json.loads(line.partition(" ")[2]) for line in file]
    trades = [line["data"] for line in lines if line.get("stream") == "btcusdt@trade"]
    assert streamed == bars((one["T"], Decimal(one["p"]), Decimal(one["q"])) for one in trades)
    assert sum(bar[5] for bar in streamed.values()) == 9_757


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGKILL])
def test_the_market_goes_on_while_its_process_is_dead(start, lean_forex, tmp_path, stop):
    clock = str(tmp_path / "market.clock")
    args = ("--recording", str(lean_forex / "oanda"), "--replay-speed", "500", "--market-clock", clock)
    process, port = start(*args)
    trio.run(listen_for, port, "C.*", 0.5)
    before = httpx.get(f"http://127.0.0.1:{port}/oracle/stream", verify=False).json()["market_now_ns"]
    process.send_signal(stop)
    process.wait(timeout=20)
    _, port = start(*args)
    after = httpx.get(f"http://127.0.0.1:{port}/oracle/stream", verify=False).json()
    assert after["running"]
    assert after["market_now_ns"] - before > 200 * 10**9


def test_it_ends_quietly_with_streams_open(start):
    process, port = start("--rate", "1000")

    async def stop_while_listening():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(end_soon)
            try:
                await listen_for(port, "C.*", 10)
            except trio_websocket.ConnectionClosed:
                nursery.cancel_scope.cancel()

    async def end_soon():
        await trio.sleep(0.7)
        process.terminate()

    trio.run(stop_while_listening)
    assert process.wait(timeout=10) == 0


def test_the_embedded_market_knows_its_pace(tmp_path):
    home = EmbeddedHome(data_dir=tmp_path)
    still = MarketSpec(home=home, recording=tmp_path).argv(1)
    played = MarketSpec(home=home, recording=tmp_path, replay_speed=500.0, faults=tmp_path / "f").argv(1)
    paced = MarketSpec(home=home, rate=10).argv(1)
    assert "--replay-speed" not in still
    assert "--market-clock" not in still
    assert played[played.index("--replay-speed") + 1] == "500.0"
    assert played[played.index("--market-clock") + 1] == str(home.folder / "market.clock")
    assert paced[paced.index("--rate") + 1] == "10"
    assert MarketSpec(home=home).stream_url(7) == "ws://127.0.0.1:7"
