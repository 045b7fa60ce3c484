"""What damage in the log took, as the backfills that bring it back. Candles come back through the ticks they are of."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs
import msgspec

from actors.aggregator.core import PRODUCER as AGGREGATOR
from actors.downloader.jobs import Position, ceil_minute, floor_minute
from actors.downloader.live_position import LivePosition, common
from actors.downloader.lost import HISTORY, LIVE, lost_rows
from actors.health.port import BackfillRequest
from actors.market.coverage import IntervalSet
from actors.market.symbols import partition_of
from runtime.clock import NS_PER_HOUR
from runtime.disk_port import Disk
from runtime.errors import LogCorrupt
from runtime.log.log import Log
from runtime.log.losses import QUARANTINE, Lost, LostFrame, LostProducer
from runtime.log.recovery import Damage
from runtime.log.types import Interval

CANDLES = "candles"
ASKED = "asked"
"""In quarantine/: the damaged ranges for which jobs were made. A line each: log, first position, end."""
_LINE = r"^{} (\d{{1,19}}) (\d{{1,19}})$"
INPUT_BYTES_MAX = 256 << 20
"""Of the log read again to see which ticks lost candles were made of."""
_READ_BYTES = 4 << 20


class _AggregatorPosition(msgspec.Struct):
    input: int = 0


@attrs.frozen(kw_only=True)
class LostRowsFinder:
    """Knows what this pipeline downloads, and its log."""

    log: Log
    symbols: tuple[str, ...]
    kinds: tuple[str, ...]

    def requests(self, lost: Lost) -> list[BackfillRequest]:
        """More is asked for than was lost, never less; what is unknown, coverage will show. Blocking: may read the log.

        Where all headers are whole they name the times; else the producers do, by what they knew before and behind.
        """
        if lost.frames and all(frame.kind for frame in lost.frames):
            return [
                *self._ticks([frame for frame in lost.frames if frame.kind in (*self.kinds, "coverage")]),
                *self._candles([frame for frame in lost.frames if frame.kind == CANDLES]),
            ]
        found = [
            BackfillRequest(
                symbols=(rows.symbol,),
                kinds=(rows.kind,),
                from_ns=rows.from_ns,
                to_ns=rows.to_ns,
                refetch=True,
                rebuild=True,  # their candles may have been beside them, and their maker need not be in this range
            )
            for producer in lost.producers
            for rows in lost_rows(producer)
            if rows.symbol in self.symbols and rows.kind in self.kinds
        ]
        for producer in lost.producers:
            if producer.name == AGGREGATOR:
                found += self._candles(list(self._inputs(producer)), earlier_ns=NS_PER_HOUR)
        return found

    def _ticks(self, frames: Sequence[LostFrame]) -> list[BackfillRequest]:
        """One request for all of them."""
        kinds = {frame.kind for frame in frames} & set(self.kinds) or set(self.kinds)  # or: records alone
        symbols, times = self._symbols(frames), _times(frames)
        if not symbols or times is None:
            return []
        kinds_asked = tuple(sorted(kinds))
        return [BackfillRequest(symbols=symbols, kinds=kinds_asked, from_ns=times[0], to_ns=times[1], refetch=True)]

    def _candles(self, frames: Sequence[LostFrame], *, earlier_ns: int = 0) -> list[BackfillRequest]:
        """Of all that is there in the time of `frames`, and `earlier_ns` before: a long candle begins before its ticks,
        and a live one is put out by what came after it."""
        times = _times(frames)
        if times is None:
            return []
        wanted = IntervalSet([(times[0] - earlier_ns, times[1])])
        return [
            BackfillRequest(symbols=(symbol,), kinds=(kind,), from_ns=from_ns, to_ns=to_ns, refetch=True, rebuild=True)
            for symbol in self._symbols(frames)
            for kind in self.kinds
            for from_ns, to_ns in common(wanted, self._there(symbol, kind))
        ]

    def _symbols(self, frames: Sequence[LostFrame]) -> tuple[str, ...]:
        """Every one of their partitions."""
        live = self.log.partitions
        partitions = {frame.partition % live for frame in frames}
        return tuple(s for s in self.symbols if partition_of(s, live, history=False) in partitions)

    def _there(self, symbol: str, kind: str) -> IntervalSet:
        """What history and live brought."""
        history, live = (self.log.producer(f"{room}/{symbol}/{kind}").position for room in (HISTORY, LIVE))
        return IntervalSet([*Position.from_bytes(history).covered, *LivePosition.from_bytes(live).live])

    def _inputs(self, producer: LostProducer) -> Iterator[LostFrame]:
        """Times and partitions of what the aggregator had read when it made the lost groups."""
        start, upto = (
            msgspec.json.decode(text, type=_AggregatorPosition).input if text else 0
            for text in (producer.before, producer.after)
        )
        at = max(start, self.log.start_position)
        last = at + INPUT_BYTES_MAX
        reader = self.log.reader()
        try:
            while at < min(upto, last):
                groups, after = reader.read(at, upto, bytes_max=_READ_BYTES, partitions=None)
                for frame in (f for group in groups for f in group.frames if f.kind in self.kinds):
                    yield LostFrame(  # without its body
                        partition=frame.partition,
                        offset=frame.offset,
                        kind=frame.kind,
                        event_time_ns_min=frame.event_time_ns_min,
                        event_time_ns_max=frame.event_time_ns_max,
                    )
                if after <= at:
                    return
                at = after
        except LogCorrupt:
            return  # trimmed meanwhile: nobody knows any more
        finally:
            reader.close()


@attrs.frozen
class AskedFor:
    """Damage that jobs were made for, in all processes: whoever reads over it again, at any start, asks for nothing
    more. A log never uses a position twice, so an entry holds for ever. What is rotten in this file is asked for once
    more, that is all. Blocking; raises OSError."""

    disk: Disk
    log_folder: Path
    log_id: str

    def knows(self, damage: Damage) -> bool:
        """All of the range was asked for, perhaps in parts: readers meet neighbours together or one by one."""
        ranges = [
            (int(low), int(high)) for low, high in re.findall(_LINE.format(self.log_id), self._text(), re.MULTILINE)
        ]
        return IntervalSet(ranges).covers(damage.position, damage.end_position)

    def note(self, damage: Damage) -> None:
        """Durably; after the jobs are."""
        self.disk.make_directory(self._path.parent)
        lines = [*self._text().splitlines(), f"{self.log_id} {damage.position} {damage.end_position}"]
        self.disk.write_atomic(self._path, "".join(f"{line}\n" for line in lines).encode())

    @property
    def _path(self) -> Path:
        return self.log_folder / QUARANTINE / ASKED

    def _text(self) -> str:
        return self.disk.read_bytes(self._path).decode(errors="replace") if self.disk.exists(self._path) else ""


def _times(frames: Sequence[LostFrame]) -> Interval | None:
    """From the first to the last, whole minutes."""
    timed = [frame for frame in frames if frame.event_time_ns_max > 0]
    if not timed:
        return None
    ends = [frame.event_time_ns_max + (frame.kind != "coverage") for frame in timed]  # a record's end is exclusive
    return floor_minute(min(frame.event_time_ns_min for frame in timed)), ceil_minute(max(ends))
