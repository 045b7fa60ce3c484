"""Frames of the stream: each element on its own, columns out, everything that is dropped is counted."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from actors.downloader.polygon_events import Status, decode, stream_key
from actors.downloader.polygon_status import Topics, account_error
from runtime.errors import PermanentSourceError, RetryableSourceError

SYMBOLS = {"EUR/USD": "C:EURUSD", "USD/CNH": "C:USDCNH", "BTC/USD": "X:BTCUSD"}
C = '{"ev":"C","p":"USD/CNH","x":"44","a":6.83366,"b":6.83363,"t":1536036818784}'
XT = (
    '{"ev":"XT","pair":"BTC-USD","p":33021.9,"t":1610462007425,"s":0.01616617,"c":[2],"i":14272084,"x":3,'
    '"r":1610462007576}'
)


def read(*elements: str, dropped: Counter | None = None):
    return decode(f"[{','.join(elements)}]", SYMBOLS, Counter() if dropped is None else dropped)


def test_a_quote_of_the_documentation():
    (ticks,) = read(C).ticks
    assert (ticks.symbol, ticks.kind) == ("C:USDCNH", "quotes")
    assert ticks.ts_ns.tolist() == [1_536_036_818_784_000_000]
    assert [column.tolist() for column in ticks.numbers] == [[6.83363], [6.83366]]


def test_a_trade_of_the_documentation():
    (ticks,) = read(XT).ticks
    assert (ticks.symbol, ticks.kind) == ("X:BTCUSD", "trades")
    assert ticks.ts_ns.tolist() == [1_610_462_007_425_000_000]
    assert [column.tolist() for column in ticks.numbers] == [[33021.9], [0.01616617]]
    assert ticks.texts == (["14272084"], ["2"])


def test_optional_fields_may_lack_and_an_exchange_may_be_text_or_number():
    (quotes,) = read('{"ev":"C","p":"EUR-USD","x":44,"b":1.1,"t":1}').ticks
    assert np.isnan(quotes.numbers[1]).all()
    (trades,) = read('{"ev":"XT","pair":"BTC-USD","p":1.0,"t":1}').ticks
    assert trades.texts == ([None], [None])
    assert np.isnan(trades.numbers[1]).all()


def test_statuses_and_data_share_a_frame():
    found = read('{"ev":"status","status":"success","message":"subscribed to: C.EUR/USD"}', C, XT)
    assert [status.status for status in found.statuses] == ["success"]
    assert [ticks.symbol for ticks in found.ticks] == ["C:USDCNH", "X:BTCUSD"]


def test_one_bad_element_does_not_drop_the_rest():
    dropped: Counter[str] = Counter()
    bad = ['{"ev":"NEW"}', '{"ev":"C","p":5}', "7", '{"ev":"C","p":"GBP/USD","a":1.1,"b":1.0,"t":5}', '{"x":1}']
    found = read(C, *bad, C, dropped=dropped)
    assert [ticks.ts_ns.tolist() for ticks in found.ticks] == [[1_536_036_818_784_000_000] * 2]
    assert dropped == {"unknown-event": 2, "wrong-type": 1, "not-an-event": 1, "unknown-symbol": 1}


def test_the_vendors_own_text_of_a_row_can_be_had():
    found = read(C, XT, C.replace("784", "785"))
    quotes = next(ticks for ticks in found.ticks if ticks.kind == "quotes")
    assert quotes.raw(np.array([1])) == [C.replace("784", "785")]


def test_the_order_within_a_frame_is_kept():
    found = read(*(C.replace("784", f"{n:03}") for n in (5, 3, 9)))
    assert [ns // 10**6 % 1000 for ns in found.ticks[0].ts_ns.tolist()] == [5, 3, 9]


@pytest.mark.parametrize(
    "frame",
    [
        "",
        "[",
        '{"ev":"C"}',
        "null",
        '"text"',
        "[" + C + ",",
        b"\xff[]",
        "[" * 5_000,
        f'[{{"ev":"C","p":"EUR/USD","deep":{"[" * 5_000}',
    ],
)
def test_a_frame_that_is_no_array_ends_the_connection(frame):
    with pytest.raises(RetryableSourceError):
        decode(frame, SYMBOLS, Counter())


def test_a_time_too_large_for_nanoseconds_is_dropped():
    dropped: Counter[str] = Counter()
    assert not read(C.replace("1536036818784", "99999999999999999"), dropped=dropped).ticks
    assert dropped == {"wrong-type": 1}


# --- statuses


def test_account_conditions_are_no_plain_outages():
    assert isinstance(account_error(Status("auth_failed", "authentication failed")), PermanentSourceError)
    evicted = account_error(Status("max_connections", "Maximum number of websocket connections exceeded. "))
    assert isinstance(evicted, RetryableSourceError)
    assert evicted.retry_after_s is not None
    assert evicted.retry_after_s >= 60
    assert account_error(Status("success", "")) is None


def test_topics_are_confirmed_one_by_one_or_by_their_data():
    topics = Topics.of(["C:EURUSD", "C:USDJPY", "C:GBPUSD"])
    assert topics.parameter == "C.EUR/USD,C.USD/JPY,C.GBP/USD"
    topics.take([Status("success", "subscribed to: C.EUR-USD")], [])
    topics.take([], ["C:USDJPY"])
    assert topics.confirmed == {"C:EURUSD", "C:USDJPY"}
    assert list(topics.open.values()) == ["C:GBPUSD"]


def test_a_refused_topic_is_named_with_the_vendors_words():
    topics = Topics.of(["X:BTCUSD", "X:ETHUSD"])
    topics.take([Status("error", "not entitled to XT.ETH-USD"), Status("success", "subscribed to: XT.BTC-USD")], [])
    assert topics.refused == {"X:ETHUSD": "not entitled to XT.ETH-USD"}
    assert topics.confirmed == {"X:BTCUSD"}


def test_an_error_that_names_no_topic_is_about_all_that_are_open():
    topics = Topics.of(["C:EURUSD", "C:USDJPY"])
    topics.take([Status("error", "not authorized")], [])
    assert set(topics.refused) == {"C:EURUSD", "C:USDJPY"}


def test_both_spellings_of_a_pair_are_the_same_key():
    assert stream_key("EUR-USD") == stream_key("EUR/USD")
