"""What the board and the job store are told about jobs. Display and housekeeping: no decision depends on it."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from actors.downloader.jobs import Wanted, Work
from actors.downloader.port import JobStore
from actors.downloader.producer import Covers
from runtime.board import Board, JobState

SHOWN_MAX = 200
"""Finished backfills stay on the board until it shows more jobs than this."""

CANCELLED = "cancelled"
"""Error of a part that was cancelled."""


@attrs.define
class _Open:
    """A backfill with parts left."""

    left: set[tuple[str, str]]
    reasons: list[str] = attrs.field(factory=list)


class JobLedger:
    """One per incarnation."""

    def __init__(self, board: Board, store: JobStore) -> None:
        self._board = board
        self._store = store
        self._open: dict[str, _Open] = {}

    def knows(self, job_id: str) -> bool:
        """True while the job has parts left."""
        return job_id in self._open

    def begin(self, job_id: str, pairs: Sequence[tuple[str, str]]) -> None:
        """A backfill of these (symbol, kind)."""
        self._open[job_id] = _Open(set(pairs))

    def start(self, symbol: str, kind: str, work: Work, *, available_to_ns: int) -> None:
        """Work on it begins or goes on."""
        wanted = work.wanted
        if wanted.quiet:
            return
        old = self._board.jobs.get(_key(symbol, kind, wanted))
        self._show(
            wanted,
            JobState(
                symbol=symbol,
                kind=kind,
                from_ns=wanted.from_ns,
                to_ns=available_to_ns if wanted.to_ns is None else wanted.to_ns,
                done_to_ns=work.intervals[0][0],
                rows=old.rows if old else 0,
                rows_total_estimate=old.rows_total_estimate if old else 0,
            ),
        )

    def durable(self, symbol: str, kind: str, covers: Covers) -> None:
        """One more slice of it is durable."""
        job = self._board.jobs.get(_key(symbol, kind, covers.wanted))
        if job is None or covers.wanted.quiet:
            return
        rows = job.rows + covers.rows
        done_ns, whole_ns = covers.to_ns - job.from_ns, job.to_ns - job.from_ns
        estimate = max(rows, round(rows * whole_ns / done_ns)) if done_ns > 0 else rows
        self._show(covers.wanted, attrs.evolve(job, done_to_ns=covers.to_ns, rows=rows, rows_total_estimate=estimate))

    async def finish(self, symbol: str, kind: str, wanted: Wanted) -> None:
        """The log says that this part is done; with the last part of a backfill, its file goes."""
        self._end(symbol, kind, wanted, error="")
        await self._part_ended(symbol, kind, wanted, reason="")

    async def fail(self, symbol: str, kind: str, wanted: Wanted, reason: str) -> None:
        """The vendor refused this part for good."""
        self._end(symbol, kind, wanted, error=reason)
        await self._part_ended(symbol, kind, wanted, reason=f"{kind} of {symbol}: {reason}")

    def cancel(self, job_id: str) -> None:
        """Nobody waits for it any more."""
        self._open.pop(job_id, None)

    def cancel_part(self, symbol: str, kind: str, wanted: Wanted) -> None:
        """The board goes on naming it, for whoever watches."""
        self._end(symbol, kind, wanted, error=CANCELLED)

    def mend(self, symbol: str, kind: str, wanted: Wanted) -> None:
        """What the vendor refused once, it gave: the error is over."""
        job = self._board.jobs.get(_key(symbol, kind, wanted))
        if job is not None and job.error:
            self._show(wanted, attrs.evolve(job, error="", finished=True))

    def _end(self, symbol: str, kind: str, wanted: Wanted, *, error: str) -> None:
        job = self._board.jobs.get(_key(symbol, kind, wanted))
        if job is None:
            to_ns = wanted.to_ns if wanted.to_ns is not None else wanted.from_ns
            job = JobState(
                symbol=symbol,
                kind=kind,
                from_ns=wanted.from_ns,
                to_ns=to_ns,
                done_to_ns=wanted.from_ns,
                asked=bool(error),
            )
        done_to_ns = job.done_to_ns if error else job.to_ns
        total = job.rows_total_estimate if error else job.rows
        ended = attrs.evolve(job, finished=not error, error=error, done_to_ns=done_to_ns, rows_total_estimate=total)
        self._show(wanted, ended)

    async def _part_ended(self, symbol: str, kind: str, wanted: Wanted, *, reason: str) -> None:
        job = self._open.get(wanted.job)
        if job is None:
            return
        job.left.discard((symbol, kind))
        if reason:
            job.reasons.append(reason)
        if job.left:
            return
        del self._open[wanted.job]
        if job.reasons:
            await self._store.failed(wanted.job, "; ".join(job.reasons))
        else:
            await self._store.done(wanted.job)

    def _show(self, wanted: Wanted, state: JobState) -> None:
        jobs = self._board.jobs
        jobs[_key(state.symbol, state.kind, wanted)] = state
        if len(jobs) > SHOWN_MAX:
            ended = [key for key, job in jobs.items() if job.finished or (job.error and not key.startswith("history/"))]
            for key in ended[: len(jobs) - SHOWN_MAX]:
                del jobs[key]


def _key(symbol: str, kind: str, wanted: Wanted) -> str:
    return f"{wanted.job or 'history'}/{symbol}/{kind}"
