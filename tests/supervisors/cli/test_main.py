"""One line per mistake, one exit code per kind of end; a traceback only on request."""

from __future__ import annotations

import argparse
import importlib.metadata

import pytest
import trio

from runtime import errors
from supervisors.cli import command_line as module
from supervisors.cli.command_line import Parser, join_distances
from supervisors.cli.exits import Exit, decisive


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ConfigError("x"), 78),
        (errors.PermanentSourceError("x"), 78),
        (errors.PermanentSinkError("x"), 78),
        (errors.RetryableSourceError("x"), 75),
        (errors.RetryableSinkError("x"), 75),
        (errors.NotConnected("x"), 75),
        (errors.LogFull("x"), 75),
        (errors.RestartIntensityExceeded("x"), 75),
        (errors.StartFailed("x"), 75),
        (errors.LogSyncFailed("x"), 74),
        (errors.LogCorrupt("x"), 74),
        (errors.InvariantViolation("x"), 70),
        (errors.UnstoppableChild("x"), 70),
        (errors.HoldfastError("x"), 70),
        (ValueError("x"), 70),
        (OSError("x"), 70),
    ],
)
def test_every_error_has_its_exit_code(error, code):
    assert decisive(error) == (code, error)
    assert decisive(ExceptionGroup("g", [ExceptionGroup("h", [error])])) == (code, error)


def test_the_cause_of_a_failed_start_decides():
    start = errors.StartFailed("health did not start")
    start.__cause__ = errors.ConfigError("port 8800 is in use")
    assert decisive(start) == (Exit.CONFIG, start.__cause__)


def test_what_is_worst_decides_and_a_cancellation_never():
    invariant, config = errors.InvariantViolation("i"), errors.ConfigError("c")
    group = BaseExceptionGroup("g", [config, trio.Cancelled._create(source="unknown"), ValueError("v"), invariant])
    assert decisive(group) == (Exit.SOFTWARE, invariant)


def test_the_cause_of_a_foreign_exception_is_not_looked_at():
    error = KeyError("k")
    error.__cause__ = errors.ConfigError("c")
    assert decisive(error) == (Exit.SOFTWARE, error)


@pytest.fixture
def command(monkeypatch):
    """Replaces the command line by one command `do` that raises."""

    def install(error: BaseException | None) -> None:
        def run(args: argparse.Namespace) -> int:
            if error is not None:
                raise error
            return 0

        def build() -> Parser:
            parser = Parser(prog="pipeline")
            do = parser.add_subparsers().add_parser("do")
            do.add_argument("--debug", action="store_true", default=argparse.SUPPRESS)
            do.set_defaults(run=run)
            return parser

        monkeypatch.setattr(module, "build_parser", build)

    return install


def test_a_users_mistake_is_one_line(pipeline, command):
    command(errors.ConfigError("config.toml:3: no"))
    said = pipeline("do")
    assert (said.code, said.err, said.out) == (78, "pipeline: config.toml:3: no\n", "")


def test_several_mistakes_are_a_line_each(pipeline, command):
    command(errors.ConfigError("one\ntwo"))
    assert pipeline("do").err == "pipeline: one\npipeline: two\n"


def test_our_bug_is_one_line_with_a_way_to_learn_more(pipeline, command):
    command(ValueError("boom"))
    said = pipeline("do")
    assert said.code == 70
    assert said.err == "pipeline: internal error, please report it: ValueError: boom; details with --debug\n"


def test_debug_shows_the_traceback(pipeline, command):
    command(errors.ConfigError("no"))
    said = pipeline("do", "--debug")
    assert said.code == 78
    assert "Traceback" in said.err
    assert said.err.endswith("pipeline: no\n")


def test_a_password_in_an_error_is_not_shown(pipeline, command):
    command(errors.NotConnected("postgresql://u:hunter2@h/d refused"))
    said = pipeline("do")
    assert said.err == "pipeline: postgresql://u:***@h/d refused\n"


def test_ctrl_c_is_no_error_of_ours(pipeline, command):
    command(KeyboardInterrupt())
    assert (pipeline("do").code, pipeline("do").err) == (130, "")
    command(BaseExceptionGroup("g", [KeyboardInterrupt()]))
    assert (pipeline("do").code, pipeline("do").err) == (130, "")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["runn"], "invalid choice: 'runn'"),
        (["run", "--until"], "unrecognized arguments: --until"),
        (["run", "--config"], "argument --config: expected one argument"),
        (["sql", "timescale"], "the following arguments are required: QUERY"),
        (["sql", "timescale", "select 1", "--format", "xml"], "invalid choice: 'xml'"),
        (["backfill", "--from", "-2h", "--to", "-1h"], "the following arguments are required: SYMBOL"),
        (["backfill", "C:EURUSD", "--from", "-2h"], "the following arguments are required: --to"),
        (["verify", "--jsonn"], "unrecognized arguments: --jsonn"),
    ],
)
def test_a_syntax_mistake_is_one_line_and_exit_code_2(pipeline, argv, words):
    said = pipeline(*argv)
    assert (said.code, said.out) == (2, "")
    assert len(said.err.splitlines()) == 1
    assert words in said.err
    assert said.err.rstrip().endswith("--help")


@pytest.mark.parametrize("command_name", ["run", "check", "tree", "status", "backfill", "verify", "sql", "simulator"])
def test_every_command_explains_itself(pipeline, command_name):
    said = pipeline(command_name, "--help")
    assert said.code == 0
    assert f"usage: pipeline {command_name}" in said.out


def test_the_version_is_that_of_the_distribution(pipeline):
    said = pipeline("--version")
    assert (said.code, said.out) == (0, f"holdfast {importlib.metadata.version('holdfast')}\n")


def test_distances_need_no_equals_sign(pipeline):
    assert join_distances(["x", "--from", "-2h", "--to", "-1.5d"]) == ["x", "--from=-2h", "--to=-1.5d"]
    assert join_distances(["--from", "--to", "-h", "--set", "-2h"]) == ["--from", "--to", "-h", "--set", "-2h"]
    assert pipeline("backfill", "C:EURUSD", "--from", "-1h", "--to", "-2h").code == 78  # understood, refused as empty
