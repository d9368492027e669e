"""What goes wrong with databases: servers that are killed, files that are locked or full, processes that are killed."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
from asyncio.subprocess import PIPE
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from cloudevents_kit.stores import StoreError, open_store
from cloudevents_kit.stores.sql import SqlStore
from tests.support.events import new
from tests.support.programs import ROOT, run
from tests.support.real_servers import Postgres
from tests.support.sql import execute, made

WRITERS = 20


@pytest.fixture
def server() -> Iterator[Postgres]:
    """A server that the test may kill."""
    found = Postgres().start()
    try:
        yield found
    finally:
        found.close()


async def put(store: SqlStore, identity: object) -> bool:
    return await store.queue.put(new(id=str(identity)), key=None, capacity=1_000_000)


async def stored(url: str) -> list[str]:
    async with open_store(url) as store:
        found: list[str] = []
        while leased := [one for one in await asyncio.gather(*(store.queue.lease(100) for _ in range(100))) if one]:
            found += [event.id for _, event, _ in leased]
        return found


# A server that is killed.


async def test_what_was_stored_outlives_a_server_that_is_killed_and_nobody_notices(server: Postgres) -> None:
    answered: list[str] = []
    stop, heard = asyncio.Event(), asyncio.Event()

    async def write(store: SqlStore, writer: int) -> None:
        number = 0
        while not stop.is_set():
            identity = f"{writer}-{number}"
            assert await put(store, identity)
            answered.append(identity)
            heard.set()
            number += 1

    async with made(open_store(server.url(), patience=30)) as store:
        writing = [asyncio.ensure_future(write(store, writer)) for writer in range(WRITERS)]
        for _ in range(2):
            for _ in range(10):
                heard.clear()
                await heard.wait()
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
        stop.set()
        await asyncio.gather(*writing)
    found = await stored(server.url())
    assert len(found) == len(set(found))
    assert set(answered) <= set(found)


async def test_a_claim_survives_a_server_that_is_killed_and_so_does_what_it_ended_with(server: Postgres) -> None:
    async with open_store(server.url(), patience=30) as store:
        keys = store.deduplication
        assert await keys.claim("k", "a", 1000) is None
        server.kill()
        claim = asyncio.ensure_future(keys.claim("k", "b", 1000))
        await asyncio.sleep(0.05)
        await asyncio.to_thread(server.start)
        assert isinstance(await claim, float)
        assert await keys.commit("k", "a", b"done", 1000)
        server.kill()
        await asyncio.to_thread(server.start)
        assert await keys.claim("k", "b", 1000) == b"done"


async def test_a_server_that_stays_away_is_an_error_and_one_that_comes_back_is_used_again(server: Postgres) -> None:
    async with made(open_store(server.url(), patience=0.2)) as store:
        assert await put(store, 1)
        server.kill()
        found = await asyncio.gather(*(put(store, number) for number in range(5)), return_exceptions=True)
        assert {type(error) for error in found} == {StoreError}
        assert "cannot be reached: is the server running" in str(found[0])
        assert found[0] is not found[1]
        with pytest.raises(StoreError, match="cannot be reached"):
            await store.windows.windows()
        await asyncio.to_thread(server.start)
        assert await put(store, 2)
        assert await store.windows.windows() == []


async def test_connections_that_the_server_ends_are_replaced(server: Postgres) -> None:
    end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname IS NOT NULL"
    async with made(open_store(server.url())) as store:
        for number in range(5):
            assert await put(store, number)
            assert await store.windows.windows() == []
            await execute(server.url(), end)


async def test_an_outcome_that_was_committed_with_an_answer_that_was_lost_counts_as_committed(url: str) -> None:
    """The connection is cut after the commit: the second attempt finds what the first has done."""
    async with made(open_store(url)) as store:
        keys, queue, lane = store.deduplication, store.queue, store.queue._lease._lane
        await keys.claim("k", "a", 1000)
        await put(store, 1)
        for each in {keys._take._lane, lane}:
            each._transact = twice(each)  # type: ignore[method-assign]
        assert await keys.commit("k", "a", b"done", 1000)
        leased = await queue.lease(1000)
        assert leased is not None
        assert await put(store, 1)
        assert await queue.ack(leased[0]) is False  # the first attempt has removed it
        assert await keys.claim("k", "b", 1000) == b"done"
    assert await stored(url) == []


def twice(lane: Any) -> Any:
    """Return a transaction that is committed, and then done again as if nobody had heard of that."""
    transact = lane._transact

    async def again(work: Any) -> Any:
        await transact(work)
        return await transact(work)

    return again


# A file.


async def test_a_lock_of_another_program_is_waited_for(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'events.db'}"
    async with made(open_store(url)) as store:
        other = sqlite3.connect(tmp_path / "events.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        writing = asyncio.ensure_future(put(store, 1))
        await asyncio.sleep(0.1)
        assert await store.windows.windows() == []  # reading goes on
        assert not writing.done()
        other.execute("COMMIT")
        other.close()
        assert await writing


async def test_a_lock_that_stays_is_an_error_which_says_so(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'events.db'}"
    async with made(open_store(url, patience=0.1)) as store:
        other = sqlite3.connect(tmp_path / "events.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="locked by another program: end what holds the lock, or raise patience"):
            await put(store, 1)
        other.execute("ROLLBACK")
        other.close()
        assert await put(store, 1)
    assert await stored(url) == ["1"]


async def test_a_full_file_is_an_error_and_what_was_stored_stays(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'events.db'}"

    def limit(pages: int) -> Any:
        async def work(connection: AsyncConnection) -> None:
            await connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")

        return work

    async with made(open_store(url)) as store:
        lane = store._lanes[""]
        await put(store, "small")
        await lane.run(limit(1))  # as many as there are
        large = new(id="large", data="x" * 1_000_000)
        calls = [store.queue.put(large, key=None, capacity=9), store.deduplication.claim("k", "t", 9)]
        for error in await asyncio.gather(*calls, return_exceptions=True):
            assert "has no room left: free space on its disk" in str(error)
        await lane.run(limit(100_000))
        assert await store.queue.put(large, key=None, capacity=9)
    assert await stored(url) == ["small", "large"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="has no /dev/full")
async def test_what_is_no_file_is_refused() -> None:
    with pytest.raises(StoreError):
        async with open_store("sqlite:////dev/full", patience=0.1):
            pass


# Processes.

#: Puts events and says which were stored, for ever.
PUTTING = """
import asyncio, sys
from cloudevents_kit import Event
from cloudevents_kit.stores import open_store

