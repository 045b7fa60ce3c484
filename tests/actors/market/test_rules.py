import numpy as np
import pytest

from actors.market import rules
from actors.market.flags import Flag
from actors.market.rules import REJECTED, bar_faults, validate_quotes, validate_trades
from actors.market.schema import QUOTES, TRADES, encode

T = 1_398_902_400_000_000_000  # 2014-05-01
NOW = T + 30 * 86_400_000_000_000
NAN = float("nan")


def quotes(bid, ask, ts=None, symbol="C:EURUSD", **sizes):
    bid, ask = np.array(bid, float), np.array(ask, float)
    ts = np.arange(T, T + len(bid)) if ts is None else np.array(ts, np.int64)
    sizes = {name: np.array(v, float) for name, v in sizes.items()}
    return validate_quotes(
        symbol, "polygon", ts, bid, ask, **sizes, now_ns=NOW, raw=lambda rows: [f"row {r}" for r in rows]
    )


def reasons(validated):
    return dict(
        zip(validated.rejected.column("raw").to_pylist(), validated.rejected.column("reason").to_pylist(), strict=True)
    )


def test_ordinary_quotes_pass_unchanged_in_the_schema_of_the_log():
    got = quotes([1.38676, 1.38675], [1.38686, 1.38675])
    assert got.rows.schema == QUOTES
    assert got.rejected.schema == REJECTED
    assert got.rejected.num_rows == 0
    assert got.rows.column("bid").to_pylist() == [1.38676, 1.38675]
    assert got.rows.column("bid_size").to_pylist() == [None, None]
    assert got.rows.column("flags").to_pylist() == [0, 0]
    assert got.rows.column("symbol").to_pylist() == ["C:EURUSD"] * 2
    assert got.rows.column("source").to_pylist() == ["polygon"] * 2
    assert next(encode("quotes", got.rows)).rows == 2


def test_no_rows_give_no_rows():
    got = quotes([], [])
    assert (got.rows.num_rows, got.rejected.num_rows) == (0, 0)


@pytest.mark.parametrize(
    ("bid", "ask", "reason"),
    [
        (NAN, NAN, "price-missing"),
        (float("inf"), 1.0, "price-not-finite"),
        (1.0, -1.0, "price-not-positive"),
        (0.0, 1.0, "price-not-positive"),
        (1.2345678901234567, 1.3, "price-digits"),
        (1e-9, 1.3, "price-absurd"),
        (1e10, 1.3, "price-absurd"),
    ],
)
def test_a_refused_quote_comes_back_as_received_with_its_reason(bid, ask, reason):
    got = quotes([1.1, bid, 1.2], [1.1, ask, 1.2])
    assert reasons(got) == {"row 1": reason}
    assert got.rejected.column("ts_ns").to_pylist() == [T + 1]
    assert got.rows.column("bid").to_pylist() == [1.1, 1.2]


def test_times_of_another_unit_or_far_ahead_are_refused_and_a_little_ahead_is_flagged():
    second = 1_000_000_000
    times = [
        0,
        T // 1000,
        T // 1_000_000,
        T // second,
        T * 1000 // 999,
        NOW + second,
        NOW + 3 * second,
        NOW + 3601 * second,
    ]
    times[4] = NOW
    got = quotes([1.1] * 8, [1.2] * 8, ts=times)
    assert reasons(got) == {f"row {i}": "time-magnitude" for i in range(4)} | {"row 7": "time-future"}
    assert got.rows.column("flags").to_pylist() == [0, 0, Flag.FUTURE]


def test_crossed_is_flagged_locked_is_not_and_both_are_kept():
    got = quotes([1.2, 1.1, 1.1], [1.1, 1.1, 1.2])
    assert got.rows.column("flags").to_pylist() == [Flag.CROSSED, 0, 0]


