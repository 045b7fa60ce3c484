"""The HTTP surface: codes, bodies, limits, and what it refuses."""

from __future__ import annotations

import json
import re
from contextlib import asynccontextmanager

import attrs
import httpx
import pytest
import trio
from starlette.requests import Request

from actors.health import web
from actors.health.port import BackfillRequest, orderable
from actors.health.probes import Probes
from actors.health.report import About
from actors.health.web import Surface
from runtime.board import Board, ChildState, ConsumerState, DependencyState, JobState, LogState
from runtime.clock import parse_instant_ns
from runtime.errors import ConfigError, NotConnected
from runtime.metrics import BoardCollector, Metrics

ONLY = "only currency pairs and crypto, like C:EURUSD and X:BTCUSD, are in this version"
NASTY = "<script>alert('x')</script>"


class StoppedClock:
    def wall_ns(self) -> int:
        return parse_instant_ns("2026-01-31T05:06:07Z")

    def monotonic_s(self) -> float:
        return 100.0


@attrs.define
class Desk:
    """Takes backfills on; the test looks at what came."""

    orders: list[BackfillRequest] = attrs.field(factory=list)
    error: Exception | None = None
    cancelled: list[str] = attrs.field(factory=list)

    async def cancel(self, job_id: str) -> None:
        if self.error is not None:
            raise self.error
        self.cancelled.append(job_id)

    async def __call__(self, request: BackfillRequest) -> str:
        if self.error is not None:
            raise self.error
        self.orders.append(request)
        return "job1"


@pytest.fixture
def board() -> Board:
    board = Board(log=LogState(log_id="l1", end_position=10, bytes=10, segments=1, records_accepted=5))
    board.dependency("timescale", DependencyState.UP)
    board.consumers["bridge.timescale"] = ConsumerState(committed_position=10, verified_position=10)
    board.children["pipeline/health"] = ChildState(path="pipeline/health", state="RUNNING", last_exit=NASTY)
    board.jobs["history/C:EURUSD/quotes"] = JobState(
        symbol="C:EURUSD", kind="quotes", from_ns=0, to_ns=4 * 10**9, done_to_ns=10**9, rows=1234
    )
    board.endpoints["timescale"] = "postgresql://u:hunter2@127.0.0.1:5/market"
    board.events.append((1_790_000_000_500_000_000, f"actor_crashed {NASTY} http://u:hunter2@h/"))
    return board


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def ask(board: Board, desk: Desk, metrics: Metrics):
    surface = Surface(
        probes=Probes(service="holdfast", stalled_after_s=30.0),
        about=About(version="0.1.0", started_ns=0, listen="127.0.0.1:8800", pid=4711),
        board=board,
        clock=StoppedClock(),
        metrics=metrics,
        collector=BoardCollector(board),
        listen_host="127.0.0.1",
        kinds=("quotes",),
        submit=desk,
        cancel=desk.cancel,
    )

    @asynccontextmanager
    async def client():
        transport = httpx.ASGITransport(surface.app())
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8800") as http:
            yield http

    async def _ask(method: str, path: str, **more) -> httpx.Response:
        async with client() as http:
            return await http.request(method, path, **more)

    return _ask


async def test_probes_while_all_is_well(ask):
    assert (await ask("GET", "/livez")).status_code == 200
    assert (await ask("GET", "/readyz")).status_code == 200
    answer = (await ask("GET", "/healthz")).json()
    assert (answer["service"], answer["status"], answer["dependencies"]) == ("holdfast", "healthy", {"timescale": "UP"})


async def test_ready_also_when_degraded(ask, board):
    board.dependency("timescale", DependencyState.DOWN)
    assert (await ask("GET", "/readyz")).status_code == 200
    assert (await ask("GET", "/healthz")).json()["status"] == "degraded"


async def test_not_ready_while_nothing_is_accepted_but_alive(ask, board):
    board.log = None
    answer = await ask("GET", "/readyz")
    assert (answer.status_code, answer.text) == (503, "not ready\nlog: not open yet\n")
    assert (await ask("GET", "/livez")).status_code == 200
    assert (await ask("GET", "/healthz")).json()["status"] == "unhealthy"


