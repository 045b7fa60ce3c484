"""What the HTTP server asks of the rest: to take on a backfill. The tree gives the implementation."""

from __future__ import annotations

import contextlib
from typing import Protocol

import attrs

from actors.market.symbols import AssetClass, parse_symbol
from runtime.errors import ConfigError


@attrs.frozen(kw_only=True)
class BackfillRequest:
    """History that somebody wants; [from_ns, to_ns) in ns UTC, whole minutes."""

    symbols: tuple[str, ...]
    kinds: tuple[str, ...]
    from_ns: int
    to_ns: int
    refetch: bool
    rebuild: bool = False
    """Candles of it were lost in the log: they are put out once more."""


class SubmitBackfill(Protocol):
    """Takes on a backfill."""

    async def __call__(self, request: BackfillRequest) -> str:
        """Make the job durable, tell the downloader, return its id. Bounded in time.

        Raises: NotConnected when it cannot take on any more now, ConfigError when the request cannot be meant.
        """
        ...


class CancelBackfill(Protocol):
    """Gives a backfill up."""

    async def __call__(self, job_id: str) -> None:
        """Forget the job durably, tell the downloader; what is fetched of it stays. Bounded in time.

        Raises: ConfigError when there is no such job, NotConnected when it cannot be told now.
        """
        ...


def orderable(text: str) -> str:
    """The canonical spelling of a symbol whose history can be ordered. Raises: ConfigError with what to write."""
    try:
        symbol = parse_symbol(text)
    except ValueError as exc:
        if text.startswith(("C:", "X:")):  # it says what is wrong with the rest
            raise ConfigError(str(exc)) from exc
    else:
        if symbol.asset_class is not AssetClass.STOCK:
            return str(symbol)
    raise ConfigError(
        f"{text!r}{_meant(text)}: only currency pairs and crypto, like C:EURUSD and X:BTCUSD, are in this version"
    )


def _meant(text: str) -> str:
    """What a pair without its prefix, or in another spelling, may mean."""
    plain = text.upper()
    prefixes = (f"{plain[0]}:",) if plain.startswith(("C:", "X:", "C.", "X.")) else ("C:", "X:")
    body = plain[2:] if len(prefixes) == 1 else plain
    found = []
    for prefix in prefixes:
        with contextlib.suppress(ValueError):
            found.append(str(parse_symbol(prefix + body.replace("/", "").replace("-", ""))))
    return f", did you mean {' or '.join(found)}?" if found else ""
