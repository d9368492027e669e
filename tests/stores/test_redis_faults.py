"""What goes wrong on the way to Redis: servers that are killed, connections that are cut, answers that are lost."""

from __future__ import annotations

import asyncio
import os
import random
import sys
from asyncio.subprocess import PIPE
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest

from cloudevents_kit import Event, stages, wrap
from cloudevents_kit.stores import Store, StoreError, open_store
from cloudevents_kit.stores.redis import RedisStore
from cloudevents_kit.testing._windows import add, states
from tests.support.events import new
from tests.support.programs import ROOT
from tests.support.proxy import Proxy
from tests.support.real_servers import Valkey, free_port
from tests.support.redis import run

WRITERS = 20
KILLS = int(os.environ.get("KILLS", "20"))


@pytest.fixture
def server() -> Iterator[Valkey]:
    """A server that the test may kill."""
    found = Valkey(port=free_port()).start()
    try:
        yield found
    finally:
        found.close()


@pytest.fixture
async def proxy(valkey: Valkey, redis_url: str) -> AsyncIterator[Proxy]:
    """A proxy before a server that is empty."""
    async with Proxy.to_socket(valkey.socket) as found:
        yield found


def behind(proxy: Proxy, patience: float) -> Store:
    return open_store(f"redis://127.0.0.1:{proxy.port}/0", patience=patience)


class Traffic:
    """Events that are handled behind `deduplicate`, and sent again until they are acknowledged; a copy of each, too."""

    def __init__(self, store: Store) -> None:
        self.handled: Counter[str] = Counter()
        self.acknowledged: list[str] = []
        self.stop, self.heard = asyncio.Event(), asyncio.Event()
        self._store = store

    async def _handle(self, event: Event) -> None:
        self.handled[event.id] += 1

    async def _send(self, writer: int) -> None:
        handler = wrap(self._handle, stages.deduplicate(self._store.deduplication, store_timeout=30))
        number = 0
        while not self.stop.is_set():
            event = new(id=f"{writer}-{number}")
            for _ in range(2):
                assert await handler(event) is None
                self.acknowledged.append(event.id)
            self.heard.set()
            number += 1

    async def during(self, faults: Callable[[], Awaitable[object]], times: int) -> None:
        """Let events flow before, between and after so many faults."""
        senders = [asyncio.ensure_future(self._send(writer)) for writer in range(WRITERS)]
        for _ in range(times):
            for _ in range(5):
                self.heard.clear()
                await self.heard.wait()
            await faults()
        self.heard.clear()
        await self.heard.wait()
        self.stop.set()
        await asyncio.gather(*senders)


# A server that is killed.


async def test_events_are_handled_once_while_the_server_is_killed_again_and_again(server: Valkey) -> None:
    """Its file is synced at every write: what was answered is there again."""
    async with open_store(server.url(), patience=30) as store:
        traffic = Traffic(store)

        async def kill() -> None:
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)

        await traffic.during(kill, KILLS)
        assert set(traffic.handled) == set(traffic.acknowledged)
        assert set(traffic.handled.values()) == {1}
        for one in traffic.handled:
            assert await store.deduplication.claim(key_of(one), "x", 9) == b""


def key_of(identity: str) -> str:
    source = new().source
    return f"{len(source)}:{source}{identity}"


async def test_windows_count_each_event_once_while_the_server_is_killed_again_and_again(server: Valkey) -> None:
    async with open_store(server.url(), patience=30) as one, open_store(server.url(), patience=30) as other:
        stop, heard = asyncio.Event(), asyncio.Event()
        counted: Counter[str] = Counter()

        async def count(store: Store, writer: str) -> None:
            number = 0
            while not stop.is_set():
                counted[await add(store.windows, f"{writer}-{number}")] += 1
                heard.set()
                number += 1

        counting = [asyncio.ensure_future(count(store, f"{store is one}-{n}")) for store in (one, other) for n in "123"]
        for _ in range(4):
            for _ in range(5):
                heard.clear()
                await heard.wait()
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
        stop.set()
        await asyncio.gather(*counting)
        assert set(counted) == {"counted"}
        assert await states(one.windows) == [counted["counted"]]


