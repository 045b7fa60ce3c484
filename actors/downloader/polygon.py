"""Polygon (now Massive): history over REST. The only file that imports httpx.

A response never decides where we connect: only path and query of `next_url` are used, on the configured base URL, so
the key goes nowhere else. Every request takes from the budget of its key, has deadlines for connecting, for each read
and for the whole page, and a bound on its size. No retry here: the downloader owns patience.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from urllib.parse import urlsplit

import attrs
import httpx
import trio

from actors.downloader.polygon_api import (
    CLOCK,
    Body,
    Endpoint,
    RangeTooLarge,
    RateLimited,
    endpoint_of,
    gunzip,
    path_and_query,
    refusal,
    retry_after_s,
    server_time_of,
)
from actors.downloader.polygon_rows import decode_page
from actors.downloader.port import Page
from actors.downloader.proof import BORDER_ROWS, Border, ChainProof, DecodedPage
from runtime.actor import Offload
from runtime.clock import NS_PER_MINUTE, NS_PER_S, Clock
from runtime.errors import PermanentSourceError, RetryableSourceError, SourceError
from runtime.market_clock import MarketClock, Sample
from runtime.ratelimit import RateLimit

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
ERROR_BYTES_MAX = 64 * 1024
CLOSE_S_MAX = 5.0


@attrs.frozen(kw_only=True)
class PolygonLimits:
    """Bounds of one request and of one chain."""

    page_rows: int = 50_000
    """`limit` of each request; the vendor's maximum."""
    pages_max: int = 2_000
    """Of one chain: 100 M rows."""
    page_bytes_max: int = 64 * 1024 * 1024
    """Of one body, unpacked; a full page of quotes has 7 MB."""
    connect_s: float = 5.0
    read_s: float = 15.0
    """Silence between two reads."""
    page_s: float = 30.0
    """The whole page; a slow drip passes `read_s` for ever."""
    connections_max: int = 16


