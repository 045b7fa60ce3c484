"""Rows per second of server CPU, over real HTTP: the market must not be what limits the pipeline."""

from __future__ import annotations

import http.client
import re
import subprocess
import sys

import psutil
import pytest

pytestmark = pytest.mark.bench
ROWS_PER_CPU_S_MIN = 300_000  # three times what the pipeline must carry, on a busy machine


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
@pytest.mark.parametrize("source", ["synthetic", "oanda", "fxcm"])
def test_rows_per_second(source, encoding, request):
    args = ["--symbols", "C:EURUSD"]
    if source != "synthetic":
        args += ["--recording", str(request.getfixturevalue("lean_forex") / source)]
    command = [sys.executable, "-m", "actors.embedded.simulator", "--port", "0", *args]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            address = re.search(r"127\.0\.0\.1:\d+", process.stdout.readline()).group()
            rows, cpu_s = _download(address, psutil.Process(process.pid), encoding, source)
        finally:
            process.terminate()
    rate = rows / cpu_s
    print(f"\n{source} {encoding}: {rows} rows, {rate:,.0f} rows per CPU second, each part cold")
    assert rate > ROWS_PER_CPU_S_MIN


def _download(address, process, encoding, source):
    day = "2024-05" if source == "synthetic" else "2014-05"
    path = f"/v3/quotes/C:EUR-USD?limit=50000&order=asc&timestamp.gte={day}-01&timestamp.lt={day}-20"
    client = http.client.HTTPConnection(address, timeout=60)
    started = sum(process.cpu_times()[:2])
    pages = 0
    while path:
        client.request("GET", path, headers={"Authorization": "Bearer k", "Accept-Encoding": encoding})
        body = client.getresponse().read()
        pages += 1
        if encoding == "gzip":
            import gzip

            body = gzip.decompress(body)
        found = re.search(rb'"next_url":"https://[^/]*([^"]*)"', body[-1_000:])
        path = found.group(1).decode() if found and pages < 20 else ""
        last = body.count(b'"ask_price"')
    client.close()
    return (pages - 1) * 50_000 + last, sum(process.cpu_times()[:2]) - started
