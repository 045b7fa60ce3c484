"""Log records: lines for people, JSON for machines, never a secret."""

from __future__ import annotations

import io
import json
import logging

import pytest
import structlog

from runtime.errors import ConfigError
from runtime.settings import Secret
from runtime.telemetry import LogSetup, Redactor, actor_logger, close_logging, configure_logging, secrets_of

START_NS = 1_400_000_000_123_456_789


class StoppedClock:
    def wall_ns(self) -> int:
        return START_NS

    def monotonic_s(self) -> float:
        return 0.0


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def logged(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    root = logging.getLogger()
    level, raises = root.level, logging.raiseExceptions

    def _configure(stream: io.StringIO, **more) -> io.StringIO:
        configure_logging(LogSetup(clock=StoppedClock(), stream=stream, **more))
        return stream

    yield _configure
    close_logging()
    root.setLevel(level)
    logging.raiseExceptions = raises
    structlog.reset_defaults()


def test_a_terminal_gets_one_line_per_record_with_the_actors_name(logged):
    out = logged(Terminal())
    actor_logger("history", symbol="C:EURUSD").info("slice_appended", rows=5, why="two words")
    assert out.getvalue() == (
        '2014-05-13T16:53:20.123Z info    history              slice_appended symbol=C:EURUSD rows=5 why="two words"\n'
    )


def test_elsewhere_every_record_is_a_json_object(logged):
    out = logged(io.StringIO())
    actor_logger("history").warning("log_full", retry_s=1.5, path=io)
    record = json.loads(out.getvalue())
    assert record["timestamp"] == "2014-05-13T16:53:20.123Z"
    assert (record["actor"], record["level"], record["event"], record["retry_s"]) == (
        "history",
        "warning",
        "log_full",
        1.5,
    )


@pytest.mark.parametrize(
    ("log_format", "stream", "is_json"), [("json", Terminal(), True), ("text", io.StringIO(), False)]
)
def test_the_format_can_be_chosen(logged, log_format, stream, is_json):
    actor_logger_out = logged(stream, log_format=log_format)
    actor_logger("a").info("x")
    assert actor_logger_out.getvalue().startswith("{") == is_json


def test_the_level_is_a_floor(logged):
    out = logged(Terminal(), log_level="warning")
    actor_logger("a").info("quiet")
    actor_logger("a").warning("loud")
    assert "quiet" not in out.getvalue()
    assert "loud" in out.getvalue()


def test_third_parties_come_in_the_same_form(logged):
    out = logged(io.StringIO())
    logging.getLogger("some.driver").warning("lost %s", "it")
    record = json.loads(out.getvalue())
    assert (record["logger"], record["event"], record["level"]) == ("some.driver", "lost it", "warning")


def test_no_secret_leaves_in_any_field_or_traceback(logged):
    out = logged(io.StringIO(), secrets=(Secret('hun"ter2'), Secret("s3cret")))
    log = actor_logger("a", key="s3cret")
    error = ValueError("https://u:pa55word@h/?apiKey=abc123 refused s3cret")
    log.error("failed", exc_info=error, body='{"k": "hun"ter2"}', dsn="postgresql://u:pa55word@h/d")
    logging.getLogger("driver").warning("Authorization: Bearer %s", "s3cret")
    for secret in ("hun", "s3cret", "pa55word", "abc123"):
        assert secret not in out.getvalue()
    assert all(json.loads(line) for line in out.getvalue().splitlines())
    assert "refused ***" in out.getvalue()


def test_without_the_redactor_the_secret_would_show(logged, monkeypatch):
    """Positive control of the test above."""
    monkeypatch.setattr(Redactor, "clean", lambda self, line: line)
    out = logged(io.StringIO(), secrets=(Secret("s3cret"),))
    actor_logger("a").info("x", key="s3cret")
    assert "s3cret" in out.getvalue()


def test_the_file_has_json_whatever_the_terminal_shows(logged, tmp_path):
    file = tmp_path / "logs" / "pipeline.log"
    logged(Terminal(), file=file)
    actor_logger("a").info("x", n=1)
    close_logging()
    assert json.loads(file.read_text())["n"] == 1


def test_a_log_file_that_cannot_be_written_is_a_matter_for_a_person(logged, tmp_path):
    (tmp_path / "logs").write_text("")
    with pytest.raises(ConfigError, match=r"pipeline\.log: cannot be written: .*pipeline\.data_dir must be writable"):
        logged(io.StringIO(), file=tmp_path / "logs" / "pipeline.log")


def test_the_key_of_the_environment_is_hidden_even_when_unused():
    assert secrets_of([None, Secret("a")], {"POLYGON_API_KEY": " b "}) == (Secret("a"), Secret("b"))
    assert secrets_of([None], {}) == ()
