"""What waits to be sent to one stream client: bounded, and whoever is too slow for it is disconnected.

Slow-reader rule of the vendor (notes UPSTREAM 1.8): the server buffers, events come later and later, then it kills the
connection.
"""

from __future__ import annotations

from collections import deque

import attrs
import trio

FRAME_BYTES_MAX = 256 * 1024
BUFFER_BYTES_MAX = 16 * 2**20
_COMMA, _OPEN, _CLOSE = b",", b"[", b"]"


@attrs.define(eq=False)
class Outbox:
    """JSON elements joined by commas, in pieces; `take` packs as many as fit into one frame.

    It takes everything in; whoever fills it looks at `overfull` before the next round and ends the connection, so a
    single round may be larger than the buffer and a client that reads is not punished for it.
    """

    bytes_max: int = BUFFER_BYTES_MAX
    held_bytes: int = 0
    close_code: int | None = None
    """Once set, nothing more is taken in; what is held goes out, then the connection is closed with it."""
    _pieces: deque[bytes | memoryview] = attrs.field(factory=deque, init=False)
    _filled: trio.Event = attrs.field(factory=trio.Event, init=False)

    @property
    def overfull(self) -> bool:
        """Whether the client is too slow."""
        return self.held_bytes > self.bytes_max

    def put(self, piece: bytes | memoryview) -> None:
        """Take one piece, unless it is closed."""
        if self.close_code is None:
            self._pieces.append(piece)
            self.held_bytes += len(piece)
            self._filled.set()

    def close(self, code: int) -> None:
        """Nothing more comes."""
        if self.close_code is None:
            self.close_code = code
            self._filled.set()

    async def take(self) -> str | None:
        """The next frame, at most FRAME_BYTES_MAX unless one piece is larger; None: close now."""
        while not self._pieces:
            if self.close_code is not None:
                return None
            self._filled = trio.Event()
            await self._filled.wait()
        parts: list[bytes | memoryview] = [_OPEN]
        size = 0
        while self._pieces and (size == 0 or size + len(self._pieces[0]) <= FRAME_BYTES_MAX):
            piece = self._pieces.popleft()
            parts += (_COMMA, piece) if size else (piece,)
            size += len(piece)
        parts.append(_CLOSE)
        self.held_bytes -= size
        return b"".join(parts).decode("ascii")
