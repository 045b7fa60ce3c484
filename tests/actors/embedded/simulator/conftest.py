"""A feed made of a plain list, a clock that stands still, and clients of the application in this process."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import httpx
import numpy as np
import pyarrow as pa
import pytest
import trio
import trio_websocket

from actors.embedded.simulator.app import make_app
from actors.embedded.simulator.assembly import make_hub
from actors.embedded.simulator.feed import Feed, Part, Quotes, TradeFeed, Trades
from actors.embedded.simulator.market_maker import market_of
from actors.embedded.simulator.options import Options
from actors.embedded.simulator.pages import PartCache
from actors.embedded.simulator.server import listen, serve_world
from actors.embedded.simulator.world import World
from runtime.actor import offload_inline
from runtime.clock import parse_instant_ns
from runtime.entropy import SeededEntropy

Row = tuple[int, str, str]
T0 = parse_instant_ns("2024-03-05T10:00Z")


@attrs.define
class StandingClock:
    now_ns: int
    now_s: float = 1000.0

    def wall_ns(self) -> int:
        return self.now_ns

    def monotonic_s(self) -> float:
        return self.now_s


@attrs.frozen(kw_only=True)
class ListFeed:
    """Rows (ts_ns, bid, ask) in time order, cut into parts of `part_ns`."""

    rows: list[Row]
    part_ns: int = 60_000_000_000
    symbols: tuple[str, ...] = ("C:EURUSD",)
    description: str = "a list"

    def is_open(self, instant_ns: int) -> bool:
        return True

    def parts(self, symbol: str, from_ns: int, to_ns: int, *, descending: bool = False) -> Iterator[Part]:
        borders = [self.rows[i][0] // self.part_ns for i in (0, -1)] if self.rows else [0, -1]
        numbers = range(borders[0], borders[1] + 1)
        for number in reversed(numbers) if descending else numbers:
            start = number * self.part_ns
            if start < to_ns and start + self.part_ns > from_ns:
                yield Part(from_ns=start, to_ns=start + self.part_ns)

    def quotes(self, symbol: str, part: Part) -> Quotes:
        inside = [row for row in self.rows if part.from_ns <= row[0] < part.to_ns]
        return Quotes(
            ts_ns=np.array([row[0] for row in inside], np.int64),
            bid=pa.array([row[1] for row in inside], pa.string()),
            ask=pa.array([row[2] for row in inside], pa.string()),
        )


@attrs.frozen(kw_only=True)
class ListTrades:
    """Trades (ts_ns, price, size, id, condition) in time order, one part."""

    rows: list[tuple[int, str, str, int, int]]
    symbols: tuple[str, ...] = ("X:BTCUSD",)
    description: str = "a list"

    def parts(self, symbol: str, from_ns: int, to_ns: int, *, descending: bool = False) -> Iterator[Part]:
        if self.rows and from_ns <= self.rows[-1][0] and to_ns > self.rows[0][0]:
            yield Part(from_ns=self.rows[0][0], to_ns=self.rows[-1][0] + 1)

    def trades(self, symbol: str, part: Part) -> Trades:
        ts, price, size, number, condition = zip(*self.rows, strict=True)
        return Trades(
            ts_ns=np.array(ts, np.int64),
            price=pa.array(price, pa.string()),
            size=pa.array(size, pa.string()),
            trade_id=np.array(number, np.int64),
            condition=np.array(condition, np.int64),
        )


STEP_S = 0.004
PATIENCE_S = 5.0


@attrs.define(kw_only=True)
class Live:
    """A real server inside the test's loop, over a market whose clock stands where the test puts it."""

    world: World
    clock: StandingClock
    port: int

    @property
    def hub(self) -> Any:
        assert self.world.hub is not None
        return self.world.hub

    async def at(self, ns: int) -> None:
        """Put the market's clock to `ns` and wait until the stream was given everything up to there."""
        self.clock.now_ns = ns
        await self.until(lambda: all(lane.position_ns >= ns for lane in self.hub.lanes))

    async def real(self, seconds: float) -> None:
        """Real time passes, without waiting for it."""
        self.clock.now_s += seconds
        await trio.sleep(3 * STEP_S)

    async def until(self, condition: Callable[[], object]) -> None:
        with trio.fail_after(PATIENCE_S):
            while not condition():  # noqa: ASYNC110 - the server has no event for it
                await trio.sleep(STEP_S)

    async def fault(self, **fault: Any) -> None:
        """Arm one and wait until it fired, if it needs no trigger."""
        before = self.hub.faults.fired_total
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", verify=False) as http:
            answer = await http.post("/oracle/faults", content=json.dumps(fault))
        assert answer.status_code == 200, answer.text
        if "when" not in fault:
            await self.until(lambda: self.hub.faults.fired_total > before)

    async def get(self, path: str) -> Any:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", verify=False) as http:
            return (await http.get(path, headers={"Authorization": "Bearer k"})).json(parse_float=str)

    async def refused(self, asset: str = "forex") -> None:
        """Raises: trio_websocket.ConnectionRejected."""
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        try:
            async with trio.open_nursery() as nursery:
                await trio_websocket.wrap_client_stream(nursery, stream, "127.0.0.1", f"/{asset}")
        except* trio_websocket.ConnectionRejected as group:
            raise group.exceptions[0] from None
        finally:
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(stream)

    @asynccontextmanager
    async def client(self, *topics: str, asset: str = "forex", key: str = "k") -> AsyncIterator[Client]:
        """A client that has authenticated and subscribed, when topics are given."""
        async with trio.open_nursery() as nursery:
            socket = await trio_websocket.connect_websocket(
                nursery, "127.0.0.1", self.port, f"/{asset}", use_ssl=False, max_message_size=8 << 20
            )
            one = Client(socket)
            try:
                if topics:
                    await one.say("auth", key)
                    await one.say("subscribe", ",".join(topics))
                    with trio.fail_after(PATIENCE_S):
                        while sum(status["status"] == "success" for status in one.statuses) < len(topics):
                            await one.read()
                yield one
            finally:
                nursery.cancel_scope.cancel()
                with trio.CancelScope(shield=True):
                    await trio.aclose_forcefully(socket._stream)


