"""From a TOML file, the environment and `--set` to `Settings`; every error says what, where and what to do.

Precedence, lowest first: defaults, file, environment (HOLDFAST__TABLE__KEY), `--set table.key=value`. All of them are
checked, also those that lose. Relative paths are relative to the working directory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import attrs

from runtime.config_keys import ENV_PREFIX, Entry, checked, table_at
from runtime.config_text import Path_, key_lines, line_of, parse_toml
from runtime.config_whole import build, contradictions, read_text, with_files
from runtime.errors import ConfigError
from runtime.settings import Settings, resolve_interval

_DEFAULT_FILE = "config.toml"


@attrs.frozen(kw_only=True)
class Loaded:
    """The settings, and where each value that is not a default came from."""

    settings: Settings
    file: Path | None
    origins: Mapping[str, str]
    """Dotted key -> origin."""


def load(
    file: Path | None = None,
    *,
    overrides: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Loaded:
    """Read and check the whole configuration. `file` None: config.toml of the working directory, if there is one.

    Raises: ConfigError with one line per mistake.
    """
    where = cwd or Path.cwd()
    file = file if file is not None else _default_file(where)
    environ = environ or {}
    entries = [
        *(_from_file(where / file, str(file)) if file is not None else ()),
        *_from_environ(environ),
        *_from_overrides(overrides),
    ]
    problems: list[str] = []
    values: dict[Path_, object] = {}
    origins: dict[str, str] = {}
    for entry in entries:
        try:
            values[entry.path] = checked(entry)
            origins[".".join(entry.path)] = entry.origin
        except ConfigError as exc:
            problems.append(str(exc))
    if problems:
        raise ConfigError("\n".join(problems))
    settings = build(values)
    problems = [f"{origins[key]}: {text}" if key in origins else text for key, text in contradictions(settings)]
    if problems:
        raise ConfigError("\n".join(problems))
    return Loaded(settings=with_files(settings, where), file=file, origins=origins)


def check_runnable(settings: Settings, now_ns: int) -> None:
    """What `pipeline run` needs beyond valid values: a vendor it may ask, a recording that is there, an interval.

    Raises: ConfigError.
    """
    resolve_interval(settings.downloader.history_from, settings.downloader.history_to, now_ns)
    if not settings.uses_simulator and settings.vendors.polygon.api_key is None:
        raise ConfigError(
            f"vendors.polygon: no API key for {settings.rest_url}: set POLYGON_API_KEY or "
            "vendors.polygon.api_key_file, or use the simulator (embedded.market = true and no rest_url)"
        )
    recording = settings.embedded.recording
    if settings.uses_simulator and recording and not Path(recording).is_dir():
        raise ConfigError(f'embedded.recording = "{recording}": no such directory')


def _default_file(where: Path) -> Path | None:
    return Path(_DEFAULT_FILE) if (where / _DEFAULT_FILE).exists() else None


def _from_file(path: Path, name: str) -> Iterator[Entry]:
    text = read_text(path, name)
    document = parse_toml(text, name)
    lines = key_lines(text)
    for key, value in _leaves(document, ()):
        yield Entry(path=key, value=value, origin=f"{name}:{line_of(lines, key)}")


def _leaves(table: Mapping[str, object], path: Path_) -> Iterator[tuple[Path_, object]]:
    for name, value in table.items():
        here = (*path, name)
        if isinstance(value, dict) and table_at(here) is not None:
            yield from _leaves(value, here)
        else:
            yield here, value


def _from_environ(environ: Mapping[str, str]) -> Iterator[Entry]:
    if key := environ.get("POLYGON_API_KEY", "").strip():
        yield Entry(
            path=("vendors", "polygon", "api_key"), value=key, origin="POLYGON_API_KEY", is_text=True, secret_fine=True
        )
    for name in sorted(environ):
        if name.startswith(ENV_PREFIX):
            path = tuple(part.lower() for part in name.removeprefix(ENV_PREFIX).split("__"))
            if not all(path):
                raise ConfigError(f"{name}: expected {ENV_PREFIX}TABLE__KEY, like {ENV_PREFIX}LOG__PARTITIONS")
            yield Entry(path=path, value=environ[name], origin=name, is_text=True, secret_fine=True)


def _from_overrides(overrides: Sequence[str]) -> Iterator[Entry]:
    for text in overrides:
        dotted, equals, value = text.partition("=")
        path = tuple(part.strip() for part in dotted.split("."))
        if not equals or len(path) < 2 or not all(path):
            raise ConfigError(f"--set {text!r}: expected table.key=value, like --set log.partitions=8")
        yield Entry(path=path, value=value.strip(), origin="--set", is_text=True)
