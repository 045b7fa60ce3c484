"""DATA_DIR/endpoints.json: where psql, a notebook or a checker finds what runs inside (CONTRACT, embedded mode).

The file is an image of `Board.endpoints`, which is the truth while the pipeline runs; so a file that a kill -9 left
behind is replaced as a whole by the first change of the next life. Mode 0600: the PostgreSQL address has a password.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path

import attrs

from actors.embedded.record import write_private
from runtime.board import Board

FILE_NAME = "endpoints.json"


@attrs.define(kw_only=True)
class EndpointsFile:
    """The file of one data directory. One per process, shared by every embedded server.

    Writes are a few hundred bytes and not synced, so they are done on the loop's own thread.
    """

    path: Path
    _written: dict[str, str] | None = None

    def put(self, board: Board, name: str, url: str) -> None:
        """Name an endpoint on the board and in the file."""
        board.endpoints[name] = url
        self.sync(board.endpoints)

    def remove(self, board: Board, name: str) -> None:
        """The endpoint answers no more."""
        board.endpoints.pop(name, None)
        self.sync(board.endpoints)

    def sync(self, endpoints: Mapping[str, str]) -> None:
        """Make the file say `endpoints`; does nothing when it does already. Servers call it at every probe, so that
        an endpoint which another actor put on the board (`health`) is in the file a second later."""
        if self._written == endpoints:
            return
        with contextlib.suppress(OSError):  # a full disk: tried again at the next probe
            write_private(self.path, json.dumps(dict(sorted(endpoints.items())), indent=1) + "\n")
            self._written = dict(endpoints)