@attrs.define
class Client:
    """One WebSocket client and all it has read."""

    socket: trio_websocket.WebSocketConnection
    frames: list[list[dict[str, Any]]] = attrs.field(factory=list)
    statuses: list[dict[str, Any]] = attrs.field(factory=list)
    events: list[dict[str, Any]] = attrs.field(factory=list)
    unknown: list[dict[str, Any]] = attrs.field(factory=list)

    async def say(self, action: str, params: str) -> None:
        await self.socket.send_message(json.dumps({"action": action, "params": params}))

    async def read(self) -> None:
        """One frame."""
        frame = json.loads(await self.socket.get_message(), parse_float=str)
        self.frames.append(frame)
        for one in frame:
            known = {"status": self.statuses, "C": self.events, "XT": self.events}
            known.get(one["ev"], self.unknown).append(one)

    async def read_events(self, count: int) -> list[dict[str, Any]]:
        with trio.fail_after(PATIENCE_S):
            while len(self.events) < count:
                await self.read()
        return self.events

    async def read_for(self, seconds: float = 8 * STEP_S) -> list[dict[str, Any]]:
        with trio.move_on_after(seconds):
            while True:
                await self.read()
        return self.events

    async def read_statuses(self, count: int) -> list[str]:
        with trio.fail_after(PATIENCE_S):
            while len(self.statuses) < count:
                await self.read()
        return [one["status"] for one in self.statuses]

    async def read_to_the_end(self) -> int:
        """Until the server closes; the close code, 1006 when it said none."""
        with trio.fail_after(PATIENCE_S):
            try:
                while True:
                    await self.read()
            except trio_websocket.ConnectionClosed as closed:
                return closed.reason.code if closed.reason is not None else 1006


@asynccontextmanager
async def live_of(
    feed: Feed, trades: TradeFeed | None = None, *, at_ns: int = T0, **options: Any
) -> AsyncIterator[Live]:
    clock = StandingClock(at_ns)
    market = market_of(0, feed, trades)
    hub = make_hub(Options(**options), market, clock, offload_inline)
    hub.step_s = STEP_S
    more = (
        {}
        if trades is None
        else {"trades": trades, "trade_cache": PartCache(trades, offload_inline, load=market.trade_pages)}
    )
    world = world_of(feed, clock=clock, hub=hub, **more)
    listener = listen("127.0.0.1", 0)
    stopping = trio.Event()
    async with trio.open_nursery() as nursery:
        port = listener.getsockname()[1]
        await nursery.start(serve_world, world, listener, stopping)
        try:
            yield Live(world=world, clock=clock, port=port)
        finally:
            nursery.cancel_scope.cancel()


def world_of(feed: Feed, **changes: Any) -> World:
    changes.setdefault("clock", StandingClock(parse_instant_ns("2026-01-01")))
    changes.setdefault("entropy", SeededEntropy(1))
    return World(feed=feed, cache=PartCache(feed, offload_inline), offload=offload_inline, **changes)


def client_of(world: World, *, key: str = "k", raise_errors: bool = True) -> httpx.AsyncClient:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    transport = httpx.ASGITransport(make_app(world), raise_app_exceptions=raise_errors)
    return httpx.AsyncClient(transport=transport, base_url="http://simulator", headers=headers)


async def chain_of(client: httpx.AsyncClient, path: str, *, pages_max: int = 10_000) -> list[dict[str, Any]]:
    """Follow a chain by path and query, as a good client does."""
    pages: list[dict[str, Any]] = []
    while path:
        assert len(pages) < pages_max
        answer = await client.get(path)
        assert answer.status_code == 200, answer.text
        pages.append(answer.json(parse_float=str))
        path = httpx.URL(pages[-1].get("next_url", "")).raw_path.decode() if "next_url" in pages[-1] else ""
    return pages


def rows_of(pages: list[dict[str, Any]]) -> list[Row]:
    found = [row for page in pages for row in page.get("results") or []]
    return [(row["participant_timestamp"], row["bid_price"], row["ask_price"]) for row in found]


@pytest.fixture(scope="session")
def kit() -> SimpleNamespace:
    """What the tests of this folder share."""
    return SimpleNamespace(
        T0=T0,
        STEP_S=STEP_S,
        Clock=StandingClock,
        Feed=ListFeed,
        Trades=ListTrades,
        live=live_of,
        world=world_of,
        client=client_of,
        chain=chain_of,
        rows=rows_of,
    )


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data; tests that need it say NOT COVERED where it is absent."""
    root = Path(
        os.environ.get("HOLDFAST_SHARED_DATA") or Path(__file__).parents[4] / ".." / "shared" / "data"
    ).resolve()
    if not root.is_dir():
        pytest.skip(f"NOT COVERED: real data of vendors, no folder {root}")
    return root


@pytest.fixture(scope="session")
def lean_forex(shared_data: Path) -> Path:
    """The real Lean recordings."""
    return shared_data / "lean" / "Data" / "forex"