async def test_a_server_that_stays_away_is_an_error_and_one_that_comes_back_is_used_again(server: Valkey) -> None:
    async with open_store(server.url(), patience=0.6) as store:  # a third of it for an answer, also of a slow disk
        assert await store.deduplication.claim("k", "a", 1000) is None
        assert await add(store.windows, "1") == "counted"
        server.kill()
        calls = [store.deduplication.claim(str(number), "a", 10) for number in range(5)]
        found: list[Any] = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(error) for error in found} == {StoreError}
        assert "cannot be reached: is the server running" in str(found[0])
        assert found[0] is not found[1]
        others = (store.windows.windows(), add(store.windows, "2"), store.windows.close(10, None))
        for error in await asyncio.gather(*others, return_exceptions=True):
            assert isinstance(error, StoreError)
            assert "cannot be reached" in str(error)
        await asyncio.to_thread(server.start)
        assert isinstance(await store.deduplication.claim("k", "b", 1000), float)
        assert await add(store.windows, "2") == "counted"
        assert await states(store.windows) == [2]


async def test_a_stage_refuses_events_while_the_server_is_away_and_handles_them_afterwards(server: Valkey) -> None:
    """K-D1.6."""
    handled: list[str] = []

    async def handle(event: Event) -> None:
        handled.append(event.id)

    async with open_store(server.url(), patience=0.2) as store:
        handler = wrap(handle, stages.deduplicate(store.deduplication))
        server.kill()
        with pytest.raises(Exception, match="duplicates cannot be told at the moment"):
            await handler(new(id="1"))
        assert handled == []
        await asyncio.to_thread(server.start)
        await handler(new(id="1"))
        await handler(new(id="1"))
        assert handled == ["1"]


async def test_a_server_that_has_lost_its_data_makes_duplicates_but_loses_no_event(server: Valkey) -> None:
    handled: list[str] = []
    async with open_store(server.url()) as store:

        async def handle(event: Event) -> None:
            handled.append(event.id)
            if len(handled) == 1:  # its claim goes while it is being handled
                await run(server.url(), "FLUSHALL")

        handler = wrap(handle, stages.deduplicate(store.deduplication))
        await handler(new(id="1"))
        await handler(new(id="1"))
        assert handled == ["1"]
        await run(server.url(), "FLUSHALL")
        await handler(new(id="1"))
        assert handled == ["1", "1"]


async def test_windows_that_the_server_has_lost_begin_anew(server: Valkey) -> None:
    async with open_store(server.url()) as store:
        await add(store.windows, "1", value=5)
        await run(server.url(), "FLUSHALL")
        assert await add(store.windows, "2", value=7) == "counted"
        assert await states(store.windows) == [7]


# Connections.


async def test_events_are_handled_once_while_connections_are_cut(proxy: Proxy) -> None:
    async with behind(proxy, 30) as store:
        traffic = Traffic(store)
        seed = random.randrange(10**6)
        chance = random.Random(seed)

        async def cut() -> None:
            for _ in range(chance.randrange(20)):
                await asyncio.sleep(0)
            proxy.cut()

        await traffic.during(cut, 30)
        assert set(traffic.handled) == set(traffic.acknowledged), f"seed {seed}"
        assert set(traffic.handled.values()) == {1}, f"seed {seed}"
        assert proxy.accepted > 30


async def test_what_was_done_with_an_answer_that_was_lost_is_not_done_twice(proxy: Proxy) -> None:
    async with behind(proxy, 30) as store:
        keys, windows = store.deduplication, store.windows
        await keys.claim("k", "a", 1000)
        await add(windows, "1")
        calls: list[tuple[Callable[[], Awaitable[object]], object]] = [
            (lambda: keys.claim("new", "a", 1000), None),
            (lambda: keys.commit("k", "a", b"done", 1000), True),
            (lambda: keys.release("new", "a"), None),
            (lambda: add(windows, "2"), "counted"),
            (lambda: add(windows, "2"), "repeated"),
            (lambda: windows.close(10, None), []),
        ]
        for call, answer in calls:
            assert await lost_once(proxy, call) == answer
        assert await keys.claim("k", "b", 1000) == b"done"
        assert await keys.commit("k", "a", b"done", 1000) is False
        assert await keys.claim("new", "b", 1000) is None
        assert await states(windows) == [2]


async def lost_once(proxy: Proxy, call: Callable[[], Awaitable[object]]) -> object:
    """Return what ``call`` returns, whose question gets through while its first answer does not."""
    proxy.stall(answers_only=True)
    calling = asyncio.ensure_future(call())
    await proxy.held.wait()
    await proxy.resume_after_cut()
    return await calling


