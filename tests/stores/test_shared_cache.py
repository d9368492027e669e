"""The second tier of `stages.Cached`, in memory and in Redis."""

from __future__ import annotations

import asyncio
import logging

import pytest

from cloudevents_kit import stages
from cloudevents_kit.stages import SharedCache
from cloudevents_kit.stores import StoreError, open_store
from cloudevents_kit.stores.memory_cache import MemoryCache
from cloudevents_kit.stores.redis import RedisStore
from cloudevents_kit.testing import SharedCacheConformance
from tests.support.clock import ManualClock
from tests.support.real_servers import Valkey
from tests.support.redis import age, run


class TestMemory(SharedCacheConformance):
    @pytest.fixture
    def store(self, clock: ManualClock) -> SharedCache:
        self.clock = clock
        return MemoryCache(clock=clock)

    async def passes(self, ticks: float) -> None:
        await self.clock.advance(ticks * self.tick)


class TestRedis(SharedCacheConformance):
    url: str

    @pytest.fixture
    def store(self, redis_store: RedisStore, redis_url: str) -> SharedCache:
        type(self).url = redis_url
        return redis_store.cache

    async def passes(self, ticks: float) -> None:
        await age(self.url, ticks * self.tick)


async def test_the_memory_forgets_what_was_set_first(clock: ManualClock) -> None:
    cache = MemoryCache(max_entries=2, clock=clock)
    for key in ("1", "2", "1", "3"):
        await cache.set(key, key.encode(), 10)
    assert [await cache.get(key) for key in ("1", "2", "3")] == [b"1", None, b"3"]


async def test_every_store_that_has_one_gives_the_same_again(redis_store: RedisStore) -> None:
    for store in (open_store("memory:"), redis_store):
        assert store.cache is store.cache
        await store.cache.set("k", b"1", 10)
        assert await store.scoped("other").cache.get("k") is None
        assert await store.cache.get("k") == b"1"


def test_one_that_has_none_says_who_does() -> None:
    with pytest.raises(StoreError, match=r"cache: an SQL database does not keep it .Redis and, for tests, the memory"):
        _ = open_store("sqlite:///x.db").cache


async def test_values_are_loaded_once_for_several_processes(redis_store: RedisStore, redis_url: str) -> None:
    """K-D4.1."""
    loaded: list[str] = []

    async def customer(name: str) -> dict[str, str] | None:
        loaded.append(name)
        return {"name": name} if name != "nobody" else None

    async with open_store(redis_url) as other:
        here = stages.Cached(customer, shared=redis_store.cache, ttl=300, shared_ttl=900, negative_ttl=30)
        there = stages.Cached(customer, shared=other.cache)
        assert await here("ada") == await there("ada") == {"name": "ada"}
        assert await here("nobody") is await there("nobody") is None
    assert loaded == ["ada", "nobody"]
    lasts = {key: await run(redis_url, "TTL", key) for key in await run(redis_url, "KEYS", "cek:c:*")}
    assert sorted(round(left, -1) for left in lasts.values()) == [30, 900]


async def test_calls_of_one_turn_of_the_loop_go_in_one_trip_and_one_that_fails_fails_alone(
    redis_store: RedisStore, redis_url: str
) -> None:
    await run(redis_url, "LPUSH", "cek:c:0::list", "1")
    found = await asyncio.gather(*(redis_store.cache.get(key) for key in ("a", "list", "b")), return_exceptions=True)
    assert found[0] is found[2] is None
    assert isinstance(found[1], StoreError)
    assert "answers with WRONGTYPE" in str(found[1])


async def test_a_server_that_is_away_does_not_keep_values_from_being_loaded(caplog: pytest.LogCaptureFixture) -> None:
    async def load(name: str) -> str:
        return name.upper()

    server = Valkey().start()
    try:
        async with open_store(server.url(), patience=60) as store:
            cached = stages.Cached(load, shared=store.cache, shared_timeout=30)
            assert await cached("a") == "A"
            await asyncio.to_thread(server.kill)
            async with asyncio.timeout(5):  # it does not wait as long as its store would
                assert await cached("b") == "B"
            assert cached.counts["shared_errors"] == 2
            assert "the shared cache failed" in caplog.text
            await asyncio.to_thread(server.start)
            assert await cached("c") == "C"
            assert cached.counts["shared_errors"] == 2
            await store.cache.set("k", b"1", 100)
            assert await store.cache.get("k") == b"1"
    finally:
        server.close()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
