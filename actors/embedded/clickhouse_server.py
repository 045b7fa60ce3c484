"""ClickHouse as a process that can be killed: chDB behind ClickHouse's HTTP interface.

`python -m actors.embedded.clickhouse_server --path DIR --port PORT --secret-file FILE`

Speaks what clickhouse-connect, curl and a notebook say to a real server (DRIVERS §9). Differences: no sessions
(`session_id` is accepted and ignored), no answer in pieces, no compression of answers, one user `holdfast`.

Who may what: `clickhouse_access.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading  # noqa: TID251 (an OS process of its own: it serves threads, there is no Trio here)
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NoReturn

import attrs

from actors.embedded.clickhouse_access import USER, Access, Refusal, access_of, decoded, settings_of
from actors.embedded.clickhouse_engine import Engine, EngineAnswer, EngineError, EngineRequest
from actors.embedded.clickhouse_sql import split_insert, why_refused

DATABASE = "market"
"""For who names none: a reader's `SELECT … FROM candles_latest` works with the bare address."""

BODY_BYTES_MAX = 256 * 1024 * 1024
BODY_BYTES_MAX_STRANGER = 1024 * 1024
"""A stranger sends queries, no rows."""
CONNECTIONS_MAX = 64
IDLE_S_MAX = 300.0
"""A connection that says nothing for so long is closed."""
STOP_GRACE_S = 10.0
HTTP_STATUS = {60: 404, 81: 404, 46: 404, 47: 404, 115: 404, 62: 400, 516: 403, 164: 403, 192: 403, 396: 413}


@attrs.frozen(kw_only=True)
class Service:
    """What the connections share."""

    engine: Engine
    secret: str
    slots: threading.BoundedSemaphore = attrs.field(factory=lambda: threading.BoundedSemaphore(CONNECTIONS_MAX))

    def answer(self, access: Access, headers: Mapping[str, str], body: bytes) -> EngineAnswer:
        """One request. Raises: Refusal, EngineError."""
        query, stranger = access.query, access.stranger
        if access.path not in ("/", ""):
            raise Refusal(status=404, code=0, text=f"there is nothing at {access.path}; queries go to /")
        if headers.get("Content-Type", "").startswith("multipart/"):
            raise Refusal(status=501, code=48, text="external tables are not supported here. (NOT_IMPLEMENTED)")
        sql = query.get("query", "").encode()
        params = {name.removeprefix("param_"): value for name, value in query.items() if name.startswith("param_")}
        insert = split_insert(sql, body) if sql.strip() else split_insert(body, b"")
        whole = sql + b"\n" + body if sql.strip() else body
        if stranger:
            shown = insert.statement if insert else whole
            reason = why_refused(shown, params=params, table_functions=self.engine.table_functions_outside)
            if reason is not None:
                text = f"Cannot execute query in readonly mode: {reason}. Without the password of user {USER}, and by "
                raise Refusal(status=403, code=164, text=text + "GET, only tables can be read. (READONLY)")
        request = EngineRequest(
            sql=whole,
            insert=insert,
            format=query.get("default_format") or headers.get("X-ClickHouse-Format") or "TabSeparated",
            database=query.get("database") or headers.get("X-ClickHouse-Database") or DATABASE,
            settings=settings_of(query, stranger=stranger),
            params=params,
            read_only=stranger,
        )
        return self.engine.run(request)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server_version = "holdfast-clickhouse"
    sys_version = ""
    timeout = IDLE_S_MAX  # type: ignore[mutable-override]
    wbufsize = -1
    disable_nagle_algorithm = True
    service: Service

    def do_GET(self) -> None:
        """GET /ping, and queries that read."""
        self._serve()

    def do_POST(self) -> None:
        """Everything."""
        self._serve()

    def _serve(self) -> None:
        try:
            headers, access = self._known_headers(), self._access()
            body = self._body(access)
            if self.command == "GET" and self.path in ("/ping", "/replicas_status"):
                self._send(200, b"Ok.\n", {})
                return
            answer = self.service.answer(access, headers, body)
        except Refusal as no:
            self._send_error(no.status, no.code, no.text)
        except EngineError as exc:
            text = str(exc).removeprefix(f"Code: {exc.code}. DB::Exception: ")
            self._send_error(HTTP_STATUS.get(exc.code, 500), exc.code, text)
        else:
            self._send(200, answer.data, self._result_headers(answer))

    def _access(self) -> Access:
        """Raises: Refusal; the body is unread then, so the connection is of no more use."""
        try:
            return access_of(self.command, self.path, self._known_headers(), secret=self.service.secret)
        except Refusal:
            self.close_connection = True
            raise

    def _known_headers(self) -> dict[str, str]:
        """Headers under the spelling that is used here (they come in any case)."""
        names = ("Host", "Origin", "Sec-Fetch-Site", "Authorization", "Content-Type", "X-ClickHouse-User")
        more = ("X-ClickHouse-Key", "X-ClickHouse-Format", "X-ClickHouse-Database")
        return {name: value for name in (*names, *more) if (value := self.headers.get(name)) is not None}

    def _body(self, access: Access) -> bytes:
        """The whole body. Raises: Refusal when it is too long or is not framed."""
        bytes_max = BODY_BYTES_MAX_STRANGER if access.stranger else BODY_BYTES_MAX
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            sizes = self._chunk_sizes()
        else:
            length = self.headers.get("Content-Length", "0")
            if not length.isdigit() or int(length) > BODY_BYTES_MAX:
                self._give_up(413, f"a body has at most {BODY_BYTES_MAX} bytes")
            sizes = iter([int(length)])
        parts, total = [], 0
        for size in sizes:
            total += size
            if total > BODY_BYTES_MAX:
                self._give_up(413, f"a body has at most {BODY_BYTES_MAX} bytes")
            if total <= bytes_max:
                parts.append(self._exactly(size))
            else:  # read to its end and forgotten, so that the answer arrives
                parts.clear()
                self._skip(size)
        if total > bytes_max:
            text = (
                f"Cannot execute query in readonly mode: more than {bytes_max} bytes without the password. (READONLY)"
            )
            raise Refusal(status=403, code=164, text=text)
        return decoded(b"".join(parts), self.headers.get("Content-Encoding", ""), bytes_max=bytes_max)

    def _chunk_sizes(self) -> Iterator[int]:
        """The size of each chunk, whose bytes the caller then takes."""
        while True:
            try:
                size = int(self.rfile.readline(100).split(b";")[0], 16)
            except ValueError:
                self._give_up(400, "broken chunked body")
            if size < 0:
                self._give_up(400, "broken chunked body")
            if size:
                yield size
            self.rfile.readline(100)
            if not size:
                return

    def _exactly(self, size: int) -> bytes:
        data = self.rfile.read(size)
        if len(data) != size:
            self._give_up(400, "the body ended early")
        return data

    def _skip(self, size: int) -> None:
        while size:
            size -= len(self._exactly(min(size, 65536)))

    def _give_up(self, status: int, text: str) -> NoReturn:
        """What follows on this connection cannot be told apart any more."""
        self.close_connection = True
        raise Refusal(status=status, code=33 if status == 400 else 0, text=text)

    def _result_headers(self, answer: EngineAnswer) -> dict[str, str]:
        counts = {
            "read_rows": answer.rows_read,
            "read_bytes": answer.bytes_read,
            "written_rows": answer.rows_written,
            "written_bytes": answer.bytes_written,
        }
        headers = {"X-ClickHouse-Summary": json.dumps({name: str(count) for name, count in counts.items()})}
        if answer.has_result:
            headers["X-ClickHouse-Format"] = answer.format
        return headers

    def _send_error(self, status: int, code: int, text: str) -> None:
        version = f"(version {self.service.engine.version})"
        body = f"Code: {code}. DB::Exception: {text}" + ("\n" if version in text else f" {version}\n")
        self._send(status, body.encode(), {"X-ClickHouse-Exception-Code": str(code)} if code else {})

    def _send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=UTF-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-ClickHouse-Server-Display-Name", "holdfast-embedded")
        self.send_header("X-Content-Type-Options", "nosniff")
        for name, value in headers.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the base class's name)
        """Say nothing for each request; the log is bounded."""


