"""PostgreSQL is there and takes no row: somebody else has locked the table. The stream goes on meanwhile."""

from __future__ import annotations

import asyncio

import asyncpg

LOCK_S = 10.0
"""Longest wait for the lock: a batch of the pipeline comes first."""


def writes_held_up(url: str, seconds: float) -> bool:
    """Nobody inserts or deletes quotes for so long; readers go on. False: the server was not there to do it."""
    try:
        asyncio.run(_hold(url, seconds))
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return False
    return True


async def _hold(url: str, seconds: float) -> None:
    connection = await asyncpg.connect(url, timeout=5)
    try:
        async with connection.transaction():
            await connection.execute("LOCK TABLE market.quotes IN SHARE ROW EXCLUSIVE MODE", timeout=LOCK_S)
            await asyncio.sleep(seconds)
    finally:
        connection.terminate()
