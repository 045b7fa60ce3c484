"""Which ticks are accepted, which are accepted with a flag, which are refused: UPSTREAM 4, what one batch can decide.

Here are rules 1-6, 8, 10, 11, 14, 17, 18 and 20. A value is never changed and nothing is dropped without a count: a
refused row comes back as the vendor sent it, with its reason. Rows out of order are accepted as they come (rule 17).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum

import attrs
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from actors.market.decimals import Bools, Floats, Ints, prints_back
from actors.market.flags import Flag
from actors.market.schema import QUOTES, TRADES, repeat_name
from actors.market.symbols import AssetClass, parse_symbol

REJECTED = pa.schema(
    [
        pa.field("raw", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("ts_ns", pa.int64(), nullable=False),  # 0 when unknown
    ]
)
TS_MIN_NS = 631_152_000 * 1_000_000_000
"""1990-01-01: earlier is a number in another unit (rule 20); seconds, ms and us of today read as ns all lie in 1970."""
FUTURE_FLAG_NS = 2 * 1_000_000_000
FUTURE_REJECT_NS = 3600 * 1_000_000_000
PRICE_BOUNDS: dict[AssetClass, tuple[float, float]] = {
    AssetClass.FX: (1e-8, 1e9),  # one rial in dollars, an ounce of gold in rupiah
    AssetClass.CRYPTO: (1e-15, 1e9),
    AssetClass.STOCK: (1e-5, 1e8),
}
TEXT_BYTES_MAX = 255
"""Of an id or of conditions. NUL is refused too: PostgreSQL stores none, and one such row would stop its delivery."""
POWER_OF_TEN_ROWS_MIN = 20
POWER_OF_TEN_TOLERANCE = 0.05
"""In log10: within 12 % of ten, a hundred, a tenth … of the batch's median. Currencies only: coins do move tenfold."""


class Reason(StrEnum):
    """Why a row was refused."""

    TIME_MAGNITUDE = "time-magnitude"
    TIME_FUTURE = "time-future"
    PRICE_MISSING = "price-missing"
    PRICE_NOT_FINITE = "price-not-finite"
    PRICE_NOT_POSITIVE = "price-not-positive"
    PRICE_DIGITS = "price-digits"
    PRICE_ABSURD = "price-absurd"
    SIZE_INVALID = "size-invalid"
    TEXT_INVALID = "text-invalid"
    BAR_SHAPE = "bar-shape"
    BAR_VOLUME = "bar-volume"


@attrs.frozen(kw_only=True)
class Validated:
    """What became of one batch."""

    rows: pa.RecordBatch
    """Accepted, in the order given, in the schema of their kind."""
    rejected: pa.RecordBatch
    """Refused, in the schema REJECTED."""


RawText = Callable[[npt.NDArray[np.intp]], list[str]]
"""Gives the vendor's own text of the rows with these indexes; called only when rows are refused."""


def validate_quotes(  # noqa: PLR0913 - one argument per column of the vendor's row
    symbol: str,
    source: str,
    ts_ns: Ints,
    bid: Floats,
    ask: Floats,
    bid_size: Floats | None = None,
    ask_size: Floats | None = None,
    *,
    now_ns: int,
    raw: RawText,
) -> Validated:
    """Quotes of one symbol; NaN means that the vendor's row lacks the field, time 0 that it lacks the time.

    Shape: n rows each, in the vendor's order; sizes None when the vendor has none.
    Units: ns UTC, `now_ns` corrected for the measured clock offset; prices in quote currency.
    """
    bid, bid_size = _absent_side(bid, bid_size)
    ask, ask_size = _absent_side(ask, ask_size)
    verdict = _Verdict(len(ts_ns))
    _check_times(verdict, ts_ns, now_ns)
    verdict.reject(np.isnan(bid) & np.isnan(ask), Reason.PRICE_MISSING)
    for price, size in ((bid, bid_size), (ask, ask_size)):
        _check_prices(verdict, symbol, price)
        if size is not None:
            verdict.reject((size < 0) | np.isinf(size), Reason.SIZE_INVALID)
    flags = _future_flags(ts_ns, now_ns)
    flags[bid > ask] |= Flag.CROSSED
    columns = [ts_ns, bid, ask, bid_size, ask_size]
    return _split(verdict, QUOTES, (symbol, source), columns, flags, ts_ns, raw)


def validate_trades(  # noqa: PLR0913 - one argument per column of the vendor's row
    symbol: str,
    source: str,
    ts_ns: Ints,
    price: Floats,
    size: Floats | None = None,
    trade_id: Sequence[str | None] | pa.Array | None = None,
    conditions: Sequence[str | None] | pa.Array | None = None,
    *,
    now_ns: int,
    raw: RawText,
) -> Validated:
    """Trades of one symbol; as `validate_quotes`. `conditions` are comma-separated vendor codes."""
    verdict = _Verdict(len(ts_ns))
    _check_times(verdict, ts_ns, now_ns)
    verdict.reject(np.isnan(price), Reason.PRICE_MISSING)
    _check_prices(verdict, symbol, price)
    if size is not None:
        verdict.reject((size <= 0) | np.isinf(size), Reason.SIZE_INVALID)
    texts = [
        pa.nulls(len(ts_ns), pa.string()) if t is None else pa.array(t, pa.string()) for t in (trade_id, conditions)
    ]
    for text in texts:
        bad = pc.or_(pc.match_substring(text, "\0"), pc.greater(pc.binary_length(text), TEXT_BYTES_MAX))
        verdict.reject(pc.fill_null(bad, False).to_numpy(zero_copy_only=False), Reason.TEXT_INVALID)
    columns = [ts_ns, price, size, *texts]
    return _split(verdict, TRADES, (symbol, source), columns, _future_flags(ts_ns, now_ns), ts_ns, raw)


