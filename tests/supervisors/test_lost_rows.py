"""What is asked for when the log lost something: never less than was lost."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import attrs
import pytest

from actors.aggregator.core import PRODUCER
from actors.health.port import BackfillRequest
from actors.market.symbols import partition_of
from runtime.actor import Seams, offload_inline
from runtime.board import Board
from runtime.clock import VirtualClock
from runtime.config import load
from runtime.disk import MemoryDisk
from runtime.entropy import SeededEntropy
from runtime.errors import NotConnected
from runtime.log.log import Log, LogSettings
from runtime.log.losses import Lost, LostFrame, LostProducer
from runtime.log.recovery import Damage
from runtime.log.types import FrameDraft, GroupDraft
from supervisors import tree
from supervisors.lost_rows import AskedFor, LostRowsFinder
from supervisors.tree import Parts, Plan, open_parts

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


def damage(low: int, high: int) -> Damage:
    return Damage(segment="0.seg", position=low, end_position=high, reason="rot")


def test_what_was_asked_for_is_known_whoever_reads_over_it_again() -> None:
    disk = MemoryDisk()
    asked = AskedFor(disk, Path("/log"), "a" * 32)
    assert not asked.knows(damage(0, 100))
    asked.note(damage(0, 100))
    asked.note(damage(100, 150))
    disk.crash(keep=0.0)
    again = AskedFor(disk, Path("/log"), "a" * 32)
    assert again.knows(damage(0, 100))
    assert again.knows(damage(40, 150))  # neighbours that are met together
    assert not again.knows(damage(100, 151))
    assert not again.knows(damage(200, 300))


def test_what_is_asked_for_of_another_log_or_cannot_be_read_is_asked_for_again() -> None:
    """A file that only saves work must not end the process, nor hide what another log of this folder lost."""
    disk = MemoryDisk()
    AskedFor(disk, Path("/log"), "a" * 32).note(damage(0, 100))
    assert not AskedFor(disk, Path("/log"), "b" * 32).knows(damage(0, 100))
    path = Path("/log/quarantine/asked")
    whole = disk.read_bytes(path)
    for rotten in (b"", b"\xff\xfe\n", whole[:-5], whole.replace(b" 0 ", b" x "), bytes(40), b"a b c d\n"):
        disk.write_atomic(path, rotten)
        asked = AskedFor(disk, Path("/log"), "a" * 32)
        assert not asked.knows(damage(0, 100))
        asked.note(damage(200, 300))
        assert asked.knows(damage(200, 300))


@attrs.define
class Started:
    """As much of a pipeline as makes jobs, on a real folder."""

    folder: Path

    def parts(self) -> Parts:
        sets = ['pipeline.symbols=["C:EURUSD"]', f"pipeline.data_dir={self.folder}", "health.listen=127.0.0.1:0"]
        settings = load(overrides=sets, cwd=self.folder.parent).settings
        seams = Seams(clock=VirtualClock(T0), entropy=SeededEntropy(1), offload=offload_inline, board=Board())
        return open_parts(settings, Plan(history=()), seams)

    @property
    def jobs(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "jobs").glob("*"))


ROT = damage(1000, 2000)
LOST = Lost(frames=(lost("quotes", EUR, T0, T0 + MINUTE), lost("coverage", EUR, T0, T0 + MINUTE)))


async def test_rot_is_asked_for_once_in_all_processes(tmp_path: Path) -> None:
    """A reader at each start, and each life of the buffer, tells it again."""
    started = Started(tmp_path / "data")
    told = []
    for _ in range(3):
        parts = started.parts()
        try:
            for _ in range(2):
                await parts.refetch_lost(ROT, LOST)
            assert started.jobs == ["lost-1000-2000-0.json"]
            told.append(parts.new_jobs.statistics().depth)
        finally:
            parts.listener.close()
            parts.close()
    assert told == [1, 0, 0]


def no_space(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


async def test_no_space_for_the_job_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ended the buffer, and with it the process, on a disk that was only full."""
    started = Started(tmp_path / "data")
    parts = started.parts()
    try:
        with monkeypatch.context() as full:
            full.setattr("actors.downloader.job_files.os.fsync", no_space)
            for _ in range(2):
                with pytest.raises(NotConnected, match="No space left"):
                    await parts.refetch_lost(ROT, LOST)
        assert started.jobs == []
        await parts.refetch_lost(ROT, LOST)
        assert started.jobs == ["lost-1000-2000-0.json"]
    finally:
        parts.listener.close()
        parts.close()


async def test_a_downloader_that_cannot_be_told_gets_no_second_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree, "JOBS_WAITING_MAX", 1)
    started = Started(tmp_path / "data")
    parts = started.parts()
    two = Lost(frames=(*LOST.frames, lost("quotes", EUR, T0, T0 + HOUR), lost("candles", EUR, T0, T0 + HOUR)))
    monkeypatch.setattr(
        LostRowsFinder,
        "requests",
        lambda finder, lost: [
            BackfillRequest(symbols=(EUR,), kinds=("quotes",), from_ns=T0 + n, to_ns=T0 + HOUR, refetch=True)
            for n in range(3)
        ],
    )
    try:
        for _ in range(4):
            with pytest.raises(NotConnected, match="waiting"):
                await parts.refetch_lost(ROT, two)
        assert len(started.jobs) == 2
    finally:
        parts.listener.close()
        parts.close()
