"""Connections to SQLite: a write-ahead log that is synced at every commit, and two turns of a thread per transaction.

The driver gives each connection a thread, and every call a turn of it: to begin, to get a cursor, to execute, to fetch,
to close the cursor. What these turns cost is more than the commit. Here a statement takes one turn, and the first one
of a transaction begins that in the same. Knows no table.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote

import aiosqlite
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from cloudevents_kit._errors import StoreError

#: Milliseconds that SQLite waits for a lock by itself. It looks ever more seldom, and so hardly ever finds a gap
#: between the transactions of a busy process: `Database.patiently` keeps asking.
_BUSY_MS = 20
#: Of the driver's connection, what this uses beside what is documented.
_NEEDED = ("_conn", "_execute")
_DECODED = sa.make_url("sqlite:///%20").database == " "  # as SQLAlchemy 2.1 does, and 2.0 does not


def make_engine(url: sa.URL, *, patience: float) -> AsyncEngine:
    """Return the engine for the file at ``url``. Raises StoreError if that names none."""
    path = url.database or ""
    if not path or path == ":memory:" or url.host:
        raise StoreError("url: must name a file, such as sqlite:///events.db (memory: keeps things in memory)")
    if not all(hasattr(aiosqlite.Connection, name) for name in _NEEDED):
        raise StoreError("this aiosqlite is another one than this release knows: pip install 'aiosqlite<0.23'")
    path = path if _DECODED else unquote(path)
    if not path.startswith("file:"):
        path = str(Path(path).absolute())  # whatever the working directory is later on
    arguments: tuple[Sequence[Any], Mapping[str, Any]]
    engine = create_async_engine(
        url.set(drivername="sqlite+aiosqlite", database=path),
        hide_parameters=True,
        poolclass=AsyncAdaptedQueuePool,
        pool_timeout=patience,
        async_creator=lambda: _connect(*arguments),
    )
    arguments = engine.dialect.create_connect_args(engine.url)

    @sa.event.listens_for(engine.sync_engine, "begin")
    def begin(connection: sa.Connection) -> None:
        reading = connection.get_execution_options().get("cek_read")
        driver: Any = connection.connection.driver_connection
        driver.begin("BEGIN" if reading else "BEGIN IMMEDIATE")

    return engine


class _Connection(aiosqlite.Connection):
    _beginning: str | None = None
    _execute: Callable[..., Any]

    def begin(self, statement: str) -> None:
        """Begin a transaction by ``statement``, before the next one is executed."""
        self._beginning = statement

    def cursor(self) -> Any:
        """Return a cursor, which costs nothing."""
        return _Cursor(self)

    async def rollback(self) -> None:
        """Undo the transaction, if one has begun."""

        def undo() -> None:  # in the thread, behind what may still be waiting there
            self._beginning = None
            self._conn.rollback()

        await self._execute(undo)

    async def do(self, work: Callable[[sqlite3.Connection], Any]) -> None:
        """Do ``work`` in the thread, in a transaction if one is to begin."""

        def begun() -> None:  # without arguments, which the driver logs
            connection = self._conn
            if self._beginning is not None:
                connection.execute(self._beginning)
                self._beginning = None
            work(connection)

        await self._execute(begun)


class _Cursor:
    """Has all rows when it has executed."""

    arraysize = 1

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection
        self._rows: list[Any] = []
        self.description: Any = None
        self.rowcount = -1
        self.lastrowid: int | None = None

    def __await__(self) -> Generator[Any, None, Self]:  # for SQLAlchemy 2.0
        return self.__aenter__().__await__()

    async def __aenter__(self) -> Self:
        return self

    async def execute(self, statement: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> None:
        await self._do(lambda cursor: cursor.execute(statement, parameters))

    async def executemany(self, statement: str, parameters: Sequence[Sequence[Any]]) -> None:
        await self._do(lambda cursor: cursor.executemany(statement, parameters))

    async def _do(self, work: Callable[[sqlite3.Cursor], Any]) -> None:
        def done(connection: sqlite3.Connection) -> None:
            cursor = connection.cursor()
            try:
                work(cursor)
                self._rows = cursor.fetchall()
                self.description, self.rowcount, self.lastrowid = cursor.description, cursor.rowcount, cursor.lastrowid
            finally:
                cursor.close()

        await self._connection.do(done)

    async def fetchall(self) -> list[Any]:
        return self._rows

    async def close(self) -> None:
        pass


async def _connect(arguments: Sequence[Any], options: Mapping[str, Any]) -> aiosqlite.Connection:
    # In a thread that is not the driver's, which would stay if this fails.
    opened = await asyncio.to_thread(_open, arguments[0], options)
    connection = _Connection(lambda: opened, 0)
    thread: Any = getattr(connection, "_thread", connection)  # which it is itself before aiosqlite 0.22
    thread.daemon = True
    made: aiosqlite.Connection = await connection
    return made


def _open(path: str, options: Mapping[str, Any]) -> sqlite3.Connection:
    # Transactions begin when we say so.
    settings: dict[str, Any] = {**options, "isolation_level": None, "timeout": _BUSY_MS / 1000}
    connection: sqlite3.Connection = sqlite3.connect(path, **settings)
    try:
        if connection.execute("PRAGMA journal_mode=WAL").fetchone() != ("wal",):
            raise StoreError("url: names a file where SQLite cannot keep a write-ahead log (is it on another machine?)")
        connection.execute("PRAGMA synchronous=FULL")
    except BaseException:
        connection.close()
        raise
    return connection