def bar_faults(prices: tuple[Floats, Floats, Floats, Floats], volume: Floats) -> list[Reason | None]:
    """Rules 3, 6 and 8 for vendor bars (open, high, low, close): the reason per bar, None when it is sound."""
    open_, high, low, close = prices
    verdict = _Verdict(len(open_))
    for price in prices:
        verdict.reject(np.isnan(price), Reason.PRICE_MISSING)
        verdict.reject(price <= 0, Reason.PRICE_NOT_POSITIVE)
    top, bottom = np.maximum(open_, close), np.minimum(open_, close)
    verdict.reject((high < top) | (low > bottom) | (high < low), Reason.BAR_SHAPE)
    verdict.reject(volume < 0, Reason.BAR_VOLUME)
    return [verdict.reasons[code - 1] if code else None for code in verdict.codes]


class _Verdict:
    """One code per row; the first reason found stays."""

    def __init__(self, rows: int) -> None:
        self.reasons: tuple[Reason, ...] = tuple(Reason)
        self.codes = np.zeros(rows, np.int8)

    def reject(self, rows: Bools, reason: Reason) -> None:
        if rows.any():
            self.codes[rows & (self.codes == 0)] = self.reasons.index(reason) + 1


def _absent_side(price: Floats, size: Floats | None) -> tuple[Floats, Floats | None]:
    """Rule 5: a price of 0 with size 0 says that this side has no quote."""
    if size is None:
        return price, size
    absent = (price == 0) & (size == 0)
    return (np.where(absent, np.nan, price), np.where(absent, np.nan, size)) if absent.any() else (price, size)


def _check_times(verdict: _Verdict, ts_ns: Ints, now_ns: int) -> None:
    verdict.reject(ts_ns < TS_MIN_NS, Reason.TIME_MAGNITUDE)
    verdict.reject(ts_ns > now_ns + FUTURE_REJECT_NS, Reason.TIME_FUTURE)


def _future_flags(ts_ns: Ints, now_ns: int) -> npt.NDArray[np.int32]:
    return np.where(ts_ns > now_ns + FUTURE_FLAG_NS, np.int32(Flag.FUTURE), np.int32(0))


def _check_prices(verdict: _Verdict, symbol: str, price: Floats) -> None:
    """Rules 1, 3, 14 and the digits of the log; NaN (absent) passes."""
    absent = np.isnan(price)
    verdict.reject(np.isinf(price), Reason.PRICE_NOT_FINITE)
    verdict.reject(price <= 0, Reason.PRICE_NOT_POSITIVE)
    verdict.reject(~(prints_back(price) | absent), Reason.PRICE_DIGITS)
    asset_class = parse_symbol(symbol).asset_class
    low, high = PRICE_BOUNDS[asset_class]
    verdict.reject((price < low) | (price > high), Reason.PRICE_ABSURD)
    sound = price[(verdict.codes == 0) & ~absent]
    if asset_class is AssetClass.FX and sound.size >= POWER_OF_TEN_ROWS_MIN:
        verdict.reject(_off_by_power_of_ten(price, float(np.median(sound))), Reason.PRICE_ABSURD)


def _off_by_power_of_ten(price: Floats, median: float) -> Bools:
    far = (price > median * 8) | (price < median / 8)  # cheap test first: almost never true
    if far.any():
        with np.errstate(invalid="ignore", divide="ignore"):
            power = np.log10(price / median)
            far &= np.abs(power - np.rint(power)) < POWER_OF_TEN_TOLERANCE
    return np.asarray(far)


def _split(  # noqa: PLR0913 - the one place where columns become batches
    verdict: _Verdict,
    schema: pa.Schema,
    names: tuple[str, str],
    columns: Sequence[npt.NDArray[np.generic] | pa.Array | None],
    flags: npt.NDArray[np.int32],
    ts_ns: Ints,
    raw: RawText,
) -> Validated:
    bad = np.flatnonzero(verdict.codes)
    keep = np.flatnonzero(verdict.codes == 0) if bad.size else None
    rows = len(ts_ns) - len(bad)
    symbol, source = names
    arrays = [repeat_name(symbol, rows)]
    for field, column in zip(list(schema)[1:-2], columns, strict=True):
        arrays.append(_column(column, field.type, keep, rows))
    arrays += [repeat_name(source, rows), pa.array(flags if keep is None else flags[keep], pa.int32())]
    reasons = [str(verdict.reasons[code - 1]) for code in verdict.codes[bad]]
    refused = [raw(bad) if bad.size else [], reasons, ts_ns[bad]]
    rejected = [pa.array(values, field.type) for values, field in zip(refused, REJECTED, strict=True)]
    return Validated(
        rows=pa.RecordBatch.from_arrays(arrays, schema=schema),
        rejected=pa.RecordBatch.from_arrays(rejected, schema=REJECTED),
    )


def _column(
    column: npt.NDArray[np.generic] | pa.Array | None, kind: pa.DataType, keep: npt.NDArray[np.intp] | None, rows: int
) -> pa.Array:
    if column is None:
        return pa.nulls(rows, kind)
    if isinstance(column, np.ndarray):
        return pa.array(column if keep is None else column[keep], kind, from_pandas=True)  # NaN becomes null
    return column if keep is None else column.take(pa.array(keep))
