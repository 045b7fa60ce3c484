"""Polygon (now Massive): the live stream. The only file that imports trio_websocket.

The socket is read straight into a bounded queue, because the vendor drops slow readers; when the queue is full the
socket is not read, and the vendor's own rule ends the connection: a hole that is seen and fetched. Every step of
connecting has a deadline, a ping that is not answered ends the connection, and what the vendor says of the account
(too many connections, a wrong key) is an error that names the wait it needs. No retry here.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from urllib.parse import urlsplit

import attrs
import msgspec
import outcome
import trio
import trio_websocket
from wsproto.utilities import LocalProtocolError, ProtocolError

from actors.downloader.polygon_events import Decoded, decode, stream_key
from actors.downloader.polygon_status import MAX_CONNECTIONS_S, Topics, account_error
from actors.downloader.port import Alive, Ticks
from actors.market.symbols import AssetClass
from runtime.errors import RetryableSourceError

LINE_ERRORS = (
    trio_websocket.HandshakeError,
    trio_websocket.ConnectionClosed,
    ProtocolError,
    OSError,
    trio.BrokenResourceError,
    trio.ClosedResourceError,
)
PATHS = {AssetClass.FX: "/forex", AssetClass.CRYPTO: "/crypto", AssetClass.STOCK: "/stocks"}


@attrs.frozen(kw_only=True)
class StreamLimits:
    """Bounds of one connection."""

    connect_s: float = 10.0
    auth_s: float = 10.0
    subscribe_s: float = 10.0
    close_s: float = 2.0
    frame_bytes_max: int = 1 << 20
    queue_frames: int = 512
    """Frames that wait to be decoded; also bounded by `queue_bytes`."""
    queue_bytes: int = 16 << 20
    ping_every_s: float = 1.0
    pong_s: float = 10.0
    """A ping must be answered within it."""


_Item = tuple[bytes | str, None] | tuple[None, float]
"""A frame, or the time of an answered ping."""


@attrs.define(eq=False)
class PolygonStreamConnection:
    """`LiveStream` over one socket."""

    refused: dict[str, str]
    _socket: trio_websocket.WebSocketConnection
    _symbols: Mapping[str, str]
    _dropped: Counter[str]
    _limits: StreamLimits
    _queue: trio.MemoryReceiveChannel[outcome.Outcome[_Item]] = attrs.field(init=False)
    _into: trio.MemorySendChannel[outcome.Outcome[_Item]] = attrs.field(init=False)
    _bytes: int = 0
    _room: trio.Event = attrs.field(factory=trio.Event)
    _order: trio.Lock = attrs.field(factory=trio.Lock)
    """Of what goes into the queue: an answered ping waits behind a frame that waits for room."""
    _topics: Topics | None = None
    _early: deque[Sequence[Ticks]] = attrs.field(factory=deque)
    """Data that came before the subscription was confirmed."""

    def __attrs_post_init__(self) -> None:
        self._into, self._queue = trio.open_memory_channel(self._limits.queue_frames)

    async def receive(self) -> Sequence[Ticks | Alive]:
        """See the port."""
        if self._early:
            await trio.lowlevel.checkpoint()
            return self._early.popleft()
        frame, sent_s = (await self._queue.receive()).unwrap()
        if frame is None:
            assert sent_s is not None
            return [Alive(sent_s=sent_s)]
        self._bytes -= len(frame)
        self._room.set()
        return self._decoded(frame).ticks

    def _decoded(self, frame: bytes | str) -> Decoded:
        decoded = decode(frame, self._symbols, self._dropped)
        for status in decoded.statuses:
            error = account_error(status)
            if error is None and self._topics is not None:
                error = self._topics.lost(status)
            if error is not None:
                raise error
        return decoded

    async def authenticate(self, api_key: str) -> None:
        """`connected`, then our key, then `auth_success`."""
        with _deadline(self._limits.auth_s, "no answer to the authentication"):
            await self._until("connected")
            await self._say("auth", api_key)
            await self._until("auth_success")

    async def _until(self, wanted: str) -> None:
        while True:
            statuses = self._decoded(await self._next_frame()).statuses
            if any(status.status == wanted for status in statuses):
                return

    async def subscribe(self, topics: Topics) -> None:
        """Until each topic is confirmed, refused, or proven by its data; one without any answer holds up no other."""
        within_s = self._limits.subscribe_s
        with trio.move_on_after(within_s):
            await self._say("subscribe", topics.parameter)
            while topics.open:
                decoded = self._decoded(await self._next_frame())
                topics.take(decoded.statuses, [ticks.symbol for ticks in decoded.ticks])
                self._early.append(decoded.ticks)
        topics.refuse_open(f"subscription not confirmed within {within_s:g} s")
        self.refused, self._topics = topics.refused, topics
        if not topics.confirmed:
            told = "; ".join(sorted(set(topics.refused.values())))
            raise RetryableSourceError(f"the stream refuses every topic: {told}", retry_after_s=MAX_CONNECTIONS_S)

    async def close(self) -> None:
        """See the port."""
        with trio.move_on_after(self._limits.close_s, shield=True):
            await self._socket.aclose()

    async def _say(self, action: str, parameter: str) -> None:
        await self._send(msgspec.json.encode({"action": action, "params": parameter}))

    async def _send(self, message: bytes) -> None:
        try:
            await self._socket.send_message(message.decode())
        except (trio_websocket.ConnectionClosed, LocalProtocolError) as exc:
            raise _closed(exc) from exc

    async def _next_frame(self) -> bytes | str:
        try:
            frame: bytes | str = await self._socket.get_message()
        except trio_websocket.ConnectionClosed as exc:
            raise _closed(exc) from exc
        return frame

    async def read(self) -> None:
        """Socket to queue, until the connection ends; its end is the queue's last item."""
        try:
            while True:
                frame = await self._next_frame()
                async with self._order:
                    while self._bytes and self._bytes + len(frame) > self._limits.queue_bytes:
                        self._room = trio.Event()
                        await self._room.wait()
                    self._bytes += len(frame)
                    await self._into.send(outcome.Value((frame, None)))
        except RetryableSourceError as exc:
            await self._into.send(outcome.Error(exc))

    async def ping(self) -> None:
        """Keep the line alive and know that it is: an answer stands behind everything sent before it."""
        try:
            while True:
                sent_s = trio.current_time()
                with _deadline(self._limits.pong_s, "ping not answered"):
                    await self._socket.ping()
                for _ in range(
                    3
                ):  # the socket holds no frame back, so the last one before the answer has its turn by then
                    await trio.lowlevel.checkpoint()
                async with self._order:
                    await self._into.send(outcome.Value((None, sent_s)))
                await trio.sleep_until(sent_s + self._limits.ping_every_s)
        except (trio_websocket.ConnectionClosed, LocalProtocolError):
            return  # the reader says so
        except RetryableSourceError as exc:
            await self._into.send(outcome.Error(exc))


