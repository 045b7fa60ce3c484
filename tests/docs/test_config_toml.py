"""config.toml is what it claims: every key, with its default, its unit and a word on the consequence."""

from __future__ import annotations

import tomllib
from pathlib import Path

import attrs
import pytest

from runtime.config import load
from runtime.config_text import key_lines
from runtime.settings import Secret, Settings
from supervisors.cli.check import values_of

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "config.toml").read_text()
LEFT_OUT = {"vendors.polygon.api_key", "sinks.timescale.kind", "sinks.clickhouse.kind"}
"""A secret, and what is fixed for the two sinks that have a name of their own."""
VALUES = {path: (unit, value) for path, unit, value in values_of(Settings()) if path not in LEFT_OUT}


def flat(table: dict, prefix: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in table.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def test_the_file_has_exactly_the_keys_in_their_order():
    assert list(flat(tomllib.loads(TEXT))) == list(VALUES)


@pytest.mark.parametrize("path", VALUES)
def test_the_file_states_the_default(path):
    stated = flat(tomllib.loads(TEXT))[path]
    _, default = VALUES[path]
    assert stated == (
        list(default) if isinstance(default, tuple) else str(default) if isinstance(default, Path) else default
    )


@pytest.mark.parametrize("path", VALUES)
def test_every_key_has_a_comment_with_its_unit(path):
    line = TEXT.splitlines()[key_lines(TEXT)[tuple(path.split("."))] - 1]
    _, _, comment = line.partition("  #") if "  #" in line else line.partition(" #")
    unit = VALUES[path][0].partition(" (")[0]
    assert len(comment) > 10, f"{path} has no comment"
    if unit and unit not in ("address", "secret"):
        assert unit in comment, f"{path}: the comment does not say {unit}"


def test_loading_the_file_gives_the_default(tmp_path):
    loaded = load(ROOT / "config.toml", cwd=tmp_path)
    default = load(cwd=tmp_path)
    assert attrs.evolve(loaded.settings) == default.settings
    assert not any(isinstance(value, Secret) for _, value in VALUES.values())
