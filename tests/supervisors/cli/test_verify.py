"""The verdict of `verify`: what is a no, and how holes get their names."""

from __future__ import annotations

import json

import attrs
import pytest

from actors.bridge.conservation import LedgerLine, LedgerReport
from actors.bridge.port import Unaudited
from actors.market.symbols import feeds
from runtime.clock import parse_instant_ns
from supervisors.cli.verify import assemble, coverage_lines, lines

MONDAY = parse_instant_ns("2014-05-05T00:00Z")
H = 3600 * 10**9
WANTED = {("C:EURUSD", "quotes")}


def record(from_h: float, to_h: float, status: str = "final", reason: str = "", symbol: str = "C:EURUSD"):
    return (symbol, "quotes", MONDAY + round(from_h * H), MONDAY + round(to_h * H), status, reason)


def report(**counts: int) -> LedgerReport:
    full = {"accepted": 10, "stored": 10, "replaced": 0, "dead_lettered": 0, "pending": 0, "before": 0}
    line = LedgerLine(kind="quotes", **{**full, "unaccounted": 0, "duplicated": 0, **counts})
    problems = tuple(
        f"quotes: {n} rows {what}" for what, n in counts.items() if what in ("unaccounted", "duplicated") and n
    )
    return LedgerReport(sink="timescale", log_id="l", lines=(line,), problems=problems, rows_audited=10)


def test_a_clean_ledger_is_a_yes():
    found = assemble("l", [report()], [], asked=True)
    assert found.problems == ()
    assert list(lines(found))[-1] == "everything is accounted for"


@pytest.mark.parametrize("what", ["unaccounted", "duplicated"])
def test_what_is_unaccounted_or_duplicated_is_named(what):
    found = assemble("l", [report(**{what: 3})], [], asked=False)
    assert found.problems == (f"timescale: quotes: 3 rows {what}",)
    answer = json.loads(json.dumps(found.to_json()))
    assert answer["ok"] is False
    assert answer["sinks"][0][what] == 3
    assert list(lines(found))[-1] == "1 problem"
    assert list(lines(attrs.evolve(found, problems=("a", "b"))))[-1] == "2 problems"


def test_rows_that_no_checksum_covers_are_no_problem_and_never_silent():
    left = tuple(
        Unaudited(kind="quotes", symbol="C:EURUSD", from_ns=MONDAY + n * H, to_ns=MONDAY + (n + 1) * H, rows=n)
        for n in range(1, 23)
    )
    found = assemble("l", [attrs.evolve(report(), unaudited=left)], [], asked=False)
    text = "\n".join(lines(found))
    assert "253 rows counted, but compared with no checksum" in text
    assert "  C:EURUSD quotes 2014-05-05T01:00:00Z … 2014-05-05T02:00:00Z: 1 rows" in text
    assert "and 2 more" in text
    answer = json.loads(json.dumps(found.to_json()))
    assert answer["ok"] is True
    assert answer["sinks"][0]["rows_unaudited"] == 253
    assert answer["sinks"][0]["unaudited"][0] == {
        "kind": "quotes", "symbol": "C:EURUSD", "rows": 1, "from_ns": MONDAY + H, "to_ns": MONDAY + 2 * H,
        "from": "2014-05-05T01:00:00Z", "to": "2014-05-05T02:00:00Z",
    }  # fmt: skip


def test_whole_coverage_has_no_holes():
    (line,) = coverage_lines([record(0, 1), record(1, 3, "empty"), record(3, 4, "live")], WANTED, None)
    assert (line.open_s, line.covered_s, line.holes) == (4 * 3600, 4 * 3600, ())


def test_holes_are_market_hours_only():
    friday_close, sunday_open = parse_instant_ns("2014-05-09T21:00Z"), parse_instant_ns("2014-05-11T21:00Z")
    records = [
        ("C:EURUSD", "quotes", friday_close - 2 * H, friday_close - H, "final", ""),
        ("C:EURUSD", "quotes", sunday_open + H, sunday_open + 2 * H, "final", ""),
    ]
    (line,) = coverage_lines(records, WANTED, None)
    assert line.open_s == 4 * 3600
    assert line.holes == (
        (friday_close - H, friday_close, "not fetched"),
        (sunday_open, sunday_open + H, "not fetched"),
    )


