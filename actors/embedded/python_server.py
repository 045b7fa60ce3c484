"""What the embedded servers that are Python modules of ours share."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from actors.embedded.record import fingerprint_of

SOURCE_ROOT = Path(__file__).resolve().parents[2]
"""Where `actors` lies: a clone, or site-packages."""


def python_env() -> dict[str, str]:
    """Variables under which `python -P -m actors.…` finds our modules and writes its log line by line."""
    return {"PYTHONPATH": str(SOURCE_ROOT), "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def sources_digest(*paths: Path) -> str:
    """Changes whenever one of the files, or a Python file below one of the folders, does. Blocking, a few ms."""
    files = [file for path in paths for file in (sorted(path.rglob("*.py")) if path.is_dir() else [path])]
    return fingerprint_of([part for file in files if file.exists() for part in (file.name, file.read_text())])


def package_version(name: str) -> str:
    """The installed version; empty when it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
