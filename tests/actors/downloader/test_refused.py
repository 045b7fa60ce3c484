"""What the vendor refuses for good, as the ledger of coverage says it: by UTC day, bounded, and once."""

from __future__ import annotations

import attrs
import pytest
import structlog

from actors.downloader import jobs as jobs_module
from actors.downloader.jobs import BackfillJob, HistoryJob, Position
from actors.downloader.lane import Lane
from actors.downloader.memory import MemoryHistory
from actors.market import schema
from actors.market.coverage import IntervalSet, coverage_records
from runtime.clock import NS_PER_DAY, NS_PER_HOUR
from runtime.log.frame import POSITION_BYTES_MAX

EURUSD = "C:EURUSD"


def records_of(draft):
    return [
        record
        for frame in draft.frames
        for record in coverage_records(schema.decode(schema.schema_message(frame.kind), frame.body))
    ]


def refused(kit, days: float, *, from_ns: int | None = None, **source):
    to_ns = kit.NOW - NS_PER_DAY
    start = to_ns - round(days * NS_PER_DAY) if from_ns is None else from_ns
    history = HistoryJob(symbol=EURUSD, kind="quotes", from_ns=start, to_ns=to_ns)
    return kit.Rig(source=lambda: MemoryHistory(ticks={}, **source), history=(history,)), start, to_ns


async def test_what_is_missing_is_said_by_utc_day_a_month_at_a_time(kit, autojump_clock):
    rig, start, end = refused(kit, 40.5)
    await rig.run_idle()
    records = [record for draft in rig.log.drafts for record in records_of(draft)]
    assert [len(records_of(draft)) for draft in rig.log.drafts] == [31, 10]
    assert [r.from_ns for r in records] == [start, *range(start + NS_PER_DAY // 2, end, NS_PER_DAY)]
    assert [r.to_ns for r in records] == [*(r.from_ns for r in records[1:]), end]
    assert all(r.from_ns // NS_PER_DAY == (r.to_ns - 1) // NS_PER_DAY for r in records)
    assert {(r.status, r.symbol, r.kind) for r in records} == {("missing", EURUSD, "quotes")}


async def test_a_refused_history_of_decades_writes_a_bounded_number_of_records(kit, autojump_clock):
    rig, start, _ = refused(kit, 40 * 366)
    await rig.run_idle()
    records = [record for draft in rig.log.drafts for record in records_of(draft)]
    assert (len(records), records[0].from_ns) == (366, start)
    assert len(rig.log.drafts) == 12


async def test_a_second_start_says_nothing_again(kit, autojump_clock):
    rig, _, _ = refused(kit, 40)
    await rig.run_idle()
    said = list(rig.log.drafts)
    await rig.run_idle()
    assert rig.log.drafts == said
    assert "unknown symbol" in rig.board.jobs[f"history/{EURUSD}/quotes"].error


async def test_without_the_memory_every_start_says_it_again(kit, autojump_clock, monkeypatch):
    """The control of the test above."""
    monkeypatch.setattr(Position, "after_note", lambda self, intervals, reason: self)
    rig, _, _ = refused(kit, 2)
    await rig.run_idle()
    await rig.run_idle()
    assert len(rig.log.drafts) == 2


async def test_another_word_and_further_days_are_said(kit, autojump_clock):
    rig, start, end = refused(kit, 2)
    await rig.run_idle()
    rig.history = (HistoryJob(symbol=EURUSD, kind="quotes", from_ns=start - NS_PER_HOUR, to_ns=end),)
    await rig.run_idle()
    (more,) = records_of(rig.log.drafts[-1])
    assert (more.from_ns, more.to_ns) == (start - NS_PER_HOUR, start)
    rig.jobs.jobs.append(BackfillJob(id="j", symbols=(EURUSD,), kinds=("quotes",), from_ns=start, to_ns=end))
    before = len(rig.log.drafts)
    await rig.run_idle()
    assert len(rig.log.drafts) == before, "the job is refused with the same word about the same days"
    assert rig.jobs.failures


@pytest.mark.parametrize("count", [1, 60, 400])
def test_a_position_with_notes_fits_and_comes_back(count):
    holes = [(i * 10**15, i * 10**15 + 10**14) for i in range(count)]
    position = Position(covered=IntervalSet(holes), job="x" * 64, job_done_to=2**62).after_note(holes, "no such symbol")
    text = position.to_bytes()
    assert len(text) <= POSITION_BYTES_MAX
    back = Position.from_bytes(text)
    assert (back.job, back.job_done_to, back.noted_for) == (position.job, position.job_done_to, position.noted_for)
    assert set(back.noted) <= set(position.noted)
    assert set(back.covered) <= set(position.covered)
    if count <= 1:
        assert (back.noted, back.covered) == (position.noted, position.covered)
    assert back.after_slice(0, 1, jobs_module.Wanted(job="r", from_ns=0, to_ns=1, refetch=True)).noted == back.noted


async def test_one_refusal_is_one_line_however_often_it_is_met(kit, autojump_clock, monkeypatch):
    """Found by a user: behind a live stream an unknown symbol was an error three times in 40 ms."""
    said, refusals, give_up, context = [], [], Lane._give_up, kit.Rig.context

    async def counted(lane, wanted, why):
        refusals.append(why)
        await give_up(lane, wanted, why)

    def listening(rig):
        log = structlog.wrap_logger(
            structlog.ReturnLogger(), processors=[lambda _, __, event: said.append(event["event"]) or ""]
        )
        return attrs.evolve(context(rig), log=log)

    monkeypatch.setattr(Lane, "_give_up", counted)
    monkeypatch.setattr(kit.Rig, "context", listening)
    rig, *_ = refused(kit, 2)
    rig.limits = attrs.evolve(rig.limits, permanent_retry_s=60.0)
    await rig.run_until(lambda: len(refusals) == 3)
    assert said.count("history_refused") == 1
