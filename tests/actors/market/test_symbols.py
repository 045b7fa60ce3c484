import zlib

import pytest

from actors.market.symbols import (
    AssetClass,
    feeds,
    from_rest,
    from_stream,
    from_stream_payload,
    parse_symbol,
    partition_of,
)

SPELLINGS = [  # canonical, REST ticks, stream subscription, stream payload, class, base, quote
    ("C:EURUSD", "C:EUR-USD", "C.EUR/USD", "EUR/USD", "fx", "EUR", "USD"),
    ("C:USDJPY", "C:USD-JPY", "C.USD/JPY", "USD/JPY", "fx", "USD", "JPY"),
    ("C:XAUUSD", "C:XAU-USD", "C.XAU/USD", "XAU/USD", "fx", "XAU", "USD"),
    ("X:BTCUSD", "X:BTC-USD", "XT.BTC-USD", "BTC-USD", "crypto", "BTC", "USD"),
    ("X:USDTUSD", "X:USDT-USD", "XT.USDT-USD", "USDT-USD", "crypto", "USDT", "USD"),
    ("X:BNBUSD", "X:BNB-USD", "XT.BNB-USD", "BNB-USD", "crypto", "BNB", "USD"),
    ("X:DOGEUSDT", "X:DOGE-USDT", "XT.DOGE-USDT", "DOGE-USDT", "crypto", "DOGE", "USDT"),
    ("X:1INCHUSD", "X:1INCH-USD", "XT.1INCH-USD", "1INCH-USD", "crypto", "1INCH", "USD"),
    ("AAPL", "AAPL", "T.AAPL", "AAPL", "stock", "AAPL", ""),
    ("BApA", "BApA", "T.BApA", "BApA", "stock", "BApA", ""),
    ("BRK.B", "BRK.B", "T.BRK.B", "BRK.B", "stock", "BRK.B", ""),
]


@pytest.mark.parametrize(("canonical", "rest", "stream", "payload", "kind", "base", "quote"), SPELLINGS)
def test_all_four_spellings_name_the_same_instrument(canonical, rest, stream, payload, kind, base, quote):
    symbol = parse_symbol(canonical)
    assert (symbol.asset_class, symbol.base, symbol.quote) == (kind, base, quote)
    assert (str(symbol), symbol.rest, symbol.stream, symbol.stream_payload) == (canonical, rest, stream, payload)
    assert from_rest(rest) == from_stream(stream) == from_stream_payload(AssetClass(kind), payload) == symbol


@pytest.mark.parametrize("channel", ["C.EUR-USD", "CA.EUR/USD", "CAS.EUR/USD"])
def test_newer_and_bar_channels_are_read_too(channel):
    assert str(from_stream(channel)) == "C:EURUSD"


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("C:EUR-USD", "C:EURUSD"),
        ("C:EUR/USD", "C:EURUSD"),
        ("C.EUR/USD", "C:EURUSD"),
        ("EUR/USD", "C:EURUSD"),
        ("c:eurusd", "C:EURUSD"),
        ("X:BTC-USD", "X:BTCUSD"),
        ("XT.BTC-USD", "X:BTCUSD"),
    ],
)
def test_a_wrong_spelling_is_told_the_right_one(wrong, meant):
    with pytest.raises(ValueError, match=f"did you mean '{meant}'"):
        parse_symbol(wrong)


@pytest.mark.parametrize(
    "wrong", ["", " ", "C:", "C:EURUS", "C:EURUSDX", "X:USD", "X:FOOBAR", "O:SPY", "a b", "EUR USD", "é"]
)
def test_what_is_no_symbol_says_so(wrong):
    with pytest.raises(ValueError, match="unknown symbol"):
        parse_symbol(wrong)


def test_a_pair_that_would_read_differently_when_joined_is_refused():
    with pytest.raises(ValueError, match="read as X in USDT"):
        from_rest("X:XUS-DT")


def test_kinds_follow_the_asset_class():
    assert parse_symbol("C:EURUSD").kinds == ("quotes",)
    assert parse_symbol("X:BTCUSD").kinds == ("trades",)


def test_partition_is_crc32_and_history_lies_behind_live():
    assert partition_of("C:EURUSD", 4, history=False) == zlib.crc32(b"C:EURUSD") % 4
    assert partition_of("C:EURUSD", 4, history=True) == zlib.crc32(b"C:EURUSD") % 4 + 4


def test_feeds_are_what_exists_each_once():
    found = feeds(["C:EURUSD", "X:BTCUSD", "C:EURUSD"], ["quotes", "trades"])
    assert found == [("C:EURUSD", "quotes"), ("X:BTCUSD", "trades")]
    with pytest.raises(ValueError, match="none of C:EURUSD has trades"):
        feeds(["C:EURUSD"], ["trades"])
