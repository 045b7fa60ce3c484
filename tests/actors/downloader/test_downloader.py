"""The history downloader under virtual time: every tick once, whatever the vendor, the log or a kill does."""

from __future__ import annotations

import zlib

import attrs
import numpy as np
import pytest
import trio
import trio.lowlevel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actors.downloader import jobs as jobs_module
from actors.downloader.fetch import FetchLimits
from actors.downloader.jobs import BackfillJob, CancelJob, HistoryJob
from actors.downloader.lane import DownloadLimits
from actors.downloader.memory import Fault, MemoryHistory, MemoryTicks, faults_in_order, no_ticks
from runtime.backoff import Backoff
from runtime.board import ConsumerState, DependencyState, LogState
from runtime.clock import NS_PER_HOUR, NS_PER_MINUTE, NS_PER_S, VirtualClock
from runtime.errors import LogError
from runtime.log.appender import Appender
from runtime.mailbox import Mailbox

EURUSD, GBPUSD = "C:EURUSD", "C:GBPUSD"
PRODUCER = "history/C:EURUSD/quotes"
FAST = FetchLimits(backoff=Backoff(initial_s=0.1, max_s=2.0))


def one(kit, ticks, *, hours=6, **source):
    end = kit.T0 + hours * NS_PER_HOUR
    history = HistoryJob(symbol=EURUSD, kind="quotes", from_ns=kit.T0, to_ns=end)
    return kit.Rig(source=lambda: MemoryHistory(ticks={EURUSD: ticks}, **source), history=(history,)), end


async def test_history_arrives_once_in_gap_free_slices_with_a_position_that_says_so(kit, autojump_clock):
    ticks = kit.make_ticks(1, kit.T0, kit.T0 + 6 * NS_PER_HOUR, 5_000)
    rig, end = one(kit, ticks, page_rows=700)
    await rig.run_idle()
    assert kit.stored(rig.log, PRODUCER) == kit.as_counter(ticks, kit.T0, end)
    assert kit.covered(rig.log, PRODUCER) == [(kit.T0, end)]
    kit.check_positions(rig.log, PRODUCER)
    last = kit.read(rig.log.drafts[-1])
    assert (last.position["covered"], last.position["confirmed"]) == ([[kit.T0, end]], True)
    assert {f.partition for d in rig.log.drafts for f in d.frames} == {
        kit.PARTITIONS + zlib.crc32(b"C:EURUSD") % kit.PARTITIONS
    }
    assert [d.sequence for d in rig.log.drafts] == list(range(1, 7))
    job = rig.board.jobs["history/C:EURUSD/quotes"]
    assert (job.finished, job.done_to_ns, job.rows) == (True, end, 5_000)


async def test_a_second_run_asks_and_appends_nothing(kit, autojump_clock):
    ticks = kit.make_ticks(2, kit.T0, kit.T0 + 6 * NS_PER_HOUR, 1_000)
    sources = []
    rig, _ = one(kit, ticks)
    make = rig.source
    rig.source = lambda: sources.append(make()) or sources[-1]
    await rig.run_idle()
    appended = len(rig.log.drafts)
    await rig.run_idle()
    assert len(rig.log.drafts) == appended
    assert sources[1].requests == 0
    assert all(source.closed for source in sources)


async def test_an_interval_without_ticks_is_covered_as_empty(kit, autojump_clock):
    rig, end = one(kit, no_ticks(), hours=2)
    await rig.run_idle()
    pieces = [kit.read(d) for d in rig.log.drafts]
    assert [(p.coverage.status, p.coverage.rows) for p in pieces] == [("empty", 0)] * 2
    assert kit.covered(rig.log, PRODUCER) == [(kit.T0, end)]


async def test_slices_name_the_requests_that_gave_their_rows(kit, autojump_clock):
    ticks = kit.make_ticks(3, kit.T0, kit.T0 + 6 * NS_PER_HOUR, 3_000)
    rig, _ = one(kit, ticks, page_rows=400)
    await rig.run_idle()
    for piece in map(kit.read, rig.log.drafts):
        assert piece.coverage.request_id.startswith("request-")


@pytest.mark.parametrize("fault", [f for f in Fault if f is not Fault.UNKNOWN_SYMBOL])
async def test_each_fault_on_each_answer_costs_time_and_nothing_else(kit, autojump_clock, fault):
    ticks = kit.make_ticks(4, kit.T0, kit.T0 + 2 * NS_PER_HOUR, 300, tie_share=0.5)
    fired = 0
    for at in (0, 1, 2, 3, 6):
        rig, end = one(kit, ticks, hours=2, page_rows=64)
        source = rig.source()
        source.next_fault = faults_in_order([None] * at + [fault])
        rig.source = lambda source=source: source
        await rig.run_idle()
        assert kit.stored(rig.log, PRODUCER) == kit.as_counter(ticks, kit.T0, end)
        assert kit.covered(rig.log, PRODUCER) == [(kit.T0, end)]
        fired += source.fired[fault]
    assert fired, f"{fault} never happened: the test proves nothing"


