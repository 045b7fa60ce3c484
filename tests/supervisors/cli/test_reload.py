"""Which keys may change while the process runs, and that a change is taken over whole or not at all."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest
import trio

from runtime.config import load
from runtime.errors import ConfigError
from runtime.settings import Settings
from supervisors.cli import reload
from supervisors.cli.check import values_of
from supervisors.cli.reload import _RENEWS, carry_out, compare


def settings(*overrides: str, cwd: Path = Path("/nowhere"), **environ: str) -> Settings:
    return load(cwd=cwd, overrides=overrides, environ=environ).settings


def test_nothing_changed_says_so():
    change = compare(settings(), settings())
    assert str(change) == "nothing changed"
    assert change.renew == ()


def test_live_keys_are_taken_over_and_fixed_ones_named_and_left():
    wanted = settings("pipeline.log_level=debug", "log.partitions=8", "health.stalled_after_s=99")
    change = compare(settings(), wanted)
    assert change.live == ("pipeline.log_level", "health.stalled_after_s")
    assert change.fixed == ("log.partitions",)
    assert change.renew == ("health",)
    assert change.settings.pipeline.log_level == "debug"
    assert change.settings.health.stalled_after_s == 99
    assert change.settings.log.partitions == 4
    assert str(change) == (
        "changed: pipeline.log_level, health.stalled_after_s; only from the next start on: log.partitions"
    )


def test_a_child_is_started_anew_once_however_many_of_its_keys_changed():
    change = compare(settings(), settings("embedded.latency_ms=5", "embedded.requests_per_minute=60"))
    assert change.renew == ("embedded.market",)


def test_a_new_password_in_the_same_dsn_renews_its_delivery_and_another_host_does_not(tmp_path):
    (tmp_path / "secret").write_text("first\n")
    dsn = ("sinks.timescale.password_file=secret", "sinks.timescale.dsn=postgresql://me@db:5432/x")
    before = settings(*dsn, cwd=tmp_path)
    (tmp_path / "secret").write_text("second\n")
    change = compare(before, settings(*dsn, cwd=tmp_path))
    assert change.live == ("sinks.timescale.dsn",)
    assert change.renew == ("bridge.timescale",)
    assert "second" in change.settings.sinks["timescale"].dsn
    assert "second" not in str(change)

    moved = compare(before, settings(dsn[0], dsn[1].replace("@db", "@other"), cwd=tmp_path))
    assert moved.fixed == ("sinks.timescale.dsn",)
    assert moved.settings == before


def test_a_sink_more_or_less_is_fixed():
    more = settings(
        "sinks.copy.kind=timescale", "sinks.copy.dsn=postgresql://me@db/x", 'sinks.copy.stores=["coverage"]'
    )
    assert all(key.startswith("sinks.copy.") for key in compare(settings(), more).fixed)
    assert compare(settings(), more).live == compare(more, settings()).live == ()
    assert compare(more, settings()).settings == more


def test_another_key_is_live_but_another_vendor_is_not():
    one, other = settings(POLYGON_API_KEY="one"), settings(POLYGON_API_KEY="other")
    assert compare(one, other).renew == ("downloader.history",)
    assert compare(settings(), one).fixed == ("vendors.polygon.api_key",)


def test_every_live_key_exists():
    assert set(_RENEWS) <= {path for path, _, _ in values_of(Settings())}


async def test_a_child_that_does_not_start_with_its_new_values_puts_everything_back(autojump_clock, world) -> None:
    used: list[Settings] = []
    before, wanted = settings(), settings("pipeline.name=x", "vendors.polygon.request_timeout_s=60")
    change = compare(before, wanted)
    assert change.renew == ("health", "downloader.history")
    tree = world.sup("root", "one_for_one", "health", world.sup("ingest", "one_for_one", "downloader.history"), "z")
    async with world.running(tree):
        world.take()
        world.fail_start("downloader.history")
        with pytest.raises(ConfigError, match=r"downloader\.history does not run with it: .*Boom"):
            await carry_out(change, used.append, world.admin, running=before)
        assert used == [change.settings, before]
        assert world.take() == (
            "-health +health -downloader.history +downloader.history -health +health +downloader.history"
        )
        assert world.state("health") == world.state("downloader.history") == "RUNNING"

        await carry_out(change, used.append, world.admin, running=before)
        assert used[2:] == [change.settings]
        assert world.take() == "-health +health -downloader.history +downloader.history"
        assert world.child_state("health").restarts == 0  # by hand: no budget


async def test_what_the_tree_does_not_have_needs_nothing(autojump_clock, world) -> None:
    change = attrs.evolve(compare(settings(), settings()), renew=("embedded.market",))
    async with world.running(world.sup("root", "one_for_one", "a")):
        await carry_out(change, lambda _: None, world.admin, running=settings())
        await trio.sleep(1)
        assert world.take() == "+a"


async def test_a_child_that_starts_neither_way_is_left_to_its_supervisor(autojump_clock, world) -> None:
    """Renewal fails, putting back fails, the others are put back all the same; then it is restarted as after a crash."""
    before, wanted = settings(), settings("pipeline.name=x", "vendors.polygon.request_timeout_s=60")
    change = compare(before, wanted)
    used: list[Settings] = []
    tree = world.sup("root", "one_for_one", "health", world.sup("ingest", "one_for_one", "downloader.history"), "z")
    async with world.running(tree):
        world.take()
        world.fail_start("downloader.history", times=3)
        with pytest.raises(ConfigError) as caught:
            await carry_out(change, used.append, world.admin, running=before)
        assert used == [change.settings, before]
        assert "downloader.history does not run with it: root/ingest/downloader.history did not start" in str(
            caught.value
        )
        assert "putting back downloader.history: StartFailed" in str(caught.value)
        await world.settle()
        assert world.state("health") == world.state("downloader.history") == "RUNNING"
        assert world.child_state("downloader.history").restarts == 2  # one more failed, one that came up
        assert world.state("root") == "RUNNING"


async def test_control_without_recovery_it_would_stay_down(autojump_clock, world, monkeypatch) -> None:
    async def nothing(admin, child) -> None:
        pass

    monkeypatch.setattr(reload, "_recover", nothing)
    change = compare(settings(), settings("pipeline.name=x"))
    async with world.running(world.sup("root", "one_for_one", "health", "z")):
        world.fail_start("health", times=2)
        with pytest.raises(ConfigError):
            await carry_out(change, lambda _: None, world.admin, running=settings())
        await trio.sleep(1000)
        assert world.state("health") == "FAILED"


async def test_a_child_that_never_starts_again_escalates_like_any_other(autojump_clock, world) -> None:
    change = compare(settings(), settings("pipeline.name=x"))
    inner = world.sup("inner", "one_for_one", "health", intensity=(3, 30.0))
    async with world.running(world.sup("root", "one_for_one", inner, "z")):
        world.fail_start("health", times=2 + 3)
        with pytest.raises(ConfigError):
            await carry_out(change, lambda _: None, world.admin, running=settings())
        await world.settle()
        assert "supervisor_escalated" in world.kinds("root/inner")
        assert world.state("health") == "RUNNING"


async def test_settings_that_cannot_even_be_used_are_put_back(autojump_clock, world) -> None:
    change = compare(settings(), settings("pipeline.log_level=debug"))

    def use(wanted: Settings) -> None:
        if wanted.pipeline.log_level == "debug":
            raise OSError("no space")

    with pytest.raises(ConfigError, match="the process does not run with it: OSError: no space"):
        await carry_out(change, use, world.admin, running=settings())


async def test_a_reload_while_the_tree_stops_is_refused_and_ends_nothing(autojump_clock, world) -> None:
    change = compare(settings(), settings("pipeline.name=x"))
    outcome: list[str] = []

    async def slow(ctx) -> None:
        await trio.sleep(3)

    world.on_drain["health"] = slow

    async def reload() -> None:
        try:
            await carry_out(change, lambda _: None, world.admin, running=settings())
        except ConfigError as exc:
            outcome.append(str(exc))

    async with world.running(world.sup("root", "one_for_one", "health", "z")) as nursery:
        nursery.start_soon(reload)
        await trio.sleep(1)
        world.stop.set()
    assert len(outcome) == 1
    assert "noproc" in outcome[0]
