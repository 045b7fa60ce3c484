"""A log in memory for the bridge's tests: builds groups like the producers do, and a consumer over them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import trio

from actors.market import schema
from actors.market.coverage import Coverage, coverage_batch
from actors.market.symbols import partition_of
from runtime.log.cursor import Cursor
from runtime.log.reader import cut_group
from runtime.log.types import Frame, Group

MINUTE = 60 * 10**9
HOUR = 60 * MINUTE
DAY = 24 * HOUR
T0 = 1_398_902_400 * 10**9
"""2014-05-01T00:00:00Z."""
EUR = "C:EURUSD"
LOG_ID = "0123456789abcdef0123456789abcdef"


def quotes(symbol: str, ts_ns: Iterable[int], *, price: float = 1.25, source: str = "polygon", sizes: bool = False):
    """A batch of quotes; bid rises by row so that rows differ."""
    times = np.asarray(list(ts_ns), np.int64)
    rows = len(times)
    bid = np.round(price + np.arange(rows) % 1000 * 1e-5, 5)
    size = pa.array(np.full(rows, 3.0)) if sizes else pa.nulls(rows, pa.float64())
    columns = [
        schema.repeat_name(symbol, rows),
        pa.array(times),
        pa.array(bid),
        pa.array(np.round(bid + 1e-4, 5)),
        size,
        size,
        schema.repeat_name(source, rows),
        pa.array(np.zeros(rows, np.int32)),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema.QUOTES)


def trades(symbol: str, rows: list[tuple[int, float, float | None, str | None, str | None]]):
    """(ts_ns, price, size, trade_id, conditions) each."""
    count = len(rows)
    ts, price, size, trade_id, conditions = zip(*rows, strict=True)
    columns = [
        schema.repeat_name(symbol, count),
        pa.array(ts, pa.int64()),
        pa.array(price, pa.float64()),
        pa.array(size, pa.float64()),
        pa.array(trade_id, pa.string()),
        pa.array(conditions, pa.string()),
        schema.repeat_name("polygon", count),
        pa.array(np.zeros(count, np.int32)),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema.TRADES)


def candles(rows: list[dict]):
    """Rows of a candle, missing columns filled with something sensible."""
    base = {
        "symbol": EUR, "timeframe": "1m", "basis": "bid", "ts_ns": T0, "open": 1.0, "high": 2.0, "low": 0.5,
        "close": 1.5, "volume": None, "vwap": None, "ticks": 7, "origin": "ticks", "source": "polygon", "final": True,
        "flags": 0, "revision": 1,
    }  # fmt: skip
    full = [base | row for row in rows]
    columns = []
    for field in schema.CANDLES:
        values = [row[field.name] for row in full]
        columns.append(schema.names(values) if pa.types.is_dictionary(field.type) else pa.array(values, field.type))
    return pa.RecordBatch.from_arrays(columns, schema=schema.CANDLES)


class LogBuilder:
    """Groups with dense offsets and positions, as the writer would assign them."""

    def __init__(self, *, partitions_live: int = 2, log_id: str = LOG_ID, stamp_ns: int = T0 + 10 * DAY) -> None:
        self.log_id = log_id
        self.partitions_live = partitions_live
        self.groups: list[Group] = []
        self.end = 0
        self._stamp_ns = stamp_ns
        self.offsets: dict[int, int] = {}

    def append(self, frames: list[tuple[int, str, pa.RecordBatch]], producer: str = "test") -> Group:
        """One group of (partition, kind, batch)."""
        built = []
        for partition, kind, batch in frames:
            for encoded in schema.encode(kind, batch):
                offset = self.offsets.get(partition, 0)
                self.offsets[partition] = offset + 1
                built.append(
                    Frame(
                        partition=partition,
                        offset=offset,
                        prev_offset=-1,
                        kind=kind,
                        schema=schema.schema_message(kind),
                        body=encoded.body,
                        rows=encoded.rows,
                        event_time_ns_min=encoded.event_time_ns_min,
                        event_time_ns_max=encoded.event_time_ns_max,
                        group_index=len(built),
                    )
                )
        self._stamp_ns += 1_000_003
        size = sum(len(f.body) + 128 for f in built)
        group = Group(
            log_id=self.log_id, position=self.end, end_position=self.end + size, stamp_ns=self._stamp_ns,
            producer=producer, sequence=len(self.groups) + 1, producer_position=b"", frames=tuple(built),
        )  # fmt: skip
        self.end += size
        self.groups.append(group)
        return group

    def slice(
        self,
        from_ns: int,
        to_ns: int,
        rows: int | Iterable[int],
        *,
        symbol: str = EUR,
        price: float = 1.25,
        partition: int = 2,
        after_offset: int | None = None,
        sizes: bool = False,
        status: str = "",
    ) -> Group:
        """A whole fetched interval of quotes: `rows` evenly spaced, or at these times."""
        times = [from_ns + (to_ns - from_ns) * i // rows for i in range(rows)] if isinstance(rows, int) else rows
        batch = quotes(symbol, times, price=price, sizes=sizes)
        record = Coverage(
            symbol=symbol, kind="quotes", source="polygon", from_ns=from_ns, to_ns=to_ns,
            status=status or ("final" if batch.num_rows else "empty"), rows=batch.num_rows,
            checksum=schema.content_checksum("quotes", batch), after_offset=after_offset, request_id="r1",
        )  # fmt: skip
        return self.append([(partition, "quotes", batch), (partition, "coverage", coverage_batch([record]))])

    def live(
        self,
        times: Iterable[int],
        *,
        symbol: str = EUR,
        beat: tuple[int, int] | None = None,
        price: float = 1.25,
        kind: str = "quotes",
    ) -> Group:
        """Live rows at these times in the symbol's live partition, and a heartbeat [from, to)."""
        partition = partition_of(symbol, self.partitions_live, history=False)
        times = list(times)
        frames: list[tuple[int, str, pa.RecordBatch]] = []
        if times and kind == "quotes":
            frames.append((partition, kind, quotes(symbol, times, price=price)))
        elif times:
            frames.append((partition, kind, trades(symbol, [(ts, price, 0.5, str(ts), None) for ts in times])))
        if beat is not None:
            record = Coverage(
                symbol=symbol, kind=kind, source="polygon", from_ns=beat[0], to_ns=beat[1], status="live",
                session="s1", market_clock_ns=beat[1] + 10**9,
            )  # fmt: skip
            frames.append((partition, "coverage", coverage_batch([record])))
        return self.append(frames, producer=f"live/{symbol}/{kind}")

    def live_offset(self, symbol: str = EUR) -> int | None:
        """What a slice over live rows comes after: the last live offset of the symbol's partition."""
        end = self.offsets.get(partition_of(symbol, self.partitions_live, history=False), 0)
        return end - 1 if end else None