async def test_a_border_that_is_always_wrong_still_gets_on(kit, autojump_clock):
    """A server whose cursor repeats a row at every border: the first page after a start needs no border."""
    ticks = kit.make_ticks(5, kit.T0, kit.T0 + 2 * NS_PER_HOUR, 500)
    rig, end = one(kit, ticks, hours=2, page_rows=100)
    source = rig.source()
    source.next_fault = lambda: Fault.REPEAT_AT_BORDER
    rig.source = lambda: source
    await rig.run_idle()
    assert kit.stored(rig.log, PRODUCER) == kit.as_counter(ticks, kit.T0, end)


scenarios = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 1000),
        "rows": st.sampled_from([0, 1, 7, 120, 400]),
        "tie_share": st.sampled_from([0.0, 0.4, 0.95]),
        "page_rows": st.sampled_from([1, 3, 50, 1000]),
        "faults": st.lists(st.sampled_from([None, None, None, *[f for f in Fault if f is not Fault.UNKNOWN_SYMBOL]]), max_size=40),
        "crashes": st.lists(st.integers(1, 9), max_size=4),
        "chains": st.integers(1, 4),
        "minutes": st.integers(1, 150),
        "span_minutes": st.sampled_from([20, 60, 1440]),
    }
)  # fmt: skip


def run_scenario(kit, s, *, within_s=3_600):
    """Seeded world, faults and kills; True when the log holds what the vendor holds."""

    async def main():
        start = kit.T0 + 37 * NS_PER_MINUTE
        end = start + s["minutes"] * NS_PER_MINUTE
        ticks = kit.make_ticks(
            s["seed"], start - NS_PER_MINUTE, end + NS_PER_MINUTE, s["rows"], tie_share=s["tie_share"]
        )
        next_fault = faults_in_order(list(s["faults"]))
        history = HistoryJob(symbol=EURUSD, kind="quotes", from_ns=start, to_ns=end)
        rig = kit.Rig(
            source=lambda: MemoryHistory(
                ticks={EURUSD: ticks}, page_rows=s["page_rows"], next_fault=next_fault, latency_s=0.01
            ),
            history=(history,),
            limits=DownloadLimits(
                fetch=attrs.evolve(FAST, chains_max=s["chains"]), span_ns=s["span_minutes"] * NS_PER_MINUTE
            ),
        )
        for crash in s["crashes"]:
            rig.log.crash_at = len(rig.log.drafts) + crash
            if await rig.run_until(lambda: rig.board.jobs_idle):
                rig.log.crash_at = None
        await rig.run_idle(within_s=within_s)
        assert kit.stored(rig.log, PRODUCER) == kit.as_counter(ticks, start, end)
        assert kit.covered(rig.log, PRODUCER) == [(start, end)]
        kit.check_positions(rig.log, PRODUCER)
        assert rig.log.duplicates == 0

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


HARD = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}


@settings(max_examples=12, derandomize=True, **HARD)
@given(scenarios)
def test_any_pages_faults_and_kills_leave_every_tick_once(kit, scenario):
    run_scenario(kit, scenario)


@pytest.mark.slow
@settings(max_examples=400, **HARD)
@given(scenarios)
def test_many_more_pages_faults_and_kills_leave_every_tick_once(kit, scenario):
    run_scenario(kit, scenario)


def caught(kit, **changes):
    """How many of some fixed hard scenarios fail."""
    failures = 0
    for seed in range(4):
        scenario = {"seed": seed, "rows": 400, "tie_share": 0.4, "page_rows": 50, "faults": [None, None, Fault.CUT] * 4}
        scenario |= {"crashes": [1, 2, 1], "chains": 3, "minutes": 150, "span_minutes": 60} | changes
        try:
            run_scenario(kit, scenario)
        except (AssertionError, BaseExceptionGroup, trio.TooSlowError):
            failures += 1
    return failures


def test_the_hard_scenarios_pass_without_mutants(kit):
    assert caught(kit) == 0
    assert caught(kit, faults=[None, Fault.REPEAT_AT_BORDER, Fault.LOSE_AT_BORDER] * 8) == 0


def test_mutant_position_written_before_the_append_is_caught(kit, monkeypatch):
    """The group says that the next hour is covered too: what a position file moved ahead of the append says."""
    after = jobs_module.Position.after_slice
    monkeypatch.setattr(
        jobs_module.Position,
        "after_slice",
        lambda self, a, b, wanted: after(self, a, min(b + NS_PER_HOUR, wanted.to_ns), wanted),
    )
    assert caught(kit) >= 1