def test_a_hole_carries_the_reason_of_its_record_and_the_rest_was_never_asked():
    records = [record(0, 1), record(2, 3, "missing", "vendor has none"), record(3, 3.5, "quarantined"), record(5, 6)]
    (line,) = coverage_lines(records, WANTED, None)
    assert [(a - MONDAY, b - MONDAY, why) for a, b, why in line.holes] == [
        (1 * H, 2 * H, "not fetched"),
        (2 * H, 3 * H, "missing: vendor has none"),
        (3 * H, 3.5 * H, "quarantined"),
        (3.5 * H, 5 * H, "not fetched"),
    ]


def test_a_span_that_was_asked_for_must_be_covered():
    span = (MONDAY, MONDAY + 2 * H)
    coverage = coverage_lines([record(0, 1)], WANTED, span)
    assert assemble("l", [], coverage, asked=False).problems == ()
    assert assemble("l", [], coverage, asked=True).problems == (
        "C:EURUSD quotes: 2014-05-05T01:00:00Z … 2014-05-05T02:00:00Z: not fetched",
    )


def test_what_is_wanted_and_has_no_record_at_all_is_shown_for_a_span():
    assert coverage_lines([], WANTED, None) == []
    (line,) = coverage_lines([], WANTED, (MONDAY, MONDAY + H))
    assert (line.covered_s, len(line.holes)) == (0, 1)


def test_symbols_that_are_stored_but_no_longer_wanted_are_shown_too():
    found = coverage_lines([record(0, 1), record(0, 1, symbol="C:USDJPY")], WANTED, None)
    assert [line.symbol for line in found] == ["C:EURUSD", "C:USDJPY"]


def test_a_weekend_has_no_market_hours():
    saturday = parse_instant_ns("2014-05-10T10:00Z")
    coverage = coverage_lines([], WANTED, (saturday, saturday + H))
    assert "no market hours" in "\n".join(lines(assemble("l", [], coverage, asked=True)))
    assert assemble("l", [], coverage, asked=True).problems == ()


def test_many_holes_are_counted_not_listed():
    records = [record(n, n + 0.5) for n in range(30)]
    text = "\n".join(lines(assemble("l", [report()], coverage_lines(records, WANTED, None), asked=False)))
    assert text.count(": not fetched") == 20
    assert "and 9 more (--json gives all)" in text


def test_a_kind_that_a_symbol_does_not_have_is_not_missed():
    wanted = set(feeds(("C:EURUSD", "X:BTCUSD"), ("quotes", "trades")))
    assert wanted == {("C:EURUSD", "quotes"), ("X:BTCUSD", "trades")}


def test_the_last_sentence_is_not_green_over_a_hole():
    records = [
        record(0, 1),
        record(2, 3),
        record(3, 4, "missing", "unknown symbol"),
        record(6, 8, "missing", "unknown symbol"),
    ]
    found = assemble("l", [report()], coverage_lines(records, WANTED, None), asked=False)
    assert found.problems == ()  # exit 0: the contract's no is for what is unaccounted or doubled
    assert list(lines(found))[-1] == (
        "everything accepted is accounted for, but not everything was fetched: 3 h 0 min of C:EURUSD quotes "
        "(not fetched), 3 h 0 min of C:EURUSD quotes (missing: unknown symbol) are not there"
    )


def test_many_kinds_of_holes_are_counted_in_the_last_sentence():
    symbols = [f"C:AAA{letter}SD" for letter in "BCDEFGH"]
    records = [record(0, 1, "missing", symbol=symbol) for symbol in symbols]
    found = assemble("l", [report()], coverage_lines(records, WANTED, None), asked=False)
    assert "(missing), 2 more are not there" in list(lines(found))[-1]


def test_an_end_in_the_future_is_refused_as_backfill_does(pipeline):
    said = pipeline("verify", "--from", "2014-05-01", "--to", "2199-01-01")
    assert said.code == 78
    assert said.err.startswith("pipeline: --to 2199-01-01T00:00:00Z is in the future: choose an earlier --to")
    assert "holds no data yet" in pipeline("verify", "--from", "2014-05-01", "--to", "").err  # the control: "until now"


@pytest.mark.parametrize("argv", [("verify",), ("sql", "timescale", "SELECT 1")])
def test_a_data_directory_that_is_a_file_is_said_to_be_none(pipeline, tmp_path, argv):
    (tmp_path / "f").write_text("")
    said = pipeline(*argv, "--set", f"pipeline.data_dir={tmp_path}/f")
    assert (said.code, said.err) == (
        78,
        f"pipeline: pipeline.data_dir = {tmp_path}/f is no directory: set it to another\n",
    )
