"""What every command that reads the configuration has in common."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from runtime.config import Loaded, load
from runtime.settings import Secret, Settings

LOG_FILE = Path("logs") / "pipeline.log"
"""Below data_dir: what `pipeline run` wrote, as JSON lines."""


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """`--config F`, `--set table.key=value` (any number of times)."""
    parser.add_argument("--config", type=Path, metavar="F", help="configuration file (default: ./config.toml if there)")
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="TABLE.KEY=VALUE",
        help="one value, in TOML's syntax; wins over environment and file (repeatable)",
    )


def loaded_from(args: argparse.Namespace) -> Loaded:
    """The configuration as file, environment and command line give it. Raises: ConfigError."""
    loaded = load(args.config, overrides=args.overrides, environ=os.environ)
    args.data_dir = loaded.settings.pipeline.data_dir  # for the hint of an unexpected error
    return loaded


def settings_from(args: argparse.Namespace) -> Settings:
    """The settings alone. Raises: ConfigError."""
    return loaded_from(args).settings


def secrets_in(settings: Settings) -> list[Secret | None]:
    """What must not appear in any output."""
    return [settings.vendors.polygon.api_key]