def test_mutant_truncated_chain_taken_as_complete_is_caught(kit, monkeypatch):
    """The official client's behaviour: a page that fails ends the chain, what came before is "all"."""
    from actors.downloader import memory

    pages = memory.MemoryHistory.pages

    async def truncated(self, symbol, kind, from_ns, to_ns):
        last = None
        try:
            async for page in pages(self, symbol, kind, from_ns, to_ns):
                if last is not None:
                    yield last
                last = page
        except memory.RetryableSourceError:
            if last is None:
                raise
        if last is not None:
            yield attrs.evolve(last, proven_to_ns=to_ns)

    monkeypatch.setattr(memory.MemoryHistory, "pages", truncated)
    assert caught(kit) >= 1


def test_mutant_borders_not_checked_is_caught(kit, monkeypatch):
    from actors.downloader.proof import ChainProof

    monkeypatch.setattr(ChainProof, "check_border", lambda self, probe, following: setattr(self, "border", None))
    assert caught(kit, faults=[None, Fault.REPEAT_AT_BORDER, Fault.LOSE_AT_BORDER] * 8) >= 1


def test_mutant_equal_rows_dropped_is_caught(kit, monkeypatch):
    """Content as identity: real equal ticks vanish."""
    from actors.downloader import proof

    concat = proof._concat

    def distinct(batches):
        whole = concat(batches)
        if "bid" not in whole.schema.names:
            return whole
        keys = list(zip(*(whole.column(n).to_pylist() for n in ("ts_ns", "bid", "ask")), strict=True))
        return whole.take([i for i, key in enumerate(keys) if key not in keys[:i]])

    monkeypatch.setattr(proof, "_concat", distinct)
    assert caught(kit) >= 1


def test_mutant_local_time_taken_as_utc_is_caught(kit, monkeypatch):
    from actors.downloader import memory

    decoded = memory.MemoryHistory._decoded

    def shifted(self, *args):
        page = decoded(self, *args)
        names = page.rows.schema.names
        rows = page.rows.set_column(
            names.index("ts_ns"),
            page.rows.schema.field("ts_ns"),
            memory.np.add(page.rows.column("ts_ns"), -5 * NS_PER_HOUR),
        )
        return attrs.evolve(page, rows=rows, ts_ns=page.ts_ns - 5 * NS_PER_HOUR)

    monkeypatch.setattr(memory.MemoryHistory, "_decoded", shifted)
    with pytest.raises(trio.TooSlowError):  # outside the range: never proven, so never appended
        run_scenario(kit, SHORT, within_s=60)


SHORT = {"seed": 1, "rows": 120, "tie_share": 0.4, "page_rows": 50, "faults": [], "crashes": [], "chains": 1}
SHORT |= {"minutes": 60, "span_minutes": 60}


async def test_killed_at_every_append_in_turn_it_resumes(kit, autojump_clock):
    ticks = kit.make_ticks(6, kit.T0, kit.T0 + 6 * NS_PER_HOUR, 600)
    rig, end = one(kit, ticks, page_rows=100)
    rig.limits = DownloadLimits(fetch=FAST, span_ns=NS_PER_HOUR)
    for crash in range(1, 7):
        rig.log.crash_at = crash
        assert not await rig.run_until(lambda: rig.board.jobs_idle)
    await rig.run_idle()
    assert rig.crashes == 6
    assert len(rig.log.drafts) == 6  # nothing was fetched and appended twice
    assert kit.stored(rig.log, PRODUCER) == kit.as_counter(ticks, kit.T0, end)


async def test_chains_are_prefetched_within_their_bound_and_appended_in_order(kit, autojump_clock):
    ticks = kit.make_ticks(7, kit.T0, kit.T0 + 24 * NS_PER_HOUR, 2_400)
    took = {}
    for chains in (1, 4):
        rig, _ = one(kit, ticks, hours=24, page_rows=1_000, latency_s=10.0)
        rig.limits = DownloadLimits(fetch=attrs.evolve(FAST, chains_max=chains), span_ns=NS_PER_HOUR)
        source = rig.source()
        rig.source = lambda source=source: source
        began = trio.current_time()
        await rig.run_idle()
        took[chains] = trio.current_time() - began
        assert source.under_way_most == chains
        starts = [kit.read(d).from_ns for d in rig.log.drafts]
        assert starts == sorted(starts)
    assert took[4] < took[1] / 3


