"""Scripts of faults: what they may say, and that a mistake is named with its line."""

from __future__ import annotations

import pytest

from actors.embedded.simulator.assembly import arm_script
from actors.embedded.simulator.fault_book import FaultBook, Moment
from actors.embedded.simulator.faults import KINDS, BadFault, RandomFaults, parse_fault, parse_script
from actors.embedded.simulator.options import Options
from runtime.errors import ConfigError


def test_a_script_is_json_lines_with_comments():
    script = """
    # ten outages of random length
    {"fault": "disconnect", "when": {"after_s": 20, "every_s": 45, "times": 10}, "for_s": [0, 10]}

    {"fault": "late", "p": 0.01, "delay_s": 1800, "asset": "forex"}
    """
    first, second = parse_script(script)
    assert (first.fault, first.when.times, first.for_s) == ("disconnect", 10, (0.0, 10.0))
    assert (second.p, second.delay_s, second.asset) == (0.01, 1800, "forex")


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("gap", "malformed"),
        ("[]", "object"),
        ('{"fault": "earthquake"}', "'earthquake': must be one of disconnect, abort"),
        ("{}", "fault"),
        ('{"fault": "gap", "code": 1000}', "'code' means nothing for gap, which has asset, fault, for_market_s"),
        ('{"fault": "gap", "colour": 1}', "colour"),
        ('{"fault": "gap", "rows": 0}', "rows must be at least 1"),
        ('{"fault": "gap", "rows": "many"}', "rows"),
        ('{"fault": "late", "p": 1.5}', "p must be 0 to 1"),
        ('{"fault": "late", "delay_s": 0}', "delay_s"),
        ('{"fault": "disconnect", "code": 1234}', "code must be one of 1000"),
        ('{"fault": "silence", "for_s": -1}', "durations"),
        ('{"fault": "silence", "for_s": [1, 2, 3]}', "for_s"),
        ('{"fault": "replay", "n": 1000000}', "n must be 0 to 100000"),
        ('{"fault": "gap", "asset": "stocks"}', "asset"),
        ('{"fault": "gap", "when": {"at": "tomorrow"}}', "when.at 'tomorrow'"),
        ('{"fault": "gap", "when": {"times": 3}}', "`times` needs `every_s`"),
        ('{"fault": "gap", "when": {"sometimes": 3}}', "sometimes"),
    ],
)
def test_a_mistake_is_named(line, named):
    with pytest.raises(BadFault, match="(?i)" + named.replace("[", r"\[")):
        parse_fault(line)


def test_the_script_of_the_command_line_is_refused_with_file_and_line(tmp_path):
    path = tmp_path / "faults.jsonl"
    path.write_text('{"fault": "gap"}\n{"fault": "gop"}\n')
    with pytest.raises(ConfigError, match=r"--faults .*faults\.jsonl: line 2: fault 'gop'"):
        arm_script(Options(faults=path), FaultBook())
    with pytest.raises(ConfigError, match="No such file"):
        arm_script(Options(faults=tmp_path / "none"), FaultBook())


def test_faults_by_seed_are_the_same_for_a_seed_and_of_every_kind():
    def drawn(seed):
        return list(RandomFaults(seed=seed, every_s=10.0).faults())

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    assert {fault.fault for fault in drawn(1)} == set(KINDS)
    at_s = [fault.when.after_s for fault in drawn(1)]
    assert at_s == sorted(at_s)
    assert 8_000 < at_s[-1] < 12_000
    only = RandomFaults(seed=1, every_s=10.0, kinds=("gap",)).faults()
    assert {fault.fault for fault in only} == {"gap"}


def test_a_drawn_duration_is_the_same_for_a_seed_and_within_its_bounds():
    def drawn(seed):
        book = FaultBook(seed=seed)
        for _ in range(50):
            book.arm(parse_fault('{"fault": "silence", "for_s": [2, 4]}'))
        now = Moment(real_s=100.0, market_ns=0, events={})
        return [one.until_real_s - 100.0 for one in book.due(now)]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    assert all(2 <= length <= 4 for length in drawn(1))
    assert max(drawn(1)) - min(drawn(1)) > 1