async def put(store, writer):
    for number in range(10**9):
        identity = f"{sys.argv[2]}-{writer}-{number}"
        assert await store.queue.put(Event(type="t", source="/s", id=identity), key=None, capacity=10**9)
        print(identity, flush=True)

async def main():
    async with open_store(sys.argv[1]) as store:
        await asyncio.gather(*(put(store, writer) for writer in range(10)))

asyncio.run(main())
"""

#: Leases and acknowledges events until there are none, and says which.
WORKING = """
import asyncio, sys
from cloudevents_kit.stores import open_store

async def work(store):
    while (leased := await store.queue.lease(60)) is not None:
        assert await store.queue.ack(leased[0])
        print(leased[1].id, leased[2], flush=True)

async def main():
    async with open_store(sys.argv[1]) as store:
        await asyncio.gather(*(work(store) for _ in range(20)))

asyncio.run(main())
"""


async def start(program: str, *arguments: str) -> asyncio.subprocess.Process:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-c", program, *arguments, cwd=ROOT, env=environment, stdout=PIPE
    )


async def test_what_a_killed_process_was_told_to_be_stored_is_stored(url: str) -> None:
    told: list[str] = []
    for turn in range(2):
        process = await start(PUTTING, url, str(turn))
        assert process.stdout is not None
        told += [(await process.stdout.readline()).decode().strip() for _ in range(100 + 37 * turn)]
        process.send_signal(signal.SIGKILL)
        rest, _ = await process.communicate()
        told += rest.decode().split("\n")[:-1]
    found = await stored(url)
    assert len(found) == len(set(found))
    assert set(told) <= set(found)


async def test_several_processes_lease_each_event_once(url: str) -> None:
    async with made(open_store(url)) as store:
        await asyncio.gather(*(put(store, number) for number in range(600)))
    processes = [await start(WORKING, url) for _ in range(3)]
    ended = await asyncio.gather(*(process.communicate() for process in processes))
    assert [process.returncode for process in processes] == [0, 0, 0]
    lines = [line for printed, _ in ended for line in printed.decode().splitlines()]
    assert sorted(lines) == sorted(f"{number} 1" for number in range(600))


async def test_a_busy_process_does_not_keep_others_from_writing(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'events.db'}"
    async with made(open_store(url)) as store:
        process = await start(PUTTING, url, "busy")
        assert process.stdout is not None
        await process.stdout.readline()
        for number in range(20):
            async with asyncio.timeout(5):
                assert await put(store, number)
        process.kill()
        await process.communicate()


async def test_many_windows_of_several_stores_agree(url: str) -> None:
    async with open_store(url) as one, open_store(url) as other:

        async def add(number: int) -> str:
            store = one if number % 2 else other
            return await store.windows.add(
                0, "k", ("/s", str(number)), [1], lambda new, old: [(old or [0])[0] + new[0]], anywhere=False
            )

        assert set(await asyncio.gather(*map(add, range(200)))) == {"counted"}
        tally = await one.windows.read("k", None)
        assert tally is not None
        assert tally.states == [200]


async def test_statements_are_not_in_messages(url: str) -> None:
    async with made(open_store(url)) as store:
        await execute(url, "DROP TABLE cek_queue")
        with pytest.raises(sa.exc.DBAPIError) as raised:
            await put(store, "secret-id")
        assert "secret-id" not in str(raised.value)


# A disk that is full.

#: Puts events until the disk is full, makes room, and goes on; says which were stored, and what it was told.
FILLING = """
import asyncio, resource, sys
from cloudevents_kit import Event
from cloudevents_kit.stores import StoreError, open_store

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