async def test_a_slow_log_stops_the_reading(kit, autojump_clock):
    """P6: what is fetched and not appended is bounded by the chains and their pages."""
    ticks = kit.make_ticks(8, kit.T0, kit.T0 + 24 * NS_PER_HOUR, 24_000)
    rig, _ = one(kit, ticks, hours=24, page_rows=100)
    rig.limits = DownloadLimits(fetch=attrs.evolve(FAST, chains_max=2), span_ns=NS_PER_HOUR)
    rig.log.latency_s = 1e9
    source = rig.source()
    rig.source = lambda: source
    with pytest.raises(trio.TooSlowError):
        await rig.run_until(lambda: False, within_s=1_000)
    assert source.requests == 0  # even the question where it stood is not answered yet
    rig.log = kit.MemoryLog()
    rig.log.refuse = lambda draft: setattr(rig.log, "latency_s", 1e9)
    source = rig.source()
    with pytest.raises(trio.TooSlowError):
        await rig.run_until(lambda: False, within_s=1_000)
    assert 0 < source.requests < 60
    assert len(rig.log.drafts) <= 1


async def test_a_disk_that_fills_up_sheds_history_until_there_is_space_again(kit, autojump_clock):
    ticks = kit.make_ticks(8, kit.T0, kit.T0 + NS_PER_HOUR, 1_000)
    rig, end = one(kit, ticks, hours=1)
    full = LogState(log_id="l", end_position=0, bytes=0, segments=1, records_accepted=0, shed_backfill="full")

    async def free():
        await trio.lowlevel.checkpoint()  # the incarnation has its board
        while rig.board.log is None:
            rig.board.log = full
            await trio.sleep(600)
        assert rig.log.drafts == []
        rig.board.log = attrs.evolve(full, shed_backfill="")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(free)
        await rig.run_idle()
    assert kit.stored(rig.log, PRODUCER) == kit.as_counter(ticks, kit.T0, end)


@pytest.mark.parametrize(("database", "waits"), [(DependencyState.UP, True), (DependencyState.DOWN, False)])
async def test_history_waits_for_readers_that_work_and_for_no_database_that_is_down(
    kit, autojump_clock, database, waits
):
    ticks = kit.make_ticks(8, kit.T0, kit.T0 + NS_PER_HOUR, 1_000)
    rig, end = one(kit, ticks, hours=1)
    far = LogState(log_id="l", end_position=1 << 40, bytes=0, segments=1, records_accepted=0)
    early = []

    async def read_on():
        await trio.lowlevel.checkpoint()  # the incarnation has its board
        rig.board.dependency("timescale", database)
        rig.board.consumers["bridge.timescale"] = ConsumerState(committed_position=0, verified_position=0)
        while rig.board.log is None:
            rig.board.log = far
            await trio.sleep(600)
        early.extend(rig.log.drafts)
        rig.board.consumers["bridge.timescale"] = ConsumerState(committed_position=1 << 40, verified_position=0)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read_on)
        await rig.run_idle()
    assert bool(early) is not waits
    assert kit.stored(rig.log, PRODUCER) == kit.as_counter(ticks, kit.T0, end)


async def test_an_outage_of_hours_is_waited_out_and_shown(kit, autojump_clock):
    ticks = kit.make_ticks(9, kit.T0, kit.T0 + NS_PER_HOUR, 100)
    rig, end = one(kit, ticks, hours=1)
    source = rig.source()
    rig.source = lambda: source
    rig.limits = DownloadLimits()
    down_until_s = trio.current_time() + 2 * 3600
    source.next_fault = lambda: Fault.HTML if trio.current_time() < down_until_s else None

    async def look():
        await trio.sleep(3600)
        seen = rig.board.dependencies["memory"]
        assert (seen.state, seen.reason) == (DependencyState.DOWN, "fault: html")
        assert not rig.board.jobs_idle
        assert rig.board.progress_age_s("downloader.history", trio.current_time()) <= 10

    async with trio.open_nursery() as nursery:
        nursery.start_soon(look)
        await rig.run_idle()
    assert rig.board.dependencies["memory"].state is DependencyState.UP
    assert kit.stored(rig.log, PRODUCER) == kit.as_counter(ticks, kit.T0, end)
    assert source.requests < 600  # backoff, no storm


async def test_a_rate_limit_is_waited_for_and_is_not_down(kit, autojump_clock):
    ticks = kit.make_ticks(10, kit.T0, kit.T0 + NS_PER_HOUR, 100)
    rig, _ = one(kit, ticks, hours=1)
    source = rig.source()
    source.next_fault = faults_in_order([Fault.RATE_LIMIT])
    rig.source = lambda: source
    began = trio.current_time()
    await rig.run_idle()
    assert trio.current_time() - began >= 12.0
    assert source.requests == 2
    assert rig.board.dependencies["memory"].state is DependencyState.UP


