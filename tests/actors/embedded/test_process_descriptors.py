"""A server we start must not inherit what a library left inheritable (found by a kill -9: PostgreSQL kept our port)."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

from actors.embedded import process


def test_a_started_server_inherits_no_listening_socket(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.set_inheritable(True)  # as hypercorn does
        probe = f"import os; os.fstat({listener.fileno()})"
        spawned = process.spawn([sys.executable, "-c", probe], env={}, log_path=tmp_path / "log")
        spawned.release()
        _, status = os.waitpid(spawned.who.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 1, "the descriptor was open in the child"
    assert "Bad file descriptor" in (tmp_path / "log").read_text()
