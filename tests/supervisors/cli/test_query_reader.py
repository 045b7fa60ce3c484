"""`pipeline sql` on PostgreSQL: whatever the statement does, it stays a reader."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import trio

from actors.bridge.port import SinkBatch
from supervisors.cli import query_reader
from supervisors.cli.query import QueryRefused
from supervisors.cli.query_timescale import query, query_as_reader
from tests.support.bridge import HOUR, LOG_ID, T0, LogBuilder
from tests.support.sink_servers import postgres_server
from tests.support.sinks import PostgresStore, seams

__all__ = ["postgres_server"]
pytestmark = pytest.mark.stack

ESCALATIONS = {
    "a file of the server": "select pg_read_file('PG_VERSION')",
    "another's session": "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'postgres'",
    "base tables": "select * from market.quotes",
    "password hashes": "select rolpassword from pg_authid",
    "back by a set": "select set_config('role', 'postgres', false), pg_read_file('PG_VERSION')",
    "back by a set, then in a later plan": "select t.* from (select set_config('session_authorization', 'postgres', false)"
    " as x offset 0) s, lateral ts_stat('select to_tsvector(pg_read_file(''PG_VERSION''))' || left(s.x, 0)) t",
    "to another reader": "select set_config('role', 'market_reader', false), pg_read_file('PG_VERSION')",
    "two statements": "reset session authorization; select pg_read_file('PG_VERSION')",
    "reset alone": "reset role",
    "out of the copy": "select 1) to program 'true' --",
    "write": "with d as (delete from market.delivery returning 1) select * from d",
}


@pytest.fixture
def store(postgres_server):
    """With an hour of quotes."""
    found = PostgresStore(postgres_server.dsn)
    log = LogBuilder()
    log.slice(T0, T0 + HOUR, 12)

    async def fill() -> None:
        async with found.factory()(seams()) as sink:
            await sink.open(LOG_ID)
            await sink.write(SinkBatch(groups=tuple(log.groups), marks={2: (0, 2)}))

    trio.run(fill)
    yield found
    found.remove()


def roles_left(store) -> list[str]:
    return query(store.dsn, "select rolname from pg_roles where rolname ^@ 'market_sql_'")["rolname"].to_pylist()


def test_a_reader_reads_what_is_for_readers(store):
    for table in ("v_quotes", "v_trades", "coverage", "coverage_latest", "market.delivery"):
        query_as_reader(store.dsn, f"select * from {table}")
    assert query_as_reader(store.dsn, "select count(*) as n from v_quotes")["n"].to_pylist() == [12]
    assert query_as_reader(store.dsn, "show search_path").num_rows == 1
    assert roles_left(store) == []


@pytest.mark.parametrize("sql", ESCALATIONS.values(), ids=ESCALATIONS.keys())
def test_no_statement_gets_beyond_reading_the_views(store, sql):
    with pytest.raises(QueryRefused):
        query_as_reader(store.dsn, sql)
    assert roles_left(store) == []


@pytest.mark.parametrize("name", ["a file of the server", "back by a set, then in a later plan", "password hashes"])
def test_control_the_owner_of_the_database_may_do_that(store, name):
    assert query(store.dsn, ESCALATIONS[name]).num_rows


def test_many_at_once_do_not_disturb_each_other(store):
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: query_as_reader(store.dsn, "select count(*) as n from v_quotes"), range(16)))
    assert [table["n"].to_pylist() for table in found] == [[12]] * 16
    assert roles_left(store) == []


async def test_what_a_crash_left_behind_goes_with_the_next_query(store):
    await store.sql("create role market_sql_left login in role market_reader valid until '2020-01-01'")
    await store.sql("create role market_sql_busy login in role market_reader valid until '2099-01-01'")
    await trio.to_thread.run_sync(query_as_reader, store.dsn, "select 1 as x")
    left = await trio.to_thread.run_sync(roles_left, store)
    await store.sql("drop role market_sql_busy")
    assert left == ["market_sql_busy"]


async def test_a_user_without_might_reads_as_itself_where_no_reader_can_be_made(store):
    await store.sql("create role plain login in role market_reader")
    dsn = store.dsn.replace("postgres@", "plain@")
    found = await trio.to_thread.run_sync(query_as_reader, dsn, "select count(*) as n from v_quotes")
    with pytest.raises(QueryRefused):
        await trio.to_thread.run_sync(query_as_reader, dsn, "delete from market.delivery returning 1")
    await store.sql("drop role plain")
    assert found["n"].to_pylist() == [12]


def test_a_mighty_user_reads_nothing_where_no_reader_can_be_made(store, monkeypatch):
    async def cannot(owner):
        raise query_reader._Unable("cannot execute CREATE ROLE in a read-only transaction")

    monkeypatch.setattr(query_reader, "_make", cannot)
    with pytest.raises(QueryRefused, match="may do more than read"):
        query_as_reader(store.dsn, "select 1")
