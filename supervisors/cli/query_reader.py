"""A login for one query to PostgreSQL, with the rights of `market_reader` and no way back to more.

SET ROLE and SET SESSION AUTHORIZATION are no fence: the statement itself can undo both (`set_config`), because the
connection was authenticated as somebody mighty. So the query gets a connection of its own whose user is a fresh role.
It is dropped afterwards; what a crash leaves has a password nobody knows, expires, and goes with the next query.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol

import asyncpg
import attrs
import pyarrow as pa

from supervisors.cli.query import QueryRefused

CONNECT_S_MAX = 10.0
STATEMENT_S_MAX = 10.0
PREFIX = "market_sql_"
VALID_S = 900
"""Longer than any query may take; only logging in is bound to it."""

_NAMES = f"""
select '{PREFIX}' || left(replace(gen_random_uuid()::text, '-', ''), 12),
    replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', '')
"""
_GROUP = """
do $reader$ begin
    if not exists (select 1 from pg_roles where rolname = 'market_reader') then
        create role market_reader nologin;
    end if;
end $reader$
"""
_EXPIRED = f"select rolname from pg_roles where rolname ^@ '{PREFIX}' and rolvaliduntil < now()"
_MIGHTY = """
select u.rolsuper or exists (select 1 from pg_roles m where m.rolname in ('pg_read_server_files',
    'pg_write_server_files', 'pg_execute_server_program', 'pg_signal_backend', 'pg_read_all_data', 'pg_write_all_data')
    and pg_has_role(current_user, m.oid, 'member')) from pg_roles u where u.rolname = current_user
"""
_NO_READER = (
    asyncpg.InsufficientPrivilegeError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.FeatureNotSupportedError,
)
"""We may not make a role, or it is a replica."""


class Ask(Protocol):
    """How to ask, once it is clear as whom."""

    async def __call__(self, dsn: str, sql: str, **login: str) -> pa.Table: ...


@attrs.frozen(kw_only=True)
class Login:
    """Of one query."""

    user: str
    password: str = attrs.field(repr=False)


async def read(dsn: str, sql: str, ask: Ask) -> pa.Table:
    """Ask as a fresh reader, or as the DSN's user where that one has no might worth a fence.

    Raises: QueryRefused when it has and no reader can be made; what `ask` and the driver raise.
    """
    owner = await asyncpg.connect(
        dsn,
        timeout=CONNECT_S_MAX,
        command_timeout=STATEMENT_S_MAX,
        server_settings={"application_name": "pipeline sql"},
    )
    try:
        try:
            async with _login(owner) as login:
                return await ask(dsn, sql, user=login.user, password=login.password)
        except (_Unable, asyncpg.InvalidAuthorizationSpecificationError) as exc:  # the latter: pg_hba.conf
            if await owner.fetchval(_MIGHTY):
                raise QueryRefused(
                    f"the user of this DSN may do more than read, and no reader can be made there: {exc}. Use a DSN of "
                    "a user that is no superuser (grant it market_reader)"
                ) from exc
        return await ask(dsn, sql)
    finally:
        owner.terminate()


class _Unable(Exception):
    """No reader can be made here."""


@asynccontextmanager
async def _login(owner: Any) -> AsyncIterator[Login]:
    login = await _make(owner)
    try:
        yield login
    finally:
        with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            await owner.execute(f"drop role if exists {login.user}")


async def _make(owner: Any) -> Login:
    try:
        for row in await owner.fetch(_EXPIRED):
            with contextlib.suppress(asyncpg.PostgresError):  # somebody else drops it at this moment
                await owner.execute(f'drop role if exists "{row[0]}"')
        await owner.execute(_GROUP)
        user, password = await owner.fetchrow(_NAMES)
        until = await owner.fetchval(f"select now() + interval '{VALID_S} s'")
        await owner.execute(
            f"create role {user} login password '{password}' in role market_reader connection limit 1"
            f" valid until '{until.isoformat()}'"
        )
    except _NO_READER as exc:
        raise _Unable(str(exc)) from exc
    return Login(user=user, password=password)
