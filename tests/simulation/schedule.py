"""Makes Trio's schedule a pure function of the seed, and everything else that is not one a loud error.

Trio breaks ties by task counters, addresses (`id()` of scopes, hashes of tasks and cancel statuses) and a private
generator. `install` replaces the addresses by numbers of creation; `reset` puts numbers and generator back to the start,
before every run, so that a seed alone and the same seed as the n-th of a process are the same run.

Only for processes that do nothing but simulate: it patches Trio for good.
"""

from __future__ import annotations

import heapq
import itertools
import os
import random
import secrets
import socket
import time
import types
import uuid
from collections.abc import Callable
from typing import Any, NoReturn

import attrs
import prometheus_client.metrics
import pyarrow as pa
import trio
import trio._core._run as trio_run

_number_of_next_task: Callable[[], int] = attrs.fields(trio_run.Task)._counter.default.factory


class EscapedSimulation(BaseException):
    """Something reached for the real world: no exception handler of the product may hide it."""


class _Numbers:
    """What takes the place of addresses."""

    installed = False
    first_task = 0
    created = itertools.count()
    statuses: dict[int, int] = {}  # noqa: RUF012


def install() -> None:
    """Once per process; again it does nothing."""
    if _Numbers.installed:
        return
    _Numbers.installed = True
    trio_run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    trio_run.Task.__hash__ = lambda task: task._counter - _Numbers.first_task  # type: ignore[method-assign,assignment]
    trio_run.Deadlines.add = _add_deadline  # type: ignore[method-assign]
    born = trio_run.CancelStatus.__init__

    def numbered(self: Any, *args: Any, **kwargs: Any) -> None:
        _Numbers.statuses[id(self)] = next(_Numbers.created)
        born(self, *args, **kwargs)

    trio_run.CancelStatus.__init__ = numbered  # type: ignore[method-assign]
    trio_run.CancelStatus.__hash__ = lambda status: _Numbers.statuses[id(status)]  # type: ignore[method-assign,assignment]
    pa.set_cpu_count(1)
    prometheus_client.metrics.time = types.SimpleNamespace(time=lambda: 0.0)  # "created": shown to nobody here
    _forbid_the_real_world()


def reset(seed: int) -> None:
    """Before every run."""
    trio_run._r.seed(seed)
    _Numbers.first_task = _number_of_next_task() + 1
    _Numbers.created = itertools.count()
    _Numbers.statuses.clear()


def _add_deadline(self: Any, deadline: float, scope: trio.CancelScope) -> None:
    heapq.heappush(self._heap, (deadline, next(_Numbers.created), scope))
    self._active += 1


def _forbid_the_real_world() -> None:
    """Threads, processes, files by Trio, sockets, clocks, randomness. Trio itself needs one socket pair, made before."""
    for module, names in (
        (trio, ("open_file", "run_process", "open_tcp_stream", "open_tcp_listeners")),
        (trio.to_thread, ("run_sync",)),
        (time, ("time", "time_ns", "sleep")),
        (random, ("random", "randrange", "randint", "choice", "shuffle", "uniform", "getrandbits", "sample")),
        (uuid, ("uuid1", "uuid4")),
        (secrets, ("token_bytes", "token_hex", "token_urlsafe", "randbelow")),
        (socket, ("create_connection", "getaddrinfo")),
        (os, ("urandom",)),
    ):
        for name in names:
            setattr(module, name, _forbidden(f"{module.__name__}.{name}"))


def _forbidden(name: str) -> Callable[..., NoReturn]:
    def escaped(*args: Any, **kwargs: Any) -> NoReturn:
        raise EscapedSimulation(f"{name} was called: it has to come in through a seam")

    return escaped
