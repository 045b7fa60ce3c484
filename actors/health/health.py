"""The health actor: serves probes, metrics and status over HTTP for as long as the process lives."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping
from typing import Any

import attrs
import trio
from hypercorn.config import Config
from hypercorn.trio import serve

from actors.health.follow import Follower
from actors.health.listen import BACKLOG, url_of
from actors.health.live import EventStreams
from actors.health.port import CancelBackfill, SubmitBackfill
from actors.health.probes import Probes
from actors.health.recent import RecentCandles
from actors.health.report import About
from actors.health.web import Surface
from runtime.actor import ActorContext
from runtime.log.consumer import Consumer
from runtime.mailbox import Mailbox
from runtime.metrics import BoardCollector
from runtime.settings_rules import split_host_port

STOP_S = 1.0
"""Requests under way get so long when the process ends."""
BEAT_S = 1.0


@attrs.frozen(kw_only=True)
class Health:
    """First up, last down. The listener is lent by the tree (`listen.open_listener`), so the port outlives a crash."""

    listener: socket.socket
    listen: str
    service: str
    version: str
    kinds: tuple[str, ...]
    submit: SubmitBackfill
    cancel: CancelBackfill
    inboxes: Mapping[str, Mailbox[Any]] = attrs.field(factory=dict)
    """Actor -> its inbox."""
    stalled_after_s: float = 30.0
    consumer: Consumer | None = None
    """Of the whole log, for the candles of the page; None: there are none to show."""

    async def run(self, ctx: ActorContext) -> None:
        """Serve until drained. Raises: OSError when the socket is unusable (a crash: the supervisor tries again)."""
        config = _config(os.dup(self.listener.fileno()))  # hypercorn closes what it serves on
        recent = RecentCandles()
        async with trio.open_nursery() as nursery:
            await nursery.start(self._serve, config, ctx, recent)
            ctx.board.endpoints["health"] = url_of(self.listener)
            ctx.ready()
            async with trio.open_nursery() as readers:
                if self.consumer is not None:
                    readers.start_soon(Follower(consumer=self.consumer, candles=recent).run, ctx)
                await _beat_until_drained(ctx)
                readers.cancel_scope.cancel()
            nursery.cancel_scope.deadline = trio.current_time() + STOP_S * 2

    async def _serve(
        self, config: Config, ctx: ActorContext, recent: RecentCandles, *, task_status: trio.TaskStatus[Any]
    ) -> None:
        app: Any = self._surface(ctx, recent).app()
        await serve(app, config, shutdown_trigger=ctx.drain_requested.wait, task_status=task_status, mode="asgi")

    def _surface(self, ctx: ActorContext, recent: RecentCandles) -> Surface:
        return Surface(
            probes=Probes(service=self.service, stalled_after_s=self.stalled_after_s, inboxes=self.inboxes),
            about=About(version=self.version, started_ns=ctx.clock.wall_ns(), listen=self.listen, pid=os.getpid()),
            board=ctx.board,
            clock=ctx.clock,
            metrics=ctx.metrics,
            collector=BoardCollector(ctx.board, tuple(self.inboxes.values())),
            listen_host=split_host_port(self.listen)[0],
            kinds=self.kinds,
            submit=self.submit,
            cancel=self.cancel,
            recent=recent,
            streams=EventStreams(ctx.drain_requested),
        )


async def _beat_until_drained(ctx: ActorContext) -> None:
    while not ctx.drain_requested.is_set():
        ctx.progress()
        with trio.move_on_after(BEAT_S):
            await ctx.drain_requested.wait()


def _config(fd: int) -> Config:
    config = Config()
    config.bind = [f"fd://{fd}"]
    config.accesslog = None
    config.errorlog = logging.getLogger("hypercorn.error")
    config.backlog = BACKLOG
    config.graceful_timeout = STOP_S
    config.shutdown_timeout = STOP_S
    config.include_server_header = False
    return config
