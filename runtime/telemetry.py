"""What the process says of itself in words: log records (structlog over stdlib logging). Numbers: `runtime.metrics`.

People get lines, machines get JSON lines; times are UTC from the clock seam; no secret that was made known to
`configure_logging`, and no password in a URL, leaves through here.
"""

from __future__ import annotations

import json
import logging
import logging.handlers
import os
import sys
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import attrs
import structlog

from runtime.clock import NS_PER_S, Clock, format_ns
from runtime.errors import ConfigError
from runtime.settings import Secret, redact_dsn

LOG_FILE_BYTES_MAX = 10_000_000
LOG_FILES_KEPT = 2
"""Rotated files beside the current one: at most 30 MB together."""
_NOISY = {
    **dict.fromkeys(("hypercorn.error", "asyncio", "httpx", "httpcore"), logging.WARNING),
    **dict.fromkeys(
        ("clickhouse_connect", "urllib3"), logging.ERROR
    ),  # each refused connection: the actor says it once
}
_COLOURS = {"warning": "\033[33m", "error": "\033[31m", "critical": "\033[1;31m"}

Event = MutableMapping[str, Any]


@attrs.define
class Redactor:
    """Takes known secrets, and passwords in URLs, out of finished lines."""

    _secrets: list[str] = attrs.field(factory=list)

    def hide(self, secret: Secret) -> None:
        """From now on `***` stands for it."""
        value = secret.reveal()
        for form in {value, json.dumps(value)[1:-1]}:
            if form and form not in self._secrets:
                self._secrets.append(form)

    def clean(self, line: str) -> str:
        """`line` without secrets."""
        for secret in self._secrets:
            line = line.replace(secret, "***")
        return redact_dsn(line)


def text_line(event: Event, *, colour: bool) -> str:
    """`2026-01-31T05:00:00.123Z info    history  slice_appended rows=5`, a traceback on the lines below."""
    fields = dict(event)
    at, level = fields.pop("timestamp", ""), str(fields.pop("level", "info"))
    who = fields.pop("actor", None) or fields.pop("logger", None) or "-"
    fields.pop("logger", None)
    what, trace = fields.pop("event", ""), fields.pop("exception", None)
    rest = "".join(f" {key}={_short(value)}" for key, value in fields.items())
    mark, end = (_COLOURS.get(level, ""), "\033[0m") if colour and level in _COLOURS else ("", "")
    line = f"{at} {mark}{level:<7}{end} {who!s:<20} {what}{rest}"
    return f"{line}\n{trace}" if trace else line


def _short(value: object) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if not text or " " in text or "\n" in text else text


def json_line(event: Event) -> str:
    """One JSON object; what JSON has no word for is written as text."""
    return json.dumps(event, default=str, ensure_ascii=False)


def _stamp(clock: Clock) -> Callable[[Any, str, Event], Event]:
    def add(_: Any, __: str, event: Event) -> Event:
        second, ms = divmod(clock.wall_ns() // 1_000_000, 1000)
        event["timestamp"] = f"{format_ns(second * NS_PER_S)[:-1]}.{ms:03d}Z"
        return event

    return add


def _drop_internals(_: Any, __: str, event: Event) -> Event:
    event.pop("_record", None)
    event.pop("_from_structlog", None)
    return event


def _formatter(render: Callable[[Event], str], redactor: Redactor, before: Sequence[Any]) -> logging.Formatter:
    def finish(_: Any, __: str, event: Event) -> str:
        return redactor.clean(render(event))

    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=before,
        processors=[_drop_internals, structlog.processors.format_exc_info, finish],
    )


class _StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to what sys.stderr is at the moment: a progress bar that is being drawn moves itself out of the way."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        self.stream = sys.stderr
        super().emit(record)


@attrs.frozen(kw_only=True)
class LogSetup:
    """Where log records go. `file` None: only to `stream`."""

    clock: Clock
    stream: TextIO
    log_format: str = "auto"
    log_level: str = "info"
    file: Path | None = None
    secrets: Sequence[Secret] = ()


def configure_logging(setup: LogSetup) -> Redactor:
    """Send every logger of the process, third parties included, to where `setup` says.

    Raises: ConfigError when the log file cannot be opened.
    """
    redactor = Redactor()
    for secret in setup.secrets:
        redactor.hide(secret)
    before = [structlog.stdlib.add_log_level, structlog.stdlib.add_logger_name, _stamp(setup.clock)]
    is_terminal = setup.stream.isatty()
    as_text = setup.log_format == "text" or (setup.log_format == "auto" and is_terminal)
    colour = is_terminal and "NO_COLOR" not in os.environ
    render = (lambda event: text_line(event, colour=colour)) if as_text else json_line
    handlers: list[logging.Handler] = [
        _StderrHandler() if setup.stream is sys.stderr else logging.StreamHandler(setup.stream)
    ]
    handlers[0].setFormatter(_formatter(render, redactor, before))
    if setup.file is not None:
        handlers.append(_file_handler(setup.file))
        handlers[-1].setFormatter(_formatter(json_line, redactor, before))
    close_logging()
    root = logging.getLogger()
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(setup.log_level.upper())
    for name, level in _NOISY.items():
        logging.getLogger(name).setLevel(level)
    logging.raiseExceptions = False  # a full disk under the log file must not spill tracebacks over stderr
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *before,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    return redactor


def _file_handler(path: Path) -> logging.Handler:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return logging.handlers.RotatingFileHandler(
            path, maxBytes=LOG_FILE_BYTES_MAX, backupCount=LOG_FILES_KEPT, encoding="utf-8"
        )
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be written: {exc.strerror}; pipeline.data_dir must be writable") from exc


def close_logging() -> None:
    """Flush and close what `configure_logging` opened."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler.formatter, structlog.stdlib.ProcessorFormatter):
            root.removeHandler(handler)
            handler.close()


def actor_logger(name: str, **fields: object) -> structlog.stdlib.BoundLogger:
    """The logger of one actor: every record names it."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name).bind(actor=name, **fields)
    return logger


def secrets_of(values: Iterable[Secret | None], environ: Mapping[str, str]) -> tuple[Secret, ...]:
    """What must never be shown: the secrets of the configuration, and the API key of the environment even if unused."""
    extra = environ.get("POLYGON_API_KEY", "").strip()
    known = [value for value in values if value is not None]
    return tuple([*known, Secret(extra)] if extra else known)
