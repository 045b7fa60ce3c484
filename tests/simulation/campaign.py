"""Many seeds on all processors: results, coverage, the trace of a failure, and the self-check of determinism."""

from __future__ import annotations

import gc
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Self

import attrs

REACHED_MIN: dict[str, float] = {
    # how often per 100 seeds at least, in a campaign of 300 seeds or more: else the campaign proves less than it says
    "converged": 100,
    "process dies: kill": 30,
    "process dies: power": 30,
    "process dies in write": 5,
    "process dies in sync": 5,
    "a dead process tried to touch the world": 30,
    "durable, not confirmed": 5,
    "torn tail repaired": 2,
    "ordered stop": 20,
    "bug in buffer": 15,
    "bug in aggregator": 15,
    "bug in bridge.timescale": 15,
    "bug in bridge.clickhouse": 15,
    "bug in downloader.history": 15,
    "bug in a worker thread": 15,
    "bug in a disk operation": 10,
    "event supervisor_escalated": 1,
    "timescale down": 20,
    "clickhouse down": 20,
    "timescale forgot": 3,
    "clickhouse forgot": 3,
    "sink refuses rows": 10,
    "an answer was lost": 20,
    "a write broke in the middle": 20,
    "disk: short write failed": 10,
    "disk: sync failed": 10,
    "disk: full for a while": 20,
    "process LogSyncFailed": 5,
    "vendor down": 20,
    "vendor: cut": 10,
    "vendor: rate-limit": 10,
    "vendor: lose-at-border": 10,
    "vendor: repeat-at-border": 6,
    "vendor: loop": 5,
    "vendor: unsorted": 5,
    "changed data": 30,
    "refetch ordered": 100,
    "wall clock jumped": 50,
    "one sink dead for good": 5,
    "read-back found less": 0,
    "bug in downloader.live": 3,
    "held": 40,
    "confirmed": 15,
    "slices over a backlog": 3,
    "stream reconnect": 30,
    "stream: cut": 10,
    "stream: silent": 5,
    "stream: hung": 5,
    "stream: hole": 10,
    "stream: burst": 1,
    "stream: rival": 5,
    "stream: replay": 10,
    "stream: late tick": 100,
    "stream: rows never sent": 20,
    "stream: topic refused": 5,
    "vendor's clock stands": 5,
    "vendor's clock does not answer": 5,
    "vendor's clock wrong": 0.3,
}

ENOUGH_FROM = 300
"""Seeds: of fewer, chance alone decides whether a rare fault struck often enough."""
PROGRESS_S = 10.0
TOLD_MAX = 5
"""Failures shown with their traces; of the others only the seed."""


@attrs.frozen(kw_only=True)
class Result:
    """One seed."""

    seed: int
    failure: str
    digest: str
    events: int
    virtual_s: float
    steps: int
    reached: Counter[str]
    trace: str = ""


def run_seed(seed: int, *, keep: bool = False, without: frozenset[str] = frozenset(), mutant: str = "") -> Result:
    """In this process, which must simulate only. A failure is in the result, not raised."""
    from tests.simulation import schedule
    from tests.simulation.draw import draw
    from tests.simulation.trace import SimulationFailed, Trace
    from tests.simulation.world import World, simulate

    schedule.install()
    if mutant:
        from tests.simulation.mutants import plant

        plant(mutant)
    schedule.reset(seed)
    trace = Trace(seed, keep=keep)
    failure = ""
    world = World(draw(seed).without(without), trace)
    try:
        simulate(world)
    except SimulationFailed as exc:
        failure = str(exc)
    except Exception as exc:  # noqa: BLE001 (a seed that breaks the harness is a failure with a name too)
        failure = world.failure or _describe(exc)
    return Result(
        seed=seed,
        failure=failure,
        digest=trace.digest,
        events=trace.events,
        virtual_s=world.virtual_s,
        steps=world.steps,
        reached=trace.reached,
        trace="\n".join(trace.lines) if failure or keep else "",
    )


def run_seeds(
    seeds: Iterable[int], *, jobs: int, mutant: str = "", hash_seed: str = "", stop_at_failure: bool = False
) -> Iterator[Result]:
    """In fresh processes, `jobs` of them, each given one seed after the other; results as they come.

    `stop_at_failure`: no more seeds are begun; those under way (earlier ones among them) come to their end.
    """
    todo = iter(list(seeds))  # `next` of a list's iterator is atomic
    done: SimpleQueue[Result | Exception | None] = SimpleQueue()

    def feed() -> None:
        try:
            with _Worker(mutant, hash_seed) as worker:
                for seed in todo:
                    result = worker.run(seed)
                    done.put(result)
                    if stop_at_failure and result.failure:
                        deque(todo, maxlen=0)
        except Exception as exc:  # noqa: BLE001 (raised where the results are read)
            done.put(exc)
        done.put(None)

    with ThreadPoolExecutor(jobs) as pool:
        for _ in range(jobs):
            pool.submit(feed)
        try:
            running = jobs
            while running:
                result = done.get()
                if isinstance(result, Exception):
                    raise result
                if result is None:
                    running -= 1
                else:
                    yield result
        finally:
            deque(todo, maxlen=0)