async def put(store, identity):
    try:
        event = Event(type="t", source="/s", id=identity, data="x" * 2000)
        assert await store.queue.put(event, key=None, capacity=10**9)
    except StoreError as error:
        print("told", error, flush=True)
        return False
    print("stored", identity, flush=True)
    return True

async def main():
    async with open_store(sys.argv[1]) as store:
        for round in range(2):
            limit((round + 1) * 500_000)
            full = False
            for number in range(200):
                done = await asyncio.gather(*(put(store, f"{round}-{number}-{writer}") for writer in range(10)))
                full = not all(done)
                if full:
                    break
            assert full
        limit(resource.RLIM_INFINITY)
        assert all(await asyncio.gather(*(put(store, f"end-{writer}") for writer in range(10))))

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="has no limits for the size of files")
async def test_a_disk_that_is_full_again_and_again_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'events.db'}"
    code, printed = await run("-c", FILLING, url)
    assert code == 0, printed
    lines = [line.partition(" ")[::2] for line in printed.splitlines()]
    acknowledged = [text for kind, text in lines if kind == "stored"]
    told = {text for kind, text in lines if kind == "told"}
    found = await stored(url)
    assert len(found) == len(set(found))
    assert set(acknowledged) <= set(found)
    assert len(acknowledged) > 50
    assert acknowledged[-1].startswith("end-")
    assert all("has no room left: free space" in text or "its disk has failed, or is full" in text for text in told)


#: Holds the lock of a file, again and again, as another program may.
LOCKING = """
import random, sqlite3, sys, time
file = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
print("ready", flush=True)
for turn in range(20):
    file.execute("BEGIN EXCLUSIVE")
    time.sleep(random.uniform(0.01, 0.05))
    file.execute("COMMIT")
    time.sleep(0.002)
"""


async def test_a_file_that_another_process_locks_again_and_again_loses_nothing(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'events.db'}"
    answered: list[str] = []
    async with made(open_store(url, patience=20)) as store:
        process = await start(LOCKING, str(tmp_path / "events.db"))
        assert process.stdout is not None
        await process.stdout.readline()

        async def write(writer: int) -> None:
            number = 0
            while process.returncode is None:
                assert await put(store, f"{writer}-{number}")
                answered.append(f"{writer}-{number}")
                number += 1

        ended = asyncio.ensure_future(process.communicate())
        await asyncio.gather(*map(write, range(10)))
        await ended
        assert process.returncode == 0
    assert sorted(await stored(url)) == sorted(answered)
