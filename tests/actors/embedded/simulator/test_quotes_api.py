"""The quotes endpoint answers as notes UPSTREAM 1.2, 1.5-1.7 say the vendor does."""

from __future__ import annotations

import base64
import json
import zlib

import attrs
import httpx
import pytest

from actors.embedded.simulator import pages
from actors.embedded.simulator.access import Keys, RequestBudget
from actors.embedded.simulator.query import KNOWN, LIMIT_DEFAULT, LIMIT_MAX
from actors.embedded.simulator.world import Manners

PATH = "/v3/quotes/C:EUR-USD"
MS = 1_000_000


@pytest.fixture
def rows(kit):
    """1,500 rows, 100 ms apart, over three parts."""
    return [(kit.T0 + i * 100 * MS, f"1.{10000 + i}", f"1.{10010 + i}") for i in range(1_500)]


@pytest.fixture
def feed(kit, rows):
    return kit.Feed(rows=rows)


async def test_a_row_has_exactly_the_vendors_fields_and_the_decimals_of_the_feed(kit):
    feed = kit.Feed(rows=[(kit.T0 + 16_036_581, "1.38670", "1.3868")])
    async with kit.client(kit.world(feed)) as client:
        text = (await client.get(PATH)).text
    assert (
        f'"ask_price":1.3868,"bid_exchange":48,"bid_price":1.38670,"participant_timestamp":{kit.T0 + 16_036_581}'
        in text
    )
    body = json.loads(text)
    assert set(body) == {"status", "request_id", "results"}
    assert body["status"] == "OK"
    assert set(body["results"][0]) == {
        "ask_exchange",
        "ask_price",
        "bid_exchange",
        "bid_price",
        "participant_timestamp",
    }


async def test_without_parameters_the_newest_thousand_come_newest_first(kit, feed, rows):
    async with kit.client(kit.world(feed)) as client:
        body = (await client.get(PATH)).json(parse_float=str)
    assert kit.rows([body]) == rows[:499:-1]
    assert "next_url" in body


@pytest.mark.parametrize("ticker", ["C:EUR-USD", "C:EURUSD", "C%3AEUR-USD"])
async def test_both_spellings_of_a_pair_are_taken(kit, feed, ticker):
    async with kit.client(kit.world(feed)) as client:
        assert len((await client.get(f"/v3/quotes/{ticker}")).json()["results"]) == 1_000


@pytest.mark.parametrize("ticker", ["C:EUR-XXX", "C:eur-usd", "EURUSD", "X:BTC-USD"])
async def test_an_unknown_symbol_is_not_found(kit, feed, ticker):
    async with kit.client(kit.world(feed)) as client:
        answer = await client.get(f"/v3/quotes/{ticker}")
    assert answer.status_code == 404
    assert answer.json()["status"] == "NOT_FOUND"
    assert ticker in answer.json()["message"]


@pytest.mark.parametrize(
    ("query", "first", "stop"),
    [
        ("timestamp.gte={0}", 0, 1_500),
        ("timestamp.gt={0}", 1, 1_500),
        ("timestamp.gte={0}&timestamp.lt={10}", 0, 10),
        ("timestamp.gte={0}&timestamp.lte={10}", 0, 11),
        ("timestamp.gt={5}&timestamp.gte={2}&timestamp.lte={9}", 6, 10),
        ("timestamp={7}", 7, 8),
        ("timestamp=2024-03-05", 0, 1_500),
        ("timestamp=2024-03-04", 0, 0),
        ("timestamp.gte=2024-03-05&timestamp.lt=2024-03-06", 0, 1_500),
        ("timestamp.gt=2024-03-05", 0, 0),
        ("timestamp.lte=2024-03-05", 0, 1_500),
        ("timestamp.lt=2024-03-05", 0, 0),
        ("timestamp.gte={10}&timestamp.lt={10}", 0, 0),
    ],
)
async def test_bounds_are_dates_or_nanoseconds(kit, feed, rows, query, first, stop):
    for index in (0, 2, 5, 7, 9, 10):
        query = query.replace(f"{{{index}}}", str(rows[index][0]))
    async with kit.client(kit.world(feed)) as client:
        found = kit.rows(await kit.chain(client, f"{PATH}?order=asc&limit=50000&{query}"))
    assert found == rows[first:stop]


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("limit=0", "limit"),
        ("limit=50001", "limit"),
        ("limit=-1", "limit"),
        ("limit=many", "limit"),
        ("limit=", "limit"),
        ("order=up", "order"),
        ("sort=price", "sort"),
        ("timestamp.gte=yesterday", "timestamp.gte"),
        ("timestamp.gte=2024-02-30", "timestamp.gte"),
        ("timestamp.gte=1.5", "timestamp.gte"),
        ("timestamp=", "timestamp"),
        ("timestamp.ge=2024-01-01", "timestamp.ge"),
        ("colour=red", "colour"),
        ("cursor=%%%", "cursor"),
        ("cursor=" + base64.urlsafe_b64encode(b"limit=2").decode(), "cursor"),
    ],
)
async def test_a_malformed_parameter_is_400_and_named(kit, feed, query, named):
    async with kit.client(kit.world(feed)) as client:
        answer = await client.get(f"{PATH}?{query}")
    assert answer.status_code == 400
    assert answer.json()["status"] == "ERROR"
    assert named in answer.json()["error"]
    assert answer.json()["request_id"]