@pytest.mark.parametrize(
    ("addresses", "waits_s"),
    [
        (("", "http://1"), (100, 102)),  # restarted where it was
        (("http://1", "http://2"), (100, 102)),  # and elsewhere
        (("http://1", "http://1"), (105, 1000)),  # it did not move: patience
        (("", ""), (105, 1000)),
    ],
)
async def test_a_vendor_of_our_own_that_is_back_is_asked_at_once(kit, autojump_clock, addresses, waits_s):
    ticks = kit.make_ticks(18, kit.T0, kit.T0 + NS_PER_HOUR, 100)
    rig, end = one(kit, ticks, hours=1)
    rig.limits = DownloadLimits(fetch=FetchLimits(backoff=Backoff(initial_s=1.0, max_s=1000.0, jitter=0.0)))
    source = rig.source()
    back_s = trio.current_time() + 100
    source.next_fault = lambda: Fault.TIMEOUT if trio.current_time() < back_s else None
    rig.source = lambda: source
    done_s = []

    async def restart():
        await trio.sleep(0.01)
        rig.board.endpoints["market"] = addresses[0]
        await trio.sleep_until(back_s)
        rig.board.endpoints["market"] = addresses[1]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(restart)
        await rig.run_until(lambda: is_finished(rig))
        done_s.append(trio.current_time() - back_s + 100)
    assert waits_s[0] <= done_s[0] <= waits_s[1]
    assert kit.stored(rig.log, PRODUCER) == kit.as_counter(ticks, kit.T0, end)


async def test_a_vendor_that_said_when_to_come_back_is_not_asked_before(kit, autojump_clock):
    rig, _ = one(kit, kit.make_ticks(19, kit.T0, kit.T0 + NS_PER_HOUR, 100), hours=1)
    source = rig.source()
    source.next_fault = faults_in_order([Fault.RATE_LIMIT])
    rig.source = lambda: source

    async def restart():
        await trio.sleep(1)
        rig.board.endpoints["market"] = "http://2"

    began_s = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(restart)
        await rig.run_until(lambda: is_finished(rig))
    assert trio.current_time() - began_s >= 12.0


async def test_a_refused_symbol_is_named_and_does_not_stop_the_others(kit, autojump_clock):
    ticks = kit.make_ticks(11, kit.T0, kit.T0 + NS_PER_HOUR, 100)
    end = kit.T0 + NS_PER_HOUR
    rig = kit.Rig(
        source=lambda: MemoryHistory(ticks={EURUSD: ticks}),
        history=tuple(HistoryJob(symbol=s, kind="quotes", from_ns=kit.T0, to_ns=end) for s in (GBPUSD, EURUSD)),
    )
    await rig.run_idle()
    assert "unknown symbol" in rig.board.jobs["history/C:GBPUSD/quotes"].error
    assert rig.board.jobs["history/C:EURUSD/quotes"].finished
    (missing,) = [kit.read(d) for d in rig.log.drafts if d.producer == "history/C:GBPUSD/quotes"]
    assert (missing.coverage.status, missing.from_ns, missing.to_ns) == ("missing", kit.T0, end)
    assert "unknown symbol" in missing.coverage.reason
    assert missing.position["covered"] == []
    assert missing.position["noted"] == [[kit.T0, end]]
    assert missing.position["noted_for"] == zlib.crc32(missing.coverage.reason.encode())


async def test_a_refused_history_is_tried_again_later(kit, autojump_clock):
    end = kit.T0 + NS_PER_HOUR
    ticks = kit.make_ticks(12, kit.T0, end, 100)
    held = {}
    rig = kit.Rig(
        source=lambda: MemoryHistory(ticks=held),
        history=(HistoryJob(symbol=EURUSD, kind="quotes", from_ns=kit.T0, to_ns=end),),
        limits=DownloadLimits(permanent_retry_s=300.0),
    )

    async def entitle():
        await trio.sleep(100)
        held[EURUSD] = ticks

    async with trio.open_nursery() as nursery:
        nursery.start_soon(entitle)
        await rig.run_until(lambda: is_finished(rig))
    assert kit.stored(rig.log, PRODUCER) == kit.as_counter(ticks, kit.T0, end)


