"""A disk that is full for long: the stream stands still, and the log says from when on, in space kept back for it."""

from __future__ import annotations

import pytest

from actors.downloader.full_disk import REASON
from actors.downloader.memory_live import MemoryMarket
from actors.market.coverage import Coverage
from runtime.clock import NS_PER_MINUTE, NS_PER_S
from tests.support.live import EUR, T0, World, check, read, walk

M = NS_PER_MINUTE


def world() -> World:
    ticks = {EUR: walk(1, T0 - 120 * M, T0 + 300 * M, 6_000)}
    return World(market=MemoryMarket(ticks=ticks, start_ns=T0 + 17 * NS_PER_S, rate=20.0))


def records(w: World, room: str) -> list[Coverage]:
    return [r for g in w.log.groups if g.producer.startswith(f"{room}/") for r in read(g).records]


@pytest.mark.parametrize("killed", [False, True])
async def test_what_is_not_read_while_the_disk_is_full_is_named_by_the_log_and_fetched(autojump_clock, killed):
    w = world()
    began_ns: list[int] = []
    durable_ns: list[int] = []

    def full_for_a_minute() -> bool:
        if not began_ns and w.market.now_ns() > T0 + 5 * M:
            began_ns.append(w.market.now_ns())
            durable_ns.append(max(r.to_ns for r in records(w, "live")))
            w.log.full_for = 10**6 if killed else 60
        return bool(began_ns) and w.market.now_ns() > began_ns[0] + 20 * 70 * NS_PER_S

    await w.process(full_for_a_minute)
    holes = records(w, "losses")
    assert {(r.status, r.reason, r.symbol) for r in holes} == {("missing", REASON, EUR)}
    assert [*{r.from_ns for r in holes}] == durable_ns  # exactly: not a second of what is there
    ends = [r.to_ns for r in holes]
    assert ends == sorted(ends)
    assert ends[-1] > began_ns[0] + 20 * 35 * NS_PER_S
    w.log.full_for = 0
    await w.until_confirmed(T0 + 60 * M)  # by the same process's successor, or after a kill
    check(w, T0 + 60 * M)


async def test_a_disk_that_is_full_for_some_seconds_costs_no_record(autojump_clock):
    w = world()
    filled: list[int] = []

    def full_for_some_seconds() -> bool:
        if not filled and w.market.now_ns() > T0 + 5 * M:
            filled.append(w.market.now_ns())
            w.log.full_for = 6
        return bool(filled) and w.market.now_ns() > filled[0] + 20 * 30 * NS_PER_S

    await w.process(full_for_some_seconds)
    assert records(w, "losses") == []
    await w.until_confirmed(T0 + 60 * M)
    check(w, T0 + 60 * M)
