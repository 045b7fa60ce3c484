"""The actor with a harmless process (`sleep`) whose probe the test decides."""

import itertools
import json
import os
import signal
import socket

import attrs
import pytest
import trio

from actors.embedded import process
from actors.embedded.server import ProbePlan, choose_port
from runtime.errors import ConfigError, NotConnected

QUICK = ProbePlan(first_every_s=0.01, every_s=0.02, timeout_s=0.2, failures_max=3, adopt_patience_s=0.1, settle_s=0.2)


@pytest.fixture
async def running(nursery):
    """Start a life; gives its context, for draining."""

    async def start(house, spec, **kwargs):
        ctx = house.context()
        nursery.start_soon(house.actor(spec, **kwargs).run, ctx)
        return ctx

    return start


async def test_ready_is_said_before_the_server_answers(house, nursery):
    spec = house.sleeper(health=[False])
    ctx = house.context()
    said = trio.Event()
    ctx._on_ready = said.set
    nursery.start_soon(house.actor(spec).run, ctx)
    with trio.fail_after(5):
        await said.wait()
    await house.until(lambda: house.who() is not None)
    assert house.state() == "DOWN"
    assert house.board.endpoints == {}
    spec.health.append(True)
    await house.until(lambda: house.state() == "UP")
    assert list(house.board.endpoints) == ["sleep"]
    ctx.drain_requested.set()


async def test_an_ordered_stop_ends_the_process_and_remembers_its_port(house):
    ctx = house.context()
    spec = house.sleeper()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(house.actor(spec).run, ctx)
        await house.until(lambda: house.state() == "UP")
        who, port = house.who(), house.home.port("sleeper")
        ctx.drain_requested.set()
    assert not process.is_alive(who)
    assert house.who() is None
    assert house.home.port("sleeper") == port
    assert house.state() == "DOWN"
    assert json.loads((house.home.data_dir / "endpoints.json").read_text()) == {}


async def test_a_cancelled_actor_stops_its_process_too(house):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(house.actor(house.sleeper()).run, house.context())
        await house.until(lambda: house.state() == "UP")
        who = house.who()
        nursery.cancel_scope.cancel()
    assert not process.is_alive(who)
    assert house.who() is None


async def test_a_killed_server_is_down_on_the_board_before_the_actor_ends_and_the_next_life_has_its_port(house):
    ctx = house.context()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kill_when_up, house)
        with pytest.raises(NotConnected, match="ended with signal 9"):
            await house.actor(house.sleeper()).run(ctx)
    assert house.state() == "DOWN"
    assert house.board.endpoints == {}
    port = house.home.port("sleeper")
    async with trio.open_nursery() as nursery:
        ctx = house.context()
        nursery.start_soon(house.actor(house.sleeper()).run, ctx)
        await house.until(lambda: house.state() == "UP")
        assert house.home.port("sleeper") == port
        ctx.drain_requested.set()


async def kill_when_up(house):
    await house.until(lambda: house.state() == "UP")
    process.send_signal(house.who(), signal.SIGKILL)


async def leave_running(house, spec):
    """A life that ends as by kill -9: the process stays, nothing was cleaned up."""
    house.home.make()
    return await house.actor(spec)._adopt_or_start(house.context())


async def test_the_next_life_adopts_exactly_the_recorded_process(house):
    port, who = await leave_running(house, house.sleeper())
    after = house.new_life()
    spec = after.sleeper()
    assert await after.actor(spec)._adopt_or_start(after.context()) == (port, who)
    assert spec.prepared == []  # nothing on disk is touched under a running server


@pytest.mark.parametrize("change", [{"generation": "2"}, {"health": [False]}])
async def test_a_process_of_another_configuration_or_without_answer_is_replaced(house, change):
    port, who = await leave_running(house, house.sleeper())
    after = house.new_life()
    new_port, new = await after.actor(after.sleeper(**change))._adopt_or_start(after.context())
    assert new != who
    assert new_port == port
    assert not process.is_alive(who)
    assert process.is_alive(new)