async def test_without_an_end_it_follows_the_clock_minute_by_minute(kit, autojump_clock):
    start = kit.T0
    ticks = kit.make_ticks(13, start, start + 3 * NS_PER_HOUR, 3_000)
    rig = kit.Rig(
        source=lambda: MemoryHistory(ticks={EURUSD: ticks}),
        history=(HistoryJob(symbol=EURUSD, kind="quotes", from_ns=start, to_ns=None),),
        clock=VirtualClock(start + NS_PER_HOUR + 90 * NS_PER_S),
    )
    ends = []

    def watch():
        now = rig.clock.wall_ns()
        for draft in rig.log.drafts[len(ends) :]:
            ends.append(kit.read(draft).to_ns)
            assert ends[-1] + 5 * NS_PER_S <= now, "asked for a minute before it was over and settled"
        return now > start + NS_PER_HOUR + 600 * NS_PER_S

    await rig.run_until(watch)
    assert ends[:2] == [start + NS_PER_HOUR, start + 61 * NS_PER_MINUTE]
    assert np.diff(ends[1:]).tolist() == [NS_PER_MINUTE] * (len(ends) - 2)
    assert len(ends) >= 9


async def test_a_history_that_ends_in_the_future_does_not_claim_it(kit, autojump_clock):
    start = kit.T0
    rig = kit.Rig(
        source=lambda: MemoryHistory(ticks={EURUSD: no_ticks()}),
        history=(HistoryJob(symbol=EURUSD, kind="quotes", from_ns=start, to_ns=start + 2 * NS_PER_HOUR),),
        clock=VirtualClock(start + NS_PER_HOUR),
    )
    await rig.run_until(lambda: rig.board.jobs_idle)
    assert kit.covered(rig.log, PRODUCER) == [(start, start + 59 * NS_PER_MINUTE)]
    await rig.run_until(lambda: is_finished(rig))
    assert kit.covered(rig.log, PRODUCER) == [(start, start + 2 * NS_PER_HOUR)]


def is_finished(rig):
    job = rig.board.jobs.get("history/C:EURUSD/quotes")
    return job is not None and job.finished


def backfill(kit, **changes):
    base = {
        "id": "job-1",
        "symbols": (EURUSD,),
        "kinds": ("quotes",),
        "from_ns": kit.T0,
        "to_ns": kit.T0 + 3 * NS_PER_HOUR,
    }
    return BackfillJob(**(base | changes))


async def test_a_backfill_fetches_only_what_is_not_covered_and_is_forgotten(kit, autojump_clock):
    ticks = kit.make_ticks(14, kit.T0, kit.T0 + 6 * NS_PER_HOUR, 600)
    rig, _ = one(kit, ticks, hours=1)
    await rig.run_idle()
    rig.jobs.jobs.append(backfill(kit))
    before = len(rig.log.drafts)
    await rig.run_idle()
    assert [kit.read(d).from_ns for d in rig.log.drafts[before:]] == [kit.T0 + h * NS_PER_HOUR for h in (1, 2)]
    assert rig.jobs.jobs == []
    assert kit.stored(rig.log, PRODUCER) == kit.as_counter(ticks, kit.T0, kit.T0 + 3 * NS_PER_HOUR)


async def test_a_refetch_replaces_and_a_kill_resumes_it_where_it_was(kit, autojump_clock):
    first = kit.make_ticks(15, kit.T0, kit.T0 + 6 * NS_PER_HOUR, 600)
    second = kit.make_ticks(16, kit.T0, kit.T0 + 6 * NS_PER_HOUR, 600)
    rig, end = one(kit, first)
    await rig.run_idle()
    rig.source = lambda: MemoryHistory(ticks={EURUSD: second})
    rig.jobs.jobs.append(backfill(kit, refetch=True, to_ns=end))
    before = len(rig.log.drafts)
    for _ in range(3):
        rig.log.crash_at = len(rig.log.drafts) + 2
        rig.limits = DownloadLimits(fetch=FAST, span_ns=NS_PER_HOUR)
        assert not await rig.run_until(lambda: rig.board.jobs_idle)
        assert rig.jobs.jobs, "forgotten before the log says that it is done"
    await rig.run_idle()
    assert len(rig.log.drafts) - before == 6
    assert kit.stored(rig.log, PRODUCER) == kit.as_counter(second, kit.T0, end)
    last = kit.read(rig.log.drafts[-1]).position
    assert (last["covered"], last["job"], last["job_done_to"]) == ([[kit.T0, end]], "job-1", end)
    assert rig.jobs.jobs == []


async def test_a_refetch_with_ends_inside_an_hour_leaves_the_borders_of_slices_where_they_are(kit, autojump_clock):
    ticks = kit.make_ticks(17, kit.T0, kit.T0 + 6 * NS_PER_HOUR, 600)
    rig, _ = one(kit, ticks)
    await rig.run_idle()
    before = [(piece.from_ns, piece.to_ns) for piece in map(kit.read, rig.log.drafts)]
    rig.jobs.jobs.append(
        backfill(kit, refetch=True, from_ns=kit.T0 + 90 * NS_PER_MINUTE, to_ns=kit.T0 + 150 * NS_PER_MINUTE)
    )
    await rig.run_idle()
    again = [(piece.from_ns, piece.to_ns) for piece in map(kit.read, rig.log.drafts[len(before) :])]
    assert again == before[1:3]
    assert rig.jobs.jobs == []


