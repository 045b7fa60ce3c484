"""The market simulator as a supervised process."""

import json
import urllib.request

import pytest

from actors.embedded.market import MarketSpec
from actors.embedded.spec import EmbeddedHome
from runtime.errors import ConfigError
from tests.support.embedded import Parent, alive, end


@pytest.mark.stack
def test_the_simulator_starts_comes_back_and_stops(tmp_path):
    parent = Parent(tmp_path, "market")
    try:
        print(f"market in {parent.start_and_wait():.2f} s")
        address = parent.endpoints()["market"]
        with urllib.request.urlopen(address + "/healthz", timeout=10) as answer:
            assert answer.status == 200
        pid = parent.record("market")["pid"]
        end(pid)
        parent.wait_for(lambda: parent.record("market")["pid"] not in (0, pid))
        parent.wait_for(lambda: parent.endpoints().get("market") == address)
        pid = parent.record("market")["pid"]
        assert parent.stop() == 0
        assert not alive(pid)
    finally:
        parent.clean_up()


def test_an_ambiguous_recording_is_refused_before_anything_is_started(tmp_path):
    for feed in ("oanda", "fxcm"):
        (tmp_path / "forex" / feed / "tick" / "eurusd").mkdir(parents=True)
    spec = MarketSpec(home=EmbeddedHome(data_dir=tmp_path), recording=tmp_path / "forex")
    with pytest.raises(ConfigError, match="oanda"):
        spec.check()


def test_another_seed_or_recording_is_another_server(tmp_path):
    home = EmbeddedHome(data_dir=tmp_path)
    lines = {
        json.dumps(spec.argv(5000))
        for spec in (
            MarketSpec(home=home),
            MarketSpec(home=home, seed=2),
            MarketSpec(home=home, recording=tmp_path),
            MarketSpec(home=home, arguments=("--latency-ms", "5")),
        )
    }
    assert len(lines) == 4