async def test_what_is_being_handed_out_is_so_once_when_answers_are_lost(proxy: Proxy) -> None:
    async with behind(proxy, 30) as store:
        for number in range(60):
            await add(store.windows, str(number), key=str(number))
        given: list[str] = []

        async def hand_out(tally: Any) -> None:
            given.append(tally.key)
            if len(given) % 20 == 7:
                proxy.stall(answers_only=True)
                asyncio.get_running_loop().call_later(0.05, again.set)

        again = asyncio.Event()

        async def resume() -> None:
            while True:
                await again.wait()
                again.clear()
                await proxy.resume_after_cut()

        resuming = asyncio.ensure_future(resume())
        assert await store.windows.close(10, hand_out) == []
        resuming.cancel()
        await asyncio.wait((resuming,))
        assert sorted(given, key=int) == [str(number) for number in range(60)]
        assert await store.windows.close(10, hand_out) == []
        assert len(given) == 60


async def test_a_connection_that_falls_silent_is_given_up_for_another(proxy: Proxy) -> None:
    async with behind(proxy, 3) as store:
        await store.deduplication.claim("k", "a", 1000)
        proxy.forget()
        assert isinstance(await store.deduplication.claim("k", "b", 1000), float)
        assert await store.deduplication.commit("k", "a", b"", 1000)


async def test_a_server_that_falls_silent_is_an_error_and_used_again_when_it_talks(proxy: Proxy) -> None:
    async with behind(proxy, 1) as store:
        await store.deduplication.claim("k", "a", 1000)
        proxy.stall()
        async with asyncio.timeout(10):
            with pytest.raises(StoreError, match="cannot be reached"):
                await store.deduplication.claim("k", "b", 1000)
        await proxy.resume()
        assert isinstance(await store.deduplication.claim("k", "b", 1000), float)


@pytest.mark.parametrize("turns", range(6))
async def test_a_call_that_is_cancelled_ends_and_leaves_no_answer_to_another(proxy: Proxy, turns: int) -> None:
    async with behind(proxy, 1.5) as store:
        for number in range(3):
            await add(store.windows, str(number), key=str(number), value=number)
        proxy.stall(answers_only=True)
        first = [asyncio.ensure_future(store.windows.read("1", 0)) for _ in range(5)]
        await proxy.held.wait()
        for _ in range(turns):
            await asyncio.sleep(0)
        for call in first:
            call.cancel()
        await asyncio.wait(first)
        assert all(call.cancelled() for call in first)
        await proxy.resume()
        found = await asyncio.gather(*(store.windows.read("2", 0) for _ in range(10)))
        assert [tally.states for tally in found if tally is not None] == [[2]] * 10


async def test_connections_that_are_refused_for_a_while_are_waited_for(proxy: Proxy) -> None:
    async with behind(proxy, 30) as store:
        await proxy.refuse()
        calls = [store.deduplication.claim("k", "a", 10), add(store.windows, "1"), store.windows.windows()]
        calling = asyncio.gather(*calls)
        await asyncio.sleep(0.1)
        assert not calling.done()
        await proxy.resume()
        claimed, added, _ = await calling
        assert (claimed, added) == (None, "counted")
        await proxy.refuse()
        closing = asyncio.ensure_future(store.windows.close(10, None))
        await asyncio.sleep(0.05)
        await proxy.resume()
        assert await closing == []


async def test_a_store_that_is_closed_while_the_server_is_away_ends_its_calls(proxy: Proxy) -> None:
    store = behind(proxy, 30)
    await store.__aenter__()
    await proxy.refuse()
    claim = asyncio.ensure_future(store.deduplication.claim("k", "a", 10))
    await asyncio.sleep(0.05)
    behind_it = asyncio.ensure_future(store.deduplication.claim("k", "b", 10))
    await asyncio.sleep(0)
    closing = asyncio.ensure_future(store.__aexit__(None, None, None))
    await asyncio.sleep(0.05)
    closing.cancel()
    await asyncio.wait((closing, claim, behind_it))
    assert "was closed before this was done" in str(behind_it.exception())
    assert closing.cancelled()
    assert "was closed while this was done" in str(claim.exception())


