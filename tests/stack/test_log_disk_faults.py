"""strace makes the real process's disk fail, fill up, write short or stall. What the user sees, and nothing is lost."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import httpx
import pytest

from tests.support.pipeline import Pipeline

pytestmark = pytest.mark.stack
SETTINGS = (
    'pipeline.symbols=["C:EURUSD"]',
    "downloader.history_from=2024-03-05T10:00",
    "downloader.history_to=2024-03-05T10:05",
)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    if shutil.which("strace") is None:
        pytest.skip("NOT COVERED: faults injected into system calls, strace is not installed")
    made = Pipeline(tmp_path_factory.mktemp("faults") / "data", *SETTINGS)
    made.start()
    try:
        wait_idle(made)
        yield made
    finally:
        if made.process is not None and made.process.poll() is None:
            made.stop()
        made.stop_embedded()


class Injection:
    """strace on the process and the threads it has or makes; the servers it started earlier are left alone."""

    def __init__(self, pipeline: Pipeline, call: str, what: str, *, path: Path | None = None) -> None:
        """`path`: only calls on this file."""
        assert pipeline.process is not None
        self.output = pipeline.data_dir.parent / f"strace-{time.monotonic_ns()}"
        argv = ["strace", "-f", "-o", str(self.output), "-p", str(pipeline.process.pid)]
        argv += ["-P", str(path)] if path is not None else []
        self.process = subprocess.Popen(
            [*argv, "-e", f"trace={call}", "-e", f"inject={call}:{what}"], stderr=subprocess.PIPE
        )
        assert self.process.stderr is not None
        line = self.process.stderr.readline().decode()
        if "attached" not in line:
            self.process.wait(10)
            self.process.stderr.close()
            pytest.skip(f"NOT COVERED: faults injected into system calls, {line.strip()}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(10)
        assert self.process.stderr is not None
        self.process.stderr.close()

    @property
    def hits(self) -> int:
        """No control, no evidence: the fault must have happened."""
        return self.output.read_text().count("(INJECTED)") + self.output.read_text().count("(DELAYED)")


def status(pipeline: Pipeline) -> dict:
    return httpx.get(pipeline.endpoints()["health"] + "/api/status", timeout=30).json()


def wait_idle(pipeline: Pipeline, seconds: float = 90) -> dict:
    pipeline.wait_endpoint("health")
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = status(pipeline)
        if found["idle"]:
            return found
        time.sleep(0.2)
    raise TimeoutError(json.dumps(found, indent=1))


def backfill(pipeline: Pipeline, hour: int) -> None:
    job = {
        "symbols": ["C:EURUSD"],
        "kinds": ["quotes"],
        "from": f"2024-03-05T{hour:02d}:10",
        "to": f"2024-03-05T{hour:02d}:20",
        "refetch": False,
    }
    httpx.post(pipeline.endpoints()["health"] + "/api/backfill", json=job, timeout=30).raise_for_status()


def clean(pipeline: Pipeline) -> None:
    done = pipeline.call("verify", "--json")
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_space_for_a_commit_is_waited_out(pipeline: Pipeline) -> None:
    before = wait_idle(pipeline)["records_accepted"]
    with Injection(pipeline, "pwritev,pwritev2", "error=ENOSPC:when=1+") as fault:
        backfill(pipeline, 6)
        deadline = time.monotonic() + 20
        while not (status(pipeline)["log"] or {}).get("error") and time.monotonic() < deadline:
            time.sleep(0.1)
        seen = status(pipeline)
        assert "No space left" in seen["log"]["error"]
        assert (seen["status"], seen["log"]["seconds_until_loss"]) == ("unhealthy", 0.0)
        assert fault.hits > 0
    after = wait_idle(pipeline)
    assert after["records_accepted"] > before
    assert after["log"]["error"] == ""
    clean(pipeline)


def test_short_writes_are_taken_back(pipeline: Pipeline) -> None:
    before = wait_idle(pipeline)["records_accepted"]
    with Injection(pipeline, "pwritev,pwritev2", "retval=100:when=1..2") as fault:
        backfill(pipeline, 7)
        after = wait_idle(pipeline)
        assert fault.hits > 0
    assert after["records_accepted"] > before
    clean(pipeline)


def test_a_volume_that_turns_read_only_is_waited_out(pipeline: Pipeline) -> None:
    """Also what cannot be written cannot be cut back: the buffer crashed by that, and its next life ended with 78."""
    before, said = wait_idle(pipeline)["records_accepted"], len(pipeline.log_text())
    with Injection(pipeline, "pwritev,pwritev2,ftruncate,fallocate", "error=EROFS:when=1+") as fault:
        backfill(pipeline, 11)
        deadline = time.monotonic() + 20
        while not (status(pipeline)["log"] or {}).get("error") and time.monotonic() < deadline:
            time.sleep(0.1)
        assert "Read-only file system" in status(pipeline)["log"]["error"]
        assert fault.hits > 0
    after = wait_idle(pipeline)
    assert after["records_accepted"] > before
    assert after["log"]["error"] == ""
    assert "crash" not in pipeline.log_text()[said:]
    clean(pipeline)


def test_a_stalling_disk_only_delays(pipeline: Pipeline) -> None:
    before = wait_idle(pipeline)["records_accepted"]
    with Injection(pipeline, "fdatasync", "delay_enter=2000000:when=1") as fault:
        backfill(pipeline, 8)
        after = wait_idle(pipeline)
        assert fault.hits > 0
    assert after["records_accepted"] > before
    assert "log_sync_slow" in pipeline.log_text()
    clean(pipeline)


def test_a_failed_sync_ends_the_process_with_74_and_nothing_accepted_is_lost(pipeline: Pipeline) -> None:
    assert pipeline.process is not None
    before = wait_idle(pipeline)["records_accepted"]
    segment = max((pipeline.data_dir / "log").glob("*.seg"))  # a cursor's sync may come first, and ends it as well
    with Injection(pipeline, "fdatasync", "error=EIO:when=1", path=segment) as fault:
        backfill(pipeline, 9)
        assert pipeline.wait(60) == 74
        assert fault.hits > 0
    said = pipeline.log_text()
    assert "Input/output error" in said
    assert "nothing was acknowledged" in said
    assert (pipeline.data_dir / "log" / "SUSPECT").exists()
    pipeline.start()
    after = wait_idle(pipeline)
    assert after["records_accepted"] > before
    assert not (pipeline.data_dir / "log" / "SUSPECT").exists()
    clean(pipeline)


def test_a_stop_on_a_failing_disk_ends_with_74_too(pipeline: Pipeline) -> None:
    """It said 0, as if all were well."""
    assert pipeline.process is not None
    if pipeline.process.poll() is not None:
        pipeline.start()  # the test before this one failed
    wait_idle(pipeline)
    with Injection(pipeline, "fsync,fdatasync", "error=EIO:when=1+") as fault:
        pipeline.process.send_signal(signal.SIGTERM)
        assert pipeline.wait(60) == 74
        assert fault.hits > 0
    assert (pipeline.data_dir / "log" / "SUSPECT").exists()
    pipeline.start()
    wait_idle(pipeline)
    assert not (pipeline.data_dir / "log" / "SUSPECT").exists()
    clean(pipeline)
