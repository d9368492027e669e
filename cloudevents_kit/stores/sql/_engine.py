"""One database and the connections to it: how it is opened, what can go wrong with it, and what passes by itself.

SQLite: a write-ahead log synced at every commit, and transactions that take the lock for writing at their begin, so
that what they read still holds when they write. Knows no table.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import ssl
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress
from time import monotonic
from typing import Any, NamedTuple, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as NoConnection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from cloudevents_kit._errors import StoreError

T = TypeVar("T")

#: Milliseconds that SQLite waits for a lock by itself. It looks ever more seldom, and so hardly ever finds a gap
#: between the transactions of a busy process: `Database.patiently` keeps asking.
_BUSY_MS = 20
_LOOK_AGAIN = 0.002
_LONGEST_PAUSE = 0.5
#: Seconds after which a server that says nothing counts as gone, if that is longer than the patience.
_SILENCE = 30.0


class Unusable(StoreError):
    """The database itself is in trouble, which did not pass."""


class Trouble(NamedTuple):
    """What is wrong with the database itself, and no fault of what was to be done."""

    text: str
    passing: bool = False
    """It may pass by itself."""
    locked: bool = False
    """The connection is as good as before."""


_GONE = "cannot be reached: is the server running, and are address and port right?"
_FULL = "has no room left: free space on its disk"
_READ_ONLY = "is read-only: let this process write it"
_LOCKED = Trouble("is locked by another program: end what holds the lock, or raise patience", passing=True, locked=True)
_DAMAGED = Trouble("is damaged, or is no SQLite database: restore it from a backup, or name another file")
#: By the second word of SQLite's name of the error.
_SQLITE = {
    "BUSY": _LOCKED,
    "LOCKED": _LOCKED,
    "PROTOCOL": _LOCKED,
    "FULL": Trouble(_FULL),
    "READONLY": Trouble(f"{_READ_ONLY}, the file and its folder"),
    "PERM": Trouble(f"{_READ_ONLY}, the file and its folder"),
    "CANTOPEN": Trouble("cannot be opened: its folder must exist, and this process must be allowed to write there"),
    "CORRUPT": _DAMAGED,
    "NOTADB": _DAMAGED,
    "IOERR": Trouble("cannot be read or written: its disk has failed, or is full"),
}
#: By the beginning of the SQLSTATE, the longest first.
_POSTGRES = {
    "25006": Trouble(f"{_READ_ONLY} (a standby is not)"),
    "28": Trouble("refuses the user or the password of the URL"),
    "3D": Trouble("does not exist: create it, or name another one"),
    "42501": Trouble("does not let the user of the URL do that: grant the rights"),
    "53100": Trouble(_FULL),
    "08": Trouble(_GONE, passing=True),
    "40": Trouble("is contended: its transactions fail again and again", passing=True),
    "53": Trouble("is overloaded: it has no connection or memory left", passing=True),
    "55P03": Trouble("is locked by another program", passing=True),
    "57": Trouble("is being shut down or started", passing=True),
}


class Database:
    """A database, by its URL."""

    def __init__(self, url: str, *, patience: float) -> None:
        """Read ``url``. Raises StoreError if it makes no sense; its text holds nothing of it that may be secret."""
        self.patience = patience
        try:
            parsed = sa.make_url(url)
        except (ArgumentError, ValueError):
            raise StoreError("url: is none, such as sqlite:///events.db or postgresql://host/database") from None
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        self.name = f"the {'SQLite' if self.is_sqlite else 'PostgreSQL'} database {parsed.database or ''}".rstrip()
        self._engine = _sqlite(parsed) if self.is_sqlite else _postgres(parsed, patience)

    def is_at(self, url: sa.URL) -> bool:
        """Tell whether ``url``, whatever its driver, can be that of this database: the same file, or a server's."""
        mine = self._engine.url
        if url.get_backend_name() != mine.get_backend_name():
            return False
        paths = [one.database or "" for one in (mine, url)]
        by_path = self.is_sqlite and not any(path.startswith("file:") or not path for path in paths)
        return not by_path or len({os.path.realpath(path) for path in paths}) == 1

    async def open(self, work: Callable[[AsyncConnection], Awaitable[None]]) -> None:
        """Do ``work`` on the first connection. Raises StoreError."""
        try:
            if self.is_sqlite:
                await self.patiently(self._probe)
            await self.transaction(work)
        except (SQLAlchemyError, TypeError, ValueError) as error:  # an option that the driver does not know, as a rule
            await self.close()
            told = getattr(error, "orig", error)
            raise StoreError(f"{self.name} cannot be opened; look at the options of the URL: {told}") from error
        except BaseException:
            await self.close()
            raise

    async def _probe(self) -> None:
        """Open the file and close it: the driver leaves a thread behind when it cannot."""
        arguments: Any
        arguments, options = self._engine.dialect.create_connect_args(self._engine.url)

        def probe() -> None:
            with closing(sqlite3.connect(arguments[0], **options)) as file:
                _prepare(file)

        await asyncio.to_thread(probe)

    async def close(self) -> None:
        """Close all connections that are not in use."""
        await self._engine.dispose()

    async def connect(self) -> AsyncConnection:
        """Return a connection of the caller's own, for writing."""
        return await self._engine.connect()

    async def read(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Return what ``work`` returns, which may be called more than once; it sees one state of an SQLite database."""
        return await self.transaction(work, cek_read=True)

    async def transaction(self, work: Callable[[AsyncConnection], Awaitable[T]], **options: Any) -> T:
        """Return what ``work`` returns, done in a transaction; may be called more than once."""

        async def attempt() -> T:
            async with self._engine.connect() as connection:
                chosen = await connection.execution_options(**options)
                async with chosen.begin():
                    return await work(chosen)

        return await self.patiently(attempt)

    async def patiently(
        self, attempt: Callable[[], Awaitable[T]], on_loss: Callable[[], Awaitable[None]] | None = None
    ) -> T:
        """Return what ``attempt`` returns, called again while a trouble of the database may pass by itself.

        After ``patience``, or for one that does not pass, raises StoreError. ``on_loss`` is called whenever the
        connection may be lost.
        """
        until = monotonic() + self.patience
        pause = 0.0
        while True:
            try:
                return await attempt()
            except Exception as error:
                trouble = self.trouble(error)
                if trouble is None:
                    raise
                if on_loss is not None and not trouble.locked:
                    await on_loss()
                if not trouble.passing or monotonic() + pause >= until:
                    raise Unusable(f"{self.name} {trouble.text}") from error
            await asyncio.sleep(_LOOK_AGAIN if trouble.locked else pause)
            pause = min(max(0.01, 2 * pause), _LONGEST_PAUSE)

    def trouble(self, error: Exception) -> Trouble | None:
        """Return what ``error`` says of the database; None if it says something of what was to be done."""
        if isinstance(error, DBAPIError):
            found = self._by_code(error.orig)
            return found or (Trouble(_GONE, passing=True) if error.connection_invalidated else None)
        if isinstance(error, ssl.SSLError):
            return Trouble("cannot be reached by TLS: look at its certificate, and at sslmode in the URL")
        if isinstance(error, NoConnection):
            return Trouble("answers too slowly: all connections are in use")
        return Trouble(_GONE, passing=True) if isinstance(error, OSError) else self._by_code(error)

    def _by_code(self, error: object) -> Trouble | None:
        if self.is_sqlite:
            return _SQLITE.get(getattr(error, "sqlite_errorname", "SQLITE_NONE").split("_")[1])
        state = getattr(error, "sqlstate", None) or ""
        return next((trouble for beginning, trouble in _POSTGRES.items() if state.startswith(beginning)), None)


async def let_go(connection: AsyncConnection) -> None:
    """Close a connection of which nobody knows what state it is in."""
    with suppress(SQLAlchemyError, OSError):
        await connection.invalidate()
    with suppress(SQLAlchemyError, OSError):
        await connection.close()


def _sqlite(url: sa.URL) -> AsyncEngine:
    if not url.database or url.database == ":memory:":
        raise StoreError("url: must name a file, such as sqlite:///events.db (memory: keeps things in memory)")
    engine = create_async_engine(url.set(drivername="sqlite+aiosqlite"), hide_parameters=True)

    @sa.event.listens_for(engine.sync_engine, "connect")
    def connected(connection: Any, _: object) -> None:
        try:
            _prepare(connection)
        except BaseException:
            connection.close()  # else nobody would
            raise

    @sa.event.listens_for(engine.sync_engine, "begin")
    def begin(connection: sa.Connection) -> None:
        reading = connection.get_execution_options().get("cek_read")
        connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")

    return engine


def _prepare(connection: Any) -> None:
    connection.isolation_level = None  # transactions begin when we say so
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={_BUSY_MS}")
    cursor.execute("PRAGMA journal_mode=WAL")
    if cursor.fetchone() != ("wal",):
        raise StoreError("url: names a file where SQLite cannot keep a write-ahead log (is it on another machine?)")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()


def _postgres(url: sa.URL, patience: float) -> AsyncEngine:
    query = dict(url.query)
    mode = query.pop("sslmode", None)  # as everybody else's drivers call it
    arguments: dict[str, Any] = {"timeout": patience, "command_timeout": max(patience, _SILENCE)}
    if mode is not None:
        arguments["ssl"] = mode
    return create_async_engine(
        url.set(drivername="postgresql+asyncpg", query=query),
        hide_parameters=True,
        connect_args=arguments,
        pool_timeout=patience,
    )
