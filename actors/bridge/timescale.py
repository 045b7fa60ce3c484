"""TimescaleDB and plain PostgreSQL: settings, the way into the driver, and the factory of `pgsink.PostgresSink`.

The only importer of asyncpg. The driver lives in a trio-asyncio loop of its own per connection attempt and is crossed
once per call; a call that does not answer in its time ends the connection (`terminate`), never the waiting for it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any, TypeVar

import asyncpg
import attrs
import trio
import trio_asyncio

from actors.bridge.pgerrors import classify
from actors.bridge.pgsink import PostgresSink
from actors.bridge.port import Sink
from runtime.actor import Seams
from runtime.errors import ConfigError, HoldfastError, RetryableSinkError

T = TypeVar("T")

_DEADLINE_SLACK_S = 2.0
"""Our deadline behind the driver's own time-out: the driver may report first, with a better message."""
_CLOSE_S = 5.0
_CLIENT_ERRORS = (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
"""A connection that broke or is in no state to go on; OSError: refused, reset, unknown name, asyncio's time-outs."""


@attrs.frozen(kw_only=True)
class TimescaleSettings:
    """Where and how patiently."""

    name: str = "timescale"
    dsn: str = attrs.field(repr=False)
    """Any libpq URL; several hosts allowed. May hold a password, so it is never shown."""
    stores: frozenset[str] = frozenset({"quotes", "trades", "coverage"})
    adopt: bool = False
    """Take over a database that holds another log's data (`pipeline run --adopt`)."""
    connect_timeout_s: float = 5.0
    call_timeout_s: float = 30.0
    """Longest wait for one batch, or for one statement of another kind."""
    count_timeout_s: float = 600.0
    """The same for `totals` and `audit`, which look at every row."""
    lock_timeout_s: float = 10.0


@attrs.frozen(kw_only=True)
class Timescale:
    """Makes one `PostgresSink` per connection attempt."""

    settings: TimescaleSettings

    @property
    def sink_name(self) -> str:
        """The sink's name."""
        return self.settings.name

    @property
    def stores(self) -> frozenset[str]:
        """Kinds it keeps."""
        return self.settings.stores

    def __call__(self, seams: Seams) -> AbstractAsyncContextManager[Sink]:
        """An unopened sink inside its own event loop."""
        return _connector(self.settings, seams)


@asynccontextmanager
async def _connector(settings: TimescaleSettings, seams: Seams) -> AsyncIterator[Sink]:
    failure: HoldfastError | None = None
    async with trio_asyncio.open_loop() as loop:
        loop.set_exception_handler(_unawaited)
        writer, reader = Connection(settings, loop), Connection(settings, loop)
        sink = PostgresSink(settings=settings, offload=seams.offload, writer=writer, reader=reader)
        try:
            yield sink
        except HoldfastError as exc:
            failure = exc  # raised below, outside the loop's nurseries, which would wrap it in a group
        finally:
            with trio.move_on_after(_CLOSE_S, shield=True):
                await sink.close()
    if failure is not None:
        raise failure


class Connection:
    """One connection of the driver, seen from Trio. Disposable: after a time-out it is of no more use."""

    def __init__(self, settings: TimescaleSettings, loop: Any) -> None:
        self._settings = settings
        self._loop = loop
        self._con: Any = None

    @property
    def con(self) -> Any:
        """The driver's connection, for coroutines that run inside `call`."""
        if self._con is None:
            raise RetryableSinkError(f"{self._settings.name}: not connected")
        return self._con

    async def connect(self) -> None:
        """Raises: RetryableSinkError."""
        await self.call(self._connect(), self._settings.connect_timeout_s)

    async def call(self, work: Coroutine[Any, Any, T], timeout_s: float) -> T:
        """Run `work` in the driver's loop; when it does not end in time or we are cancelled, cut the connection.

        Raises: RetryableSinkError for outages and time-outs, PermanentSinkError for refused rows.
        """
        done = trio.Event()
        task = self._loop.create_task(work)
        task.add_done_callback(lambda _: done.set())
        try:
            with trio.move_on_after(timeout_s + _DEADLINE_SLACK_S):
                await done.wait()
        finally:
            if not task.done():
                # What it still raises is retrieved, else it would kill the loop as an error nobody awaited.
                task.add_done_callback(_retrieve)
                task.cancel()
                self.cut()
        if not task.done() or task.cancelled():
            raise RetryableSinkError(f"{self._settings.name}: no answer within {timeout_s:.0f} s")
        with _translated(self._settings.name):
            result: T = task.result()
        return result

    def cut(self) -> None:
        """Close the socket without a word: everything that matters is committed. Cannot hang."""
        if self._con is not None:
            self._con.terminate()
            self._con = None

    async def _connect(self) -> None:
        s = self._settings
        self._con = await asyncpg.connect(
            s.dsn,
            timeout=s.connect_timeout_s,
            command_timeout=s.call_timeout_s,
            target_session_attrs="read-write",
            server_settings={
                "application_name": "holdfast",
                "timezone": "UTC",
                "lock_timeout": f"{s.lock_timeout_s:.0f}s",
                # A transaction of a client that is gone or frozen must not hold the mark's row for ever.
                "idle_in_transaction_session_timeout": f"{s.call_timeout_s:.0f}s",
                "client_connection_check_interval": "2s",
                "synchronous_commit": "on",
                "jit": "off",
            },
        )


def _unawaited(loop: Any, context: dict[str, Any]) -> None:
    """An error that nobody awaited would end the loop and with it the actor (DRIVERS 3).

    Those of a lost connection are no news: asyncpg leaves the answer of a COPY unawaited when the connection breaks
    under it, and the call itself has failed already. Anything else ends the loop, as a bug should.
    """
    if not isinstance(context.get("exception"), (*_CLIENT_ERRORS, asyncpg.PostgresError)):
        loop.default_exception_handler(context)


def _retrieve(task: Any) -> None:
    if not task.cancelled():
        task.exception()


@contextmanager
def _translated(sink: str) -> Iterator[None]:
    """Turn the driver's errors into ours, chained. A bug of ours (classify: None) passes unchanged."""
    try:
        yield
    except asyncpg.PostgresError as exc:
        kind = classify(exc.sqlstate)
        if kind is None:
            raise
        raise kind(f"{sink}: {exc.sqlstate} {exc}") from exc
    except asyncpg.exceptions.ClientConfigurationError as exc:
        raise ConfigError(f"sink {sink}: its dsn cannot be used: {exc}") from exc
    except _CLIENT_ERRORS as exc:
        raise RetryableSinkError(f"{sink}: {type(exc).__name__} {exc}".rstrip()) from exc
