"""A TCP connection that can be cut at any byte and made deaf and dumb: where faults of the network happen.

It stands between hypercorn and the socket and looks to hypercorn like trio's own stream.
"""

from __future__ import annotations

import struct

import attrs
import trio
from trio.abc import HalfCloseableStream

_LINGER_ZERO = struct.pack("ii", 1, 0)


@attrs.define(eq=False)
class Wire(HalfCloseableStream):
    """A `trio.SocketStream` with faults."""

    stream: trio.SocketStream
    sent_bytes: int = 0
    _cut_after: int | None = attrs.field(default=None, init=False)
    _cut_resets: bool = attrs.field(default=False, init=False)
    _muted: trio.Event | None = attrs.field(default=None, init=False)
    _ended: bool = attrs.field(default=False, init=False)

    @property
    def socket(self) -> trio.socket.SocketType:
        """The socket, for addresses."""
        return self.stream.socket

    @property
    def muted(self) -> bool:
        """Whether nothing passes in either direction."""
        return self._muted is not None

    def cut_after(self, count: int, *, reset: bool = False) -> None:
        """Let `count` more bytes out, then cut the connection, in the middle of whatever is being sent."""
        self._cut_after, self._cut_resets = count, reset

    def mute(self) -> None:
        """Nothing in, nothing out, not even pings and pongs; the peer sees an open connection."""
        if self._muted is None:
            self._muted = trio.Event()

    def unmute(self) -> None:
        """Let pass what waited."""
        if self._muted is not None:
            self._muted.set()
            self._muted = None

    def abort(self, *, reset: bool = False) -> None:
        """End it at once, without a closing handshake; `reset`: as if the machine had died."""
        if self.stream.socket.fileno() >= 0:
            if reset:
                self.stream.socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, _LINGER_ZERO)
            self.stream.socket.close()
        self.unmute()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Raises: trio.BrokenResourceError also where a fault cut it."""
        await self._unmuted()
        if self._ended:
            raise trio.BrokenResourceError("it was ended already")
        if self._cut_after is None or len(data) <= self._cut_after:
            await self.stream.send_all(data)
            self.sent_bytes += len(data)
            if self._cut_after is not None:
                self._cut_after -= len(data)
            return
        part = memoryview(data)[: self._cut_after]
        await self.stream.send_all(part)
        self.sent_bytes += len(part)
        self.abort(reset=self._cut_resets)
        raise trio.BrokenResourceError("cut by a fault")

    async def wait_send_all_might_not_block(self) -> None:
        """As trio's."""
        await self.stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """As trio's; held back while muted."""
        data = await self.stream.receive_some(max_bytes)
        await self._unmuted()
        return data

    async def send_eof(self) -> None:
        """As trio's. hypercorn may still want to send a ping meanwhile, which trio would call a bug of ours."""
        self._ended = True
        await self.stream.send_eof()

    async def aclose(self) -> None:
        """As trio's."""
        await self.stream.aclose()

    async def _unmuted(self) -> None:
        while self._muted is not None:
            await self._muted.wait()
