"""The configuration as a whole: tables built from checked values, contradictions found, secrets read from files."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote, urlsplit

import attrs

from runtime.config_text import Path_
from runtime.errors import ConfigError
from runtime.settings import STORES_OF_KIND, Secret, Settings, SinkSettings, redact_dsn

FILE_BYTES_MAX = 1 << 20


def build(values: Mapping[Path_, object]) -> Settings:
    """The defaults with `values` (path -> value of the key's type) put over them."""
    default = Settings()
    sinks = dict(default.sinks)
    for name in sorted({path[1] for path in values if path[0] == "sinks"}):
        sinks[name] = _evolved(sinks.get(name, SinkSettings()), ("sinks", name), values)
        if not sinks[name].stores:
            sinks[name] = attrs.evolve(sinks[name], stores=STORES_OF_KIND.get(sinks[name].kind, ()))
    return attrs.evolve(_evolved(default, (), values), sinks=sinks)


_T = typing.TypeVar("_T")


def _evolved(table: _T, path: Path_, values: Mapping[Path_, object]) -> _T:
    changes: dict[str, object] = {}
    for field in attrs.fields(typing.cast("type[attrs.AttrsInstance]", type(table))):
        here = (*path, field.name)
        if here in values:
            changes[field.name] = values[here]
        elif attrs.has(type(inner := getattr(table, field.name))):
            changes[field.name] = _evolved(inner, here, values)
    return attrs.evolve(table, **changes)  # type: ignore[misc]  # a TypeVar cannot say "some attrs class"


_SCHEMES = {"timescale": ("postgresql", "postgres"), "clickhouse": ("clickhouse", "clickhouses", "http", "https")}
_SERVERS = {"timescale": "postgres", "clickhouse": "clickhouse"}


def contradictions(settings: Settings) -> Iterator[tuple[str, str]]:
    """Values that are fine one by one and cannot be true together: (dotted key to blame, what and what to do)."""
    embedded = settings.embedded
    for name, sink in settings.sinks.items():
        yield from _sink_contradictions(f"sinks.{name}", name, sink)
        server = _SERVERS.get(sink.kind, "")
        if sink.dsn == "embedded" and server and not getattr(embedded, server):
            key = f"embedded.{server}"
            yield key, f'sinks.{name}.dsn is "embedded" but {key} is false: name a server or set it to true'
    if embedded.recording and not embedded.market:
        yield "embedded.recording", "embedded.recording is set but embedded.market is false: nothing would serve it"
    if embedded.replay_speed and not embedded.recording:
        yield "embedded.replay_speed", "embedded.replay_speed is set but there is no embedded.recording to be played"
    if embedded.recording and settings.vendors.polygon.rest_url:
        text = "embedded.recording and vendors.polygon.rest_url are both set: remove one, they name two vendors"
        yield "vendors.polygon.rest_url", text


def _sink_contradictions(key: str, name: str, sink: SinkSettings) -> Iterator[tuple[str, str]]:
    own = name in STORES_OF_KIND
    if not sink.kind:
        yield f"{key}.dsn", f'{key}: kind is missing: set it to "timescale" or "clickhouse"'
    elif own and sink.kind != name:
        text = f'this sink is always "{name}"; give the other one a name of its own'
        yield f"{key}.kind", f'{key}.kind = "{sink.kind}": {text}'
    elif not own and sink.dsn == "embedded":
        yield f"{key}.kind", f'{key}.dsn: only sinks.timescale and sinks.clickhouse can be "embedded"; name a server'
    elif sink.dsn != "embedded" and urlsplit(sink.dsn).scheme not in _SCHEMES[sink.kind]:
        text = f"not an address of a {sink.kind} sink ({', '.join(_SCHEMES[sink.kind])}://…)"
        yield f"{key}.dsn", f"{key}.dsn = {redact_dsn(sink.dsn)}: {text}"
    elif extra := set(sink.stores) - set(STORES_OF_KIND[sink.kind]):
        names = ", ".join(sorted(extra))
        yield f"{key}.stores", f"{key}.stores: a {sink.kind} sink cannot store {names} in this version"


def with_files(settings: Settings, where: Path) -> Settings:
    """Paths made absolute, secrets read from the files that hold them."""
    polygon = settings.vendors.polygon
    if polygon.api_key_file and polygon.api_key is None:
        key = _secret_in(where / polygon.api_key_file, "vendors.polygon.api_key_file", polygon.api_key_file)
        polygon = attrs.evolve(polygon, api_key=Secret(key))
    recording = settings.embedded.recording
    return attrs.evolve(
        settings,
        pipeline=attrs.evolve(settings.pipeline, data_dir=where / settings.pipeline.data_dir),
        embedded=attrs.evolve(settings.embedded, recording=str(where / recording) if recording else ""),
        vendors=attrs.evolve(settings.vendors, polygon=polygon),
        sinks={name: _with_password(name, sink, where) for name, sink in settings.sinks.items()},
    )


def _with_password(name: str, sink: SinkSettings, where: Path) -> SinkSettings:
    if not sink.password_file:
        return sink
    password = _secret_in(where / sink.password_file, f"sinks.{name}.password_file", sink.password_file)
    parts = urlsplit(sink.dsn)
    user, at, hosts = parts.netloc.rpartition("@")
    if not at:
        raise ConfigError(f"sinks.{name}.password_file is set but its dsn names no user: write scheme://user@host")
    netloc = f"{user.partition(':')[0]}:{quote(password, safe='')}@{hosts}"
    return attrs.evolve(sink, dsn=parts._replace(netloc=netloc).geturl())


def _secret_in(path: Path, key: str, shown: str) -> str:
    text = read_text(path, f'{key} = "{shown}"').strip()
    if not text or "\n" in text:
        raise ConfigError(f'{key} = "{shown}": expected a file with one line, the secret')
    return text


def read_text(path: Path, what: str) -> str:
    """A small text file. Raises: ConfigError that says which and why not."""
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise ConfigError(f"{what}: larger than {FILE_BYTES_MAX} bytes, that cannot be right")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as exc:
        raise ConfigError(f"{what}: no such file") from exc
    except UnicodeDecodeError as exc:
        line = exc.object[: exc.start].count(b"\n") + 1
        raise ConfigError(f"{what}:{line}: not UTF-8 text") from exc
    except OSError as exc:
        raise ConfigError(f"{what}: cannot be read: {exc.strerror}") from exc
    except ValueError as exc:  # a NUL in the path
        raise ConfigError(f"{what!r}: not a file name") from exc
