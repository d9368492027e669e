"""What every `DedupeStore` must do."""

import asyncio
from collections import Counter

import pytest

from cloudevents_kit.stages import DedupeStore
from cloudevents_kit.testing._ticks import Timed


@pytest.mark.asyncio
class DedupeStoreConformance(Timed):
    """What every `DedupeStore` must do.

    A subclass gives the fixture ``store``: an empty one for each test, opened.
    """

    @pytest.fixture
    def lease(self) -> float:
        """Ten ticks, in seconds."""
        return 10 * self.tick

    async def test_a_free_key_is_claimed_and_then_held(self, store: DedupeStore, lease: float) -> None:
        assert await store.claim("k", "a", lease) is None
        left = await store.claim("k", "b", lease)
        assert isinstance(left, int | float)
        assert 0 < left <= lease

    async def test_keys_do_not_know_of_each_other(self, store: DedupeStore, lease: float) -> None:
        assert await store.claim("k", "a", lease) is None
        assert await store.claim("K", "b", lease) is None
        assert await store.claim("k ", "c", lease) is None
        assert await store.commit("k", "a", b"", lease) is True
        assert isinstance(await store.claim("K", "d", lease), int | float)

    async def test_of_many_at_once_one_gets_the_key(self, store: DedupeStore, lease: float) -> None:
        found = await asyncio.gather(*(store.claim("k", f"{n}", lease) for n in range(50)))
        assert Counter(one is None for one in found) == {True: 1, False: 49}

    @pytest.mark.parametrize("outcome", [b"", b"202", b'{"a":"\xc3\xa4"}', b"\x00\xff" * 1000])
    async def test_a_committed_key_is_done_and_gives_its_outcome(
        self, store: DedupeStore, lease: float, outcome: bytes
    ) -> None:
        await store.claim("k", "a", lease)
        assert await store.commit("k", "a", outcome, lease) is True
        for token in ("a", "b"):
            found = await store.claim("k", token, lease)
            assert type(found) is bytes
            assert found == outcome

    async def test_a_released_key_is_free(self, store: DedupeStore, lease: float) -> None:
        await store.claim("k", "a", lease)
        await store.release("k", "a")
        assert await store.claim("k", "b", lease) is None

    async def test_only_the_token_that_has_the_key_releases_it(self, store: DedupeStore, lease: float) -> None:
        await store.claim("k", "a", lease)
        await store.release("k", "b")
        assert isinstance(await store.claim("k", "c", lease), int | float)

    async def test_to_release_what_is_free_or_done_changes_nothing(self, store: DedupeStore, lease: float) -> None:
        await store.release("k", "a")
        await store.claim("k", "a", lease)
        await store.commit("k", "a", b"x", lease)
        await store.release("k", "a")
        assert await store.claim("k", "b", lease) == b"x"

    async def test_only_the_token_that_has_the_key_commits_it(self, store: DedupeStore, lease: float) -> None:
        await store.claim("k", "a", lease)
        assert await store.commit("k", "b", b"b", lease) is False
        assert await store.commit("k", "a", b"a", lease) is True
        assert await store.commit("k", "b", b"b", lease) is False
        assert await store.commit("k", "a", b"again", lease) is False
        assert await store.claim("k", "c", lease) == b"a"

    async def test_a_claim_holds_until_its_lease_ends_and_no_longer(self, store: DedupeStore) -> None:
        await store.claim("k", "a", 4 * self.tick)
        await self.passes(2)
        left = await store.claim("k", "b", 4 * self.tick)
        assert isinstance(left, int | float)
        assert 0 < left <= 2.5 * self.tick
        await self.passes(3)
        assert await store.claim("k", "b", 4 * self.tick) is None

    async def test_the_same_token_extends_its_claim(self, store: DedupeStore) -> None:
        await store.claim("k", "a", 4 * self.tick)
        await self.passes(2)
        assert await store.claim("k", "a", 4 * self.tick) is None
        await self.passes(3)
        assert isinstance(await store.claim("k", "b", 4 * self.tick), int | float)

    async def test_a_token_that_was_overtaken_can_do_nothing(self, store: DedupeStore, lease: float) -> None:
        await store.claim("k", "a", 2 * self.tick)
        await self.passes(3)
        assert await store.claim("k", "b", lease) is None
        assert await store.commit("k", "a", b"a", lease) is False
        await store.release("k", "a")
        assert isinstance(await store.claim("k", "a", lease), int | float)
        assert await store.commit("k", "b", b"b", lease) is True
        assert await store.commit("k", "a", b"a", lease) is False
        assert await store.claim("k", "c", lease) == b"b"

    async def test_a_claim_that_ran_out_but_was_not_overtaken_is_still_committed(
        self, store: DedupeStore, lease: float
    ) -> None:
        await store.claim("k", "a", 2 * self.tick)
        await self.passes(3)
        assert await store.commit("k", "a", b"a", lease) is True
        assert await store.claim("k", "b", lease) == b"a"

    async def test_a_claim_that_ran_out_does_not_keep_another_from_committing(
        self, store: DedupeStore, lease: float
    ) -> None:
        await store.claim("k", "a", 2 * self.tick)
        await self.passes(3)
        await store.claim("k", "b", 2 * self.tick)
        await self.passes(3)
        assert await store.commit("k", "a", b"a", lease) is True
        assert await store.commit("k", "b", b"b", lease) is False
        assert await store.claim("k", "c", lease) == b"a"

    async def test_a_finished_key_is_free_after_its_ttl(self, store: DedupeStore, lease: float) -> None:
        for key, ticks in (("short", 2), ("long", 30)):
            await store.claim(key, "a", lease)
            await store.commit(key, "a", b"a", ticks * self.tick)
        await self.passes(3)
        assert await store.claim("short", "b", lease) is None
        assert await store.claim("long", "b", lease) == b"a"
        assert await store.commit("short", "b", b"b", lease) is True
        assert await store.claim("short", "c", lease) == b"b"

    async def test_what_came_of_a_key_goes_with_its_ttl(self, store: DedupeStore, lease: float) -> None:
        await store.claim("k", "a", lease)
        await store.commit("k", "a", b"a", 2 * self.tick)
        await self.passes(3)
        assert await store.commit("k", "b", b"", lease) is True
        assert await store.claim("k", "c", lease) == b""

    @pytest.mark.parametrize("key", ["19:https://example.com1", "ä€😀", "a:b/{c}*?%'\"\\ ;--", "x" * 256])
    async def test_any_printable_text_of_256_characters_is_a_key(
        self, store: DedupeStore, lease: float, key: str
    ) -> None:
        assert await store.claim(key, "a", lease) is None
        assert await store.commit(key, "a", b"a", lease) is True
        assert await store.claim(key, "b", lease) == b"a"
