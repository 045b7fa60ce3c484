"""`python -m actors.embedded.simulator`: the market simulator alone."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from actors.embedded.simulator.options import PORT_DEFAULT, Options
from actors.embedded.simulator.query import LIMIT_MAX
from runtime.errors import ConfigError

EX_CONFIG = 78


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options, for this module and for `pipeline simulator`."""
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    add("--port", type=int, default=PORT_DEFAULT, help="0 takes a free one (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the synthetic market and of the forms of answers")
    add("--recording", type=Path, metavar="DIR", help="a Lean forex folder such as …/forex/oanda instead")
    add("--requests-per-minute", type=int, default=0, metavar="N", help="per key; 0 is unlimited (default)")
    add("--latency-ms", type=float, default=0.0, metavar="MS", help="wait before every answer")
    add("--page-rows-max", type=int, default=LIMIT_MAX, metavar="N", help="no page is longer, whatever is asked")
    add("--api-key", action="append", default=[], metavar="KEY", help="accept only this key (repeatable)")
    add("--refuse-key", action="append", metavar="KEY", help="answer 401 to this key (repeatable; default: wrong)")
    add("--symbols", default="", metavar="A,B", help="offer only these, e.g. C:EURUSD,C:USDJPY")
    add(
        "--always-open",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="synthetic market: trade at weekends too, so that there is always something to see (default); "
        "--no-always-open keeps to Sunday 17:00 - Friday 17:00 New York",
    )
    _add_market_options(parser)
    _add_stream_options(parser)


def _add_market_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--rate", type=int, default=0, metavar="N", help="synthetic market: N ticks/s for each symbol, evenly")
    add("--market-from", default="", metavar="T", help="with --rate: begin of the market (default: when first started)")
    add("--replay-speed", type=float, default=0.0, metavar="X", help="play the recording X times as fast as real time")
    add("--replay-from", default="", metavar="T", help="start playing there (default: the recording's first minute)")
    add("--market-clock", type=Path, metavar="F", help="file by which a restarted process knows the market's time")


def _add_stream_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--faults", type=Path, metavar="F", help="script of faults of the stream, JSON lines (docs/live.md)")
    add("--fault-seed", type=int, default=0, metavar="S", help="of what faults leave open, and of --fault-every")
    add("--fault-every", type=float, default=0.0, metavar="S", help="a fault by seed about every S seconds")
    add("--fault-kinds", default="", metavar="A,B", help="of the faults by seed (default: all)")
    add("--auth-timeout", type=float, default=10.0, metavar="S", help="for the key of a stream (default: %(default)s)")
    add("--stream-buffer-bytes", type=int, default=16 * 2**20, metavar="N", help="per client; a slower one is killed")
    add("--refuse-second-connection", action="store_true", help="max_connections for the newer one, not the older")
    add("--quirks", action=argparse.BooleanOptionalAction, default=True, help="an unknown event now and then")


def options_from(args: argparse.Namespace) -> Options:
    """Parsed arguments as Options."""
    return Options(
        host=args.host,
        port=args.port,
        seed=args.seed,
        recording=args.recording,
        requests_per_minute=args.requests_per_minute,
        latency_ms=args.latency_ms,
        page_rows_max=args.page_rows_max,
        api_keys=args.api_key,
        refused_keys=args.refuse_key or ("wrong",),
        symbols=[symbol for symbol in args.symbols.split(",") if symbol],
        always_open=args.always_open,
        rate=args.rate,
        market_from=args.market_from,
        replay_speed=args.replay_speed,
        replay_from=args.replay_from,
        market_clock=args.market_clock,
        faults=args.faults,
        fault_seed=args.fault_seed,
        fault_every_s=args.fault_every,
        fault_kinds=[kind for kind in args.fault_kinds.split(",") if kind],
        auth_timeout_s=args.auth_timeout,
        stream_buffer_bytes=args.stream_buffer_bytes,
        refuse_second_connection=args.refuse_second_connection,
        quirks=args.quirks,
    )


def say(line: str) -> None:
    """To stdout at once: whoever started us waits for it."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code: 0, or 78 with one line on stderr."""
    from actors.embedded.simulator.server import run  # slow to import: not for --help

    parser = argparse.ArgumentParser(prog="simulator", description="A local market that speaks Polygon's API.")
    add_options(parser)
    try:
        run(options_from(parser.parse_args(argv)), say)
    except ConfigError as error:
        sys.stderr.write(f"simulator: {error}\n")
        return EX_CONFIG
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