async def test_the_next_url_is_absolute_on_another_host_with_an_opaque_cursor(kit, feed):
    async with kit.client(kit.world(feed)) as client:
        url = httpx.URL((await client.get(f"{PATH}?limit=10")).json()["next_url"])
    assert (url.scheme, url.host, url.path) == ("https", "api.polygon.io", PATH)
    assert ":443/" in str((await _first_page(kit, feed))["next_url"])
    assert list(url.params) == ["cursor"]
    assert "apiKey" not in str(url)
    assert "timestamp" not in str(url)


async def _first_page(kit, feed):
    async with kit.client(kit.world(feed)) as client:
        return (await client.get(f"{PATH}?limit=10")).json()


@pytest.mark.parametrize("as_param", [True, False])
async def test_a_key_opens_the_door_as_parameter_or_bearer(kit, feed, as_param):
    async with kit.client(kit.world(feed), key="" if as_param else "k") as client:
        answer = await client.get(PATH + ("?apiKey=k" if as_param else ""))
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("key", "keys"),
    [
        ("", Keys()),
        ("wrong", Keys()),
        ("other", Keys(accepted=frozenset({"mine"}))),
        ("x", Keys(refused=frozenset("x"))),
    ],
)
@pytest.mark.parametrize("path", [PATH, "/v1/marketstatus/now"])
async def test_no_key_or_a_wrong_one_is_401_in_the_vendors_words(kit, feed, key, keys, path):
    async with kit.client(kit.world(feed, keys=keys), key=key) as client:
        answer = await client.get(path)
    assert answer.status_code == 401
    body = answer.json()
    assert body["status"] == "ERROR"
    assert body["error"] == ("Unknown API Key" if key else "API Key was not provided")


async def test_rows_later_than_now_do_not_exist_yet_and_appear_with_time(kit, feed, rows):
    clock = kit.Clock(rows[99][0])
    async with kit.client(kit.world(feed, clock=clock)) as client:
        assert kit.rows(await kit.chain(client, f"{PATH}?order=asc")) == rows[:100]
        clock.now_ns = rows[249][0] + 1
        assert kit.rows(await kit.chain(client, f"{PATH}?order=asc")) == rows[:250]
        assert kit.rows(await kit.chain(client, f"{PATH}?limit=10")) == rows[249::-1]


async def test_a_chain_is_whole_although_rows_happen_between_its_pages(kit, feed, rows):
    clock = kit.Clock(rows[99][0])
    async with kit.client(kit.world(feed, clock=clock)) as client:
        first = (await client.get(f"{PATH}?limit=60")).json(parse_float=str)
        clock.now_ns = rows[400][0]
        rest = await kit.chain(client, httpx.URL(first["next_url"]).raw_path.decode())
    assert kit.rows([first, *rest]) == rows[99::-1]


async def test_pages_can_be_kept_shorter_than_the_limit(kit, feed, rows):
    async with kit.client(kit.world(feed, manners=Manners(page_rows_max=400))) as client:
        pages_ = await kit.chain(client, f"{PATH}?order=asc&limit=50000")
    assert [len(page["results"]) for page in pages_] == [400, 400, 400, 300]
    assert kit.rows(pages_) == rows


