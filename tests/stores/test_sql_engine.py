"""Group commit: what comes at about the same time shares a transaction, and each caller gets its own answer."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from contextlib import suppress
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from cloudevents_kit.stores import StoreError, open_store
from cloudevents_kit.stores.sql import SqlStore, _group
from cloudevents_kit.stores.sql._group import Lane, Operation
from tests.support.events import new
from tests.support.sql import execute

NOTES = sa.table("notes", sa.column("n", sa.Integer))


@pytest.fixture
async def lane(opened: SqlStore, url: str) -> Lane:
    await execute(url, "CREATE TABLE notes (n INTEGER PRIMARY KEY CHECK (n >= 0))")
    return opened._lanes["test"]


async def write(connection: AsyncConnection, numbers: list[int]) -> list[int | Exception]:
    """Write the numbers, all but 13; those below 0 break a rule of the table, 99 one of ours."""
    if 99 in numbers:
        raise ArithmeticError
    rows = [{"n": number} for number in numbers if number != 13]
    if rows:
        await connection.execute(sa.insert(NOTES), rows)
    return [ValueError("unlucky") if number == 13 else number * 10 for number in numbers]


async def notes(url: str) -> list[int]:
    return [row[0] for row in await execute(url, "SELECT n FROM notes ORDER BY n")]


async def test_what_comes_at_once_shares_a_transaction(lane: Lane, url: str) -> None:
    operation, before = lane.operation(write), lane.transactions
    numbers = [*range(20, 90)]
    assert await asyncio.gather(*map(operation, numbers)) == [number * 10 for number in numbers]
    assert lane.transactions == before + 1
    assert await notes(url) == numbers


async def test_what_comes_while_a_transaction_is_written_goes_into_the_next(lane: Lane) -> None:
    begun, leave = asyncio.Event(), asyncio.Event()

    async def wait(connection: AsyncConnection, items: list[int]) -> list[int]:
        begun.set()
        await leave.wait()
        return [len(items) for _ in items]

    operation = lane.operation(wait)
    first = asyncio.ensure_future(operation(1))
    await begun.wait()
    others = [asyncio.ensure_future(operation(number)) for number in range(5)]
    await asyncio.sleep(0)
    leave.set()
    assert await asyncio.gather(first, *others) == [1, 5, 5, 5, 5, 5]


async def test_a_transaction_has_its_limit(lane: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_group, "MOST", 3)
    before = lane.transactions
    await asyncio.gather(*map(lane.operation(write), range(10)))
    assert lane.transactions == before + 4


async def test_an_answer_comes_after_the_commit(lane: Lane, url: str) -> None:
    operation = lane.operation(write)

    async def ask(number: int) -> bool:
        await operation(number)
        return number in await notes(url)

    assert all(await asyncio.gather(*map(ask, range(5))))


async def test_an_item_that_fails_fails_alone(lane: Lane, url: str) -> None:
    numbers = [1, -1, 2, 13, 3, 99, 4]
    found = await asyncio.gather(*map(lane.operation(write), numbers), return_exceptions=True)
    assert [type(one) for one in found] == [int, sa.exc.IntegrityError, int, ValueError, int, ArithmeticError, int]
    assert await notes(url) == [1, 2, 3, 4]


async def test_one_that_is_alone_fails_as_it_is(lane: Lane, url: str) -> None:
    with pytest.raises(ArithmeticError):
        await lane.operation(write)(99)
    with pytest.raises(ValueError, match="unlucky"):
        await lane.operation(write)(13)
    assert await lane.operation(write)(1) == 10
    assert await notes(url) == [1]


async def test_the_values_of_a_statement_are_in_no_message(lane: Lane) -> None:
    with pytest.raises(sa.exc.IntegrityError) as raised:
        await lane.operation(write)(-777)
    assert "[parameters" not in str(raised.value)


async def test_different_operations_do_not_disturb_each_other(lane: Lane, url: str) -> None:
    first, second = lane.operation(write), lane.operation(write)
    found = await asyncio.gather(first(1), second(99), first(2), second(3), return_exceptions=True)
    assert [one for one in found if not isinstance(one, Exception)] == [10, 20, 30]
    assert await notes(url) == [1, 2, 3]


async def test_works_share_a_transaction_and_what_one_did_that_fails_is_undone(lane: Lane, url: str) -> None:
    async def work(connection: AsyncConnection, number: int) -> int:
        await connection.execute(sa.insert(NOTES), {"n": number})
        if number == 2:
            raise ArithmeticError
        return number

    before = lane.transactions
    calls = [lane.run(lambda connection, number=number: work(connection, number)) for number in (1, 2, 3)]  # type: ignore[misc]
    found = await asyncio.gather(*calls, return_exceptions=True)
    assert [found[0], type(found[1]), found[2]] == [1, ArithmeticError, 3]
    assert lane.transactions == before + 1
    assert await notes(url) == [1, 3]
    assert await lane.run(lambda connection: work(connection, 4)) == 4


class Held:
    """An operation that is in the middle of a transaction until it is let go."""

    def __init__(self, lane: Lane) -> None:
        self.begun, self.leave = asyncio.Event(), asyncio.Event()
        self.operation: Operation[int, int] = lane.operation(self.write)

    async def write(self, connection: AsyncConnection, items: list[int]) -> list[int | Exception]:
        self.begun.set()
        await self.leave.wait()
        return await write(connection, items)


async def test_one_that_is_cancelled_leaves_the_others(lane: Lane, url: str) -> None:
    held = Held(lane)
    at_work = [asyncio.ensure_future(held.operation(number)) for number in (1, 2)]
    await held.begun.wait()
    waiting = [asyncio.ensure_future(held.operation(number)) for number in (3, 4)]
    await asyncio.sleep(0)
    for task in (at_work[0], waiting[0]):
        task.cancel()
    held.leave.set()
    assert [await at_work[1], await waiting[1]] == [20, 40]
    assert [task.cancelled() for task in (*at_work, *waiting)] == [True, False, True, False]
    assert await notes(url) == [1, 2, 4]  # what waited is not written, what was being written is


async def test_no_more_than_so_many_wait(lane: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_group, "WAITING", 2)
    operation = lane.operation(write)
    found = await asyncio.gather(*map(operation, range(3)), return_exceptions=True)
    assert found[:2] == [0, 10]
    assert "is overloaded: 2 writes wait for it" in str(found[2])
    assert await operation(3) == 30


async def test_closing_writes_what_waits(url: str) -> None:
    async with open_store(url) as store:
        assert isinstance(store, SqlStore)
        await execute(url, "CREATE TABLE notes (n INTEGER PRIMARY KEY CHECK (n >= 0))")
        futures = [store._lanes["test"].operation(write).post(number) for number in range(5)]
    assert [future.result() for future in futures] == [0, 10, 20, 30, 40]
    assert await notes(url) == [0, 1, 2, 3, 4]


async def test_a_closing_that_is_cancelled_tells_those_who_wait(url: str) -> None:
    store = open_store(url)
    assert isinstance(store, SqlStore)
    await store.__aenter__()
    lane = store._lanes["test"]
    held = Held(lane)
    first = held.operation.post(1)
    await held.begun.wait()
    second = held.operation.post(2)
    closing = asyncio.ensure_future(store.__aexit__())
    await asyncio.sleep(0.01)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    for future in (first, second):
        with pytest.raises(StoreError, match="was closed"):
            await future


async def test_reading_does_not_wait_for_a_writer(lane: Lane, url: str) -> None:
    held = Held(lane)
    writing = asyncio.ensure_future(held.operation(1))
    await held.begun.wait()

    async def count(connection: AsyncConnection) -> int | None:
        return await connection.scalar(sa.select(sa.func.count()).select_from(NOTES))

    assert await lane.database.read(count) == 0
    held.leave.set()
    await writing
    assert await lane.database.read(count) == 1


async def test_a_reading_that_is_cancelled_leaves_nothing_behind(lane: Lane) -> None:
    async def wait(connection: AsyncConnection) -> None:
        await connection.execute(sa.select(NOTES))
        await asyncio.Event().wait()

    for _ in range(20):
        task = asyncio.ensure_future(lane.database.read(wait))
        await asyncio.sleep(0.003)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_sqlite_syncs_every_commit(opened: SqlStore) -> None:
    if not opened._database.is_sqlite:
        return

    async def pragmas(connection: AsyncConnection) -> list[object]:
        return [await connection.scalar(sa.text(f"PRAGMA {name}")) for name in ("synchronous", "journal_mode")]

    assert await opened._lanes["any"].run(pragmas) == [2, "wal"]


# What keeps callers from waiting for ever, and answers from the wrong caller.


async def test_an_operation_that_miscounts_its_answers_fails_and_leaves_nobody_waiting(lane: Lane, url: str) -> None:
    async def miscount(connection: AsyncConnection, items: list[int]) -> list[int]:
        await write(connection, items)
        return [0] * (len(items) - 1)

    calls = [*map(lane.operation(miscount), range(3)), lane.operation(write)(7)]
    async with asyncio.timeout(5):
        found = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(one) for one in found] == [RuntimeError] * 3 + [int]
    assert await notes(url) == [7]


async def test_a_closing_that_is_cancelled_tells_those_of_every_kind(url: str) -> None:
    store = open_store(url)
    assert isinstance(store, SqlStore)
    await store.__aenter__()
    lane = store._lanes["test"]
    held = Held(lane)
    futures = [held.operation.post(1), lane.operation(write).post(2), lane.operation(write).post(3)]
    await held.begun.wait()
    closing = asyncio.ensure_future(store.__aexit__())
    await asyncio.sleep(0.01)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    async with asyncio.timeout(5):
        for future in futures:
            with pytest.raises(StoreError, match="was closed"):
                await future


async def test_one_that_fails_has_those_of_its_own_kind_done_again_and_nobody_else(lane: Lane, url: str) -> None:
    sizes: list[int] = []

    async def count(connection: AsyncConnection, numbers: list[int]) -> list[int | Exception]:
        sizes.append(len(numbers))
        return await write(connection, numbers)

    many = [lane.operation(count)] * 50
    calls = [operation(number) for number, operation in enumerate(many, 100)]
    found = await asyncio.gather(*calls, *map(lane.operation(write), (1, -1, 2)), return_exceptions=True)
    assert [type(one) for one in found[50:]] == [int, sa.exc.IntegrityError, int]
    assert await notes(url) == [1, 2, *range(100, 150)]
    assert set(sizes) == {50}


async def test_the_first_that_waits_is_never_overtaken_for_long(lane: Lane) -> None:
    """Two kinds, one of which never stops coming: the other has its turn."""
    stop = asyncio.Event()
    busy, seldom = lane.operation(write), lane.operation(write)

    async def hurry(first: int) -> None:
        for number in range(first, 10**9, 10):
            if stop.is_set():
                return
            await busy(number)

    hurrying = [asyncio.ensure_future(hurry(first)) for first in range(1000, 1010)]
    before = lane.transactions
    for number in range(5):
        await seldom(number)
    stop.set()
    assert lane.transactions - before <= 20
    await asyncio.gather(*hurrying)


# What a store is used for while it is open, and where.


async def test_what_is_not_open_is_not_read(url: str) -> None:
    store = open_store(url)
    for _ in range(2):
        with pytest.raises(StoreError, match="is not open"):
            await store.windows.windows()
        async with store:
            assert await store.windows.windows() == []


async def test_closing_waits_for_those_who_read(lane: Lane, opened: SqlStore) -> None:
    reading, leave = asyncio.Event(), asyncio.Event()

    async def count(connection: AsyncConnection) -> int | None:
        reading.set()
        await leave.wait()
        return await connection.scalar(sa.select(sa.func.count()).select_from(NOTES))

    reader = asyncio.ensure_future(lane.database.read(count))
    await reading.wait()
    closing = asyncio.ensure_future(opened.__aexit__())
    await asyncio.sleep(0.02)
    assert not closing.done()
    leave.set()
    await closing
    assert await reader == 0


async def test_a_store_that_is_open_is_not_opened_again(opened: SqlStore) -> None:
    with pytest.raises(StoreError, match="is open already: open a store once"):
        await opened.__aenter__()
    assert await opened.windows.windows() == []


async def test_another_event_loop_is_refused_and_does_not_hang(opened: SqlStore) -> None:
    async def elsewhere() -> list[object]:
        calls = opened.deduplication.claim("k", "t", 10), opened.windows.windows()
        return [*await asyncio.gather(*calls, return_exceptions=True)]

    for error in await asyncio.to_thread(asyncio.run, elsewhere()):
        assert "is open in another event loop: open a store in each" in str(error)
    assert await opened.deduplication.claim("k", "t", 10) is None


def test_a_store_can_be_opened_in_one_loop_after_the_other(url: str) -> None:
    store = open_store(url)

    async def claim(key: str) -> bytes | float | None:
        async with store:
            assert await store.windows.windows() == []
            return await store.deduplication.claim(key, "t", 10)

    assert [asyncio.run(claim(key)) for key in "ab"] == [None, None]


def test_a_closing_that_waits_for_a_reader_can_do_so_in_one_loop_after_the_other(url: str) -> None:
    store = open_store(url)

    async def use() -> None:
        await store.__aenter__()
        reading = asyncio.ensure_future(store.windows.windows())
        await asyncio.sleep(0)
        await store.__aexit__(None, None, None)
        assert await reading == []

    for _ in range(2):
        asyncio.run(use())


async def test_what_a_writer_does_after_it_was_refused_the_lock_is_not_done_outside_of_a_transaction(
    tmp_path: Path,
) -> None:
    url = f"sqlite:///{tmp_path / 'events.db'}"
    async with open_store(url, patience=0.1) as store:
        assert isinstance(store, SqlStore)
        await execute(url, "CREATE TABLE notes (n INTEGER PRIMARY KEY CHECK (n >= 0))")
        other = sqlite3.connect(tmp_path / "events.db", isolation_level=None)

        async def deaf(connection: AsyncConnection) -> None:
            other.execute("BEGIN IMMEDIATE")
            for number in range(3):
                with suppress(sa.exc.OperationalError):
                    await connection.execute(sa.insert(NOTES), {"n": number})
                if number == 1:
                    other.execute("COMMIT")
            raise ArithmeticError

        with pytest.raises(ArithmeticError):
            await store._lanes["any"].run(deaf)
        other.close()
        assert await notes(url) == []


async def test_no_log_tells_what_is_written(opened: SqlStore, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):  # of all libraries but SQLAlchemy, which has a level of its own
        assert await opened.deduplication.claim("S3cret-key", "t", 10) is None
        assert await opened.queue.put(new(id="S3cret", data="S3cret"), key="S3cret", capacity=9)
        assert await opened.queue.lease(10) is not None
    assert "S3cret" not in caplog.text
    if opened._database.is_sqlite:
        assert "aiosqlite" in caplog.text  # which logs every call
