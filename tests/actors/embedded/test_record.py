import stat

import pytest

from actors.embedded.process import ProcessId
from actors.embedded.record import ServerRecord, Takeover, decide, fingerprint_of, load_record, save_record

WHO = ProcessId(pid=7, start_ticks=123, boot_id="b")
RUNNING = ServerRecord(port=5000, fingerprint="f", process=WHO)
STOPPED = ServerRecord(port=5000, fingerprint="f", process=None)


@pytest.mark.parametrize(
    ("record", "alive", "healthy", "fingerprint", "wanted"),
    [
        (None, False, False, "f", Takeover.START),
        (STOPPED, False, False, "f", Takeover.START),
        (RUNNING, False, False, "f", Takeover.START),
        (RUNNING, False, True, "f", Takeover.START),  # somebody else answers on the port of a dead process
        (RUNNING, True, True, "f", Takeover.ADOPT),
        (RUNNING, True, True, "another", Takeover.REPLACE),
        (RUNNING, True, False, "f", Takeover.REPLACE),
        (RUNNING, True, False, "another", Takeover.REPLACE),
    ],
)
def test_only_a_live_healthy_server_of_the_same_configuration_is_adopted(record, alive, healthy, fingerprint, wanted):
    assert decide(record, alive=alive, healthy=healthy, fingerprint=fingerprint) is wanted


@pytest.mark.parametrize("record", [RUNNING, STOPPED])
def test_a_record_survives_the_file_and_is_private(tmp_path, record):
    path = tmp_path / "x.json"
    save_record(path, record)
    assert load_record(path) == record
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"port": 1, "fingerprint": "f", "pid": "x"}', "\x00"])
def test_a_damaged_record_is_not_believed(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text)
    assert load_record(path) is None


def test_the_fingerprint_does_not_confuse_neighbouring_parts():
    assert fingerprint_of(["ab", "c"]) != fingerprint_of(["a", "bc"])