class _Worker:
    """`python -m tests.simulation worker`: a seed in, a line of JSON out."""

    def __init__(self, mutant: str, hash_seed: str) -> None:
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed in __exit__)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.simulation", "worker", "--mutant", mutant],
            env=os.environ | {"PYTHONHASHSEED": hash_seed or "0"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            bufsize=1,
        )

    def __enter__(self) -> Self:
        return self

    def run(self, seed: int) -> Result:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{seed}\n")
        if line := self.process.stdout.readline():
            return _from_json(line)
        code = self.process.wait()
        self.errors.seek(0)
        raise RuntimeError(f"the worker of seed {seed} ended with {code}: {self.errors.read()[-3000:]}")

    def __exit__(self, *exc: object) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        self.errors.close()


def worker(seeds: Iterable[str], *, mutant: str) -> None:
    """The other end of `_Worker`."""
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)  # a twentieth faster; nothing depends on when garbage goes
    for seed in seeds:
        print(json.dumps(attrs.asdict(run_seed(int(seed), mutant=mutant))), flush=True)


def _from_json(line: str) -> Result:
    fields = json.loads(line)
    return Result(**fields | {"reached": Counter(fields["reached"])})


def _describe(exc: BaseException) -> str:
    import traceback

    return "".join(traceback.format_exception(exc))[-4000:]


@attrs.define(kw_only=True)
class Campaign:
    """Runs seeds, prints what matters, knows whether all is well."""

    first: int
    seeds: int
    jobs: int
    checked_twice: int
    """Seeds of the sample that run again in other processes under another hash seed."""
    failed: list[Result] = attrs.field(factory=list)
    reached: Counter[str] = attrs.field(factory=Counter)

    def run(self) -> bool:
        """True when everything holds."""
        began_s = told_s = time.monotonic()
        digests: dict[int, str] = {}
        events = 0
        virtual_s = 0.0
        for result in run_seeds(range(self.first, self.first + self.seeds), jobs=self.jobs):
            digests[result.seed] = result.digest
            self.reached += result.reached
            events += result.events
            virtual_s += result.virtual_s
            if result.failure:
                self.failed.append(result)
                print(told(result) if len(self.failed) <= TOLD_MAX else f"SEED={result.seed} failed, too", flush=True)
            if time.monotonic() >= told_s + PROGRESS_S:
                told_s = time.monotonic()
                print(f"{len(digests)} of {self.seeds} seeds, {len(self.failed)} failed", file=sys.stderr, flush=True)
        took_s = time.monotonic() - began_s
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu_s = used.ru_utime + used.ru_stime
        print(
            f"{self.seeds} seeds from {self.first}: {len(self.failed)} failed; {took_s:.1f} s, "
            f"{self.seeds / took_s:.1f} seeds/s with {self.jobs} processes, {cpu_s / self.seeds:.2f} s of processor per seed, {virtual_s / 3600:.1f} virtual hours, {events} events"
        )
        same = self._again(digests)
        return not self.failed and same and self._enough()

    def _again(self, digests: dict[int, str]) -> bool:
        """A sample of the seeds gives the same traces in other processes, hash seeds and neighbourhoods."""
        step = max(1, len(digests) // max(1, self.checked_twice))
        sample = list(digests)[::step][: self.checked_twice]
        if not sample:
            return True
        wrong = []
        for result in run_seeds(sample[::-1], jobs=self.jobs, hash_seed="4711"):
            if result.digest != digests[result.seed]:
                wrong.append(result.seed)
                print(f"SEED={result.seed} gave another trace the second time: make simulate-diff SEED={result.seed}")
        print(
            f"self-check: {len(sample) - len(wrong)} of {len(sample)} seeds gave the same trace under another hash seed"
        )
        return not wrong

    def _enough(self) -> bool:
        """Sometimes-assertions."""
        counts = "\n".join(f"  {name:48} {count:8}" for name, count in sorted(self.reached.items()))
        print(f"reached:\n{counts}")
        if self.seeds < ENOUGH_FROM:
            return True
        wanted = {name: per_100 * self.seeds / 100 for name, per_100 in REACHED_MIN.items()}
        wanted["converged"] -= len(self.failed)
        short = [
            f"{name}: {self.reached[name]} of {least:.0f}"
            for name, least in wanted.items()
            if self.reached[name] < least
        ]
        for line in short:
            print(f"NOT REACHED often enough: {line}")
        return not short


def told(result: Result) -> str:
    """A failure for people: what, the last events, and how to see it again."""
    again = f"make simulate FIRST={result.seed} SEEDS=1      (all events: {sys.executable} -m tests.simulation show {result.seed})"
    return f"SEED={result.seed}: {result.failure}\n{result.trace}\nSEED={result.seed} again: {again}"
