"""Group commit: what many callers want to write at about the same time is written in one transaction.

A transaction costs a wait for the disk, however much it holds. So there is one writer, and what comes while it waits
makes up its next transaction. Every caller is answered after the commit, and each with what became of its own item:
if a transaction fails because of one of them, it is done again with each for itself. Knows no table.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from functools import partial
from typing import Any, Generic, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from cloudevents_kit._errors import StoreError
from cloudevents_kit.stores.sql._engine import Database, Unusable, let_go

I = TypeVar("I")  # noqa: E741 - an item
R = TypeVar("R")
T = TypeVar("T")

#: Items of one transaction, and items that may wait for one.
MOST = 1000
WAITING = 20_000

#: Does what each item asks for and returns what to answer each, in their order; an Exception among these is raised to
#: whoever asked. What it raises undoes all of them. It may be called again with the same items, even after a commit
#: whose answer was lost, and so must come to the same end.
Apply = Callable[[AsyncConnection, list[I]], Awaitable[Sequence[R | Exception]]]
Work = Callable[[AsyncConnection], Awaitable[Any]]


class _Entry:
    __slots__ = ("future", "item")

    def __init__(self, item: Any, future: asyncio.Future[Any]) -> None:
        self.item = item
        self.future = future


class Operation(Generic[I, R]):
    """One kind of write: called with an item, it returns what became of that, after the commit."""

    def __init__(self, lane: Lane, apply: Apply[I, R]) -> None:
        """Use `Lane.operation`."""
        self._lane = lane
        self.apply = apply

    async def __call__(self, item: I) -> R:
        """Write ``item``. Cancelled, it may be written all the same. Raises StoreError."""
        return await self.post(item)

    def post(self, item: I) -> asyncio.Future[R]:
        """Write ``item`` soon, whether or not anybody waits for the future; cancelling that may come too late."""
        return self._lane.put(self, item)


_Unit = dict[Operation[Any, Any], list[_Entry]]


class Lane:
    """One writer with a connection of its own; what it writes is in the order it came, kind by kind."""

    def __init__(self, database: Database) -> None:
        """Begin closed."""
        self.database = database
        self.transactions = 0
        """How many were committed."""
        #: One transaction for all kinds, where there can be only one at a time anyway. With row locks, each kind has
        #: its own: one that takes its locks in order meets no other that takes them in another.
        self._together = database.is_sqlite
        self._waiting: deque[tuple[Operation[Any, Any], _Entry]] = deque()
        self._writer: asyncio.Task[None] | None = None
        self._connection: AsyncConnection | None = None
        self._run = self.operation(self._each)

    def operation(self, apply: Apply[I, R]) -> Operation[I, R]:
        """Return what writes by ``apply``."""
        return Operation(self, apply)

    async def run(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Return what ``work`` returns, done in a transaction; what it raises undoes it. May be called again."""
        found: T = await self._run(work)
        return found

    def put(self, operation: Operation[I, R], item: I) -> asyncio.Future[R]:
        """See `Operation.post`."""
        self.database.check_open()
        if len(self._waiting) >= WAITING:
            raise StoreError(f"{self.database.name} is overloaded: {WAITING} writes wait for it")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()
        self._waiting.append((operation, _Entry(item, future)))
        if self._writer is None:
            self._writer = loop.create_task(self._write_all(), context=Context())
        return future

    async def close(self) -> None:
        """Write what waits, then close the connection. Nothing more comes: the database is shut."""
        try:
            if self._writer is not None:
                await asyncio.wait((self._writer,))
        finally:
            if self._writer is not None:  # this was cancelled
                self._writer.cancel()
                await asyncio.wait((self._writer,))
            await self._drop()

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await let_go(connection)

    async def _write_all(self) -> None:
        try:
            await asyncio.sleep(0)  # what comes in the same turn of the loop goes along
            while self._waiting:
                unit = self._next()
                if unit:
                    await self._write(unit)
        finally:
            self._writer = None
            left, self._waiting = self._waiting, deque()
            for _, entry in left:
                _answer(entry, StoreError(f"{self.database.name} was closed before this was written"))

    def _next(self) -> _Unit:
        unit: _Unit = {}
        others = []
        first = self._waiting[0][0]
        for _ in range(min(MOST, len(self._waiting))):
            operation, entry = self._waiting.popleft()
            if entry.future.done():  # as it is when it was cancelled
                continue
            if self._together or operation is first:
                unit.setdefault(operation, []).append(entry)
            else:
                others.append((operation, entry))
        self._waiting.extendleft(reversed(others))
        return unit

    async def _write(self, unit: _Unit) -> None:
        entries = [entry for part in unit.values() for entry in part]
        try:
            answers = await self._answers(unit, entries)
        except Unusable as error:  # for those who wait, too: they have waited as long
            left, self._waiting = self._waiting, deque()
            entries += [entry for _, entry in left]
            answers = [_copy(error) for _ in entries]
        except Exception as error:  # noqa: BLE001 - raised to those who asked
            answers = [error for _ in entries]
        except BaseException:
            for entry in entries:
                _answer(entry, StoreError(f"{self.database.name} was closed while this was written"))
            raise
        for entry, answer in zip(entries, answers, strict=True):
            _answer(entry, answer)

    async def _answers(self, unit: _Unit, entries: list[_Entry]) -> list[Any]:
        try:
            return await self._transact(lambda connection: _all_at_once(connection, unit))
        except Unusable:
            raise
        except Exception:
            if len(entries) == 1:
                raise
        return await self._transact(lambda connection: self._apart(connection, unit))

    async def _transact(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        async def attempt(until: float) -> T:
            if self._connection is None:
                self._connection = await self.database.connect(until)
            async with self.database.cutting(self._connection, until), self._connection.begin():
                done = await work(self._connection)
            self.transactions += 1
            return done

        try:
            return await self.database.patiently(attempt, self._drop)
        except asyncio.CancelledError:
            await self._drop()
            raise

    async def _apart(self, connection: AsyncConnection, unit: _Unit) -> list[Any]:
        """Do each kind for itself, and each item of one that fails."""
        answers: list[Any] = []
        for operation, entries in unit.items():
            found: Any = ()
            if len(unit) > 1:
                found = await self._alone(connection, partial(_apply, operation, entries))
            if not isinstance(found, list):
                found = [await self._alone(connection, partial(_only, operation, entry)) for entry in entries]
            answers += found
        return answers

    async def _each(self, connection: AsyncConnection, works: list[Work]) -> list[Any]:
        """Do each of ``works`` for itself: they know nothing of each other, and one of them may fail."""
        if len(works) == 1:
            return [await works[0](connection)]
        return [await self._alone(connection, work) for work in works]

    async def _alone(self, connection: AsyncConnection, work: Work) -> Any:
        """Return what ``work`` returns or raises; what it raises undoes no more than what it did."""
        try:
            async with connection.begin_nested():
                return await work(connection)
        except Exception as error:
            if self.database.trouble(error) is not None:
                raise
            return error


class Lanes:
    """The writers of a database: one for SQLite, which has one at a time anyway, else one for each kind of store."""

    def __init__(self, database: Database) -> None:
        """Begin closed."""
        self._database = database
        self._lanes: dict[str, Lane] = {}

    def __getitem__(self, kind: str) -> Lane:
        """Return the writer for a ``kind`` of store."""
        kind = "" if self._database.is_sqlite else kind
        if kind not in self._lanes:
            self._lanes[kind] = Lane(self._database)
        return self._lanes[kind]

    async def close(self) -> None:
        """Let them write what waits, and close their connections."""
        await asyncio.gather(*(lane.close() for lane in self._lanes.values()))


async def _apply(operation: Operation[Any, Any], entries: list[_Entry], connection: AsyncConnection) -> list[Any]:
    answers = await operation.apply(connection, [entry.item for entry in entries])
    if len(answers) != len(entries):
        raise RuntimeError(f"{operation.apply!r} returned {len(answers)} answers for {len(entries)} items")
    return [*answers]


async def _only(operation: Operation[Any, Any], entry: _Entry, connection: AsyncConnection) -> Any:
    [answer] = await _apply(operation, [entry], connection)
    return answer


async def _all_at_once(connection: AsyncConnection, unit: _Unit) -> list[Any]:
    return [answer for operation, entries in unit.items() for answer in await _apply(operation, entries, connection)]


def _copy(error: StoreError) -> StoreError:
    """Return an error of its own for one of several who are told the same."""
    copy = StoreError(str(error))
    copy.__cause__ = error.__cause__
    return copy


def _answer(entry: _Entry, answer: object) -> None:
    if entry.future.done():
        return
    if isinstance(answer, Exception):
        entry.future.set_exception(answer)
    else:
        entry.future.set_result(answer)
