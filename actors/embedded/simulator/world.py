"""What the endpoints of one server share: the feed and its clock, the door, the books, the manners."""

from __future__ import annotations

import attrs

from actors.embedded.simulator.access import Keys, RequestBudget
from actors.embedded.simulator.feed import Feed, TradeFeed
from actors.embedded.simulator.hub import Hub
from actors.embedded.simulator.ledger import Ledger
from actors.embedded.simulator.pages import PartCache
from actors.embedded.simulator.query import LIMIT_MAX
from runtime.actor import Offload
from runtime.clock import Clock
from runtime.entropy import Entropy

NEXT_HOST = "https://api.polygon.io:443"
"""Host of every `next_url`: never the one that was asked, so a client that follows it literally is found out."""


@attrs.frozen(kw_only=True)
class Manners:
    """How the server behaves, as opposed to what it holds."""

    seed: int = 0
    """Decides among the forms the vendor's answers come in."""
    latency_s: float = 0.0
    """Wait before every answer."""
    page_rows_max: int = LIMIT_MAX
    """No page is longer, whatever `limit` asks."""


@attrs.frozen(kw_only=True, eq=False)
class World:
    """One server's state."""

    feed: Feed
    cache: PartCache
    clock: Clock
    entropy: Entropy
    offload: Offload
    keys: Keys = attrs.field(factory=Keys)
    budget: RequestBudget = attrs.field(factory=lambda: RequestBudget(requests_per_minute=0))
    manners: Manners = attrs.field(factory=Manners)
    ledger: Ledger = attrs.field(factory=Ledger)
    trades: TradeFeed | None = None
    trade_cache: PartCache | None = None
    """Pages of `trades`; both or none."""
    hub: Hub | None = None
    """The stream; None: a server of history alone."""

    def market_now_ns(self) -> int:
        """The time as the vendor sees it: rows later than this do not exist yet."""
        return self.clock.wall_ns() if self.hub is None else self.hub.time.now_ns()

    @property
    def symbols(self) -> tuple[str, ...]:
        """Everything that is offered."""
        return (*self.feed.symbols, *(self.trades.symbols if self.trades is not None else ()))
