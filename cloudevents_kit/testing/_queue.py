"""What every `QueueStore` must do."""

import asyncio

import pytest

from cloudevents_kit.stages import QueueStore
from cloudevents_kit.testing._events import EVENTS, exact, new
from cloudevents_kit.testing._ticks import Timed


async def put(store: QueueStore, identity: str, key: str | None = None, capacity: int = 100) -> bool:
    """Store a small event."""
    return await store.put(new(id=identity), key=key, capacity=capacity)


@pytest.mark.asyncio
class QueueStoreConformance(Timed):
    """What every `QueueStore` must do.

    A subclass gives the fixture ``store``: an empty one for each test, opened.
    """

    async def lease(self, store: QueueStore) -> tuple[str, str, int]:
        """Lease for ten ticks; there must be something."""
        found = await store.lease(10 * self.tick)
        assert found is not None
        return found[0], found[1].id, found[2]

    @pytest.mark.parametrize("form", EVENTS)
    async def test_an_event_comes_out_as_it_was(self, store: QueueStore, form: str) -> None:
        assert await store.put(EVENTS[form], key=None, capacity=100)
        found = await store.lease(10 * self.tick)
        assert found is not None
        assert exact(found[1]) == exact(EVENTS[form])

    async def test_events_come_in_their_order_and_each_once(self, store: QueueStore) -> None:
        for identity in "abc":
            assert await put(store, identity)
        assert [(await self.lease(store))[1:] for _ in "abc"] == [("a", 1), ("b", 1), ("c", 1)]
        assert await store.lease(10 * self.tick) is None

    async def test_what_was_acknowledged_is_gone(self, store: QueueStore) -> None:
        await put(store, "a")
        token, _, _ = await self.lease(store)
        assert await store.ack(token)
        assert not await store.ack(token)
        assert not await store.nack(token, delay=0)
        await self.passes(11)
        assert await store.lease(10 * self.tick) is None

    async def test_a_lease_that_expired_is_void_and_the_event_is_leased_again(self, store: QueueStore) -> None:
        await put(store, "a")
        first, _, _ = await self.lease(store)
        await self.passes(11)
        assert not await store.ack(first)
        second, _, attempts = await self.lease(store)
        assert (attempts, first != second) == (2, True)
        assert not await store.nack(first, delay=0)
        assert await store.ack(second)

    async def test_a_failed_event_is_due_again_after_its_delay(self, store: QueueStore) -> None:
        await put(store, "a")
        token, _, _ = await self.lease(store)
        assert await store.nack(token, delay=3 * self.tick)
        assert await store.lease(10 * self.tick) is None
        await self.passes(4)
        assert (await self.lease(store))[1:] == ("a", 2)

    async def test_an_event_that_was_not_attempted_has_the_attempt_back(self, store: QueueStore) -> None:
        await put(store, "a")
        for _ in range(3):
            token, _, attempts = await self.lease(store)
            assert attempts == 1
            assert await store.nack(token, delay=0, attempted=False)
        token, _, _ = await self.lease(store)
        assert await store.nack(token, delay=0)
        assert (await self.lease(store))[1:] == ("a", 2)

    async def test_a_lease_can_be_extended_while_it_is_valid(self, store: QueueStore) -> None:
        await put(store, "a")
        token, _, _ = await self.lease(store)
        await self.passes(6)
        assert await store.extend(token, 10 * self.tick)
        await self.passes(6)
        assert await store.lease(10 * self.tick) is None
        await self.passes(5)
        assert not await store.extend(token, 10 * self.tick)
        assert (await self.lease(store))[1:] == ("a", 2)

    async def test_a_parked_event_is_kept_but_not_leased_until_it_is_put_again(self, store: QueueStore) -> None:
        await put(store, "a")
        token, _, _ = await self.lease(store)
        assert await store.nack(token, delay=None)
        await self.passes(20)
        assert await store.lease(10 * self.tick) is None
        assert await put(store, "a", capacity=1)
        assert (await self.lease(store))[1:] == ("a", 1)

    async def test_it_takes_no_more_than_its_capacity_and_an_event_only_once(self, store: QueueStore) -> None:
        assert [await put(store, identity, capacity=2) for identity in "aabc"] == [True, True, True, False]
        token, _, _ = await self.lease(store)
        assert not await put(store, "c", capacity=2)
        assert await put(store, "a", capacity=2)
        await store.ack(token)
        assert await put(store, "c", capacity=2)
        assert [(await self.lease(store))[1] for _ in "bc"] == ["b", "c"]

    async def test_events_of_a_key_are_leased_one_after_the_other(self, store: QueueStore) -> None:
        for identity, key in (("a1", "a"), ("a2", "a"), ("b1", "b"), ("n1", None), ("n2", None)):
            await put(store, identity, key)
        leased = [await self.lease(store) for _ in range(4)]
        assert [identity for _, identity, _ in leased] == ["a1", "b1", "n1", "n2"]
        assert await store.lease(10 * self.tick) is None
        assert await store.nack(leased[0][0], delay=3 * self.tick)
        assert await store.lease(10 * self.tick) is None  # a1 comes first
        await self.passes(4)
        token, identity, _ = await self.lease(store)
        assert identity == "a1"
        assert await store.nack(token, delay=None)  # parked, it stands in nobody's way
        assert (await self.lease(store))[1] == "a2"

    async def test_many_at_once_lease_each_event_once(self, store: QueueStore) -> None:
        for number in range(20):
            await put(store, str(number))
        found = await asyncio.gather(*(store.lease(10 * self.tick) for _ in range(50)))
        leased = [one[1].id for one in found if one is not None]
        assert sorted(leased, key=int) == [str(number) for number in range(20)]

    @pytest.mark.parametrize("token", ["", "1", "no such token"])
    async def test_an_unknown_token_is_void(self, store: QueueStore, token: str) -> None:
        await put(store, "a")
        assert not await store.ack(token)
        assert not await store.nack(token, delay=None)
        assert not await store.extend(token, 10 * self.tick)
        assert (await self.lease(store))[1:] == ("a", 1)