async def test_no_more_calls_wait_than_can_be_answered(
    redis_store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloudevents_kit.stores.redis._group.WAITING", 3)
    calls = [redis_store.deduplication.claim(str(number), "a", 10) for number in range(4)]
    found: list[Any] = await asyncio.gather(*calls, return_exceptions=True)
    assert found[:3] == [None] * 3
    assert "is overloaded: 3 calls wait for it" in str(found[3])


async def test_more_callers_than_connections_wait_for_each_other(redis_url: str) -> None:
    async with open_store(f"{redis_url}&max_connections=2") as store:
        await add(store.windows, "1")
        found = await asyncio.gather(*(store.windows.read("k", 0) for _ in range(50)))
        assert {tally.states[0] for tally in found if tally is not None} == {1}


async def test_calls_that_get_no_connection_say_so(proxy: Proxy) -> None:
    url = f"redis://127.0.0.1:{proxy.port}/0?max_connections=1"
    async with open_store(url, patience=0.6) as store:
        proxy.stall()
        found = await asyncio.gather(*(store.windows.read("k", 0) for _ in range(8)), return_exceptions=True)
        assert all(isinstance(error, StoreError) for error in found)
        assert any("answers too slowly: all connections are in use" in str(error) for error in found)
        await proxy.resume()
        assert await store.windows.read("k", 0) is None


# Processes.


async def end_together(processes: list[asyncio.subprocess.Process]) -> list[bytes]:
    """Let ``processes`` begin once all are ready, and return what they print."""
    for process in processes:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
    ended = await asyncio.gather(*(process.communicate(b"\n") for process in processes))
    assert {process.returncode for process in processes} == {0}
    return [printed for printed, _ in ended]


#: Handles events of 1000 ids, all processes the same ones in an order of their own, and says which it was.
HANDLING = """
import asyncio, random, sys
from cloudevents_kit import Event, stages, wrap
from cloudevents_kit.stores import open_store

async def handle(event):
    print(event.id, flush=True)
    await asyncio.sleep(0)

async def main():
    async with open_store(sys.argv[1]) as store:
        handler = wrap(handle, stages.deduplicate(store.deduplication, when_running="wait"))
        events = [Event(type="t", source="/s", id=str(number)) for number in range(1000)]
        random.Random(sys.argv[2]).shuffle(events)
        print("ready", flush=True)
        sys.stdin.readline()
        for place in range(0, 1000, 100):
            await asyncio.gather(*map(handler, events[place : place + 100]))

asyncio.run(main())
"""


async def test_five_processes_that_get_the_same_1000_events_handle_each_once(redis_url: str) -> None:
    """K-D1.2. Among processes."""
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-W", "error", "-c", HANDLING, redis_url, str(number), cwd=ROOT, stdin=PIPE, stdout=PIPE
        )
        for number in range(5)
    ]
    handled = [printed.decode().split() for printed in await end_together(processes)]
    assert sorted(int(one) for part in handled for one in part) == list(range(1000))
    assert sum(bool(part) for part in handled) > 1


#: Counts 100 events for one key, 250 with those of the others, in a window that four processes share.
COUNTING = """
import asyncio, sys
from datetime import UTC, datetime
from cloudevents_kit import Event, stages, wrap
from cloudevents_kit.stores import open_store

async def handle(event):
    pass

async def main():
    async with open_store(sys.argv[1]) as store:
        totals = stages.aggregate(
            {"n": stages.count(), "sum": stages.sum_of("data.value"), "who": stages.distinct("data.who")},
            by="subject", size=3600, store=store.windows, on_error="fail",
        )
        handler = wrap(handle, totals)
        first = int(sys.argv[2]) * 250
        print("ready", flush=True)
        sys.stdin.readline()
        for _ in range(2):  # all of them are sent again
            await asyncio.gather(*(
                handler(Event(type="t", source="/s", id=str(number), subject="k", time=datetime(2026, 1, 1, tzinfo=UTC),
                              data={"value": number, "who": number % 7}))
                for number in range(first, first + 250)
            ))

asyncio.run(main())
"""


async def test_four_processes_count_1000_events_of_one_key_once(redis_url: str) -> None:
    """K-D6.1. Among processes."""
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-W", "error", "-c", COUNTING, redis_url, str(number), cwd=ROOT, stdin=PIPE, stdout=PIPE
        )
        for number in range(4)
    ]
    await end_together(processes)
    async with open_store(redis_url) as store:
        totals = stages.aggregate(
            {"n": stages.count(), "sum": stages.sum_of("data.value"), "who": stages.distinct("data.who")},
            by="subject",
            size=3600,
            store=store.windows,
        )
        found = await totals.query("k")
        assert found is not None
        assert found["values"] == {"n": 1000, "sum": sum(range(1000)), "who": 7}