async def test_an_empty_range_comes_in_every_form_and_always_ends(kit, feed):
    forms = set()
    for seed in range(24):
        async with kit.client(kit.world(feed, manners=Manners(seed=seed))) as client:
            pages_ = await kit.chain(client, f"{PATH}?timestamp=2020-01-01", pages_max=2)
        assert all(page["status"] == "OK" for page in pages_)
        assert kit.rows(pages_) == []
        forms.add("more" if len(pages_) > 1 else repr(pages_[0].get("results", "absent")))
    assert forms == {"'absent'", "None", "[]", "more"}


async def test_gzip_is_used_where_it_is_asked_for(kit, feed):
    async with kit.client(kit.world(feed)) as client:
        plain = await client.get(PATH, headers={"Accept-Encoding": "identity"})
        packed = await client.get(PATH, headers={"Accept-Encoding": "br, gzip;q=0.5"})
        refused = await client.get(PATH, headers={"Accept-Encoding": "gzip;q=0"})
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in refused.headers
    assert packed.json()["results"] == plain.json()["results"]
    assert int(packed.headers["content-length"]) < int(plain.headers["content-length"]) / 3


async def test_every_request_has_its_own_id(kit, feed):
    async with kit.client(kit.world(feed)) as client:
        ids = {(await client.get(f"{PATH}?limit=1")).json()["request_id"] for _ in range(5)}
    assert len(ids) == 5


async def test_beyond_the_budget_429_until_the_window_ends_with_and_without_retry_after(kit, feed):
    clock = kit.Clock(kit.T0, now_s=6_000.0)
    world = kit.world(feed, clock=clock, budget=RequestBudget(requests_per_minute=5))
    async with kit.client(world) as client:
        assert [(await client.get(PATH)).status_code for _ in range(5)] == [200] * 5
        clock.now_s = 6_030.5
        refused = [await client.get(PATH) for _ in range(40)]
        assert {answer.status_code for answer in refused} == {429}
        assert {answer.headers.get("retry-after") for answer in refused} == {None, "30"}
        bodies = {answer.text for answer in refused}
        assert "" in bodies
        documented = json.loads(max(bodies, key=len))
        assert documented["status"] == "ERROR"
        assert documented["error"].startswith("You've exceeded the maximum requests per minute")
        clock.now_s = 6_060.0
        assert (await client.get(PATH)).status_code == 200


async def test_the_budget_is_per_key(kit, feed):
    world = kit.world(feed, budget=RequestBudget(requests_per_minute=1))
    async with kit.client(world) as client:
        codes = [(await client.get(PATH, headers={"Authorization": f"Bearer {key}"})).status_code for key in "aabb"]
    assert codes == [200, 429, 200, 429]


async def test_the_budgets_memory_is_bounded():
    budget = RequestBudget(requests_per_minute=1)
    for n in range(5_000):
        budget.take(str(n), 0.0)
    assert len(budget._windows) <= 1_000
    assert budget.take("4999", 1.0) == 59.0


async def test_an_answer_waits_for_the_latency(kit, feed, autojump_clock):
    async with kit.client(kit.world(feed, manners=Manners(latency_s=2.5))) as client:
        await client.get(PATH)
    assert autojump_clock.current_time() == pytest.approx(2.5)


async def test_the_market_status_tells_the_servers_clock(kit, feed):
    clock = kit.Clock(kit.T0)
    async with kit.client(kit.world(feed, clock=clock)) as client:
        body = (await client.get("/v1/marketstatus/now")).json()
    assert body["serverTime"] == "2024-03-05T05:00:00.000-05:00"
    assert body["currencies"] == {"crypto": "open", "fx": "open"}


async def test_an_unknown_path_is_not_found_in_json(kit, feed):
    async with kit.client(kit.world(feed)) as client:
        answer = await client.get("/v9/nothing")
    assert (answer.status_code, answer.json()["status"]) == (404, "NOT_FOUND")


# The oracle


