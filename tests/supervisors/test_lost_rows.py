"""What is asked for when the log lost something: never less than was lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from actors.aggregator.core import PRODUCER
from actors.market.symbols import partition_of
from runtime.actor import offload_inline
from runtime.disk import MemoryDisk
from runtime.entropy import SeededEntropy
from runtime.log.log import Log, LogSettings
from runtime.log.losses import Lost, LostFrame, LostProducer
from runtime.log.types import FrameDraft, GroupDraft
from supervisors.lost_rows import LostRowsFinder

MINUTE = 60 * 10**9
HOUR = 60 * MINUTE
T0 = 1_398_902_400 * 10**9
N = 4
EUR, BTC = "C:EURUSD", "X:BTCUSD"
KINDS = ("quotes", "trades")


def log_of(*drafts: GroupDraft) -> Log:
    log = Log.open(
        MemoryDisk(),
        Path("/log"),
        settings=LogSettings(partitions=N),
        schemas={kind: kind.encode() for kind in ("quotes", "candles", "coverage")},
        wall_ns=lambda: T0,
        entropy=SeededEntropy(1),
        offload=offload_inline,
    )
    for draft in drafts:
        log.commit([draft])
    return log


def finder(log: Log) -> LostRowsFinder:
    return LostRowsFinder(log=log, symbols=(EUR, BTC), kinds=KINDS)


def lost(kind: str, symbol: str, from_ns: int, to_ns: int) -> LostFrame:
    partition = partition_of(symbol, N, history=True)
    return LostFrame(
        partition=partition, offset=0, kind=kind, rows=5, event_time_ns_min=from_ns, event_time_ns_max=to_ns
    )


def group(producer: str, sequence: int, kind: str, symbol: str, at_ns: int, position: object = None) -> GroupDraft:
    frame = FrameDraft(
        partition=partition_of(symbol, N, history=True),
        kind=kind,
        body=b"x" * 50,
        rows=1,
        event_time_ns_min=at_ns,
        event_time_ns_max=at_ns + MINUTE // 2,
    )
    text = b"" if position is None else json.dumps(position).encode()
    return GroupDraft(producer=producer, sequence=sequence, producer_position=text, frames=(frame,))


def here(symbol: str, from_minute: int, to_minute: int) -> GroupDraft:
    """History that covers these minutes."""
    covered = [[T0 + minute * MINUTE for minute in (from_minute, to_minute)]]
    return group(f"history/{symbol}/quotes", 1, "quotes", symbol, T0, {"covered": covered, "confirmed": True})


def asked(requests: list) -> list[tuple]:
    return [(r.symbols, r.kinds, (r.from_ns - T0) / MINUTE, (r.to_ns - T0) / MINUTE, r.rebuild) for r in requests]


def test_the_two_symbols_are_told_apart() -> None:
    assert partition_of(EUR, N, history=False) != partition_of(BTC, N, history=False)


def test_lost_ticks_are_fetched_again_by_their_times() -> None:
    frames = (lost("quotes", EUR, T0, T0 + 3 * MINUTE), lost("coverage", EUR, T0, T0 + 5 * MINUTE))
    assert asked(finder(log_of()).requests(Lost(frames=frames))) == [((EUR,), ("quotes",), 0, 5, False)]


def test_a_lost_record_without_rows_is_fetched_again_in_every_kind() -> None:
    """An hour without a tick: were its record not asked for again, it would be unknown for ever."""
    frames = (lost("coverage", BTC, T0, T0 + HOUR),)
    assert asked(finder(log_of()).requests(Lost(frames=frames))) == [((BTC,), KINDS, 0, 60, False)]


def test_lost_candles_are_made_again_of_the_ticks_that_are_there() -> None:
    """A day's candle begins before everything that was ever asked for: that is not fetched because of it."""
    frames = (lost("candles", EUR, T0, T0 + 119 * MINUTE),)
    assert asked(finder(log_of()).requests(Lost(frames=frames))) == []
    assert asked(finder(log_of(here(EUR, 60, 180))).requests(Lost(frames=frames))) == [
        ((EUR,), ("quotes",), 60, 120, True)
    ]


def test_candles_whose_headers_are_rotten_too_are_found_by_what_their_maker_had_read() -> None:
    log = log_of(
        here(EUR, -600, 600),
        group("history/C:EURUSD/trades", 1, "quotes", EUR, T0 + HOUR),
        group("history/X:BTCUSD/trades", 1, "quotes", BTC, T0 + 2 * HOUR),
        group("history/C:EURUSD/trades", 2, "quotes", EUR, T0 + 3 * HOUR),
        here(BTC, 0, 100),
    )
    ends = [made.end_position for made in log.reader().read(0, log.end_position, bytes_max=1 << 20, partitions=None)[0]]

    def made_of(before: object, after: object) -> list[tuple]:
        positions = [b"" if one is None else json.dumps(one).encode() for one in (before, after)]
        producer = LostProducer(name=PRODUCER, groups=1, before=positions[0], after=positions[1])
        return asked(finder(log).requests(Lost(producers=(producer,))))

    assert made_of({"input": ends[0], "code": 2}, {"input": ends[1]}) == [((EUR,), ("quotes",), 0, 61, True)]
    assert made_of({"input": ends[1]}, {"input": ends[3]}) == [
        ((EUR,), ("quotes",), 60, 181, True),
        ((BTC,), ("quotes",), 60, 100, True),
    ]
    assert made_of(None, {"input": ends[0]}) == [((EUR,), ("quotes",), -60, 1, True)]
    assert made_of({"input": ends[4]}, {"input": ends[4] + 10_000}) == []


def test_what_nobody_can_know_asks_for_nothing() -> None:
    assert finder(log_of()).requests(Lost()) == []
    unknown = LostFrame(partition=0, offset=0, count=3)
    assert finder(log_of()).requests(Lost(frames=(unknown,))) == []


@pytest.mark.parametrize("kind", ["dead", "lost"])
def test_other_kinds_are_not_the_vendors(kind: str) -> None:
    assert finder(log_of()).requests(Lost(frames=(lost(kind, EUR, T0, T0),))) == []
