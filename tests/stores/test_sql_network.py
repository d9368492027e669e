"""A PostgreSQL behind a network that drops, cuts and stalls; and what waits is told after its patience, not later."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from time import monotonic
from typing import Any

import asyncpg
import pytest

from cloudevents_kit.stores import StoreError, open_store
from cloudevents_kit.stores.sql import SqlStore
from tests.support.events import new
from tests.support.proxy import Proxy
from tests.support.real_servers import Postgres
from tests.support.sql import execute, made

PATIENCE = 0.5
#: What an answer may take beyond the patience on a busy machine.
MARGIN = 1.0


@pytest.fixture
async def proxy(postgres: Postgres) -> AsyncIterator[Proxy]:
    """A network before the server."""
    async with Proxy.to_socket(postgres.folder / ".s.PGSQL.5432") as found:
        yield found


@pytest.fixture
async def direct(postgres: Postgres) -> AsyncIterator[str]:
    """The URL of a database, past the network; its tables are made, which takes longer than our patience."""
    name = "behind_a_network"
    await execute(postgres.url(), f"CREATE DATABASE {name}")
    try:
        async with open_store(postgres.url(name)):
            pass
        yield postgres.url(name)
    finally:
        await execute(postgres.url(), f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def far(proxy: Proxy, direct: str) -> str:
    """The URL of the same database through the network."""
    return f"postgresql://postgres@127.0.0.1:{proxy.port}/behind_a_network"


async def put(store: SqlStore, identity: object) -> bool:
    return await store.queue.put(new(id=str(identity)), key=None, capacity=1_000_000)


async def stored(url: str) -> list[str]:
    async with open_store(url) as store:
        found: list[str] = []
        while leased := [one for one in await asyncio.gather(*(store.queue.lease(100) for _ in range(100))) if one]:
            found += [event.id for _, event, _ in leased]
        return found


async def refused_in_time(call: Awaitable[object]) -> str:
    """Await what must raise StoreError when patience ends; return its text."""
    begin = monotonic()
    with pytest.raises(StoreError) as raised:
        await call
    assert PATIENCE * 0.9 <= monotonic() - begin < PATIENCE + MARGIN
    return str(raised.value)


async def test_connections_that_are_cut_again_and_again_lose_and_repeat_nothing(
    proxy: Proxy, far: str, direct: str
) -> None:
    answered: list[str] = []
    stop, heard = asyncio.Event(), asyncio.Event()

    async def write(store: SqlStore, writer: int) -> None:
        number = 0
        while not stop.is_set():
            assert await put(store, f"{writer}-{number}")
            answered.append(f"{writer}-{number}")
            heard.set()
            number += 1

    async with made(open_store(far, patience=20)) as store:
        writing = [asyncio.ensure_future(write(store, writer)) for writer in range(20)]
        for cuts in range(1, 11):
            while len(answered) < 40 * cuts:
                heard.clear()
                await heard.wait()
            proxy.cut()
        stop.set()
        await asyncio.gather(*writing)
    assert sorted(await stored(direct)) == sorted(answered)
    assert proxy.accepted > 10


async def test_a_commit_whose_answer_was_lost_is_found_to_have_been_made(proxy: Proxy, far: str, direct: str) -> None:
    """The server has done it, its answer is held back and dropped: the second attempt changes nothing."""
    async with made(open_store(far, patience=20)) as store:
        await put(store, "first")
        calls = [asyncio.ensure_future(put(store, number)) for number in range(20)]
        rounds = 0
        while not all(call.done() for call in calls):
            proxy.stall(answers_only=True)  # each attempt comes a statement further than the last, at least
            await proxy.held.wait()
            await proxy.resume_after_cut()
            rounds += 1
            await asyncio.sleep(0.03 * rounds)
        assert await asyncio.gather(*calls) == [True] * 20
    assert sorted(await stored(direct)) == sorted(["first", *map(str, range(20))])


async def test_a_silent_network_is_waited_for_no_longer_than_patience(proxy: Proxy, far: str, direct: str) -> None:
    async with made(open_store(far, patience=PATIENCE)) as store:
        assert await put(store, "before")
        assert await store.windows.windows() == []
        proxy.stall()
        told = await asyncio.gather(
            refused_in_time(put(store, "lost")),
            refused_in_time(store.queue.lease(1)),  # of the same writer, and so of the next transaction: no longer
            refused_in_time(store.deduplication.claim("k", "t", 10)),  # of a writer that was not connected yet
            *(refused_in_time(store.windows.windows()) for _ in range(30)),  # more than there are connections
        )
        assert {text.partition(":")[0] for text in told} == {
            "the PostgreSQL database behind_a_network does not answer",
        }
        await proxy.resume()
        assert await put(store, "after")
        assert await store.windows.windows() == []
    found = await stored(direct)
    assert found == ["before", "after"] or sorted(found) == ["after", "before", "lost"]


async def test_a_network_that_was_silent_for_less_is_not_noticed(proxy: Proxy, far: str, direct: str) -> None:
    async with made(open_store(far, patience=20)) as store:
        assert await put(store, 1)
        proxy.stall()
        writing, reading = asyncio.ensure_future(put(store, 2)), asyncio.ensure_future(store.windows.windows())
        await asyncio.sleep(0.05)
        await proxy.resume()
        assert await writing
        assert await reading == []
    assert await stored(direct) == ["1", "2"]


async def test_opening_and_closing_end_though_the_network_is_silent(proxy: Proxy, far: str) -> None:
    store = made(open_store(far, patience=PATIENCE))
    await store.__aenter__()
    assert await put(store, 1)
    assert await store.windows.windows() == []
    proxy.stall()
    async with asyncio.timeout(3):
        await store.__aexit__()
    assert "does not answer" in await refused_in_time(store.__aenter__())
    await proxy.resume()
    async with store:
        assert await store.windows.windows() == []


async def test_a_call_that_is_cancelled_ends_though_the_network_is_silent(proxy: Proxy, far: str) -> None:
    async with made(open_store(far, patience=PATIENCE)) as store:
        assert await put(store, 1)
        proxy.stall()
        calls: list[asyncio.Task[Any]] = [
            asyncio.create_task(put(store, 2)),
            asyncio.create_task(store.windows.windows()),
        ]
        await asyncio.sleep(0.05)
        for call in calls:
            call.cancel()
        _, left = await asyncio.wait(calls, timeout=PATIENCE + MARGIN)
        assert not left
        assert all(call.cancelled() for call in calls)
        await proxy.resume()


async def test_a_network_that_refuses_is_said_to_be_out_of_reach_and_used_again(proxy: Proxy, far: str) -> None:
    async with made(open_store(far, patience=PATIENCE)) as store:
        assert await put(store, 1)
        await proxy.refuse()
        told = await asyncio.gather(refused_in_time(put(store, 2)), refused_in_time(store.windows.windows()))
        assert all("cannot be reached: is the server running" in text for text in told)
        await proxy.resume()
        assert await put(store, 3)


async def test_a_table_that_another_program_locks_is_waited_for_and_no_longer_than_patience(direct: str) -> None:
    async with made(open_store(direct, patience=PATIENCE)) as store:
        other = await _connect(direct)
        lock = other.transaction()
        await lock.start()
        await other.execute("LOCK TABLE cek_queue")
        assert "locked by another program" in await refused_in_time(put(store, 1))
        assert await store.deduplication.claim("k", "t", 10) is None  # another writer is not held up
        writing = asyncio.ensure_future(put(store, 2))
        await asyncio.sleep(0.05)
        assert not writing.done()
        await lock.rollback()
        assert await writing
        await other.close()
    assert "2" in await stored(direct)


async def test_a_database_with_another_isolation_is_used_as_every_other(direct: str) -> None:
    name = "behind_a_network"
    await execute(direct, f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'")
    async with made(open_store(direct)) as one, made(open_store(direct)) as other:
        assert all(await asyncio.gather(*(put((one, other)[number % 2], number) for number in range(50))))
        isolation = await one._database.read(lambda connection: _shown(connection, "transaction_isolation"))
        assert isolation == "read committed"


async def test_a_statement_timeout_of_the_server_is_named(direct: str) -> None:
    async with made(open_store(direct, patience=5)) as store:

        async def sleep(connection: Any) -> None:
            await connection.exec_driver_sql("SET LOCAL statement_timeout = 10")
            await connection.exec_driver_sql("SELECT pg_sleep(5)")

        with pytest.raises(StoreError, match="has a statement_timeout that is too short"):
            await store._lanes["any"].run(sleep)


async def _shown(connection: Any, name: str) -> Any:
    return (await connection.exec_driver_sql(f"SHOW {name}")).scalar()


async def _connect(url: str) -> Any:
    folder = url.partition("?host=")[2]
    return await asyncpg.connect(user="postgres", database="behind_a_network", host=folder)
