"""One database and the connections to it: how it is opened, what can go wrong with it, and what passes by itself.

With SQLite, transactions take the lock for writing at their begin, so that what they read still holds when they write.
Knows no table.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as NoConnection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from cloudevents_kit._errors import StoreError
from cloudevents_kit.stores.sql import _sqlite

T = TypeVar("T")

_LOOK_AGAIN = 0.002
_LONGEST_PAUSE = 0.5
#: Seconds for a server to make all tables, whatever the patience.
_TO_MAKE = 30.0


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
_SLOW = Trouble("does not answer: is it stuck, or locked by another program?", passing=True)
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
    "CANTOPEN": Trouble(
        "cannot be opened: its folder must exist, it must be a file, and this process must be allowed to write"
    ),
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
    "57014": Trouble("has a statement_timeout that is too short: raise it for the user of the URL"),
    "58": Trouble("cannot read or write its files: look into its log"),
    "XX": Trouble("has an internal error: look into its log"),
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
        if self.is_sqlite and "?" in url and "uri" not in parsed.query:
            raise StoreError("url: takes no options after ? (%3F stands for one in the name of the file)")
        self.name = f"the {'SQLite' if self.is_sqlite else 'PostgreSQL'} database {parsed.database or ''}".rstrip()
        make_engine = _sqlite.make_engine if self.is_sqlite else _postgres
        self._engine = make_engine(parsed, patience=patience)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._readers = 0
        self._unread = asyncio.Event()
        """Set when the last one has read; another one for each event loop."""

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
        if self._loop is not None:
            raise StoreError(f"{self.name} is open already: open a store once, and hand it to all who need it")
        self._loop, self._unread = asyncio.get_running_loop(), asyncio.Event()
        try:
            await self._transaction(work, _TO_MAKE)
        except (SQLAlchemyError, TypeError, ValueError) as error:  # an option that the driver does not know, as a rule
            await self.close()
            told = getattr(error, "orig", error)
            raise StoreError(f"{self.name} cannot be opened; look at the options of the URL: {told}") from error
        except BaseException:
            await self.close()
            raise

    def check_open(self) -> None:
        """Raise StoreError unless it is open, in this event loop."""
        if self._loop is None:
            raise StoreError(f"{self.name} is not open: use it within `async with store`")
        if self._loop is not asyncio.get_running_loop():
            raise StoreError(f"{self.name} is open in another event loop: open a store in each")

    def shut(self) -> None:
        """Let nobody in who is not in already."""
        self._loop = None

    async def close(self) -> None:
        """Wait for those who read, and close all connections."""
        self.shut()
        try:
            if self._readers:
                self._unread.clear()
                await self._unread.wait()
        finally:
            await self._engine.dispose()

    async def read(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Return what ``work`` returns, which may be called more than once; it sees one state of an SQLite database."""
        return await self._within(work, cek_read=True)

    async def transaction(self, work: Callable[[AsyncConnection], Awaitable[T]], *, seconds: float = 0.0) -> T:
        """Return what ``work`` returns, done in a transaction of its own; it may be called more than once.

        It is beside the `Lane`, whose writers it keeps waiting in SQLite. On a server it is cut off after the patience,
        or after ``seconds`` if these are more.
        """
        return await self._within(work, seconds)

    async def _within(self, work: Callable[[AsyncConnection], Awaitable[T]], seconds: float = 0.0, **options: Any) -> T:
        self.check_open()
        self._readers += 1
        try:
            return await self._transaction(work, seconds, **options)
        finally:
            self._readers -= 1
            if not self._readers:
                self._unread.set()

    async def _transaction(
        self, work: Callable[[AsyncConnection], Awaitable[T]], seconds: float = 0.0, **options: Any
    ) -> T:
        async def attempt(until: float) -> T:
            connection = await self.connect(until)
            limit = max(until, asyncio.get_running_loop().time() + seconds)
            async with self.cutting(connection, limit):
                try:
                    chosen = await connection.execution_options(**options)
                    async with chosen.begin():
                        return await work(chosen)
                finally:
                    await asyncio.shield(connection.close())

        return await self.patiently(attempt)

    async def connect(self, until: float) -> AsyncConnection:
        """Return a connection of the caller's own."""
        async with asyncio.timeout_at(None if self.is_sqlite else until):
            return await self._engine.connect()

    @asynccontextmanager
    async def cutting(self, connection: AsyncConnection, until: float) -> AsyncIterator[None]:
        """Cut ``connection`` if the block lasts longer: nothing else ends the waiting for a server that is silent.

        Raises TimeoutError then.
        """
        if self.is_sqlite:
            yield
            return
        loop = asyncio.get_running_loop()
        cut = loop.call_at(until, _cut, connection)
        try:
            yield
        except Exception as error:
            if loop.time() >= until:
                raise TimeoutError from error
            raise
        finally:
            cut.cancel()

    async def patiently(
        self, attempt: Callable[[float], Awaitable[T]], on_loss: Callable[[], Awaitable[None]] | None = None
    ) -> T:
        """Return what ``attempt`` returns, called again while a trouble of the database may pass by itself.

        It is called with the time of the loop when it shall give up. After ``patience``, or for a trouble that does
        not pass, raises StoreError. ``on_loss`` is called whenever the connection may be lost.
        """
        time = asyncio.get_running_loop().time
        until = time() + self.patience
        pause = 0.0
        trouble: Trouble | None = None
        while True:
            try:
                return await attempt(until)
            except Exception as error:
                before, trouble = trouble, self.trouble(error)
                if trouble is None:
                    raise
                if trouble is _SLOW and before is not None:  # what kept it so long says more
                    trouble = before
                if on_loss is not None and not trouble.locked:
                    await on_loss()
                left = until - time()
                if not trouble.passing or left <= 0:
                    raise Unusable(f"{self.name} {trouble.text}") from error
            await asyncio.sleep(_LOOK_AGAIN if trouble.locked else min(pause, left))
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
        if isinstance(error, TimeoutError):
            return _SLOW
        return Trouble(_GONE, passing=True) if isinstance(error, OSError) else self._by_code(error)

    def _by_code(self, error: object) -> Trouble | None:
        if self.is_sqlite:
            return _SQLITE.get(f"{getattr(error, 'sqlite_errorname', '')}__".split("_")[1])
        state = getattr(error, "sqlstate", None) or ""
        return next((trouble for beginning, trouble in _POSTGRES.items() if state.startswith(beginning)), None)