class FakeConsumer:
    """The Consumer protocol over a LogBuilder; new groups appear when the builder grows and `wake` is called."""

    def __init__(self, log: LogBuilder, name: str = "bridge.test", partitions: frozenset[int] | None = None) -> None:
        self.name = name
        self.partitions = partitions
        self.log = log
        self.log_id = log.log_id
        self.partitions_live = log.partitions_live
        self.reads = 0
        self._position = 0
        self._grown = trio.Event()

    @property
    def position(self) -> int:
        return self._position

    def seek(self, position: int) -> None:
        self._position = position

    def position_of(self, partition: int, offset: int) -> int:
        for group in self.log.groups:  # as the log does: the next later one where the frame itself is gone
            if any(f.partition == partition and f.offset >= offset for f in group.frames):
                return group.position
        return self.log.end

    def end(self) -> int:
        return self.log.end

    def wake(self) -> None:
        """Groups were added."""
        self._grown.set()
        self._grown = trio.Event()

    def read_nowait_available(self) -> bool:
        return self._position < self.log.end

    def log_end_offset(self, partition: int) -> int:
        return self.log.offsets.get(partition, 0)

    async def wait(self) -> None:
        await trio.lowlevel.checkpoint()
        while not self.read_nowait_available():
            await self._grown.wait()

    async def read(self, *, bytes_max: int = 4 << 20, wait: bool = True) -> list[Group]:
        await trio.lowlevel.checkpoint()
        while True:
            self.reads += 1
            found = self._look(bytes_max)
            if found or not wait:
                return found
            if self._position >= self.log.end:
                await self._grown.wait()

    def _look(self, bytes_max: int) -> list[Group]:
        found: list[Group] = []
        size = 0
        for group in self.log.groups:
            if group.position >= self._position and size < bytes_max:
                size += group.end_position - group.position
                self._position = group.end_position
                cut = cut_group(group, self.partitions)
                if cut is not None:
                    found.append(cut)
        return found


class Consumers:
    """The two consumers of a delivery."""

    def __init__(self, log: LogBuilder) -> None:
        n = log.partitions_live
        self.live = FakeConsumer(log, "live", frozenset(range(n)))
        self.history = FakeConsumer(log, "history", frozenset(range(n, 2 * n)))

    @property
    def both(self) -> tuple[FakeConsumer, FakeConsumer]:
        return self.live, self.history

    def wake(self) -> None:
        """Groups were added."""
        self.live.wake()
        self.history.wake()


class MemoryCursor:
    """The CursorStore in memory."""

    def __init__(self) -> None:
        self.cursor = Cursor()
        self.stores = 0

    def load(self) -> Cursor:
        return self.cursor

    def store(self, cursor: Cursor) -> None:
        assert all(offset <= cursor.committed.get(p, 0) for p, offset in cursor.verified.items())
        self.cursor = cursor
        self.stores += 1


def log_of_bars(groups: int, rows: int = 60) -> LogBuilder:
    """Groups of one-minute bars and their coverage, in partitions 2 and 3 in turn."""
    log = LogBuilder()
    for n in range(groups):
        bars = [{"ts_ns": T0 + (n * rows + i) * MINUTE, "revision": n + 1, "close": 1 + i / 8} for i in range(rows)]
        record = Coverage(
            symbol=EUR, kind="candles", source="p", from_ns=T0 + n * HOUR, to_ns=T0 + (n + 1) * HOUR, status="final"
        )
        log.append([(2 + n % 2, "candles", candles(bars)), (2 + n % 2, "coverage", coverage_batch([record]))])
    return log
