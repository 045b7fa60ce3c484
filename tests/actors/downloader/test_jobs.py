"""What is next to be done, what the log remembers of it, and the files in which jobs wait."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.downloader.job_files import JobFiles, write_job
from actors.downloader.jobs import (
    WORK_NS_MAX,
    BackfillJob,
    HistoryJob,
    Position,
    Wanted,
    is_done,
    missing,
    plan,
    spans,
)
from actors.market.coverage import IntervalSet
from runtime.actor import offload_inline
from runtime.clock import NS_PER_DAY, NS_PER_HOUR, NS_PER_MINUTE
from runtime.log.frame import POSITION_BYTES_MAX

M = NS_PER_MINUTE


def want(start, end, *, job="", refetch=False):
    return Wanted(job=job, from_ns=start * M, to_ns=None if end is None else end * M, refetch=refetch)


def position(*covered, job="", done=0):
    return Position(covered=IntervalSet([(a * M, b * M) for a, b in covered]), job=job, job_done_to=done * M)


def minutes(intervals):
    return [(a // M, b // M) for a, b in intervals]


def test_what_is_covered_is_not_asked_for_again():
    assert minutes(missing(position((10, 20), (30, 40)), want(0, 50), 99 * M)) == [(0, 10), (20, 30), (40, 50)]


def test_what_is_not_over_is_not_asked_for():
    assert minutes(missing(position(), want(0, 50), 30 * M)) == [(0, 30)]
    assert minutes(missing(position((0, 30)), want(0, None), 31 * M)) == [(30, 31)]
    assert missing(position(), want(40, 50), 30 * M) == []


def test_a_refetch_ignores_what_is_covered_and_goes_on_where_it_was():
    job = want(0, 50, job="a", refetch=True)
    assert minutes(missing(position((0, 50)), job, 99 * M)) == [(0, 50)]
    assert minutes(missing(position((0, 50), job="a", done=20), job, 99 * M)) == [(20, 50)]
    assert missing(position(job="a", done=50), job, 99 * M) == []
    assert minutes(missing(position(job="other", done=20), job, 99 * M)) == [(0, 50)]


def test_done_is_only_what_will_never_be_left_to_do():
    assert is_done(position((0, 50)), want(0, 50))
    assert not is_done(position((0, 49)), want(0, 50))
    assert not is_done(position((0, 50)), want(0, None))


def test_the_refetch_that_was_begun_comes_first_then_people_then_the_standing_history():
    standing, early = want(0, None), want(0, 90, job="early", refetch=True)
    begun = want(0, 90, job="begun", refetch=True)
    wanted = [standing, early, begun]
    assert plan(position(job="begun", done=10), wanted, 99 * M).wanted == begun
    assert plan(position(), wanted, 99 * M).wanted == early
    assert plan(position(), [standing], 99 * M).wanted == standing
    assert plan(position((0, 99)), [standing], 99 * M) is None


def test_standing_history_is_done_in_pieces_so_that_a_person_need_not_wait_for_years():
    work = plan(position(), [want(0, 10**6)], 10**6 * M)
    assert sum(b - a for a, b in work.intervals) == WORK_NS_MAX
    work = plan(position(), [want(0, 10**6, job="j")], 10**6 * M)
    assert minutes(work.intervals) == [(0, 10**6)]


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(1, 60)), max_size=8), st.integers(1, 90))
def test_spans_are_the_intervals_cut_on_a_grid(pieces, span):
    intervals = list(IntervalSet([(a * M, (a + n) * M) for a, n in pieces]))
    cut = list(spans(intervals, span * M))
    assert IntervalSet(cut) == IntervalSet(intervals)
    assert sum(b - a for a, b in cut) == sum(b - a for a, b in intervals)
    assert cut == sorted(cut)
    assert all(a // (span * M) == (b - 1) // (span * M) for a, b in cut)


@given(
    st.lists(st.tuples(st.integers(0, 2**62), st.integers(1, 2**40)), max_size=200),
    st.from_regex(r"[A-Za-z0-9_-]{0,64}", fullmatch=True),
    st.integers(0, 2**62),
)
@settings(max_examples=40)
def test_a_position_fits_the_log_and_claims_nothing_that_it_was_not_told(intervals, job, done):
    told = Position(covered=IntervalSet([(a, a + n) for a, n in intervals]), job=job, job_done_to=done)
    text = told.to_bytes()
    assert len(text) <= POSITION_BYTES_MAX
    found = Position.from_bytes(text)
    assert (found.job, found.job_done_to) == (job, done)
    assert set(found.covered) <= set(told.covered)
    assert len(intervals) > 20 or found == told


def test_a_position_is_the_json_that_the_architecture_names():
    text = position((1, 2), job="j", done=3).to_bytes()
    told = {"covered": [[M, 2 * M]], "confirmed": [], "quarantined": [], "job": "j", "job_done_to": 3 * M}
    assert msgspec.json.decode(text) == told
    assert Position.from_bytes(b"") == Position()


def test_ends_are_cut_to_whole_minutes_history_down_and_a_backfill_around():
    history = HistoryJob(symbol="C:EURUSD", kind="quotes", from_ns=M + 7, to_ns=3 * M + 7).wanted()
    assert (history.from_ns, history.to_ns) == (M, 3 * M)
    job = BackfillJob(id="a", symbols=("C:EURUSD",), kinds=("quotes",), from_ns=M + 7, to_ns=3 * M + 7).wanted(9 * M)
    assert (job.from_ns, job.to_ns) == (M, 4 * M)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"id": "../x"}, "job id"),
        ({"id": ""}, "job id"),
        ({"symbols": ()}, "names no symbol"),
        ({"kinds": ()}, "names no kind"),
        ({"to_ns": 5}, "not before"),
    ],
)
def test_a_job_that_makes_no_sense_is_refused(changes, words):
    good = {"id": "a", "symbols": ("C:EURUSD",), "kinds": ("quotes",), "from_ns": 5, "to_ns": 6}
    with pytest.raises(ValueError, match=words):
        BackfillJob(**(good | changes))


# --- files ---


def a_job(name, **changes):
    good = {"symbols": ("C:EURUSD",), "kinds": ("quotes",), "from_ns": 0, "to_ns": NS_PER_DAY, "refetch": True}
    return BackfillJob(id=name, **(good | changes))


async def test_jobs_wait_in_files_oldest_first_until_they_are_done(tmp_path):
    store = JobFiles(folder=tmp_path / "jobs", offload=offload_inline)
    assert await store.load() == []
    written = [a_job("b"), a_job("a", to_ns=NS_PER_HOUR)]
    for job in written:
        write_job(tmp_path / "jobs", job)
    assert await store.load() == written
    await store.done("b")
    await store.done("b")
    assert await store.load() == [written[1]]
    assert sorted(path.name for path in (tmp_path / "jobs").iterdir()) == ["a.json"]


async def test_a_job_that_cannot_succeed_is_set_aside_with_the_reason(tmp_path):
    store = JobFiles(folder=tmp_path, offload=offload_inline)
    write_job(tmp_path, a_job("a"))
    await store.failed("a", "unknown symbol")
    assert await store.load() == []
    assert (tmp_path / "a.reason").read_text() == "unknown symbol\n"
    assert (tmp_path / "a.failed").exists()


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b'{"id": "x"}', a_job("other").to_json(), b" " * (2 << 20), b'{"id": 1}', b"\xff"]
)
async def test_a_file_that_is_no_job_is_set_aside_and_stops_nothing(tmp_path, text):
    store = JobFiles(folder=tmp_path, offload=offload_inline)
    (tmp_path / "x.json").write_bytes(text)
    write_job(tmp_path, a_job("good"))
    assert [job.id for job in await store.load()] == ["good"]
    assert (tmp_path / "x.bad").exists()
    assert (tmp_path / "x.reason").read_text()


async def test_a_job_half_written_is_not_seen(tmp_path):
    (tmp_path / "x.part").write_bytes(b'{"id"')
    assert await JobFiles(folder=tmp_path, offload=offload_inline).load() == []


async def test_no_id_leads_out_of_the_folder(tmp_path):
    with pytest.raises(ValueError, match="job id"):
        await JobFiles(folder=tmp_path / "jobs", offload=offload_inline).done("../precious")


@pytest.mark.parametrize(
    ("from_min", "to_min", "settled_min", "wanted_min"),
    [
        (61, 119, 500, (60, 120)),
        (60, 120, 500, (60, 120)),
        (59, 121, 500, (0, 180)),
        (61, 125, 130, (60, 130)),  # of the hour that runs: what is there
        (61, 125, 125, (60, 125)),
        (61, 125, 124, (60, 125)),  # asked for, and not over yet: waited for
    ],
)
def test_a_refetch_takes_whole_hours_as_far_as_they_are_over(from_min, to_min, settled_min, wanted_min):
    job = BackfillJob(
        id="a", symbols=("C:EURUSD",), kinds=("quotes",), from_ns=from_min * M, to_ns=to_min * M, refetch=True
    )
    wanted = job.wanted(settled_min * M)
    assert (wanted.from_ns, wanted.to_ns) == (wanted_min[0] * M, wanted_min[1] * M)
    ordinary = msgspec.structs.replace(job, refetch=False).wanted(settled_min * M)
    assert (ordinary.from_ns, ordinary.to_ns) == (from_min * M, to_min * M)


@pytest.mark.parametrize(("from_ns", "to_ns"), [(-1, 60), (0, 2**63), (-(2**70), 60)])
def test_a_job_outside_of_the_years_that_exist_is_none(from_ns, to_ns):
    text = f'{{"id":"a","symbols":["C:EURUSD"],"kinds":["quotes"],"from_ns":{from_ns},"to_ns":{to_ns}}}'
    with pytest.raises(ValueError, match=r"1970 to 2199|not a backfill job"):
        BackfillJob.from_json(text.encode())
