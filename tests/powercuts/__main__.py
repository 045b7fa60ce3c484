"""`make powercuts SEED= ROUNDS=`: cut the power of a file system under the log's writer, again and again (root).

Each round goes on with the log of the round before: a child writes, is stopped (an fdatasync under way must not
return 0 after the cut), the file system is shut down without flushing, mounted anew, recovered and compared with what
the child had said was acknowledged. Then the control: the same with fdatasync left out must lose data.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import attrs

from tests.powercuts.oracle import Broken, Heard, check
from tests.powercuts.volume import NotPossible, Volume
from tests.powercuts.writer import SCENARIOS, Writer

ROOT = Path(__file__).resolve().parents[2]
ROUNDS_PER_LOG = 24
CONTROL_ROUNDS = 12


@attrs.define
class Rig:
    volume: Volume
    rng: random.Random
    lying: bool = False
    rounds_left: int = 0
    heard: Heard = attrs.field(factory=lambda: Heard(0))
    counts: Counter[str] = attrs.field(factory=Counter)

    def round(self, scenario: str) -> None:
        """One life and one power cut. Raises Broken."""
        if self.rounds_left == 0:
            self.volume.format()
            self.heard, self.rounds_left = Heard(0), ROUNDS_PER_LOG
        self.rounds_left -= 1
        folder = self.volume.mountpoint / "log"
        before = self.heard.acked
        self.heard.hear(self._life(folder, scenario))
        self.volume.unmount()
        self.volume.mount()
        found = check(folder, scenario, self.heard)
        self.counts["acknowledged"] += self.heard.acked - before
        self.counts["commits"] += self.heard.commits
        self.counts["starts"] += self.heard.opened
        self.counts["torn tails"] += found.torn
        self.counts["unacknowledged but whole"] += found.unacknowledged
        self.counts["trimmed"] += scenario == "trim" and found.start > 0
        self.heard = Heard(found.groups, self.heard.cursor, self.heard.cursor)
        self._adopt_cursor(folder)

    def _adopt_cursor(self, folder: Path) -> None:
        from tests.powercuts.writer import open_log

        log = open_log(folder, "idle")
        self.heard.cursor = self.heard.cursor_under_way = log.cursor("sink").load().position
        log.close()

    def _life(self, folder: Path, scenario: str) -> bytes:
        """A child until its power goes; returns what it said before."""
        read, write = os.pipe()
        fcntl_pipe_size(write)
        seed = self.rng.randrange(1 << 62)
        pid = os.fork()
        if pid == 0:  # the parent has no threads
            try:
                os.close(read)
                Writer(folder, scenario, write, self.heard.acked, random.Random(seed), self.lying).run()
            finally:
                os._exit(1)
        os.close(write)
        try:
            said = os.read(read, 2)  # it runs
            time.sleep(self.rng.random() * (0.05 if scenario == "recovery" else 0.4) + self.rng.choice((0, 0.05)))
            os.kill(pid, signal.SIGSTOP)
            os.waitpid(pid, os.WUNTRACED)
            self.volume.cut_power()
            os.set_blocking(read, False)
            while more := _read(read):
                said += more
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            os.close(read)
        return said


def fcntl_pipe_size(fd: int) -> None:
    import fcntl

    fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, 1 << 20)


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, 1 << 16)
    except BlockingIOError:
        return b""


def campaign(seed: int, rounds: int, volume: Volume) -> tuple[Counter[str], list[str]]:
    rig = Rig(volume, random.Random(seed))
    broken: list[str] = []
    for number in range(rounds):
        scenario = SCENARIOS[number % len(SCENARIOS)]
        try:
            rig.round(scenario)
            rig.counts[f"rounds {scenario}"] += 1
        except Broken as exc:
            broken.append(f"round {number} ({scenario}): {exc}")
            print(f"BROKEN {broken[-1]}", flush=True)
            rig.rounds_left = 0
        if (number + 1) % 30 == 0:
            print(f"  {number + 1} rounds: {len(broken)} broken, {dict(rig.counts)}", flush=True)
    return rig.counts, broken


def control(seed: int, volume: Volume) -> int:
    """Rounds out of CONTROL_ROUNDS that lose data when nothing is synced."""
    caught = 0
    for number in range(CONTROL_ROUNDS):
        rig = Rig(volume, random.Random(seed + number), lying=True)
        try:
            rig.round("steady")
        except Broken:
            caught += 1
    return caught


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=300)
    args = parser.parse_args()
    volume = Volume()
    try:
        volume.format()
    except NotPossible as exc:
        volume.remove()
        print(f"NOT COVERED: power cuts, {exc}")
        return 0
    try:
        start = time.monotonic()
        counts, broken = campaign(args.seed, args.rounds, volume)
        caught = control(args.seed, volume)
    finally:
        volume.remove()
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    report = {
        "seed": args.seed,
        "rounds": args.rounds,
        "broken": broken,
        "control": f"{caught} of {CONTROL_ROUNDS} rounds without fdatasync lost data",
        "upper_bound_95": 3 / args.rounds if not broken else None,
        "counts": dict(counts),
        "seconds": round(time.monotonic() - start),
        "commit": commit.stdout.strip(),
        "kernel": os.uname().release,
    }
    out = ROOT / "build" / "powercuts.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(report, indent=1))
    print(json.dumps(report, indent=1))
    if caught == 0:
        print("the control lost nothing: this rig proves nothing here")
        return 1
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