@attrs.frozen(kw_only=True)
class PolygonStream:
    """`LiveSource` of ticks."""

    stream_url: str
    """`wss://host`, without the asset class."""
    api_key: str = attrs.field(repr=False)
    limits: StreamLimits = attrs.field(factory=StreamLimits)
    name: str = "polygon"
    _dropped: Counter[str] = attrs.field(factory=Counter, init=False)

    def counters(self) -> Mapping[str, int]:
        """Of dropped elements."""
        return self._dropped

    async def connect(
        self, nursery: trio.Nursery, asset_class: AssetClass, symbols: Sequence[str]
    ) -> PolygonStreamConnection:
        """See the port."""
        topics = Topics.of(symbols)
        spelled = {stream_key(payload): symbol for payload, symbol in topics.payloads.items()}
        socket = await self._open(nursery, self.stream_url.rstrip("/") + PATHS[asset_class])
        stream = PolygonStreamConnection({}, socket, spelled, self._dropped, self.limits)
        try:
            await stream.authenticate(self.api_key)
            await stream.subscribe(topics)
        except BaseException:
            await stream.close()
            raise
        nursery.start_soon(stream.read)
        nursery.start_soon(stream.ping)
        return stream

    async def _open(self, nursery: trio.Nursery, url: str) -> trio_websocket.WebSocketConnection:
        parts = urlsplit(url)
        host, secure = parts.hostname or "", parts.scheme == "wss"
        port = parts.port or (443 if secure else 80)
        try:
            with _deadline(self.limits.connect_s, f"no connection to {parts.netloc}"):
                line: trio.SocketStream | trio.SSLStream[trio.SocketStream]
                if secure:
                    line = await trio.open_ssl_over_tcp_stream(host, port, https_compatible=True)
                else:
                    line = await trio.open_tcp_stream(host, port)
                opened: outcome.Outcome[trio_websocket.WebSocketConnection] = await nursery.start(
                    self._hold, line, parts.netloc, parts.path
                )
        except (OSError, trio.BrokenResourceError) as exc:
            raise RetryableSourceError(f"{parts.netloc}: {type(exc).__name__}: {exc}") from exc
        return opened.unwrap()

    async def _hold(
        self,
        line: trio.SocketStream | trio.SSLStream[trio.SocketStream],
        host: str,
        path: str,
        task_status: trio.TaskStatus[outcome.Outcome[trio_websocket.WebSocketConnection]],
    ) -> None:
        """The socket's own tasks, which raise what we must not die of; the line is closed with them."""
        refused: RetryableSourceError | None = None
        opened = False
        try:
            async with trio.open_nursery() as nursery:
                socket = await trio_websocket.wrap_client_stream(
                    nursery,
                    line,
                    host,
                    path,
                    max_message_size=self.limits.frame_bytes_max,
                    message_queue_size=0,  # else the answer of a ping would overtake what waits there
                    receive_buffer_size=65_536,
                )
                opened = True
                task_status.started(outcome.Value(socket))
        except* trio_websocket.ConnectionRejected as group:
            refused = RetryableSourceError(f"{host}{path}: refused with {_rejection(group)}")
        except* LINE_ERRORS as group:  # once open, whoever reads sees that the socket is closed
            refused = RetryableSourceError(f"{host}{path}: {group.exceptions[0]!r}")
        finally:
            await trio.aclose_forcefully(line)
        if refused is not None and not opened:
            task_status.started(outcome.Error(refused))


def _rejection(group: BaseExceptionGroup[trio_websocket.ConnectionRejected]) -> str:
    leaf: BaseException = group
    while isinstance(leaf, BaseExceptionGroup):
        leaf = leaf.exceptions[0]
    assert isinstance(leaf, trio_websocket.ConnectionRejected)
    return f"{leaf.status_code} {(leaf.body or b'')[:100].decode('utf-8', 'replace')}".strip()


@contextmanager
def _deadline(seconds: float, what: str) -> Iterator[None]:
    """A step that takes longer is an outage."""
    try:
        with trio.fail_after(seconds):
            yield
    except trio.TooSlowError as exc:
        raise RetryableSourceError(f"{what} within {seconds:g} s") from exc


def _closed(exc: trio_websocket.ConnectionClosed | LocalProtocolError) -> RetryableSourceError:
    reason = getattr(exc, "reason", None)
    if reason is None:
        return RetryableSourceError("the stream was closed")
    said = f": {reason.reason}" if reason.reason else ""
    return RetryableSourceError(f"the stream was closed with {reason.code} {reason.name}{said}")