def test_one_side_may_be_absent_or_zero_with_size_zero():
    got = quotes([NAN, 0.0, 1.1], [1.2, 1.2, 1.2], bid_size=[NAN, 0.0, 0.0], ask_size=[1.0, NAN, 2.0])
    assert got.rejected.num_rows == 0
    assert got.rows.column("bid").to_pylist() == [None, None, 1.1]
    assert got.rows.column("bid_size").to_pylist() == [None, None, 0.0]
    assert got.rows.column("ask_size").to_pylist() == [1.0, None, 2.0]


def test_negative_quote_size_is_refused():
    assert reasons(quotes([1.1], [1.2], bid_size=[-1.0], ask_size=[1.0])) == {"row 0": "size-invalid"}


def test_rows_out_of_order_and_equal_times_are_accepted():
    assert quotes([1.1] * 3, [1.2] * 3, ts=[T + 5, T, T]).rows.column("ts_ns").to_pylist() == [T + 5, T, T]


@pytest.mark.parametrize("factor", [10, 100, 0.1, 0.01])
def test_a_price_off_by_a_power_of_ten_is_refused(factor):
    bid = np.full(50, 1.38676)
    bid[20] = round(1.38676 * factor, 7)
    assert reasons(quotes(bid, np.full(50, 1.38686))) == {"row 20": "price-absurd"}


def test_a_coin_may_move_tenfold():
    price = np.concatenate((np.full(40, 0.5), np.full(5, 5.0)))
    got = validate_trades(
        "X:BTCUSD", "polygon", np.arange(T, T + 45), price, now_ns=NOW, raw=lambda rows: [""] * len(rows)
    )
    assert got.rejected.num_rows == 0


def test_a_text_that_no_database_takes_costs_its_row_and_no_delivery():
    """PostgreSQL: 22021 for NUL. Nothing behind such a row would ever be stored."""
    ids = ["a", "a\0b", "x" * 256, None, "\0", "x" * 255]
    n = len(ids)
    got = validate_trades(
        "X:BTCUSD",
        "polygon",
        np.arange(T, T + n),
        np.full(n, 61837.5),
        np.full(n, 0.5),
        ids,
        ["1"] * n,
        now_ns=NOW,
        raw=lambda rows: [f"row {r}" for r in rows],
    )
    assert reasons(got) == {f"row {i}": "text-invalid" for i in (1, 2, 4)}


def test_trades_keep_ids_and_conditions_and_refuse_sizes_that_are_none():
    got = validate_trades(
        "X:BTCUSD",
        "polygon",
        np.arange(T, T + 4),
        np.array([61837.63, 61837.6, NAN, 61837.5]),
        np.array([0.02, 0.0, 1.0, NAN]),
        ["a", "b", "c", None],
        ["1", None, "2", "1,2"],
        now_ns=NOW,
        raw=lambda rows: [f"row {r}" for r in rows],
    )
    assert got.rows.schema == TRADES
    assert reasons(got) == {"row 1": "size-invalid", "row 2": "price-missing"}
    assert got.rows.column("trade_id").to_pylist() == ["a", None]
    assert got.rows.column("conditions").to_pylist() == ["1", "1,2"]
    assert got.rows.column("size").to_pylist() == [0.02, None]


def test_faulty_vendor_bars_are_named():
    one = np.ones(4)
    high = np.array([1.0, 0.9, 1.0, 1.0])
    low = np.array([1.0, 0.9, 1.1, 1.0])
    assert bar_faults((one, high, low, one), np.array([0.0, 0, 0, -1])) == [
        None,
        "bar-shape",
        "bar-shape",
        "bar-volume",
    ]


def test_raw_text_is_not_asked_for_when_nothing_is_refused():
    def never(_rows):
        raise AssertionError

    one = np.array([1.1])
    validate_quotes("C:EURUSD", "polygon", np.array([T]), one, one, now_ns=NOW, raw=never)


def test_control_without_the_digit_rule_the_bad_price_would_pass(monkeypatch):
    monkeypatch.setattr(rules, "prints_back", lambda values: np.ones(len(values), bool))
    assert reasons(quotes([1.2345678901234567], [1.3])) == {}