async def test_somebody_elses_process_under_the_recorded_pid_is_left_alone(house):
    _, who = await leave_running(house, house.sleeper())
    await trio.sleep(0.03)  # the kernel counts starts in ticks of 10 ms; a pid takes longer than that to come round
    bystander = process.spawn(["/bin/sleep", "600"], env={}, log_path=house.home.log("bystander"))
    bystander.release()
    record = json.loads(house.home.record("sleeper").read_text())
    house.home.record("sleeper").write_text(json.dumps(record | {"pid": bystander.who.pid}))
    try:
        after = house.new_life()
        _, new = await after.actor(after.sleeper())._adopt_or_start(after.context())
        assert new.pid != bystander.who.pid
        assert process.is_alive(bystander.who)
    finally:
        await process.stop(bystander.who, signal_number=signal.SIGKILL, grace_s=1)
        await process.stop(who, signal_number=signal.SIGKILL, grace_s=1)


async def test_a_server_that_stops_answering_is_stopped_and_reported(house, nursery):
    spec = house.sleeper()

    async def go_deaf():
        await house.until(lambda: house.state() == "UP")
        spec.health.append(False)

    nursery.start_soon(go_deaf)
    with pytest.raises(NotConnected, match="does not answer: told so"):
        await house.actor(spec).run(house.context())
    assert house.who() is None
    assert house.state() == "DOWN"


async def test_one_failed_probe_is_down_but_no_crash(house, running):
    spec = house.sleeper()
    ctx = await running(house, spec)
    await house.until(lambda: house.state() == "UP")
    spec.health.append(False)
    await house.until(lambda: house.state() == "DOWN")
    spec.health.append(True)
    await house.until(lambda: house.state() == "UP")
    ctx.drain_requested.set()


async def test_a_server_in_recovery_is_given_its_patience_then_stopped(house):
    spec = house.sleeper(health=[False], start_patience_s=0.1)
    with pytest.raises(NotConnected, match="does not answer"):
        await house.actor(spec).run(house.context())
    assert house.who() is None


async def test_a_server_that_ignores_its_stop_signal_is_killed(house):
    spec = house.sleeper(stubborn=True, stop_grace_s=0.2)
    ctx = house.context()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(house.actor(spec).run, ctx)
        await house.until(lambda: house.state() == "UP")
        who = house.who()
        await trio.sleep(0.2)  # until Python has armed its handler
        ctx.drain_requested.set()
    assert not process.is_alive(who)
    assert "killed" in house.board.dependencies["embedded.sleeper"].reason


async def test_the_last_words_of_a_server_are_the_reason(house):
    spec = house.sleeper(health=[False], command=("/bin/sh", "-c", "echo fatal: no such thing >&2; exit 3"))
    with pytest.raises(NotConnected, match="exit code 3; its last words: fatal: no such thing"):
        await house.actor(spec).run(house.context())


async def test_a_server_that_ends_with_78_needs_a_person(house):
    spec = house.sleeper(health=[False], command=("/bin/sh", "-c", "echo mend me >&2; exit 78"))
    with pytest.raises(ConfigError, match="mend me"):
        await house.actor(spec).run(house.context())


async def test_a_data_directory_that_cannot_be_written_says_so(house):
    (house.home.data_dir / "embedded").write_text("a file in the way")
    with pytest.raises(ConfigError, match="cannot be made"):
        await house.actor(house.sleeper()).run(house.context())


async def test_the_log_is_bounded_while_the_server_runs_and_kept_once_over_a_restart(house, running):
    house.home.make()
    house.home.log("sleeper").write_text("of a former life\n")
    spec = house.sleeper(command=("/bin/sh", "-c", "while :; do echo 0123456789; sleep 0.001; done"))
    ctx = await running(house, spec, plan=attrs.evolve(QUICK, log_bytes_max=200))
    await house.until(lambda: house.state() == "UP")
    sizes = []
    for _ in range(30):
        await trio.sleep(0.01)
        sizes.append(house.home.log("sleeper").stat().st_size)
    assert any(later < earlier for earlier, later in itertools.pairwise(sizes))
    assert max(sizes) < 20_000
    assert (house.home.folder / "sleeper.log.1").read_text() == "of a former life\n"
    ctx.drain_requested.set()


def test_a_taken_port_is_not_chosen_again():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert choose_port(port) != port
    assert choose_port(port) == port


async def test_the_server_gets_none_of_our_secrets(house, running, monkeypatch):
    monkeypatch.setenv("POLYGON_API_KEY", "precious")
    spec = house.sleeper()
    ctx = await running(house, spec)
    await house.until(lambda: house.state() == "UP")
    environment = await trio.Path(f"/proc/{house.who().pid}/environ").read_bytes()
    assert b"precious" not in environment
    assert os.environ["PATH"].encode() in environment
    ctx.drain_requested.set()
