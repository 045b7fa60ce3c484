"""What README says exists: the tree, the commands with their options, the files, the make targets."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from runtime.settings import Settings
from supervisors.cli.command_line import COMMANDS, build_parser
from supervisors.cli.exits import Exit
from supervisors.engine.report import render
from supervisors.tree import build_spec

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def subcommands() -> dict[str, argparse.ArgumentParser]:
    (action,) = (a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    return dict(action.choices)


def test_the_tree_in_readme_is_the_one_the_code_builds():
    block = re.search(r"```text\n(pipeline .*?)\n```", README, re.DOTALL)
    assert block is not None, "README shows no tree"
    assert block[1].splitlines() == render(build_spec(Settings())).splitlines()


COMMAND_CELLS = re.findall(r"^\| (`pipeline [^|]*`) \|", README, re.MULTILINE)


def test_readme_lists_every_command():
    listed = {match[1] for cell in COMMAND_CELLS for match in re.finditer(r"pipeline ([\w-]+)", cell)}
    assert listed == set(subcommands())
    assert len(COMMANDS) == len(listed)


@pytest.mark.parametrize("cell", COMMAND_CELLS)
def test_every_option_in_readme_exists(cell):
    name = re.search(r"pipeline ([\w-]+)", cell)
    assert name is not None
    known = {option for action in subcommands()[name[1]]._actions for option in action.option_strings}
    assert set(re.findall(r"--[a-z-]+", cell)) <= known


CONSOLE = re.findall(r"^\$ .*?pipeline (.+)$", README, re.MULTILINE)


@pytest.mark.parametrize("line", CONSOLE)
def test_every_command_line_shown_is_accepted(line):
    import shlex

    build_parser().parse_args(shlex.split(line))


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README))))
def test_every_link_leads_to_a_file(path):
    assert (ROOT / path).exists(), path


def test_every_make_target_exists():
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"\bmake ([a-z-]+)", README)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"make {target}"


def test_the_exit_codes_in_readme_are_those_of_the_code():
    codes = re.search(r"Exit codes: (.*?)\n\n", README, re.DOTALL)
    assert codes is not None
    assert {int(code) for code in re.findall(r"\b(\d+) [a-z]", codes[1])} == {int(code) for code in Exit}
