"""A vendor of our own that is known only when it runs, and may come back elsewhere: the embedded simulator.

The address is asked before each use; a changed one gives new adapters. While there is none, that is an outage.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from typing import Protocol

import attrs
import trio

from actors.downloader.port import HistorySource, LiveSource, LiveStream, Page, TimeSource
from actors.market.symbols import AssetClass
from runtime.errors import NotConnected, RetryableSourceError
from runtime.market_clock import Sample


class RestSource(HistorySource, TimeSource, Protocol):
    """History and time over one client."""


@attrs.define(kw_only=True, eq=False)
class AddressedVendor:
    """`HistorySource` and `TimeSource`."""

    address: Callable[[], str]
    """Empty: it is not up."""
    make: Callable[[str], RestSource]
    name: str = "polygon"
    _url: str = ""
    _source: RestSource | None = None

    async def pages(self, symbol: str, kind: str, from_ns: int, to_ns: int) -> AsyncIterator[Page]:
        """See the port. Raises: RetryableSourceError while it is not up."""
        pages = (await self._at_its_address()).pages(symbol, kind, from_ns, to_ns)
        try:
            async for page in pages:
                yield page
        finally:
            if isinstance(pages, AsyncGenerator):
                await pages.aclose()

    async def server_time(self) -> Sample:
        """See the port. Raises: RetryableSourceError while it is not up."""
        return await (await self._at_its_address()).server_time()

    async def close(self) -> None:
        """Close the connections."""
        if self._source is not None:
            await self._source.close()
            self._source = None

    async def _at_its_address(self) -> RestSource:
        url = _up(self.address())
        if self._source is None or url != self._url:
            await self.close()
            self._url, self._source = url, self.make(url)
        return self._source


@attrs.define(kw_only=True, eq=False)
class AddressedStream:
    """`LiveSource`."""

    address: Callable[[], str]
    make: Callable[[str], LiveSource]
    name: str = "polygon"
    _url: str = ""
    _source: LiveSource | None = None

    async def connect(self, nursery: trio.Nursery, asset_class: AssetClass, symbols: Sequence[str]) -> LiveStream:
        """See the port. Raises: RetryableSourceError while it is not up."""
        url = _up(self.address())
        if self._source is None or url != self._url:
            self._url, self._source = url, self.make(url)
        return await self._source.connect(nursery, asset_class, symbols)

    def counters(self) -> Mapping[str, int]:
        """See the port."""
        return {} if self._source is None else self._source.counters()


def _up(url: str) -> str:
    if not url:
        why = NotConnected("the embedded market simulator is not up yet")
        raise RetryableSourceError(str(why)) from why
    return url
