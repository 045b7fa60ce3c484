"""Fixtures: contexts without a supervisor, and a server that is `/bin/sleep` and whose health a test decides."""

import signal
import sys

import attrs
import pytest
import structlog
import trio

from actors.embedded import process
from actors.embedded.endpoints import EndpointsFile
from actors.embedded.record import load_record
from actors.embedded.server import EmbeddedServer, ProbePlan
from actors.embedded.spec import EmbeddedHome
from runtime.actor import ActorContext, Seams, offload_to_thread
from runtime.board import Board
from runtime.clock import SystemClock
from runtime.entropy import SystemEntropy
from runtime.errors import NotConnected

QUICK = ProbePlan(first_every_s=0.01, every_s=0.02, timeout_s=0.2, failures_max=3, adopt_patience_s=0.1, settle_s=0.2)
IGNORES_TERM = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


@attrs.frozen(kw_only=True)
class SleepSpec:
    """A `ServerSpec` of a process that does nothing; `health` says what its probe finds."""

    home: EmbeddedHome
    health: list
    name: str = "sleeper"
    endpoint: str = "sleep"
    stop_signal: int = signal.SIGTERM
    stop_grace_s: float = 5.0
    start_patience_s: float = 30.0
    generation: str = "1"
    stubborn: bool = False
    command: tuple = ()
    prepared: list = attrs.field(factory=list)

    def check(self):
        pass

    def prepare(self, entropy):
        self.prepared.append(1)

    def argv(self, port):
        if self.command:
            return list(self.command)
        return [sys.executable, "-c", IGNORES_TERM] if self.stubborn else ["/bin/sleep", "600"]

    def env(self):
        return {}

    def version(self):
        return self.generation

    async def probe(self, port, *, timeout_s):
        await trio.lowlevel.checkpoint()
        if not self.health[-1]:
            raise NotConnected("told so")

    def url(self, port):
        return f"sleep://{port}"

    def dsn_for_pipeline(self):
        return self.url(self.home.port(self.name))


class House:
    """One data directory; `actor` and `context` make a new life of the pipeline."""

    def __init__(self, folder):
        self.home = EmbeddedHome(data_dir=folder)
        self.board = Board()
        self.endpoints = EndpointsFile(path=folder / "endpoints.json")

    def context(self, name="sleeper"):
        seams = Seams(clock=SystemClock(), entropy=SystemEntropy(), offload=offload_to_thread, board=self.board)
        return ActorContext(name=name, incarnation=1, seams=seams, log=structlog.get_logger())

    def actor(self, spec, plan=QUICK):
        return EmbeddedServer(spec=spec, home=self.home, endpoints=self.endpoints, plan=plan)

    def sleeper(self, **changes):
        return SleepSpec(home=self.home, **({"health": [True]} | changes))

    def new_life(self):
        """What a killed pipeline leaves: the files, and nothing in memory."""
        return type(self)(self.home.data_dir)

    def who(self, name="sleeper"):
        record = load_record(self.home.record(name))
        return record.process if record else None

    def state(self, name="sleeper"):
        dependency = self.board.dependencies.get(f"embedded.{name}")
        return dependency.state.value if dependency else None

    async def until(self, wanted, timeout_s=10.0):
        with trio.fail_after(timeout_s):
            while not wanted():  # noqa: ASYNC110 (another process has no trio.Event)
                await trio.sleep(0.005)

    def kill_all(self):
        """Whatever is recorded and lives ends with the test."""
        for path in self.home.folder.glob("*.json"):
            who = self.who(path.stem)
            if who is not None and process.send_signal(who, signal.SIGKILL):
                process._reap(who.pid)


@pytest.fixture
def house(tmp_path):
    house = House(tmp_path)
    yield house
    house.kill_all()


@pytest.fixture
def house_in():
    """A house in a folder of the test's choice; the test cleans up."""
    return House
