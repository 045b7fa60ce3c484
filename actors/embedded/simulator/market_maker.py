"""From options to feeds: quotes, trades, and how their rows become pages and events."""

from __future__ import annotations

from functools import partial

import attrs

from actors.embedded.simulator.capture import BinanceCapture
from actors.embedded.simulator.events import render_quote_events, render_trade_events
from actors.embedded.simulator.feed import Feed, NoQuotes, Part, TradeFeed
from actors.embedded.simulator.market_time import ClockFile, MarketTime
from actors.embedded.simulator.options import Options, instant_of
from actors.embedded.simulator.pages import Load, Rows, render, render_trades
from actors.embedded.simulator.rate_market import RateMarket
from actors.embedded.simulator.recordings import open_any
from actors.embedded.simulator.symbols import UNIVERSE, canonical
from actors.embedded.simulator.synthetic import SyntheticMarket
from actors.embedded.simulator.synthetic_trades import SyntheticTrades
from runtime.clock import NS_PER_MINUTE, NS_PER_S, Clock, format_ns
from runtime.errors import ConfigError


@attrs.frozen(kw_only=True)
class Market:
    """What is traded, and the four ways in which it is served."""

    quotes: Feed
    trades: TradeFeed | None
    quote_pages: Load
    quote_events: Load
    trade_pages: Load
    trade_events: Load
    first_ns: int | None = None
    """Of a recording."""


def make_market(options: Options, clock: Clock) -> Market:
    """The market that the options name. Blocking. Raises: ConfigError."""
    only = frozenset(canonical(symbol) for symbol in options.symbols)
    if options.recording is not None:
        return _recorded(options, only)
    _check_known(only, tuple(one.symbol for one in UNIVERSE))
    if options.rate:
        return _with_rate(options, only, clock)
    quotes = SyntheticMarket(seed=options.seed, always_open=options.always_open, only=only)
    return market_of(options.seed, quotes, SyntheticTrades(seed=options.seed, only=only))


def _check_known(asked: frozenset[str], known: tuple[str, ...]) -> None:
    for symbol in sorted(asked - frozenset(known)):
        raise ConfigError(f"--symbols {symbol}: not in this market, which has {', '.join(known)}")


def _recorded(options: Options, only: frozenset[str]) -> Market:
    assert options.recording is not None
    recording = open_any(options.recording)
    _check_known(only, recording.symbols)
    if only:
        recording = recording.restricted(only)
    if isinstance(recording, BinanceCapture):
        market = market_of(options.seed, NoQuotes(description=recording.description), recording)
    else:
        market = market_of(options.seed, recording, None)
    return attrs.evolve(market, first_ns=recording.first_ns)


def market_of(seed: int, quotes: Feed, trades: TradeFeed | None) -> Market:
    """Any feeds, rendered by text columns."""

    def quote_pages(symbol: str, part: Part) -> Rows:
        return render(quotes.quotes(symbol, part))

    def quote_events(symbol: str, part: Part) -> Rows:
        return render_quote_events(symbol, quotes.quotes(symbol, part), seed)

    def trade_pages(symbol: str, part: Part) -> Rows:
        assert trades is not None
        return render_trades(trades.trades(symbol, part))

    def trade_events(symbol: str, part: Part) -> Rows:
        assert trades is not None
        return render_trade_events(symbol, trades.trades(symbol, part))

    return Market(
        quotes=quotes,
        trades=trades,
        quote_pages=quote_pages,
        quote_events=quote_events,
        trade_pages=trade_pages,
        trade_events=trade_events,
    )


def _with_rate(options: Options, only: frozenset[str], clock: Clock) -> Market:
    begin_ns = _rate_begin(options, clock)
    of_kind = partial(RateMarket, seed=options.seed, rate=options.rate, begin_ns=begin_ns, only=only)
    quotes, trades = of_kind(kind="quotes"), of_kind(kind="trades")
    return Market(
        quotes=quotes,
        trades=trades,
        quote_pages=quotes.quote_pages,
        quote_events=quotes.quote_events,
        trade_pages=trades.trade_pages,
        trade_events=trades.trade_events,
    )


def _rate_begin(options: Options, clock: Clock) -> int:
    """Where a market with a rate begins: as told, else as the clock file remembers, else the minute of now."""
    if options.market_from:
        return instant_of("--market-from", options.market_from) // NS_PER_S * NS_PER_S
    now_ns = clock.wall_ns()
    begin_ns = now_ns // NS_PER_MINUTE * NS_PER_MINUTE
    if options.market_clock is None:
        return begin_ns
    file = ClockFile(path=options.market_clock, market=f"rate {options.rate}, seed {options.seed}")
    held = file.load()
    if held is not None:
        return held[1]
    file.save(now_ns, begin_ns)
    return begin_ns


def make_time(options: Options, market: Market, clock: Clock) -> MarketTime:
    """The wall clock, or the recording's time. Raises: ConfigError."""
    if not options.replay_speed or market.first_ns is None:
        return MarketTime(clock=clock)
    start_ns = market.first_ns // NS_PER_MINUTE * NS_PER_MINUTE
    if options.replay_from:
        start_ns = instant_of("--replay-from", options.replay_from)
    file = None
    if options.market_clock is not None:
        name = f"{options.recording} from {format_ns(start_ns)} at {options.replay_speed}x"
        file = ClockFile(path=options.market_clock, market=name)
    return MarketTime(clock=clock, start_ns=start_ns, speed=options.replay_speed, file=file)
