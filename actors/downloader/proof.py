"""The proof that a chain of pages is complete (UPSTREAM 1.6). Pure, the same for every vendor with pages.

**Borders.** A page border may cut a group of rows of one instant, and equal rows are real ticks (UPSTREAM 1.12), so
rows repeated or lost at a border cannot be told from the two pages alone. Decision: rows of a page's last instant T
are held back until the group is whole, and each border is checked against a third answer, a fresh question "from T
on" (`check_border`), which must hold the held-back rows and the next page's first rows, no more, no less. Nothing is
dropped as a duplicate inside a proven chain; a border that does not agree makes the chain unproven, and it starts
again from T. That always gets on, because the first page after a start needs no border.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import attrs
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from actors.downloader.port import Page
from runtime.clock import format_ns
from runtime.errors import RetryableSourceError

Identity = tuple[float | int | str | None, ...]
BORDER_ROWS = 64
"""Rows behind the held-back ones that a fresh question asks for: where a server loses or repeats rows."""
INSTANT_ROWS_MAX = 1_000_000


@attrs.frozen(kw_only=True)
class DecodedPage:
    """What one answer of the vendor holds, before the chain accepts it."""

    ts_ns: npt.NDArray[np.int64]
    """Of all rows that have a time, refused ones too, in the order of the page."""
    identities: Callable[[int, int], list[Identity]]
    """Of rows [start, stop) of `ts_ns`."""
    rows: pa.RecordBatch
    rejected: pa.RecordBatch
    next_url: str
    """Empty: the last page."""
    request_id: str
    results_absent: bool = False
    """The answer had neither rows nor a count: empty only if a second answer says the same."""


@attrs.frozen(kw_only=True)
class Border:
    """An open border: what a fresh question must begin with."""

    at_ns: int
    tail: tuple[Identity, ...]
    """All rows at `at_ns` that were delivered so far."""


class ChainProof:
    """Accepts the pages of one chain over [from_ns, to_ns) in turn; any doubt is a RetryableSourceError."""

    def __init__(self, from_ns: int, to_ns: int, *, pages_max: int) -> None:
        self.from_ns = from_ns
        self.to_ns = to_ns
        self.proven_to_ns = from_ns
        self.border: Border | None = None
        """To be checked before the next page that has rows is accepted, and at the end."""
        self.ended = False
        self._pages_max = pages_max
        self._pages = 0
        self._last_ns = from_ns
        self._cursors: set[str] = set()  # bounded by pages_max
        self._held_rows: list[pa.RecordBatch] = []
        self._held_rejected: list[pa.RecordBatch] = []
        self._held_ids = ""
        self._tail: Border | None = None

    def cut_by(self, probe: DecodedPage) -> bool:
        """True: the fresh answer ends inside the group of the border's instant; ask again with a larger limit."""
        assert self.border is not None
        return bool(probe.next_url) and (not len(probe.ts_ns) or int(probe.ts_ns[-1]) == self.border.at_ns)

    def check_border(self, probe: DecodedPage, following: DecodedPage) -> None:
        """`probe` = the answer to "from border.at_ns on", `following` = the next page with rows, or the last page.

        The group at the border must be the same rows in any order (the vendor promises none among equal times); behind
        it, the same times as far as both answers reach.
        """
        assert self.border is not None
        at_ns = self.border.at_ns
        ours, theirs = _after(following, at_ns), _after(probe, at_ns)
        group = Counter(self.border.tail) + Counter(following.identities(0, _count_at(following, at_ns)))
        fresh = Counter(probe.identities(0, _count_at(probe, at_ns)))
        whole = bool(len(ours)) or not following.next_url
        fresh_whole = bool(len(theirs)) or not probe.next_url
        same = (group <= fresh or not fresh_whole) and (fresh <= group or not whole)
        n = min(len(ours), len(theirs))
        same = same and bool(np.array_equal(ours[:n], theirs[:n]))
        same = same and (len(theirs) >= len(ours) or bool(probe.next_url))
        same = same and (len(ours) >= len(theirs) or bool(following.next_url))
        # As many rows in both, but the chain says "the end" and the fresh answer "more": one of equal ticks is lost.
        same = same and not (len(ours) == len(theirs) and bool(probe.next_url) and not following.next_url)
        if not same:
            raise self._unproven(
                f"rows at the border {format_ns(at_ns)} are not those of a fresh answer (repeated, lost or changed)"
            )
        self.border = None

    def accept(self, page: DecodedPage) -> Page:
        """The rows that are proven by now. Raises: RetryableSourceError, naming the check that failed."""
        self._check_cursor(page)
        self._check_times(page)
        if len(page.ts_ns):
            self._last_ns = int(page.ts_ns[-1])
        if page.next_url:
            return self._hold_back(page)
        self.ended = True
        return self._release(page, self.to_ns)

    def _check_cursor(self, page: DecodedPage) -> None:
        self._pages += 1
        if self.ended:
            raise self._unproven("a page after the last one")
        if self._pages > self._pages_max:
            raise self._unproven(f"more than {self._pages_max} pages")
        if page.next_url and page.next_url in self._cursors:
            raise self._unproven(f"page {self._pages} goes on with a cursor seen before: a loop")
        self._cursors.add(page.next_url)

    def _check_times(self, page: DecodedPage) -> None:
        ts = page.ts_ns
        if not len(ts):
            return
        if len(ts) > 1 and bool((np.diff(ts) < 0).any()):
            at = int(np.flatnonzero(np.diff(ts) < 0)[0]) + 1
            raise self._unproven(f"page {self._pages} is not sorted: row {at} is before its predecessor")
        first, last = int(ts[0]), int(ts[-1])
        if first < self.from_ns or last >= self.to_ns:
            stray = first if first < self.from_ns else last
            raise self._unproven(f"page {self._pages} holds a row of {stray} ns, outside the range asked for")
        if first < self._last_ns:
            raise self._unproven(f"page {self._pages} begins before the end of the one before: overlap or disorder")

    def _hold_back(self, page: DecodedPage) -> Page:
        """More pages follow: everything below the last instant is proven, the rest waits for its group."""
        if not len(page.ts_ns):
            return self._release(page, self.proven_to_ns)
        at_ns = self._last_ns
        start = int(np.searchsorted(page.ts_ns, at_ns, side="left"))
        tail = tuple(page.identities(start, len(page.ts_ns)))
        if self._tail is not None and self._tail.at_ns == at_ns:  # the group goes on over this whole page
            tail = self._tail.tail + tail
        if len(tail) > INSTANT_ROWS_MAX:
            raise self._unproven(f"more than {INSTANT_ROWS_MAX} rows of the instant {format_ns(at_ns)}")
        self._tail = self.border = Border(at_ns=at_ns, tail=tail)
        return self._release(page, at_ns)

    def _release(self, page: DecodedPage, proven_to_ns: int) -> Page:
        """What waited and what came, cut at `proven_to_ns`."""
        rows = _concat([*self._held_rows, page.rows])
        cut = int(np.searchsorted(rows.column("ts_ns").to_numpy(), proven_to_ns, side="left"))
        self._held_rows = [rows.slice(cut)] if cut < rows.num_rows else []
        rejected = _concat([*self._held_rejected, page.rejected])
        below = pc.less(rejected.column("ts_ns"), proven_to_ns)  # not sorted: 0 where the time is not known
        self._held_rejected = [rejected.filter(pc.invert(below))]
        ids = ",".join(part for part in (self._held_ids, page.request_id) if part)
        self._held_ids = page.request_id if len(page.ts_ns) else ids
        self.proven_to_ns = proven_to_ns
        return Page(rows=rows.slice(0, cut), proven_to_ns=proven_to_ns, request_id=ids, rejected=rejected.filter(below))

    def _unproven(self, what: str) -> RetryableSourceError:
        return RetryableSourceError(f"page not proven: {what}")


def _after(page: DecodedPage, at_ns: int) -> npt.NDArray[np.int64]:
    return page.ts_ns[np.searchsorted(page.ts_ns, at_ns, side="right") :]


def _count_at(page: DecodedPage, at_ns: int) -> int:
    low, high = np.searchsorted(page.ts_ns, [at_ns, at_ns + 1], side="left")
    return int(high - low) if low == 0 else 0  # only a group at the page's very beginning belongs to the border


def _concat(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    return batches[0] if len(batches) == 1 else pa.concat_batches(batches)
