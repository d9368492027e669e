"""For tests of what is kept in SQL databases."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import aiosqlite
import asyncpg
import sqlalchemy as sa

from cloudevents_kit.stores import Store
from cloudevents_kit.stores.sql import SqlStore


def made(store: Store) -> SqlStore:
    """Return ``store`` as what it is."""
    assert isinstance(store, SqlStore)
    return store


async def execute(url: str, *statements: str) -> list[Any]:
    """Run ``statements`` on a connection of their own, as another program would; return the rows of the last one."""
    if url.startswith("sqlite"):
        async with aiosqlite.connect(url.removeprefix("sqlite:///"), isolation_level=None, timeout=5) as file:
            found: Any = []
            for statement in statements:
                found = await (await file.execute(statement)).fetchall()
            return [tuple(row) for row in found]
    parsed = sa.make_url(url)
    connection = await asyncpg.connect(user=parsed.username, database=parsed.database, host=str(parsed.query["host"]))
    try:
        found = []
        for statement in statements:
            found = await connection.fetch(statement)
        return [tuple(row) for row in found]
    finally:
        with suppress(OSError):
            await connection.close()


async def age(url: str, table: str, column: str, seconds: float) -> None:
    """Let time pass for what is in a table: move its times back."""
    await execute(url, f"UPDATE {table} SET {column} = {column} - {round(seconds * 1e6)}")
