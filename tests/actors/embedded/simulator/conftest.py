"""A feed made of a plain list, a clock that stands still, and clients of the application in this process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import httpx
import numpy as np
import pyarrow as pa
import pytest

from actors.embedded.simulator.app import make_app
from actors.embedded.simulator.feed import Feed, Part, Quotes
from actors.embedded.simulator.pages import PartCache
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
        starts = sorted({ts // self.part_ns * self.part_ns for ts, _, _ in self.rows}, reverse=descending)
        for start in starts:
            if start < to_ns and start + self.part_ns > from_ns:
                yield Part(from_ns=start, to_ns=start + self.part_ns)

    def quotes(self, symbol: str, part: Part) -> Quotes:
        inside = [row for row in self.rows if part.from_ns <= row[0] < part.to_ns]
        return Quotes(
            ts_ns=np.array([row[0] for row in inside], np.int64),
            bid=pa.array([row[1] for row in inside], pa.string()),
            ask=pa.array([row[2] for row in inside], pa.string()),
        )


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
        T0=T0, Clock=StandingClock, Feed=ListFeed, world=world_of, client=client_of, chain=chain_of, rows=rows_of
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
