"""TOML as a person wrote it: parsed, with the line of each key, and single values from the environment or `--set`.

Pure. tomllib gives values without their place, and an error that cannot name a line sends people searching.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping

from runtime.errors import ConfigError

Path_ = tuple[str, ...]
_PART = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*')"""
_DOTTED = re.compile(rf"\s*({_PART}(?:\s*\.\s*{_PART})*)\s*")
_HEADER = re.compile(rf"\s*\[\[?\s*({_PART}(?:\s*\.\s*{_PART})*)\s*\]")
_WHERE = re.compile(r"^(.*) \(at (?:line (\d+), column (\d+)|end of document)\)$")


def parse_toml(text: str, name: str) -> Mapping[str, object]:
    """The document. Raises: ConfigError `name:line:column: what`."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        found = _WHERE.match(str(exc))
        if found is None:
            raise ConfigError(f"{name}: not valid TOML: {exc}") from exc
        line, column = found[2] or str(text.count("\n") + 1), found[3] or "1"
        raise ConfigError(f"{name}:{line}:{column}: not valid TOML: {found[1]}") from exc
    except RecursionError as exc:
        raise ConfigError(f"{name}: nested deeper than can be read") from exc


def key_lines(text: str) -> dict[Path_, int]:
    """Line (from 1) of every key and table header of a valid document; keys inside an inline table are left out."""
    lines: dict[Path_, int] = {}
    table: Path_ = ()
    depth, quote = 0, ""
    for number, line in enumerate(text.splitlines(), 1):
        if not depth and not quote:
            if header := _HEADER.match(line):
                table = _parts(header[1])
                _note(lines, table, number)
                continue
            if (key := _DOTTED.match(line)) and line[key.end() :].startswith("="):
                _note(lines, table + _parts(key[1]), number)
        depth, quote = _scan(line, depth, quote)
    return lines


def _note(lines: dict[Path_, int], path: Path_, number: int) -> None:
    for end in range(1, len(path) + 1):
        lines.setdefault(path[:end], number)


def _parts(dotted: str) -> Path_:
    return tuple(part.strip("\"'") for part in re.findall(_PART, dotted))


def _scan(line: str, depth: int, quote: str) -> tuple[int, str]:
    """Bracket depth and open multi-line quote after `line`: both zero when the next line starts afresh."""
    at = 0
    while at < len(line):
        if quote:
            if line[at] == "\\" and quote[0] == '"':
                at += 2
                continue
            if line.startswith(quote, at):
                at += len(quote)
                quote = ""
                continue
        elif line[at] == "#":
            break
        elif line[at] in "\"'":
            quote = line[at] * 3 if line.startswith(line[at] * 3, at) else line[at]
            at += len(quote)
            continue
        else:
            depth += (line[at] in "[{") - (line[at] in "]}")
        at += 1
    return depth, quote if len(quote) == 3 else ""


def line_of(lines: Mapping[Path_, int], path: Path_) -> int:
    """The line of `path`, or of the nearest table or inline table around it."""
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path, 1)


def parse_value(text: str, *, as_text: bool) -> object:
    """A value from the environment or `--set`: TOML, or the bare text where it is not TOML or `as_text` is wanted."""
    if as_text and text[:1] not in ("'", '"'):
        return text
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (tomllib.TOMLDecodeError, RecursionError):
        return text
    return parsed["value"] if len(parsed) == 1 else text