async def test_the_oracle_lists_what_is_held_in_three_forms(kit, feed, rows):
    import pyarrow as pa

    path = f"/oracle/quotes/C:EUR-USD?from={rows[3][0]}&to={rows[1203][0]}"
    async with kit.client(kit.world(feed), key="") as client:
        lines = [json.loads(line) for line in (await client.get(path)).text.splitlines()]
        table = pa.ipc.open_stream((await client.get(path + "&format=arrow")).content).read_all()
        count = (await client.get(path + "&format=count")).json()
        wrong = await client.get(path + "&format=xml")
    assert [(line["ts_ns"], line["bid"], line["ask"]) for line in lines] == rows[3:1203]
    assert list(zip(*table.to_pydict().values(), strict=True)) == rows[3:1203]
    assert count == {"symbol": "C:EURUSD", "count": 1_200}
    assert wrong.status_code == 400


async def test_the_ledger_counts_requests_and_rows_and_never_shows_a_key(kit, feed):
    world = kit.world(feed)
    async with kit.client(world, key="") as client:
        await client.get(f"{PATH}?limit=7&apiKey=secret")
        await client.get(PATH)
        await client.get("/healthz")
        report = (await client.get("/oracle/requests")).json()
        again = (await client.get("/oracle/requests")).json()
    assert (report["requests"], report["rows"]) == (2, 7)
    assert {(one["path"], one["status"]): one["requests"] for one in report["by"]} == {(PATH, 200): 1, (PATH, 401): 1}
    assert report["recent"][0]["query"] == "limit=7"
    assert "secret" not in json.dumps(report)
    assert again == report


async def test_the_ledger_stays_small_whatever_is_asked(kit, feed, monkeypatch):
    monkeypatch.setattr("actors.embedded.simulator.ledger.PATHS_MAX", 3)
    async with kit.client(kit.world(feed)) as client:
        for n in range(9):
            await client.get(f"/v3/quotes/C:{n}")
        report = (await client.get("/oracle/requests")).json()
    assert [one["requests"] for one in report["by"]] == [6, 1, 1, 1]


async def test_the_rows_have_the_fields_of_the_vendors_specification(kit, feed, shared_data):
    spec = json.loads((shared_data / "polygon" / "spec" / "rest.json").read_text())
    operation = spec["paths"]["/v3/quotes/{fxTicker}"]["get"]
    row = operation["responses"]["200"]["content"]["application/json"]["schema"]["properties"]["results"]["items"]
    async with kit.client(kit.world(feed)) as client:
        body = (await client.get(PATH)).json()
    assert set(body["results"][0]) == set(row["properties"])
    assert {one["name"] for one in operation["parameters"] if one["in"] == "query"} <= KNOWN
    limits = next(one["schema"] for one in operation["parameters"] if one["name"] == "limit")
    assert (limits["default"], limits["maximum"]) == (LIMIT_DEFAULT, LIMIT_MAX)


# Positive controls: without the protection the tests above would fail


async def test_control_without_the_cut_at_now_the_future_is_served(kit, feed, rows, monkeypatch):
    real = pages.cut_page
    monkeypatch.setattr(
        "actors.embedded.simulator.vendor_api.cut_page",
        lambda cache, symbol, query, now: real(cache, symbol, query, 2**62),
    )
    async with kit.client(kit.world(feed, clock=kit.Clock(rows[99][0]))) as client:
        assert len(kit.rows(await kit.chain(client, f"{PATH}?order=asc"))) == 1_500


async def test_control_a_cursor_that_forgets_the_skipped_rows_doubles_them(kit, monkeypatch):
    tied = kit.Feed(rows=[(kit.T0, "1.1", f"1.{n}") for n in range(2, 9)])
    real = pages._rest
    monkeypatch.setattr(pages, "_rest", lambda *args: attrs.evolve(real(*args), skip=0))
    async with kit.client(kit.world(tied)) as client:
        first = (await client.get(f"{PATH}?order=asc&limit=3")).json(parse_float=str)
        second = (await client.get(httpx.URL(first["next_url"]).raw_path.decode())).json(parse_float=str)
    assert set(kit.rows([first])) & set(kit.rows([second]))


async def test_gzip_bodies_are_one_complete_member(kit, feed):
    async with kit.client(kit.world(feed)) as client:
        request = client.build_request("GET", PATH, headers={"Accept-Encoding": "gzip"})
        answer = await client.send(request, stream=True)
        raw = b"".join([chunk async for chunk in answer.aiter_raw()])
    unpack = zlib.decompressobj(31)
    unpack.decompress(raw)
    assert unpack.eof
    assert unpack.unused_data == b""
