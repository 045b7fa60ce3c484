"""One value of the configuration: which key it belongs to, whether it is right, and the words when it is not. Pure."""

from __future__ import annotations

import datetime
import difflib
import typing
from collections.abc import Mapping
from pathlib import Path

import attrs

from runtime.config_text import Path_, parse_value
from runtime.errors import ConfigError
from runtime.settings import LATER, Secret, Settings, SinkSettings, redact_dsn
from runtime.settings_rules import EXPECTED, Rule

ENV_PREFIX = "HOLDFAST__"


@attrs.frozen(kw_only=True)
class Entry:
    """One value that somebody wrote."""

    path: Path_
    value: object
    origin: str
    """`config.toml:12`, `HOLDFAST__LOG__PARTITIONS` or `--set`."""
    is_text: bool = False
    """The value is text that has yet to be parsed for the type of its key."""
    secret_fine: bool = False


def _hints(table: type) -> dict[str, object]:
    return typing.get_type_hints(table)


def table_at(path: Path_) -> type | None:
    """The class of the table at `path`; None when there is a key, or nothing."""
    node: type = Settings
    for depth, name in enumerate(path):
        if path[0] == "sinks" and depth == 1:
            node = SinkSettings
            continue
        if name == "sinks" and depth == 0:
            node = _SinksTable
            continue
        hint = _hints(node).get(name)
        if not (isinstance(hint, type) and attrs.has(hint)):
            return None
        node = hint
    return node


@attrs.frozen
class _SinksTable:
    """Stands for [sinks]: holds a table of any name."""


def _key_at(path: Path_) -> tuple[attrs.Attribute[object], object] | None:
    """The attribute and type hint of the key at `path`."""
    table = table_at(path[:-1])
    if table is None or table_at(path) is not None or path[-1] not in _hints(table):
        return None
    return next(f for f in attrs.fields(table) if f.name == path[-1]), _hints(table)[path[-1]]


def valid_keys(path: Path_) -> list[str]:
    """Names that may stand in the table at `path`."""
    table = table_at(path)
    return ["timescale", "clickhouse"] if table is _SinksTable else sorted(_hints(table)) if table else []


def checked(entry: Entry) -> object:
    """The value in the type of its key. Raises: ConfigError."""
    dotted = ".".join(entry.path)
    for end in range(1, len(entry.path) + 1):
        if feature := LATER.get(".".join(entry.path[:end])):
            raise ConfigError(f"{entry.origin}: {dotted}: {feature} is not available in this version; remove the key")
    found = _key_at(entry.path)
    if found is None:
        raise _unknown(entry)
    attribute, hint = found
    if hint == Secret | None or (attribute.name == "dsn" and _has_password(str(entry.value))):
        _refuse_secret(entry, attribute.name)
    as_text = hint in (str, Path, Secret | None)
    value = parse_value(str(entry.value), as_text=as_text) if entry.is_text else entry.value
    converted = _converted(value, hint)
    rule: Rule | None = attribute.metadata["rule"]
    problem = EXPECTED if converted is None else rule.problem(converted) if rule is not None else ""
    if problem:
        expects = rule.expects if rule is not None else _TYPE_WORDS.get(hint, "a text")
        shown = "***" if hint == Secret | None else redact_dsn(_shown(value))
        reason = f"expected {expects}" if problem == EXPECTED else problem
        raise ConfigError(f"{entry.origin}: {dotted} = {shown}: {reason}{_quoting_hint(entry, hint)}")
    return converted


_TYPE_WORDS: Mapping[object, str] = {bool: "true or false", Path: "a path", int: "a whole number"}


def _converted(value: object, hint: object) -> object:
    """`value` as the type of its key; None when it is not of that type."""
    if hint is str and isinstance(value, datetime.date):
        return value.isoformat()  # history_from = 2014-05-01 without quotes is a TOML date
    if hint is bool or hint is int or hint is str:
        return value if type(value) is hint and "\0" not in str(value) else None
    if hint is Path:
        return Path(value) if isinstance(value, str) and value and "\0" not in value else None
    if hint == Secret | None:
        return Secret(value) if isinstance(value, str) and value else None
    is_texts = isinstance(value, list) and all(isinstance(item, str) for item in value)
    return tuple(typing.cast("list[str]", value)) if is_texts else None


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ", ".join(_shown(item) for item in value) + "]"
    text = repr(value) if not isinstance(value, str) else '"' + value.encode("unicode_escape").decode() + '"'
    return text if len(text) <= 200 else text[:200] + "…"


def _quoting_hint(entry: Entry, hint: object) -> str:
    dotted = ".".join(entry.path)
    if entry.is_text and entry.origin == "--set" and hint == tuple[str, ...] and '"' not in str(entry.value):
        return f"; in a shell write --set '{dotted}=[\"…\"]'"
    return ""


def _unknown(entry: Entry) -> ConfigError:
    """Names the first part of the path that does not exist, the nearest valid name and all valid names."""
    depth = 0
    while depth < len(entry.path) - 1 and table_at(entry.path[: depth + 1]) is not None:
        depth += 1
    table, name = entry.path[:depth], entry.path[depth]
    dotted = ".".join(entry.path)
    if table_at(entry.path) is not None:
        return ConfigError(
            f"{entry.origin}: {dotted} is a table: set one of its keys: {', '.join(valid_keys(entry.path))}"
        )
    names = valid_keys(table)
    if name in names:
        return ConfigError(f"{entry.origin}: {dotted}: {'.'.join(entry.path[: depth + 1])} is a key, not a table")
    near = difflib.get_close_matches(name, names, n=1)
    guess = f"; did you mean {near[0]}?" if near else "."
    place = f"keys of [{'.'.join(table)}]" if table else "tables"
    return ConfigError(
        f"{entry.origin}: {dotted}: unknown {'key' if table else 'table'}{guess} Valid {place}: {', '.join(names)}"
    )


def _has_password(text: str) -> bool:
    return redact_dsn(text) != text


def _refuse_secret(entry: Entry, name: str) -> None:
    if not entry.secret_fine:
        other = (
            "api_key_file, or set POLYGON_API_KEY" if name == "api_key" else "password_file, or set it by environment"
        )
        variable = ENV_PREFIX + "__".join(entry.path).upper()
        raise ConfigError(
            f"{entry.origin}: {'.'.join(entry.path)}: a secret does not belong here; use {other} ({variable})"
        )