async def let_go(connection: AsyncConnection) -> None:
    """Close a connection of which nobody knows what state it is in."""
    _cut(connection)
    with suppress(SQLAlchemyError, OSError):
        await connection.invalidate()
    with suppress(SQLAlchemyError, OSError):
        await connection.close()


def _cut(connection: AsyncConnection) -> None:
    """End the session with a server now, whatever goes on in it."""
    inner = connection.sync_connection
    if inner is not None and not (inner.closed or inner.invalidated):
        driver: Any = inner.connection.driver_connection
        if hasattr(driver, "terminate"):
            driver.terminate()


def _postgres(url: sa.URL, *, patience: float) -> AsyncEngine:
    query = dict(url.query)
    mode = query.pop("sslmode", None)  # as everybody else's drivers call it
    engine = create_async_engine(
        url.set(drivername="postgresql+asyncpg", query=query),
        hide_parameters=True,
        isolation_level="READ COMMITTED",
        connect_args={"timeout": patience, **({} if mode is None else {"ssl": mode})},
        pool_timeout=patience,
    )

    @sa.event.listens_for(engine.sync_engine, "close")
    def leave(connection: Any, _: object) -> None:
        connection.driver_connection.terminate()  # says good-bye, and waits for no answer of a server that is silent

    return engine
