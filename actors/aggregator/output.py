"""Views of candles as the batch that goes into the log. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from actors.aggregator.views import View
from actors.market.schema import CANDLES, encode, names, repeat_name
from runtime.log.types import FrameDraft

_COPIED = ("open", "high", "low", "close", "volume")


def candle_batch(symbol: str, views: Sequence[View], *, revision: int) -> pa.RecordBatch:
    """All candles of `views` in the CANDLES schema, computed by us from ticks."""
    lengths = [len(view) for view in views]
    rows = sum(lengths)
    columns = {
        "symbol": repeat_name(symbol, rows),
        "timeframe": _repeated([view.timeframe for view in views], lengths),
        "basis": _repeated([view.basis for view in views], lengths),
        "vwap": pa.array(np.concatenate([view.bars.vwap for view in views]), pa.float64(), from_pandas=True),
        "origin": repeat_name("ticks", rows),
        "source": names(np.concatenate([view.source for view in views]).tolist()),
        "final": pa.array(np.concatenate([view.final for view in views])),
        "revision": pa.array(np.full(rows, revision, np.int64)),
    }
    for name in ("ts_ns", *_COPIED, "ticks", "flags"):
        kind = CANDLES.field(name).type
        columns[name] = pa.array(np.concatenate([getattr(view.bars, name) for view in views]), kind)
    return pa.RecordBatch.from_arrays([columns[field.name] for field in CANDLES], schema=CANDLES)


def frames(batch: pa.RecordBatch, partition: int) -> tuple[FrameDraft, ...]:
    """The batch as frames of one group."""
    return tuple(
        FrameDraft(
            partition=partition,
            kind=part.kind,
            body=part.body,
            rows=part.rows,
            event_time_ns_min=part.event_time_ns_min,
            event_time_ns_max=part.event_time_ns_max,
        )
        for part in encode("candles", batch)
    )


def _repeated(values: list[str], lengths: list[int]) -> pa.DictionaryArray:
    """Each value as often as its length says."""
    unique = sorted(set(values))
    indexes = np.repeat([unique.index(value) for value in values], lengths).astype(np.int32)
    return pa.DictionaryArray.from_arrays(pa.array(indexes), pa.array(unique, pa.string()))