async def test_outages_are_among_the_events_with_their_time(ask, board):
    at_ns = 1_790_000_000_500_000_000
    for state in (DependencyState.DOWN, DependencyState.DOWN, DependencyState.UP):
        board.dependency("kafka", state, reason="refused" if state is DependencyState.DOWN else "", now_ns=at_ns)
    told = [event for event in (await ask("GET", "/api/status")).json()["events"] if "kafka" in event]
    assert told == ["2026-09-21T14:13:20Z dependency_down kafka: refused", "2026-09-21T14:13:20Z dependency_up kafka"]


async def test_metrics_are_prometheus_text(ask):
    answer = await ask("GET", "/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'holdfast_dependency_up{dependency="timescale"} 1.0' in answer.text


async def test_status_has_everything_but_no_password(ask):
    answer = await ask("GET", "/api/status")
    status = answer.json()
    assert status["jobs"]["history/C:EURUSD/quotes"]["done"] == 0.25
    assert status["tree"][0]["path"] == "pipeline/health"
    assert status["now"] == "2026-01-31T05:06:07Z"
    assert status["endpoints"]["timescale"] == "postgresql://u:***@127.0.0.1:5/market"
    assert "hunter2" not in answer.text


async def test_the_tree_tells_parents_before_their_children_whoever_reported_first(ask, board):
    board.children.clear()
    for path in ("p", "p/core/storage/buffer", "p/core/storage", "p/flow", "p/core", "p/core/storage/other"):
        board.children[path] = ChildState(path=path, state="RUNNING")
    told = [child["path"] for child in (await ask("GET", "/api/status")).json()["tree"]]
    assert told == ["p", "p/core", "p/core/storage", "p/core/storage/buffer", "p/core/storage/other", "p/flow"]


async def test_simulated_prices_are_called_so(ask, board):
    assert "SIMULATED" not in (await ask("GET", "/")).text
    board.facts["market"] = "SIMULATED <prices>"
    assert "SIMULATED &lt;prices&gt;" in (await ask("GET", "/")).text


async def test_the_page_shows_what_is_there_and_escapes_it(ask):
    text = (await ask("GET", "/")).text
    for word in ("holdfast", "healthy", "C:EURUSD quotes", "1,234", "25.0 %", "bridge.timescale", "&lt;script&gt;"):
        assert word in text
    assert NASTY not in text
    assert "hunter2" not in text


async def test_the_page_works_before_anything_is_known(ask, board):
    board.log = None
    (
        board.jobs.clear(),
        board.consumers.clear(),
        board.children.clear(),
        board.dependencies.clear(),
        board.events.clear(),
    )
    assert "not open yet" in (await ask("GET", "/")).text


async def test_candles_and_a_wish_that_cannot_be_met(ask):
    assert (await ask("GET", "/api/candles")).json()["bars"] == []
    answer = await ask("GET", "/api/candles?symbol=C:NOWHERE")
    assert (answer.status_code, answer.json()) == (400, {"error": "symbol: 'C:NOWHERE' is not one of none yet"})


async def test_the_status_as_a_stream_is_not_cut_after_ten_seconds(ask, autojump_clock):
    answer = await ask("GET", "/api/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert 590 <= answer.text.count("event: status") <= 610


async def test_with_too_many_pages_open_a_stream_is_refused_and_the_status_is_not(ask, monkeypatch):
    monkeypatch.setattr("actors.health.live.STREAMS_MAX", 0)
    assert (await ask("GET", "/api/events")).status_code == 503
    assert (await ask("GET", "/api/status")).status_code == 200


async def test_only_the_pages_own_script_may_run(ask):
    policy = (await ask("GET", "/")).headers["content-security-policy"]
    assert re.search(r"script-src 'sha256-[^']+'", policy)
    assert "unsafe-inline" not in policy.split("style-src")[0]


@pytest.mark.parametrize("path", ["/", "/api/candles", "/api/events", "/api/status", "/livez", "/nowhere"])
async def test_a_name_that_is_not_ours_gets_nothing(ask, path):
    answer = await ask("GET", path, headers={"host": "evil.example"})
    assert answer.status_code == 421
    assert "Host header" in answer.json()["error"]


async def test_without_the_guard_a_rebound_name_would_read_the_status(ask, monkeypatch):
    """Positive control of the test above."""
    monkeypatch.setattr(web, "is_own_host", lambda *_: True)
    assert (await ask("GET", "/api/status", headers={"host": "evil.example"})).status_code == 200


async def test_every_answer_carries_the_headers_that_keep_browsers_in_check(ask):
    for path in ("/", "/nowhere", "/healthz"):
        headers = (await ask("GET", path)).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in headers["content-security-policy"]


ORDER = {"symbols": ["C:EURUSD", "C:EURUSD"], "from": "2014-05-01", "to": "2014-05-02T05:00Z", "refetch": True}


async def test_a_backfill_is_handed_on(ask, desk):
    answer = await ask("POST", "/api/backfill", json=ORDER)
    assert (answer.status_code, answer.json()) == (202, {"job": "job1"})
    (order,) = desk.orders
    assert order == BackfillRequest(
        symbols=("C:EURUSD",),
        kinds=("quotes",),
        from_ns=parse_instant_ns("2014-05-01"),
        to_ns=parse_instant_ns("2014-05-02T05:00Z"),
        refetch=True,
    )


async def test_a_backfill_of_another_site_is_refused(ask, desk):
    answer = await ask("POST", "/api/backfill", json=ORDER, headers={"origin": "http://evil.example"})
    assert (answer.status_code, desk.orders) == (403, [])
    form = await ask("POST", "/api/backfill", content=json.dumps(ORDER), headers={"content-type": "text/plain"})
    assert (form.status_code, desk.orders) == (415, [])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"symbols": []}, "symbols: expected a list of 1 to 1000 names"),
        ({"symbols": "C:EURUSD"}, "symbols: expected a list"),
        ({"symbols": [1]}, "symbols: expected a list"),
        ({"symbols": ["C:EUR-USD"]}, "did you mean 'C:EURUSD'?"),
        (
            {"symbols": ["EURUSD"]},
            "'EURUSD', did you mean C:EURUSD or X:EURUSD?: only currency pairs and crypto, like C:EURUSD and X:BTCUSD, are in this version",
        ),
        ({"kinds": ["trades"]}, "kinds: trades is not one of quotes"),
        ({"from": "soon"}, "from or to:"),
        ({"from": None}, "from: expected a UTC date"),
        ({"to": ""}, "to: expected a UTC date"),
        ({"to": "2014-05-01"}, "history is empty"),
        ({"to": "2030-01-01"}, "in the future"),
        ({"refetch": 1}, "refetch: expected true or false"),
        ({"other": 1}, "not other"),
    ],
)
async def test_a_wrong_backfill_is_told_what_is_wrong(ask, desk, change, words):
    answer = await ask("POST", "/api/backfill", json={**ORDER, **change})
    assert answer.status_code == 400
    assert words in answer.json()["error"]
    assert desk.orders == []


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"[" * 5000])
async def test_a_body_that_is_no_order_is_told_so(ask, body):
    answer = await ask("POST", "/api/backfill", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400


async def test_a_body_without_end_is_cut_off():
    """Straight at the reader: httpx leaves the rest of a body that is not read behind, unclosed."""
    taken = 0

    async def endless():
        nonlocal taken
        taken += 1
        await trio.lowlevel.checkpoint()
        return {"type": "http.request", "body": b" " * 1000, "more_body": True}

    with pytest.raises(ConfigError, match="larger than 65536 bytes"):
        await web._body(Request({"type": "http"}, endless))
    assert taken == 66


async def test_a_downloader_that_can_take_no_more_says_so(ask, desk):
    desk.error = NotConnected("too many jobs are waiting")
    answer = await ask("POST", "/api/backfill", json=ORDER)
    assert (answer.status_code, answer.json()["error"]) == (503, "too many jobs are waiting")


async def test_a_handler_that_hangs_is_answered_in_time(ask, desk, monkeypatch, autojump_clock):
    async def hang(*_) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(Desk, "__call__", hang)
    answer = await ask("POST", "/api/backfill", json=ORDER)
    assert (answer.status_code, answer.json()["error"]) == (503, "not answered within 10 s")


async def test_dead_letters_of_this_process_are_in_the_status_and_on_the_page_and_not_in_healthz(ask, metrics):
    assert (await ask("GET", "/api/status")).json()["dead_letters"] == []
    assert (
        "dead letters since" not in (await ask("GET", "/")).text.partition("<noscript><h1>")[2].partition("<script>")[0]
    )
    before = (await ask("GET", "/healthz")).json()
    metrics.dead_lettered(sink="timescale", reason="refused", rows=1200)
    metrics.dead_lettered(sink="rules", reason=NASTY, rows=2)
    assert (await ask("GET", "/api/status")).json()["dead_letters"] == [
        {"sink": "rules", "reason": NASTY, "rows": 2},
        {"sink": "timescale", "reason": "refused", "rows": 1200},
    ]
    page = (await ask("GET", "/")).text
    assert "1,202 dead letters since the start" in page
    assert "timescale refused 1,200): see <code>pipeline dead-letters list</code>" in page
    assert NASTY not in page
    assert (await ask("GET", "/healthz")).json() == before


async def test_a_backfill_is_cancelled_by_its_id_from_our_own_pages_only(ask, desk):
    assert (await ask("POST", "/api/backfill/cancel", json={"job": "j1"})).json() == {"job": "j1"}
    assert desk.cancelled == ["j1"]
    foreign = await ask("POST", "/api/backfill/cancel", json={"job": "j1"}, headers={"origin": "http://evil.example"})
    form = await ask("POST", "/api/backfill/cancel", content="{}", headers={"content-type": "text/plain"})
    assert (foreign.status_code, form.status_code) == (403, 415)
    for body in ({}, [], {"job": 1}, {"job": "x", "more": 1}):
        assert (await ask("POST", "/api/backfill/cancel", json=body)).status_code == 400
    assert desk.cancelled == ["j1"]


@pytest.mark.parametrize(("error", "code"), [(ConfigError("no backfill"), 400), (NotConnected("busy"), 503)])
async def test_a_cancellation_that_is_refused_says_why(ask, desk, error, code):
    desk.error = error
    answer = await ask("POST", "/api/backfill/cancel", json={"job": "j1"})
    assert (answer.status_code, answer.json()) == (code, {"error": str(error)})


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("c:eurusd", ", did you mean C:EURUSD?"),
        ("EURUSD", ", did you mean C:EURUSD or X:EURUSD?"),
        ("eur/usd", ", did you mean C:EURUSD or X:EURUSD?"),
        ("x:btcusd", ", did you mean X:BTCUSD?"),
        ("BTC-USDT", ", did you mean X:BTCUSDT?"),
        ("AAPL", ""),
        ("", ""),
    ],
)
def test_a_symbol_in_another_spelling_is_told_the_right_one_and_no_stock_is_offered(text, meant):
    with pytest.raises(ConfigError) as refused:
        orderable(text)
    assert str(refused.value) == f"{text!r}{meant}: {ONLY}"


def test_a_wrong_pair_is_told_what_a_pair_is():
    with pytest.raises(ConfigError, match=r"X:<coin><currency>"):
        orderable("X:BTC")
    assert [orderable(text) for text in ("C:EURUSD", "X:BTCUSD")] == ["C:EURUSD", "X:BTCUSD"]


async def test_the_process_id_is_in_the_status(ask):
    assert (await ask("GET", "/api/status")).json()["pid"] == 4711