@attrs.frozen(kw_only=True)
class PolygonHistory:
    """`HistorySource` of ticks. Build it inside Trio; `close` it in the end."""

    rest_url: str
    api_key: str = attrs.field(repr=False)
    budget: RateLimit
    clock: Clock
    offload: Offload
    limits: PolygonLimits = attrs.field(factory=PolygonLimits)
    market: MarketClock | None = None
    """What "the future" is measured by; None: the wall clock."""
    transport: httpx.AsyncBaseTransport | None = None
    """In place of the network: the simulator's ASGI app in tests."""
    name: str = "polygon"
    _client: httpx.AsyncClient = attrs.field(init=False, repr=False)
    _decoders: trio.CapacityLimiter = attrs.field(init=False, repr=False, factory=lambda: trio.CapacityLimiter(1))
    """One page is decoded at a time: they share the GIL anyway, and each takes 40 MB while it lasts."""

    def __attrs_post_init__(self) -> None:
        local = (urlsplit(self.rest_url).hostname or "") in LOOPBACK
        client = httpx.AsyncClient(
            headers={
                "authorization": f"Bearer {self.api_key}",
                "accept": "application/json",
                # Packing costs more than a loopback saves: it is the same CPU on both ends.
                "accept-encoding": "identity" if local else "gzip",
                "user-agent": "holdfast",
            },
            timeout=httpx.Timeout(self.limits.read_s, connect=self.limits.connect_s),
            limits=httpx.Limits(max_connections=self.limits.connections_max),
            follow_redirects=False,
            trust_env=not local,
            verify=self.rest_url.startswith("https:"),  # loading certificates takes 20 ms: not for plain HTTP
            transport=self.transport,
        )
        object.__setattr__(self, "_client", client)

    async def close(self) -> None:
        """Close the connections; gives up after a bound."""
        with trio.move_on_after(CLOSE_S_MAX):
            await self._client.aclose()

    async def pages(self, symbol: str, kind: str, from_ns: int, to_ns: int) -> AsyncGenerator[Page, None]:
        """The proven pages over [from_ns, to_ns); see the port."""
        endpoint = endpoint_of(symbol, kind)
        todo = [(from_ns, to_ns)]
        while todo:
            start, end = todo.pop()
            proof = ChainProof(start, end, pages_max=self.limits.pages_max)
            try:
                async with aclosing(self._chain(endpoint, proof)) as chain:
                    async for page in chain:
                        yield page
            except RangeTooLarge:
                rest_ns = end - proof.proven_to_ns
                if rest_ns <= NS_PER_MINUTE:
                    raise PermanentSourceError(
                        f"{symbol}: the vendor calls a range of {rest_ns / NS_PER_S:g} s too large (413)"
                    ) from None
                middle = proof.proven_to_ns + rest_ns // 2
                todo += [(middle, end), (proof.proven_to_ns, middle)]

    async def _chain(self, endpoint: Endpoint, proof: ChainProof) -> AsyncGenerator[Page, None]:
        """One chain from its first question to the page without `next_url`."""
        target = endpoint.question(proof.from_ns, proof.to_ns, self.limits.page_rows)
        probe: DecodedPage | None = None
        while True:
            page, probe = await self._page_and_probe(endpoint, proof, target, probe)
            if proof.border is not None and (len(page.ts_ns) or not page.next_url):
                assert probe is not None
                proof.check_border(probe, page)
                probe = None
            proven, next_url = proof.accept(page), page.next_url
            del page  # holds the vendor's rows as objects, 8 MB: not while somebody else works or waits
            yield proven
            if proof.ended:
                return
            target = path_and_query(next_url)

    async def _page_and_probe(
        self, endpoint: Endpoint, proof: ChainProof, target: str, probe: DecodedPage | None
    ) -> tuple[DecodedPage, DecodedPage | None]:
        """The next page and, at the same time, the fresh answer that its border is checked against."""
        if proof.border is None or probe is not None:
            return await self._page(endpoint, target), probe
        border = proof.border
        got: dict[str, DecodedPage | Exception] = {}

        async def keep(name: str, ask: Callable[[], object]) -> None:
            try:
                got[name] = await ask()  # type: ignore[misc]
            except SourceError as exc:
                got[name] = exc

        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep, "page", lambda: self._page(endpoint, target))
            nursery.start_soon(keep, "probe", lambda: self._probe(endpoint, proof, border))
        for result in got.values():
            if isinstance(result, Exception):
                raise result
        return got["page"], got["probe"]  # type: ignore[return-value]

    async def server_time(self) -> Sample:
        """`TimeSource`: what the vendor's clock says."""
        await self.budget.acquire()
        sent_s = trio.current_time()
        body, gzipped = await self._get(Endpoint(symbol="the vendor", kind="clock", spelled=""), CLOCK)
        received_s = trio.current_time()
        vendor_ns, resolution_ns = server_time_of(gunzip(body, ERROR_BYTES_MAX) if gzipped else body)
        return Sample(sent_s=sent_s, received_s=received_s, vendor_ns=vendor_ns, resolution_ns=resolution_ns)

    async def _probe(self, endpoint: Endpoint, proof: ChainProof, border: Border) -> DecodedPage:
        limit = min(len(border.tail) + BORDER_ROWS, self.limits.page_rows)
        probe = await self._page(endpoint, endpoint.question(border.at_ns, proof.to_ns, limit))
        if proof.cut_by(probe) and limit < self.limits.page_rows:
            whole = endpoint.question(border.at_ns, proof.to_ns, self.limits.page_rows)
            probe = await self._page(endpoint, whole)
        return probe

    async def _page(self, endpoint: Endpoint, target: str) -> DecodedPage:
        """One decoded page. An answer with neither rows nor a count is believed when a second one says the same."""
        page = await self._decoded(endpoint, target)
        return await self._decoded(endpoint, target) if page.results_absent else page

    async def _decoded(self, endpoint: Endpoint, target: str) -> DecodedPage:
        await self.budget.acquire()
        body, gzipped = await self._get(endpoint, target)
        now_ns = self.clock.wall_ns() if self.market is None else self.market.now_ns()
        bytes_max = self.limits.page_bytes_max

        def work() -> DecodedPage:
            whole = gunzip(body, bytes_max) if gzipped else body
            return decode_page(
                endpoint.kind,
                whole,
                symbol=endpoint.symbol,
                spelled=endpoint.spelled,
                source=self.name,
                now_ns=now_ns,
            )

        return await self.offload(work, limiter=self._decoders)

    async def _get(self, endpoint: Endpoint, target: str) -> tuple[Body, bool]:
        """Body of a 200 with JSON, and whether it is gzipped; every other outcome is an error by whose fault it is."""
        if self._client.is_closed:  # httpx would raise a RuntimeError: its owner changed the address under a chain
            raise RetryableSourceError("this client was closed")
        try:
            with trio.fail_after(self.limits.page_s):
                async with self._client.stream("GET", self.rest_url.rstrip("/") + target) as response:
                    good = response.status_code == httpx.codes.OK
                    bytes_max = self.limits.page_bytes_max if good else ERROR_BYTES_MAX
                    body = await _read(response, bytes_max)
        except trio.TooSlowError as exc:
            raise RetryableSourceError(f"no whole page within {self.limits.page_s:g} s") from exc
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            raise RetryableSourceError(f"{type(exc).__name__}: {exc}" if str(exc) else type(exc).__name__) from exc
        if not good:
            raise self._refused(endpoint, response, body)
        media = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media != "application/json":
            raise RetryableSourceError(f"200 with content type {media or 'none'} instead of JSON: {bytes(body[:60])!r}")
        return body, response.headers.get("content-encoding", "").strip().lower() == "gzip"

    def _refused(self, endpoint: Endpoint, response: httpx.Response, body: Body) -> SourceError:
        """A status other than 200; a 429 closes the budget for everyone on the key."""
        error = refusal(endpoint, response.status_code, body, self.rest_url)
        if isinstance(error, RateLimited):
            told_s = retry_after_s(response.headers.get("retry-after", "").strip(), self.clock.wall_ns())
            return RetryableSourceError(str(error), retry_after_s=self.budget.drain(told_s))
        return error


async def _read(response: httpx.Response, bytes_max: int) -> bytearray:
    """The raw body; httpx raises when it is shorter than announced."""
    body = bytearray()
    # Leaving the loop early would leave httpx's nested generators to the garbage collector; cancelled, they unwind.
    with trio.CancelScope() as enough:
        async for part in response.aiter_raw():
            body += part
            if len(body) > bytes_max:
                enough.cancel()
    if len(body) > bytes_max:
        raise RetryableSourceError(f"a body of more than {bytes_max} bytes")
    return body
