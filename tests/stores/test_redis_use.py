"""When and in which event loop a store in Redis is used, whose fault is whose, and what is left on the server."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trustme

from cloudevents_kit.stores import StoreError, open_store
from cloudevents_kit.stores.redis import RedisStore
from cloudevents_kit.testing._windows import add, states, total
from tests.support.proxy import Proxy
from tests.support.real_servers import Valkey
from tests.support.redis import run


@pytest.fixture
async def proxy(valkey: Valkey, redis_url: str) -> AsyncIterator[Proxy]:
    """A proxy before a server that is empty."""
    async with Proxy.to_socket(valkey.socket) as found:
        yield found


# Where and when.


async def test_a_store_that_is_open_is_not_opened_again(redis_store: RedisStore) -> None:
    with pytest.raises(StoreError, match="is open already: open a store once, and hand it to all who need it"):
        await redis_store.__aenter__()
    assert await redis_store.deduplication.claim("k", "t", 10) is None
    assert await redis_store.windows.windows() == []


async def test_another_event_loop_is_refused_and_the_store_goes_on(redis_store: RedisStore) -> None:
    async def elsewhere() -> list[object]:
        calls: list[Any] = [
            redis_store.deduplication.claim("k", "t", 10),
            redis_store.cache.get("k"),
            add(redis_store.windows, "1"),
            redis_store.windows.windows(),
            redis_store.windows.close(10, None),
        ]
        return [*await asyncio.gather(*calls, return_exceptions=True)]

    await redis_store.deduplication.claim("before", "t", 10)
    for error in await asyncio.to_thread(asyncio.run, elsewhere()):
        assert isinstance(error, StoreError)
        assert "is open in another event loop: open a store in each" in str(error)
    assert await redis_store.deduplication.claim("k", "t", 10) is None
    assert await redis_store.windows.windows() == []


def test_a_store_can_be_opened_in_one_loop_after_the_other(valkey: Valkey) -> None:
    store = open_store(valkey.url())

    async def use(key: str) -> None:
        await store.__aenter__()
        assert await store.deduplication.claim(key, "t", 1) is None
        reading = asyncio.ensure_future(store.windows.windows())
        await asyncio.sleep(0)
        await store.__aexit__(None, None, None)  # waits for it
        assert await reading == []

    asyncio.run(run(valkey.url(), "FLUSHALL"))
    for key in "ab":
        asyncio.run(use(key))


async def test_closing_waits_for_those_who_read_and_lets_nobody_else_in(proxy: Proxy) -> None:
    async with open_store(f"redis://127.0.0.1:{proxy.port}", patience=30) as store:
        await add(store.windows, "1")
        proxy.stall(answers_only=True)
        reading = asyncio.ensure_future(store.windows.read("k", 0))
        await proxy.held.wait()
        closing = asyncio.ensure_future(store.__aexit__(None, None, None))
        await asyncio.sleep(0.02)
        assert not closing.done()
        for call in (store.windows.windows(), store.cache.get("k")):
            with pytest.raises(StoreError, match="is not open"):
                await call
        await proxy.resume()
        await closing
        found = await reading
        assert found is not None
        assert found.states == [1]


async def test_a_closing_that_is_cancelled_ends_those_who_read(proxy: Proxy) -> None:
    store = open_store(f"redis://127.0.0.1:{proxy.port}", patience=30)
    await store.__aenter__()
    proxy.stall(answers_only=True)
    reading = asyncio.ensure_future(store.windows.windows())
    await proxy.held.wait()
    closing = asyncio.ensure_future(store.__aexit__(None, None, None))
    await asyncio.sleep(0)
    closing.cancel()
    async with asyncio.timeout(5):
        with pytest.raises(StoreError, match="was closed before this was done"):
            await reading
    await asyncio.wait((closing,))
    assert closing.cancelled()


async def test_a_network_over_tls_that_falls_silent_is_an_error_and_used_again(valkey: Valkey, redis_url: str) -> None:
    """To close a connection over TLS waits for the other side, which says nothing."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    async with Proxy.to_socket(valkey.socket, context) as server, Proxy.to_port(server.port) as network:
        url = f"rediss://127.0.0.1:{network.port}?ssl_cert_reqs=none"
        async with open_store(url, patience=0.9) as store:
            await add(store.windows, "1")
            assert await asyncio.gather(*(states(store.windows) for _ in range(6))) == [[1]] * 6  # some stay idle
            network.stall()
            calls = [store.deduplication.claim("k", "t", 10), *(store.windows.read("k", 0) for _ in range(3))]
            found = await asyncio.gather(*calls, return_exceptions=True)
            assert [str(error).partition("cannot be ")[2][:7] for error in found] == ["reached"] * 4
            assert all(isinstance(error, StoreError) for error in found)
            await network.resume()
            assert await states(store.windows) == [1]
            network.stall()
        await network.resume()


# Whose fault.


async def test_a_text_that_cannot_be_written_fails_its_call_and_no_other_of_the_trip(redis_store: RedisStore) -> None:
    keys = redis_store.deduplication
    calls = [keys.claim("1", "a", 10), keys.claim("2", "\ud800", 10), keys.claim("\ud800", "a", 10)]
    found = await asyncio.gather(*calls, keys.claim("3", "a", 10), return_exceptions=True)
    assert [type(one) for one in found] == [type(None), UnicodeEncodeError, UnicodeEncodeError, type(None)]


async def test_what_is_known_of_events_is_told_though_a_later_trip_fails(
    redis_store: RedisStore, redis_url: str
) -> None:
    async with open_store(redis_url) as other:
        windows: Any = redis_store.windows
        await add(windows, "1", value=1)
        await add(other.windows, "2", value=10)  # which makes the next one of ours come again
        attempt, trips = windows._try, iter(range(9))

        async def first_only(*given: Any) -> None:
            if next(trips):
                raise StoreError("gone")
            await attempt(*given)

        windows._try = first_only
        calls = (add(windows, "3", value=100), add(windows, "4", key="other"))
        found = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(found[0], StoreError)
        assert found[1] == "counted"
        assert await states(windows) == [11]
        found = await asyncio.gather(add(windows, "5"), add(windows, "6"), return_exceptions=True)
        assert [str(error) for error in found] == ["gone", "gone"]


# What is left.


async def test_the_server_keeps_the_answer_to_the_last_trip_and_to_no_other(
    redis_store: RedisStore, redis_url: str
) -> None:
    for number in range(50):
        await redis_store.windows.add(0, "k", ("/s", str(number)), [1], total, anywhere=False)
    kept = await run(redis_url, "KEYS", "cek:w:0::x:*")
    assert len(kept) == 1
    assert 0 < await run(redis_url, "TTL", kept[0]) <= 60