async def test_a_refetch_of_the_hour_that_runs_does_not_wait_for_its_end(kit, autojump_clock):
    rig, _ = one(kit, no_ticks(), hours=1)
    rig.clock = VirtualClock(kit.T0 + 100 * NS_PER_MINUTE)
    rig.jobs.jobs.append(
        backfill(kit, refetch=True, from_ns=kit.T0 + 61 * NS_PER_MINUTE, to_ns=kit.T0 + 70 * NS_PER_MINUTE)
    )
    await rig.run_idle(within_s=30.0)
    last = kit.read(rig.log.drafts[0])
    assert (last.from_ns, last.to_ns) == (kit.T0 + 60 * NS_PER_MINUTE, kit.T0 + 99 * NS_PER_MINUTE)
    assert rig.jobs.jobs == []


async def test_a_running_process_takes_a_job_at_once_and_once(kit, autojump_clock):
    ticks = {s: kit.make_ticks(17, kit.T0, kit.T0 + 6 * NS_PER_HOUR, 300) for s in (EURUSD, GBPUSD)}
    rig = kit.Rig(source=lambda: MemoryHistory(ticks=ticks))
    job = backfill(kit, symbols=(EURUSD, GBPUSD), kinds=("quotes", "trades"))

    async def ask():
        await trio.sleep(100)
        assert rig.board.jobs_idle
        rig.jobs.jobs.append(job)
        await rig.new_jobs.send(job)
        await rig.new_jobs.send(job)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await rig.run_until(lambda: len(rig.board.jobs) == 2 and rig.board.jobs_idle)
    assert rig.jobs.jobs == []
    assert len(rig.log.drafts) == 6
    assert set(rig.board.jobs) == {"job-1/C:EURUSD/quotes", "job-1/C:GBPUSD/quotes"}


async def test_a_cancelled_backfill_ends_at_its_next_page_and_the_standing_history_goes_on(kit, autojump_clock):
    end = kit.T0 + 48 * NS_PER_HOUR
    ticks = kit.make_ticks(19, kit.T0, end, 4_000)
    standing = HistoryJob(symbol=EURUSD, kind="quotes", from_ns=end - 6 * NS_PER_HOUR, to_ns=end)
    rig = kit.Rig(source=lambda: MemoryHistory(ticks={EURUSD: ticks}), history=(standing,))
    rig.jobs.jobs.append(job := backfill(kit, from_ns=kit.T0, to_ns=end - 6 * NS_PER_HOUR))
    drafts_then = 0

    async def change_of_mind():
        nonlocal drafts_then
        while len(rig.log.drafts) < 3:  # noqa: ASYNC110
            await trio.sleep(0.001)
        rig.jobs.jobs.clear()
        drafts_then = len(rig.log.drafts)
        await rig.new_jobs.send(CancelJob(id=job.id))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(change_of_mind)
        await rig.run_until(lambda: drafts_then > 0 and rig.board.jobs_idle)
    state = rig.board.jobs["job-1/C:EURUSD/quotes"]
    assert (state.error, state.finished) == ("cancelled", False)
    assert rig.board.jobs["history/C:EURUSD/quotes"].finished
    found = kit.covered(rig.log, PRODUCER)
    assert found[-1] == (end - 6 * NS_PER_HOUR, end)  # all of what stands
    assert found[0][0] == kit.T0  # what was fetched stays
    assert found[0][1] < end - 6 * NS_PER_HOUR  # and the rest is not fetched
    assert rig.jobs.failures == {}
    await rig.run_idle()  # nor by the next incarnation
    assert kit.covered(rig.log, PRODUCER) == found


async def test_a_backfill_that_waits_for_its_turn_is_cancelled_before_it_asks_for_anything(kit, autojump_clock):
    ticks = {s: kit.make_ticks(20, kit.T0, kit.T0 + 6 * NS_PER_HOUR, 300) for s in (EURUSD, GBPUSD)}
    rig = kit.Rig(source=lambda: MemoryHistory(ticks=ticks))
    rig.jobs.jobs.append(backfill(kit))
    await rig.new_jobs.send(backfill(kit, id="job-2", symbols=(GBPUSD,)))
    await rig.new_jobs.send(CancelJob(id="job-2"))
    await rig.new_jobs.send(CancelJob(id="unknown"))
    await rig.run_idle()
    assert rig.board.jobs["job-1/C:EURUSD/quotes"].finished
    assert rig.board.jobs["job-2/C:GBPUSD/quotes"].error == "cancelled"
    assert kit.covered(rig.log, PRODUCER) == [(kit.T0, kit.T0 + 3 * NS_PER_HOUR)]
    assert kit.covered(rig.log, PRODUCER.replace(EURUSD, GBPUSD)) == []


