"""Which kind of recording a folder holds: Lean's foreign exchange, or captured trades of crypto."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from actors.embedded.simulator.capture import BinanceCapture, capture_files, open_capture
from actors.embedded.simulator.recording import LeanRecording, find_feed, open_recording
from runtime.errors import ConfigError

_DEPTH_MAX = 5


def find_capture(folder: Path) -> Path | None:
    """The one folder with captures in or below `folder`; None: there is none.

    Raises: ConfigError naming the choices when there are several.
    """
    found = list(_captures(folder, _DEPTH_MAX)) if folder.is_dir() else []
    if len(found) > 1:
        choices = " | ".join(str(one.relative_to(folder)) for one in found)
        raise ConfigError(f"recording {folder}: holds {len(found)} captures, name one of them: {choices}")
    return found[0] if found else None


def _captures(folder: Path, depth: int) -> Iterator[Path]:
    if capture_files(folder):
        yield folder
    elif depth:
        for child in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
            yield from _captures(child, depth - 1)


def check_recording(folder: Path) -> None:
    """A quick look at names. Raises: ConfigError, which names the choices."""
    _choose(folder)


def open_any(folder: Path) -> LeanRecording | BinanceCapture:
    """The recording. Blocking: a capture is read whole. Raises: ConfigError."""
    chosen = _choose(folder)
    return chosen if isinstance(chosen, LeanRecording) else open_capture(chosen)


def _choose(folder: Path) -> LeanRecording | Path:
    capture = find_capture(folder)
    if capture is None:
        return open_recording(folder)
    lean = find_feed(folder)
    if lean is None:
        return capture
    raise ConfigError(f"recording {folder}: holds 2 feeds, name one of them: {lean} | {capture}")
