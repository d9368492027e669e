"""What every `SharedCache` must do."""

import asyncio

import pytest

from cloudevents_kit.stages import SharedCache
from cloudevents_kit.testing._ticks import Timed


@pytest.mark.asyncio
class SharedCacheConformance(Timed):
    """What every `SharedCache` must do.

    A subclass gives the fixture ``store``: an empty one for each test, opened.
    """

    async def test_what_was_never_set_is_not_there(self, store: SharedCache) -> None:
        assert await store.get("k") is None

    @pytest.mark.parametrize("value", [b"", b"null", b"\x00\xff" * 1000, "ä€😀".encode()])
    async def test_a_value_comes_back_byte_for_byte(self, store: SharedCache, value: bytes) -> None:
        await store.set("k", value, 10 * self.tick)
        found = await store.get("k")
        assert type(found) is bytes
        assert found == value

    async def test_the_last_value_counts(self, store: SharedCache) -> None:
        await store.set("k", b"old", 2 * self.tick)
        await store.set("k", b"new", 30 * self.tick)
        await self.passes(3)
        assert await store.get("k") == b"new"

    async def test_a_value_is_gone_after_its_ttl_and_no_earlier(self, store: SharedCache) -> None:
        await store.set("short", b"1", 4 * self.tick)
        await store.set("long", b"2", 30 * self.tick)
        await self.passes(2)
        assert await store.get("short") == b"1"
        await self.passes(3)
        assert await store.get("short") is None
        assert await store.get("long") == b"2"

    async def test_many_at_once_get_each_its_own(self, store: SharedCache) -> None:
        names = [str(number) for number in range(200)]
        await asyncio.gather(*(store.set(name, name.encode(), 100 * self.tick) for name in names))
        found = await asyncio.gather(*(store.get(name) for name in names))
        assert found == [name.encode() for name in names]

    @pytest.mark.parametrize("key", ["", 'customers:"ä€"', "a:b/{c}*?%'\"\\ ;--\n\x00", "x" * 10_000])
    async def test_any_text_is_a_key(self, store: SharedCache, key: str) -> None:
        await store.set(key, b"1", 100 * self.tick)
        assert await store.get(key) == b"1"
        assert await store.get(f"{key}.") is None