async def test_a_backfill_that_the_vendor_refuses_is_set_aside_with_the_reason(kit, autojump_clock):
    rig = kit.Rig(source=lambda: MemoryHistory(ticks={EURUSD: no_ticks()}))
    rig.jobs.jobs += [backfill(kit, symbols=(EURUSD, GBPUSD)), backfill(kit, id="bad", symbols=("EURUSD:X",))]
    await rig.run_idle()
    assert set(rig.jobs.failures) == {"job-1", "bad"}
    assert "C:GBPUSD" in rig.jobs.failures["job-1"]
    assert kit.covered(rig.log, PRODUCER) == [(kit.T0, kit.T0 + 3 * NS_PER_HOUR)]


async def test_a_buffer_that_went_away_is_waited_for(kit, autojump_clock):
    ticks = kit.make_ticks(18, kit.T0, kit.T0 + 6 * NS_PER_HOUR, 600)
    rig, end = one(kit, ticks)
    refused = []

    def refuse(draft):
        if len(rig.log.drafts) == 2 and len(refused) < 4:
            refused.append(draft)
            return kit.NotConnected("restarted")
        return None

    rig.log.refuse = refuse
    await rig.run_idle()
    assert refused
    assert kit.stored(rig.log, PRODUCER) == kit.as_counter(ticks, kit.T0, end)
    kit.check_positions(rig.log, PRODUCER)


async def test_drained_in_the_middle_of_an_outage_it_ends_at_once(kit, autojump_clock):
    rig, _ = one(kit, no_ticks(), hours=1)
    source = rig.source()
    source.next_fault = lambda: Fault.TIMEOUT
    rig.source = lambda: source
    began = trio.current_time()
    await rig.run_until(lambda: trio.current_time() > began + 60, within_s=70)
    assert source.closed


async def test_a_minute_above_the_bound_goes_whole(kit, autojump_clock):
    """300,000 rows in one minute, 10 in the next."""
    busy = np.sort(np.random.default_rng(1).integers(kit.T0, kit.T0 + NS_PER_MINUTE, 300_000))
    ts = np.concatenate([busy, kit.T0 + NS_PER_MINUTE + np.arange(10)])
    bid = np.full(len(ts), 1.1)
    rig, _ = one(kit, MemoryTicks(ts_ns=ts, bid=bid, ask=bid), hours=1, page_rows=50_000)
    await rig.run_idle()
    sizes = [(p.to_ns - p.from_ns, len(p.rows)) for p in map(kit.read, rig.log.drafts)]
    assert sizes == [(NS_PER_MINUTE, 300_000), (59 * NS_PER_MINUTE, 10)]


async def restart_over_one_mailbox(kit, monkeypatch_barrier=None):
    """The actor dies with drafts queued, the buffer lives on and is slow; the next incarnation takes over."""
    ticks = kit.make_ticks(19, kit.T0, kit.T0 + 6 * NS_PER_HOUR, 600)
    rig, end = one(kit, ticks, page_rows=50_000)
    inbox = Mailbox("appends", 64)
    rig.log.latency_s = 5.0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.log.write, inbox, lambda: None)
        first = rig.actor(inbox)
        with trio.move_on_after(12):  # a question, one append, the rest queued
            await first.run(rig.context())
        assert 1 <= len(rig.log.drafts) < 6
        assert inbox.statistics().depth
        if monkeypatch_barrier:
            monkeypatch_barrier()
        second = rig.actor(inbox)
        rig.ctx = rig.context()
        nursery.start_soon(second.run, rig.ctx)
        while not rig.board.jobs_idle:  # noqa: ASYNC110 - looks at the board
            await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert kit.stored(rig.log, PRODUCER) == kit.as_counter(ticks, kit.T0, end)
    kit.check_positions(rig.log, PRODUCER)
    assert rig.log.duplicates == 0


async def test_what_a_dead_incarnation_left_in_the_mailbox_is_settled_first(kit, autojump_clock):
    await restart_over_one_mailbox(kit)


async def test_mutant_no_barrier_is_caught_by_the_sequence(kit, autojump_clock, monkeypatch):
    """Taken up before the old drafts are settled, a sequence is used twice: the log says so, the lane must not go on."""

    async def resume(self, producer):
        await trio.lowlevel.checkpoint()
        return self.lookup(producer)

    with pytest.RaisesGroup(LogError, flatten_subgroups=True):
        await restart_over_one_mailbox(kit, lambda: monkeypatch.setattr(Appender, "resume", resume))