class Server(ThreadingHTTPServer):
    """At most `CONNECTIONS_MAX` connections, a thread for each."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64
    service: Service

    def process_request(self, request: Any, client_address: Any) -> None:
        """Refuse what is too many: the client sees its connection closed and comes again."""
        if not self.service.slots.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """One connection's life."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.service.slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news; anything else is."""
        if not isinstance(sys.exception(), (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


def serve(path: Path, port: int, secret: str) -> int:
    """Serve until SIGTERM or SIGINT; the running requests may finish."""
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    service = Service(engine=Engine(path), secret=secret)
    server = Server(("127.0.0.1", port), type("BoundHandler", (Handler,), {"service": service}))
    server.service = service
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()
    sys.stderr.write(f"chDB {service.engine.version} serves {path} on 127.0.0.1:{port}\n")
    stopping.wait()
    server.shutdown()
    server.server_close()
    return 0 if service.engine.close_when_idle(STOP_GRACE_S) else 1


def absolute(text: str) -> Path:
    """A path that stays what it is when we change the folder."""
    return Path(text).absolute()


def main() -> int:
    """Parse the command line; exit codes as in CONTRACT."""
    parser = argparse.ArgumentParser(description="chDB behind ClickHouse's HTTP interface")
    parser.add_argument("--path", type=absolute, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--secret-file", type=absolute, required=True)
    options = parser.parse_args()
    try:
        options.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.chdir(options.path)  # where it is looked for when its record is lost
        code = serve(options.path, options.port, options.secret_file.read_text().strip())
    except (OSError, EngineError) as exc:
        sys.stderr.write(f"cannot serve {options.path} on port {options.port}: {exc}\n")
        code = 75
    sys.stderr.flush()
    os._exit(code)  # the engine's and the connections' threads are not waited for


if __name__ == "__main__":
    main()
