from __future__ import annotations

import asyncio

import pytest

from cloudevents_kit.stages import DedupeStore
from cloudevents_kit.stores.redis import RedisStore, _group
from cloudevents_kit.testing import DedupeStoreConformance
from tests.support.redis import age, run


class TestConformance(DedupeStoreConformance):
    url: str

    @pytest.fixture
    def store(self, redis_store: RedisStore, redis_url: str) -> DedupeStore:
        type(self).url = redis_url
        return redis_store.deduplication

    async def passes(self, ticks: float) -> None:
        await age(self.url, ticks * self.tick)


async def test_copies_in_one_trip_are_told_as_if_they_had_come_one_by_one(redis_store: RedisStore) -> None:
    keys = redis_store.deduplication
    same = await asyncio.gather(*(keys.claim("same", "a", 10) for _ in range(3)))
    assert same == [None, None, None]
    await keys.claim("done", "a", 10)
    found = await asyncio.gather(
        keys.commit("done", "a", b"x", 10), keys.commit("done", "a", b"y", 10), keys.claim("done", "b", 10)
    )
    assert found == [True, False, b"x"]


async def test_calls_of_one_turn_of_the_loop_go_in_one_trip(redis_store: RedisStore, redis_url: str) -> None:
    keys = redis_store.deduplication
    await keys.claim("first", "a", 10)
    before = await trips(redis_url)
    await asyncio.gather(*(keys.claim(str(number), "a", 10) for number in range(400)))
    assert await trips(redis_url) == before + 1


async def trips(url: str) -> int:
    told = await run(url, "INFO", "commandstats")
    return int(told["cmdstat_evalsha"]["calls"])


async def test_large_outcomes_go_in_several_trips(
    redis_store: RedisStore, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_group, "MOST_BYTES", 1000)
    keys = redis_store.deduplication
    await keys.claim("first", "a", 10)
    before = await trips(redis_url)
    outcome = b"x" * 500
    assert all(await asyncio.gather(*(keys.commit(str(number), "a", outcome, 10) for number in range(10))))
    assert await trips(redis_url) == before + 5
    assert await keys.claim("7", "b", 10) == outcome


async def test_everything_ends_at_some_time(redis_store: RedisStore, redis_url: str) -> None:
    keys = redis_store.deduplication
    await keys.claim("claimed", "a", 10)
    await keys.commit("done", "a", b"x", 1e12)
    lasts = [await run(redis_url, "TTL", key) for key in await run(redis_url, "KEYS", "cek:d:*")]
    assert len(lasts) == 2
    assert min(lasts) > 0
    await age(redis_url, 1e10)
    assert await run(redis_url, "KEYS", "cek:d:*") == []


async def test_scopes_and_their_keys_cannot_be_taken_for_others(redis_store: RedisStore) -> None:
    assert await redis_store.scoped("a").deduplication.claim("b:c", "1", 10) is None
    assert await redis_store.scoped("a:b").deduplication.claim("c", "2", 10) is None
    assert await redis_store.scoped("a:3:b").deduplication.claim("c", "3", 10) is None
    assert isinstance(await redis_store.scoped("a").deduplication.claim("b:c", "4", 10), float)


async def test_a_call_that_was_cancelled_before_it_went_is_not_made(redis_store: RedisStore) -> None:
    keys = redis_store.deduplication
    claim = asyncio.ensure_future(keys.claim("k", "a", 10))
    await asyncio.sleep(0)
    claim.cancel()
    await asyncio.wait((claim,))
    assert await keys.claim("k", "b", 10) is None


async def test_a_release_after_a_claim_that_was_cancelled_comes_after_it(redis_store: RedisStore) -> None:
    keys = redis_store.deduplication
    for turns in range(8):
        claim = asyncio.ensure_future(keys.claim("k", "a", 1000))
        for _ in range(turns):
            await asyncio.sleep(0)
        claim.cancel()
        await keys.release("k", "a")
        assert await keys.claim("k", "b", 1000) is None
        await keys.release("k", "b")


async def test_a_token_that_cannot_be_written_is_an_error_and_the_next_call_goes_on(redis_store: RedisStore) -> None:
    with pytest.raises(UnicodeEncodeError):
        await redis_store.deduplication.claim("k", "\ud800", 10)
    assert await redis_store.deduplication.claim("k", "a", 10) is None


async def test_scripts_that_the_server_has_forgotten_are_told_again(redis_store: RedisStore, redis_url: str) -> None:
    keys = redis_store.deduplication
    assert await keys.claim("k", "a", 10) is None
    await run(redis_url, "SCRIPT", "FLUSH")
    assert isinstance(await keys.claim("k", "b", 10), float)
