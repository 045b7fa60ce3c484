"""chDB behind one narrow door: a request in, bytes out. Runs in the server's own process, on its threads.

Every request gets a handle of its own to the one engine (0.5 ms, measured), so `USE` and `SET` of one request can
never leak into another, and `readonly=1` cannot be taken back. Writes are done one at a time; up to
`READS_AT_ONCE` reads run beside them, so that a slow notebook does not hold up the pipeline's inserts.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading  # noqa: TID251 (an OS process of its own: it serves threads, there is no Trio here)
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import chdb

from actors.embedded.clickhouse_sql import Insert, format_of, verb_of

READS_AT_ONCE = 3
ALWAYS = {"max_memory_usage": "1500000000", "max_result_bytes": "536870912", "result_overflow_mode": "throw"}
FOR_STRANGERS = ALWAYS | {"max_execution_time": "60"}
SETTING_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
RESULT_VERBS = frozenset({"select", "with", "show", "describe", "desc", "exists", "explain", "from", "(", "check"})
CODE = re.compile(r"Code: (\d+)\.")


class EngineError(Exception):
    """The engine's own refusal, with its code (0 when it gave none)."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@attrs.frozen(kw_only=True)
class EngineRequest:
    """One statement."""

    sql: bytes
    insert: Insert | None = None
    """Set: `insert.statement` is run with `insert.data`, and `sql` is not looked at."""
    format: str = "TabSeparated"
    """Of the answer, when the statement names none."""
    database: str = ""
    settings: Mapping[str, str] = attrs.field(factory=dict)
    params: Mapping[str, str] = attrs.field(factory=dict)
    read_only: bool = True


@attrs.frozen(kw_only=True)
class EngineAnswer:
    """What came of it."""

    data: bytes
    has_result: bool
    format: str = ""
    rows_read: int = 0
    bytes_read: int = 0
    rows_written: int = 0
    bytes_written: int = 0


class Engine:
    """The engine of one directory; only one process can have it open."""

    def __init__(self, path: Path) -> None:
        """Open it and see that database `market` is there. Raises: EngineError."""
        self._path = str(path)
        self._writing = threading.Lock()
        self._reading = threading.BoundedSemaphore(READS_AT_ONCE)
        with _translated():
            self._keeper = _connect(self._path)
            self._keeper.query("CREATE DATABASE IF NOT EXISTS market")
            self.version = self._column("SELECT version()")[0]
            outside = self._column("SELECT lower(name) FROM system.table_functions WHERE NOT allow_readonly")
        self.table_functions_outside = frozenset(outside) | {"cluster", "clusterallreplicas", "input"}

    def _column(self, sql: str) -> list[str]:
        data: bytes = self._keeper.query(sql, "TabSeparated").bytes()
        return data.decode().split()

    def close_when_idle(self, timeout_s: float) -> bool:
        """Wait for running statements, let the engine end; False when some ran on beyond `timeout_s` (then the
        engine is left as a kill would leave it: whatever was acknowledged is in a part on disk already)."""
        each_s = timeout_s / (1 + READS_AT_ONCE)
        idle = self._writing.acquire(timeout=each_s)
        idle = idle and all(self._reading.acquire(timeout=each_s) for _ in range(READS_AT_ONCE))
        if not idle:
            return False
        with _translated():
            self._keeper.close()
        return True

    def run(self, request: EngineRequest) -> EngineAnswer:
        """Run one statement. Raises: EngineError."""
        reads = request.read_only or (request.insert is None and verb_of(request.sql) in RESULT_VERBS)
        with self._reading if reads else self._writing, _translated():
            handle = _connect(self._path)
            try:
                self._set_up(handle, request)
                return self._insert(handle, request.insert) if request.insert else self._query(handle, request)
            finally:
                handle.close()

    def _set_up(self, handle: Any, request: EngineRequest) -> None:
        if request.database:
            name = request.database.replace("\\", "\\\\").replace("`", "\\`")
            handle.query(f"USE `{name}`")
        settings = (FOR_STRANGERS if request.read_only else ALWAYS) | dict(request.settings)
        if request.read_only:
            settings["readonly"] = "1"  # last: nothing can be set behind it
        for name, value in settings.items():
            if SETTING_NAME.match(name) is None:
                raise EngineError(115, f"Code: 115. DB::Exception: not a setting's name: {name!r}. (UNKNOWN_SETTING)")
            quoted = value.replace("\\", "\\\\").replace("'", "\\'")
            handle.query(f"SET {name} = '{quoted}'")

    def _insert(self, handle: Any, insert: Insert) -> EngineAnswer:
        """From a file in memory: chDB 4.4.0's `send_insert` says "written" when a constraint refused the rows."""
        file = os.memfd_create("insert")
        try:
            with open(file, "wb", closefd=False) as out:
                out.write(insert.data)
            sql = insert.from_file(f"/proc/self/fd/{file}").decode("utf-8", "replace")
            done = handle.query(sql) if insert.data else None
        finally:
            os.close(file)
        rows, size = (done.rows_read(), done.bytes_read()) if done is not None else (0, 0)
        return EngineAnswer(data=b"", has_result=False, rows_written=rows, bytes_written=size)

    def _query(self, handle: Any, request: EngineRequest) -> EngineAnswer:
        done = handle.query(request.sql, request.format, params=dict(request.params))
        data: bytes = done.bytes() or b""
        return EngineAnswer(
            data=data,
            has_result=bool(data) or verb_of(request.sql) in RESULT_VERBS,
            format=format_of(request.sql) or request.format,
            rows_read=done.rows_read(),
            bytes_read=done.bytes_read(),
        )


def _connect(path: str) -> Any:
    """A handle; the driver has no types."""
    return chdb.connect(path)  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """The driver raises RuntimeError with the engine's text in it."""
    try:
        yield
    except RuntimeError as exc:
        text = str(exc)
        begin = text.find("Code: ")
        found = CODE.search(text)
        raise EngineError(int(found.group(1)) if found else 0, text[max(begin, 0) :].strip()) from exc
