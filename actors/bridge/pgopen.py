"""What happens once per connection: the schema is there, and the database knows whose log it holds.

Coroutines on the driver's connection (`con`), run inside `Connection.call`; nothing here knows the driver.
"""

from __future__ import annotations

from typing import Any

from actors.bridge import pgschema
from actors.bridge.rows import TICK_KINDS
from runtime.errors import ConfigError

COUNTED = {"quotes": "quotes", "trades": "trades", "coverage": "coverage_records"}
"""Kind -> base table."""


async def prepare_schema(con: Any) -> frozenset[str]:
    """Create what is missing; returns the kinds whose table is partitioned by month."""
    known = await con.fetchval("select to_regclass('market.schema_version') is not null")
    versioned = "select exists (select 1 from market.schema_version where version = $1)"
    if not known or not await con.fetchval(versioned, pgschema.VERSION):
        await _create_schema(con)
    partitioned = "select relname from pg_class where relkind = 'p' and relnamespace = 'market'::regnamespace"
    return frozenset(row["relname"] for row in await con.fetch(partitioned))


async def _create_schema(con: Any) -> None:
    hyper = await _optional(con, pgschema.EXTENSION)
    async with con.transaction():
        await con.execute("select pg_advisory_xact_lock($1)", pgschema.DDL_LOCK)
        await con.execute(pgschema.BASE)
        for kind in TICK_KINDS:
            await con.execute(pgschema.tick_table(kind, partitioned=not hyper))
            partitioned = "select relkind = 'p' from pg_class where oid = to_regclass($1)"
            if hyper and not await con.fetchval(partitioned, f"market.{kind}"):
                await con.execute(pgschema.hypertable(kind))
            await con.execute(pgschema.tick_index(kind))
        await con.execute(pgschema.VIEWS)
        await con.execute("insert into market.schema_version values ($1) on conflict do nothing", pgschema.VERSION)
    await _optional(con, pgschema.READER)  # else an administrator's work; the views themselves are there
    await _optional(con, pgschema.SEARCH_PATH)


async def _optional(con: Any, statement: str) -> bool:
    """Do it if we may; True when it was done."""
    await con.execute(pgschema.attempt(statement))
    return bool(await con.fetchval("select current_setting('holdfast.attempt', true) = 'done'"))


async def meet(con: Any, log_id: str, *, sink: str, adopt: bool) -> None:
    """Be known to the database as the log that it holds. Raises: ConfigError when it holds another one's data."""
    async with con.transaction():
        await con.execute("select pg_advisory_xact_lock($1)", pgschema.DDL_LOCK)
        known = [row["log_id"] for row in await con.fetch("select log_id from market.pipeline_log order by since")]
        if log_id in known:
            return
        if known and not adopt:
            raise ConfigError(
                f"sink {sink}: the database holds the data of another log ({known[-1]}), ours is {log_id}. "
                "A new data directory makes a new log. To take the database over: pipeline run --adopt"
            )
        counts = [await con.fetchval(f"select count(*) from market.{t}") if known else 0 for t in COUNTED.values()]
        await con.execute(
            "insert into market.pipeline_log (log_id, quotes_before, trades_before, coverage_before)"
            " values ($1, $2, $3, $4)",
            log_id,
            *counts,
        )


async def name_ids(con: Any, table: str, column: str, names: list[str]) -> dict[str, int]:
    """Ids of `names` in `market.symbols` or `market.sources`, made where missing."""
    # Only new names are tried: an identity is used up by a conflict too, and source ids are int2.
    insert = (
        f"insert into market.{table} ({column}) select n from unnest($1::text[]) n"
        f" where not exists (select 1 from market.{table} t where t.{column} = n) on conflict do nothing"
    )
    await con.execute(insert, names)
    return dict(await con.fetch(f"select {column}, id from market.{table} where {column} = any($1::text[])", names))
