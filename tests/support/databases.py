"""A database in PostgreSQL with the tables of the kit, for one test after the other.

To make one takes ten times as long as to empty it. One that has another shape than before is not used again.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from cloudevents_kit.stores import open_store
from tests.support.real_servers import Postgres
from tests.support.sql import execute

#: Everything in it but rows, as one text.
_SHAPE = """
SELECT string_agg(line, ' ' ORDER BY line) FROM (
  SELECT concat_ws(':', relname, relkind, relacl, relhastriggers, reloptions, attname, atttypid, attnotnull, atthasdef)
    FROM pg_class LEFT JOIN pg_attribute ON attrelid = pg_class.oid AND attnum > 0
    WHERE relnamespace = 'public'::regnamespace
  UNION ALL SELECT concat_ws(':', conname, conrelid) FROM pg_constraint WHERE connamespace = 'public'::regnamespace
  UNION ALL SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace
  UNION ALL SELECT concat_ws(':', setrole, setconfig) FROM pg_db_role_setting
    WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())
) AS lines (line)
"""
_TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
_USED = "SELECT sequencename FROM pg_sequences WHERE schemaname = 'public' AND last_value IS NOT NULL"
_END_OTHERS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


class MadeDatabase:
    """A database whose tables are made."""

    def __init__(self, server: Postgres) -> None:
        self._server = server
        self._name = ""
        self._tables: set[str] = set()
        self._filled: set[str] = set()
        """Those that have rows from the beginning, which are kept in another schema."""
        self._changed = ""
        self._shape: object = None

    async def take(self) -> str:
        """Return its URL; it is as if it had just been made."""
        if not self._name:
            name = f"made{uuid.uuid4().hex}"
            await execute(self._server.url(), f"CREATE DATABASE {name}")
            async with open_store(self._server.url(name)):
                pass
            async with self._connected(name) as connection:
                self._tables = {table for (table,) in await connection.fetch(_TABLES)}
                self._filled = {one for one in self._tables if await connection.fetch(f"SELECT FROM {one} LIMIT 1")}
                await connection.execute("CREATE SCHEMA kept")
                for one in self._filled:
                    await connection.execute(f"CREATE TABLE kept.{one} AS TABLE {one}")
                self._shape = await connection.fetchval(_SHAPE)
            different = "(TABLE {0} EXCEPT TABLE kept.{0}) UNION ALL (TABLE kept.{0} EXCEPT TABLE {0})".format
            self._changed = " UNION ALL ".join(
                f"SELECT '{one}' WHERE EXISTS ({different(one) if one in self._filled else f'SELECT FROM {one}'})"
                for one in self._tables
            )
            self._name = name
        return self._server.url(self._name)

    async def give_back(self) -> None:
        """Remove what is left in it."""
        async with self._connected(self._name) as connection:
            await connection.execute(_END_OTHERS)
            for table in {table for (table,) in await connection.fetch(_TABLES)} - self._tables:
                await connection.execute(f'DROP TABLE "{table}" CASCADE')
            is_as_it_was = await connection.fetchval(_SHAPE) == self._shape
            if is_as_it_was:
                await self._empty(connection)
        if not is_as_it_was:
            await execute(self._server.url(), f"DROP DATABASE {self._name} WITH (FORCE)")
            self._name = ""

    async def _empty(self, connection: asyncpg.Connection) -> None:
        changed = {table for (table,) in await connection.fetch(self._changed)}
        if changed:
            await connection.execute(f"TRUNCATE {', '.join(changed)} CASCADE")
        for one in changed & self._filled:
            await connection.execute(f"INSERT INTO {one} SELECT * FROM kept.{one}")
        for (sequence,) in await connection.fetch(_USED):
            await connection.execute(f"ALTER SEQUENCE {sequence} RESTART")

    @asynccontextmanager
    async def _connected(self, name: str) -> AsyncIterator[asyncpg.Connection]:
        connection = await asyncpg.connect(user="postgres", database=name, host=str(self._server.folder))
        try:
            yield connection
        finally:
            await connection.close()
